"""A teacher that is no PyTorch network: any callable from arrays to probabilities or logits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.factory import call_factory

SPREAD = 0.5
SMALLEST = 1e-7  # of a probability whose logarithm is taken


def are_probabilities(outputs: Tensor) -> bool:
    """Whether rows (N, classes) are what a softmax gives: not negative, and of the sum 1."""
    sums = outputs.sum(1)
    return bool((outputs >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3))


def are_independent_probabilities(outputs: Tensor) -> bool:
    """Whether outputs (N, labels) are what a sigmoid gives: none is below 0 or above 1, and they are spread there, as
    those of a network that is not trained are not."""
    return bool(((outputs >= 0) & (outputs <= 1)).all() and outputs.max() - outputs.min() > SPREAD)


def log_odds(probabilities: Tensor) -> Tensor:
    """Logits that give these probabilities (N, labels), each of a label for itself."""
    return probabilities.clamp(SMALLEST, 1 - SMALLEST).logit()


def logarithms(probabilities: Tensor) -> Tensor:
    """Logits that give these probabilities (N, classes)."""
    return probabilities.clamp(min=SMALLEST).log()


class Predictor(nn.Module):
    """A callable as a network without weights. It has no layers to read, and no file.

    Args:
        predict: inputs (B, ...) as the networks see them, a numpy array -> (B, classes) probabilities or logits.
        trial: inputs on which it is tried. If every row that it returns is non-negative and sums to 1, the rows are
            taken as probabilities, and their logarithms as logits.
        rate: of sound, samples per second that it takes; 0 is any.
        name: of the callable, for messages.

    Raises:
        UserError: the callable fails, or does not return a finite row of numbers for each input.
    """

    def __init__(
        self, predict: Callable[[np.ndarray], Any], trial: Tensor, rate: int = 0, name: str = "teacher.predict"
    ) -> None:
        super().__init__()
        self.predict, self.rate, self.name = predict, rate, name
        self.probabilities = are_probabilities(self._rows(trial))

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, ...) -> (B, classes) float32 logits on the inputs' device, without gradient."""
        rows = self._rows(inputs)
        logits = logarithms(rows) if self.probabilities else rows
        return logits.float().to(inputs.device)

    def _rows(self, inputs: Tensor) -> Tensor:
        """(B, classes) float64, as the callable gave it."""
        try:
            rows = np.asarray(self.predict(inputs.detach().cpu().contiguous().numpy()), dtype=np.float64)
        except Exception as error:  # whatever the callable raises
            raise UserError(f"{self.name}: the callable fails ({type(error).__name__}: {error})") from error
        if rows.ndim != 2 or len(rows) != len(inputs):
            raise UserError(
                f"{self.name}: the callable returns an array of shape {rows.shape} for {len(inputs)} inputs; it"
                " must be (inputs, classes) probabilities or logits"
            )
        if not np.isfinite(rows).all():
            raise UserError(f"{self.name}: the callable returns NaN or infinite values")
        return torch.from_numpy(rows)

    def __deepcopy__(self, _memo: dict) -> "Predictor":
        return self  # nothing in it can be trained


def build_predictor(reference: str, data: Any, options: dict[str, Any], trial: Tensor) -> Predictor:
    """The callable that `file.py:function` returns for the data and the recipe's options, as a network.

    Raises:
        UserError: the function cannot be called so, or returns no callable, or the callable is refused.
    """
    predict = call_factory(reference, {"data": data, **options}, "teacher.predict")
    if not callable(predict):
        raise UserError(
            f"teacher.predict: {reference} returned {type(predict).__name__}; return a callable that takes an array of"
            " inputs and gives (inputs, classes) probabilities or logits"
        )
    return Predictor(predict, trial)
