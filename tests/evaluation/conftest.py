"""Tiny data whose answers are known."""

import pytest
import torch

from distiq.data.splits import Data, from_tensors


@pytest.fixture
def data() -> Data:
    """Three classes; the first pixel of an image is its label, the test split has 300 images."""
    labels = torch.arange(400) % 3
    images = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images[:, 0, 0, 0] = labels.float()
    pairs = (images[:100], labels[:100]), (images[100:], labels[100:])
    return from_tensors(*pairs, ["a", "b", "c"], validation=20, calibration=20, normalized=True)
