"""A transformers audio classifier as a plain network: raw waveforms in, logits in the data's order of classes out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distiq.models.predictor import Predictor
from distiq.models.pretrained import drawn_config, drawn_network, pretrained_classifier
from distiq.progress import Watch

WAVEFORM_MODELS = (
    "data2vec-audio", "hubert", "sew", "sew-d", "unispeech", "unispeech-sat", "wav2vec2", "wav2vec2-conformer", "wavlm",
)  # fmt: skip
"""The architectures of transformers that read raw waveforms."""
SPECTROGRAM_MODELS = ("audio-spectrogram-transformer",)
"""What reads spectrograms that its own feature extractor makes, in numpy: it can predict, but not be exported."""


class Waves(nn.Module):
    """A transformers audio classifier as a plain network: waveforms (B, T) in -1..1 in, logits out.

    Args:
        normalize: bring every clip to zero mean and unit variance first, as the feature extractors of these networks
            do by default.
        rate: samples per second that it was trained on; 0 is any.
    """

    def __init__(self, model: nn.Module, normalize: bool = True, rate: int = 0) -> None:
        super().__init__()
        self.model, self.normalize, self.rate = model, normalize, rate

    def forward(self, waveforms: Tensor) -> Tensor:
        if self.normalize:
            centred = waveforms - waveforms.mean(1, keepdim=True)
            waveforms = centred / torch.sqrt(centred.square().mean(1, keepdim=True) + 1e-7)
        return self.model(input_values=waveforms).logits


def audio_classifier(
    name: str,
    weights: str,
    classes: int,
    samples: int,
    options: dict[str, Any],
    names: Sequence[str] = (),
    finished: bool = False,
    watch: Watch | None = None,
) -> nn.Module:
    """A classifier of the architecture `name`, such as "wav2vec2", by config, or from a folder or hub name.

    Args:
        weights: the folder or hub name; empty draws the weights.
        samples: of a clip.
        options: of the config.
        names, finished, watch: as for `pretrained_classifier`.

    Raises:
        ValueError: the options do not fit, a class is missing from its labels, it has no head and is not to be trained,
            or it reads spectrograms and is to be trained.
    """
    import transformers

    auto = transformers.AutoModelForAudioClassification
    if name in SPECTROGRAM_MODELS and not (weights and finished):
        raise ValueError(
            "it reads spectrograms that its feature extractor makes outside the network, so it is a finished teacher or"
            " none: name teacher.weights, without finetune"
        )
    if not weights:
        return Waves(drawn_network(auto, drawn_config(name, options, num_labels=classes)))
    extractor = transformers.AutoFeatureExtractor.from_pretrained(weights)
    model = pretrained_classifier(auto, weights, classes, names, finished, options, watch)
    if name in WAVEFORM_MODELS:
        return Waves(model, getattr(extractor, "do_normalize", True), extractor.sampling_rate)
    model.eval().requires_grad_(False)

    def predict(waveforms: np.ndarray) -> np.ndarray:
        features = extractor(list(waveforms), sampling_rate=extractor.sampling_rate, return_tensors="pt")
        with torch.no_grad():
            return model(**features).logits.numpy()

    return Predictor(predict, torch.zeros(1, samples), extractor.sampling_rate, f"teacher.weights = {weights}")
