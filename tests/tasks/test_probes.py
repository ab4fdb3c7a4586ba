"""What vectors tell of classes, by hand and by slow oracles."""

import torch

from distiq.data.labels import CLASS, NUMBER, Labels
from distiq.tasks.embedding import embedding
from distiq.tasks.probes import counts, of_counts, right_by_neighbours, right_by_probe, score


def clusters(samples: int = 120, noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes around three corners."""
    draw = torch.Generator().manual_seed(0)
    classes = torch.arange(samples) % 3
    return torch.eye(3)[classes] + noise * torch.randn(samples, 3, generator=draw), classes


def test_a_linear_layer_that_saw_the_other_half_tells_corners_apart():
    vectors, classes = clusters()
    right, tested = right_by_probe(vectors, classes)
    assert int(tested.sum()) == 60
    assert torch.equal(right, tested)
    shuffled = classes[torch.randperm(120, generator=torch.Generator().manual_seed(1))]
    assert int(right_by_probe(vectors, shuffled)[0].sum()) < 35, "a third, by chance"


def test_the_layer_is_least_squares_on_standardized_columns():
    vectors, classes = clusters(noise=0.7)
    right, tested = right_by_probe(vectors, classes)
    own = (vectors.double() - vectors[~tested].double().mean(0)) / vectors[~tested].double().std(0, unbiased=False)
    own = torch.cat([own, torch.ones(120, 1)], 1)
    aims = torch.eye(3, dtype=torch.float64)[classes]
    layer = torch.linalg.lstsq(own[~tested], aims[~tested]).solution
    slow = ((own @ layer).argmax(1) == classes) & tested
    assert int((slow != right).sum()) <= 1  # the ridge


def test_neighbours_vote_without_the_sample_itself():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [1.0, 0.05]])
    assert right_by_neighbours(vectors, torch.tensor([0, 0, 0, 0, 1])).tolist() == [True, True, True, True, False]
    assert right_by_neighbours(vectors[:1], torch.tensor([0])).tolist() == [True]


def test_the_task_of_classes_learns_from_vectors_and_is_judged_by_classes():
    task = embedding(Labels(CLASS, ("a", "b", "c")))
    vectors, classes = clusters(noise=0.7)
    assert (task.name, task.outputs, task.together) == ("embedding", 0, 1)
    assert float(task.loss(vectors, classes).sum()) == 0
    scores = task.score(vectors, classes)
    assert scores == score(vectors, classes)
    assert scores.primary.value == float(of_counts(counts(vectors, classes).sum(0)))
    assert [metric.name for metric in scores.metrics] == ["nearest_neighbours"]
    assert embedding(Labels(NUMBER, ("score",))).together == 2
