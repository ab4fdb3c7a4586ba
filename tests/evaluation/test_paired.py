"""paired_drop(): what is lost, in the metric's unit, by every way of pairing that a task may have."""

from dataclasses import replace

import pytest
import torch

from distiq.data.labels import CLASS, NUMBER, Labels
from distiq.evaluation.paired import gain, has_figures, paired_drop
from distiq.records.quality import Metric
from distiq.tasks.classification import classification
from distiq.tasks.detection import detection
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


def test_errors_that_are_counted_are_compared_by_their_rate():
    """Of 2 symbols each, 1 wrong and 2 wrong: 50 points better in every seed and every sample."""
    task = replace(
        regression(Labels(NUMBER, ("level",))),
        counts=lambda outputs, targets: torch.stack([outputs[:, 0], targets], 1),
        of_counts=lambda sums: sums[..., 0] / sums[..., 1],
    )
    metric = Metric(name="wer", title="word errors", value=0.5, higher_is_better=False)
    one, two = torch.ones(30, 1), torch.full((30, 1), 2.0)
    assert gain(task, metric, [one, one], [two, two], torch.full((30,), 2.0)) == (0.5, 0.5, 0.5)


def test_boxes_are_compared_over_seeds():
    """Found in two images of three by one model, in one of three by the other, in both seeds."""
    targets = torch.tensor([[[0.0, 0, 0, 10, 10, 0]]]).repeat(30, 1, 1)
    found, none = torch.tensor([0.0, 0, 0, 10, 10, 0.9]), torch.tensor([-1.0, 0, 0, 0, 0, 0])

    one, other = (
        torch.stack([found if image % 3 < every else none for image in range(30)])[:, None] for every in (2, 1)
    )
    task = detection(Labels(CLASS, ("cell",), size=(20, 20)))
    before, after = (task.score(kept, targets).primary for kept in (other, one))
    better, low, high = gain(task, before, [one, one], [other, other], targets)
    assert better == pytest.approx(after.value - before.value)
    assert 0 < low < better < high
    assert has_figures(task) and not has_figures(regression(Labels(NUMBER, ("level",))))
