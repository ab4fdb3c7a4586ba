import math

import pytest
import torch
import torch.nn.functional as F

from distiq.data.labels import MASK, VOID, Labels
from distiq.tasks.segmentation import agreement, class_map, confusion, loss, score, segmentation

TASK = segmentation(Labels(MASK, ("road", "sky", "car")))


def counted(kept: torch.Tensor, targets: torch.Tensor, classes: int) -> float:
    """mIoU, pixel by pixel."""
    shared, either = [0] * classes, [0] * classes
    for own, right in zip(kept.flatten().tolist(), targets.flatten().tolist(), strict=True):
        if right == VOID:
            continue
        for number in range(classes):
            shared[number] += own == number and right == number
            either[number] += own == number or right == number
    ratios = [one / other for one, other in zip(shared, either, strict=True) if other]
    return sum(ratios) / len(ratios)


@pytest.mark.parametrize("seed", range(4))
def test_the_mean_union_is_that_of_a_slow_count(seed: int):
    generator = torch.Generator().manual_seed(seed)
    kept = torch.randint(0, 3 - seed % 2, (3, 5, 7), generator=generator).byte()
    targets = torch.randint(0, 4, (3, 5, 7), generator=generator)
    targets = targets.masked_fill(targets == 3, VOID).byte()
    assert score(kept, targets, 3).primary.value == pytest.approx(counted(kept, targets, 3), abs=1e-6)


def test_a_class_that_is_nowhere_counts_for_nothing():
    maps = torch.tensor([[[0, 0], [1, 1]]]).byte()
    scores = score(maps, maps, 3)
    assert scores.primary.value == 1.0 and scores.per_class == (1.0, 1.0, None)


def test_void_pixels_change_no_loss():
    outputs = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.zeros(2, 4, 4, dtype=torch.uint8)
    targets[:, :2] = VOID
    other = outputs.clone()
    other[:, :, :2] += torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(loss(outputs, targets), loss(other, targets))


def test_the_loss_is_weighted_cross_entropy_and_dice():
    outputs = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[[0, 0], [0, 1]]]).byte()
    shares, there = outputs.softmax(1), F.one_hot(targets.long(), 3).permute(0, 3, 1, 2).float()
    overlap = [
        (2 * float((shares * there)[0, c].sum()) + 1) / float(shares[0, c].sum() + there[0, c].sum() + 1)
        for c in (0, 1)
    ]
    weights = torch.tensor([1 / math.log(1.02 + share) for share in (3 / 4, 1 / 4, 0)])  # a rare class counts more
    expected = float(F.cross_entropy(outputs, targets.long(), weights)) + 1 - sum(overlap) / 2
    assert float(loss(outputs, targets)) == pytest.approx(expected, rel=1e-5)


def test_coarser_maps_are_enlarged():
    outputs = torch.zeros(1, 3, 2, 2)
    outputs[0, 1, :, 1] = 5.0
    targets = torch.tensor([[[0, 0, 1, 1]] * 4]).byte()
    assert math.isfinite(float(loss(outputs, targets)))
    assert confusion(class_map(outputs), targets, 3)[0].tolist() == [[8, 0, 0], [0, 8, 0], [0, 0, 0]]


def test_distillation_is_nothing_where_both_are_alike():
    outputs = torch.randn(2, 3, 5, 9, generator=torch.Generator().manual_seed(0))
    assert float(TASK.distillation(outputs, outputs.clone(), temperature=2.0)) == pytest.approx(0.0, abs=1e-6)


def test_agreement_counts_pixels():
    one = torch.zeros(1, 2, 4).byte()
    other = one.clone()
    other[0, 0, 0] = 2
    assert agreement(one, other) == 7 / 8
