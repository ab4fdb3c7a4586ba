"""What a network computes, by hand: every product's rows, columns and inner length."""

import pytest
import torch
from torch import nn

from distiq.evaluation.cost import multiply_adds
from distiq.evaluation.operations import Operation, operations
from distiq.models.mobilenet import MobileNetV2


def test_convolutions_and_layers_are_matrix_products():
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 16, 1),
        nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip
    assert operations(model, torch.zeros(2, 1, 12, 12)) == (
        Operation("first convolution", 36, 8, 9),
        Operation("depthwise", 36, 1, 9, 8),
        Operation("pointwise", 36, 16, 8),
        Operation("activation", 36 * 16),
        Operation("pool", 36 * 16),
        Operation("linear", 1, 5, 16),
    )
    assert model.training


def test_products_of_two_values_have_no_weights():
    class Product(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ x.transpose(1, 2) + 1

    product, added = operations(Product(), torch.zeros(1, 6, 4))
    assert product == Operation("product", 6, 6, 4)
    assert product.weights == 0
    assert added == Operation("joining", 36)


def test_all_multiply_adds_are_seen():
    model, example = MobileNetV2(5, 1, squeeze=0.25, activation="silu", fused=1), torch.zeros(1, 1, 16, 16)
    assert sum(one.macs for one in operations(model, example) if one.inner > 1) == pytest.approx(
        multiply_adds(model, example), rel=0.01
    )  # squeezed to one channel, a product has an inner length of one


def test_kernels_of_whole_vectors_compute_more():
    assert Operation("pointwise", 10, 17, 5).padded_macs(16, 4) == 10 * 32 * 8
    assert Operation("depthwise", 10, 1, 9, 3).weights == 27
