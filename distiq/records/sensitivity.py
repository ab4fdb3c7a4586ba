"""Where the noise of quantization comes from."""

from typing import Literal

from distiq.records.record import Record


class NoiseRecord(Record):
    """What quantizing a tensor costs at the network's output while everything else stays float32.

    `place` is the module path of the layer, or of the operation that gives the tensor. `sqnr_db` is of the
    logits; `divergence_nat` the mean divergence KL(float32 || quantized) of the class probabilities: the
    growth of the cross entropy with float32's own predictions, which is the change of the loss without labels. Of a
    single output it is that of normal distributions of unit variance, half the squared difference.
    """

    place: str
    part: Literal["weights", "activations"]
    sqnr_db: float
    divergence_nat: float


class SensitivityRecord(Record):
    """Where the noise of quantization comes from: all weights alone, all activations alone, and each tensor alone.

    `rung` names the trial; `samples` is the number of unlabelled calibration samples. `balanced_share` is the share of
    the noise power of all single tensors that comes from those whose ranges equalization changes, None where there is
    none to change; `mean_share` the share of the noise of all tensors together that is the same for every sample.
    """

    rung: str
    samples: int
    weights: NoiseRecord
    activations: NoiseRecord
    tensors: tuple[NoiseRecord, ...]
    balanced_share: float | None = None
    mean_share: float = 0.0

    @property
    def weights_share(self) -> float:
        """The share of the noise power at the output that comes from weights; the rest comes from activations."""
        weights, activations = (10 ** (-noise.sqnr_db / 10) for noise in (self.weights, self.activations))
        return weights / (weights + activations) if weights + activations else 0.0

    def noise_of_weights(self) -> dict[str, float]:
        """The noise power of each layer's weights; a recurrent layer has several of them."""
        return self._power("weights")

    def noise_of_activations(self) -> dict[str, float]:
        """The noise power of the activations of each place."""
        return self._power("activations")

    def _power(self, part: Literal["weights", "activations"]) -> dict[str, float]:
        power: dict[str, float] = {}
        for noise in self.tensors:
            if noise.part == part:
                power[noise.place] = power.get(noise.place, 0.0) + 10 ** (-noise.sqnr_db / 10)
        return power

    def worst_layers(self, most: int) -> tuple[tuple[str, ...], float]:
        """The `most` layers whose weights make the most noise, and their share of the noise of all weights."""
        power = self.noise_of_weights()
        worst = tuple(sorted(power, key=lambda place: -power[place])[:most])
        total = sum(power.values())
        return worst, sum(power[place] for place in worst) / total if total else 0.0
