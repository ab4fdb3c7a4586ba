"""Another order of the classes is found where there is one, and only there."""

import pytest
import torch
from torch import Tensor

from distiq.tasks.order import other_label_order, other_order, relabelled


def predicted(targets: Tensor, classes: int, accuracy: float, seed: int = 0) -> Tensor:
    """Right for that share of the samples, the others at random."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.randint(classes, targets.shape, generator=generator)
    return torch.where(torch.rand(targets.shape, generator=generator) < accuracy, targets, wrong)


@pytest.mark.parametrize(("classes", "accuracy"), [(2, 0.8), (3, 0.9), (10, 0.5), (200, 0.9)])
def test_a_permutation_is_found(classes: int, accuracy: float):
    targets = torch.arange(40 * classes) % classes
    means = torch.arange(classes).roll(1)  # what output i means
    outputs = means.argsort()[predicted(targets, classes, accuracy)]
    assert other_order(outputs, targets, classes) == tuple(means.tolist())


def test_two_classes_of_ten_may_have_changed_places():
    targets = torch.arange(2000) % 10
    swap = torch.tensor([0, 1, 7, 3, 4, 5, 6, 2, 8, 9])
    assert other_order(swap[predicted(targets, 10, 0.9)], targets, 10) == tuple(swap.tolist())


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("accuracy", [0.0, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_a_weak_network_is_not_suspected(classes: int, accuracy: float, seed: int):
    targets = torch.randint(classes, (1000,), generator=torch.Generator().manual_seed(9))
    assert other_order(predicted(targets, classes, accuracy, seed), targets, classes) == ()


def test_a_class_that_is_never_predicted_is_no_other_order():
    targets = torch.tensor([0] * 100 + [1] * 400 + [2] * 100)
    assert other_order(torch.where(targets == 1, 0, targets), targets, 3) == ()


def test_labels_are_corrected_where_they_stand():
    # Outputs are thought to be owl, cat, fox, dog; of the data's cat, dog and owl, "cat" means dog and "dog" cat.
    found = relabelled(("owl", "cat", "fox", "dog"), (1, 3, 0), ("cat", "dog", "owl"), (1, 0, 2))
    assert found == ["owl", "dog", "fox", "cat"]


def flags(labels: int, share: float) -> Tensor:
    return (torch.rand(400, labels, generator=torch.Generator().manual_seed(0)) < share).long()


def noisy(targets: Tensor, errors: float, seed: int = 1) -> Tensor:
    """A share of the flags is wrong."""
    return targets ^ (torch.rand(targets.shape, generator=torch.Generator().manual_seed(seed)) < errors).long()


@pytest.mark.parametrize(("labels", "share", "errors"), [(2, 0.5, 0.1), (6, 0.2, 0.05), (40, 0.1, 0.02)])
def test_a_permutation_of_several_labels_is_found(labels: int, share: float, errors: float):
    targets, means = flags(labels, share), torch.arange(labels).roll(1)
    assert other_label_order(noisy(targets, errors)[:, means], targets) == tuple(means.tolist())


@pytest.mark.parametrize("errors", [0.05, 0.3, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_weak_networks_of_several_labels_are_not_suspected(errors: float, seed: int):
    targets = flags(6, 0.3)
    assert other_label_order(noisy(targets, errors, seed + 2), targets) == ()
    assert other_label_order(torch.zeros_like(targets), targets) == ()
