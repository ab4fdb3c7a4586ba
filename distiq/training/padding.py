"""Texts without their padding: most are far shorter than the longest, and what is padding need not be computed."""

import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.data.text import Text
from distiq.models.signature import Predict, one_output

TRIED = 4  # texts on which to try whether padding changes outputs
ALIKE, EXACT = 0.05, 1e-4
"""By what share of the largest output it may: as ranges of int8 do that are computed for each batch, or as sums of
float32 in another order."""


def without_padding(predict: Predict, text: Text, inputs: Tensor) -> Tensor:
    """Outputs for tokens (B, L), computed without what is padding in every row; tags of padding are zero."""
    found = one_output(predict(text.trimmed(inputs).contiguous()))
    return F.pad(found, (0, inputs.shape[1] - text.trimmed(inputs).shape[1])) if found.ndim == 3 else found


@torch.no_grad()
def takes_any_length(predict: Predict, text: Text, inputs: Tensor, alike: float = ALIKE) -> bool:
    """Whether padding does not change the outputs for the first texts of (B, L), and so may be left out.

    Give the shortest first. Outputs may differ by the share `alike` of the largest.
    """
    inputs = inputs[:TRIED]
    if text.trimmed(inputs).shape == inputs.shape:
        return False
    try:
        short = without_padding(predict, text, inputs)
    except Exception:  # whatever the runtime of a file that takes one length only raises
        return False
    whole = one_output(predict(inputs))
    return short.shape == whole.shape and bool((short - whole).abs().max() <= alike * whole.abs().max())
