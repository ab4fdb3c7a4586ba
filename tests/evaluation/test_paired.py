"""paired_drop(): what is lost, in the metric's unit, by every way of pairing that a task may have."""

from dataclasses import replace

import pytest
import torch

from distiq.data.labels import CLASS, NUMBER, Labels
from distiq.evaluation.paired import paired_drop
from distiq.tasks.classification import classification
from distiq.tasks.regression import regression

TARGETS = torch.arange(200) % 2
RIGHT = torch.nn.functional.one_hot(TARGETS, 2).float()


def test_classes_lose_in_points():
    task, worse = classification(Labels(CLASS, ("a", "b"))), RIGHT.clone()
    worse[:30] = 1 - worse[:30]
    metric = task.score(RIGHT, TARGETS).primary
    value, low, high = paired_drop(task, metric, RIGHT, worse, TARGETS)
    assert value == pytest.approx(15)
    assert 8 < low < 15 < high < 22  # two standard errors of 30 of 200 are five points
    counted = replace(
        task,
        correct=None,
        counts=lambda outputs, targets: torch.stack([outputs.argmax(1) == targets, targets >= 0], 1).double(),
        of_counts=lambda sums: sums[..., 0] / sums[..., 1],
    )
    assert paired_drop(counted, metric, RIGHT, worse, TARGETS)[0] == pytest.approx(15)


def test_a_metric_that_is_better_when_it_is_lower_is_lost_upwards():
    task = regression(Labels(NUMBER, ("level",)))
    targets = torch.linspace(-1, 1, 50)
    near, far = targets.unsqueeze(1) + 0.1, targets.unsqueeze(1) + 0.1 * torch.arange(50).unsqueeze(1)
    metric = task.score(near, targets).primary
    before, after = (task.score(one, targets).primary.goodness for one in (near, far))
    value, low, high = paired_drop(task, metric, near, far, targets)
    assert value == pytest.approx(metric.scale * (before - after), rel=1e-6)
    assert low <= value <= high
