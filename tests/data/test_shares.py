"""Labels that are shares of the classes: learned from as they are, measured by the likeliest class, never truncated."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.data.labels import SHARES, form_of
from distiq.data.samples import in_memory
from distiq.data.splits import Data, check_data, from_tensors, with_unlabelled
from distiq.distillation.distil import distil
from distiq.distillation.teacher import LiveTeacher
from distiq.errors import UserError
from distiq.recipe.data import ViewSettings
from distiq.recipe.distil import DistilSettings, KnowledgeLoss
from distiq.recipe.training import TrainingSettings
from distiq.tasks.choose import task_of

COUNT, CLASSES = 60, 3


def shares(count: int = COUNT) -> Tensor:
    """Rows of which the class `row % 3` has 0.6, the next 0.3, the last 0.1."""
    rows = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).repeat(count, 1)
    return torch.stack([row.roll(number) for number, row in enumerate(rows)])


def data(train: Tensor | None = None, test: Tensor | None = None) -> Data:
    images = torch.rand(COUNT, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    own, theirs = (shares() if labels is None else labels for labels in (train, test))
    return from_tensors((images, own), (images, theirs), validation=12, calibration=6)


def test_training_labels_are_kept_and_others_are_the_likeliest_class():
    made = data()
    assert made.classes == ("0", "1", "2") and form_of(made.train.labels) is SHARES
    assert len(made.train) == 42 and torch.equal(made.train.labels.sort(1).values, torch.tensor([[0.1, 0.3, 0.6]] * 42))
    assert made.test.labels.tolist() == [number % 3 for number in range(COUNT)]
    assert made.validation.labels.bincount().tolist() == [4, 4, 4] and made.calibration.labels.dtype == torch.int64
    assert "labels that are shares of the classes are learned from as they are, and measured" in made.notes[-1]
    check_data(made)


def test_the_loss_is_the_cross_entropy_with_the_shares():
    task, outputs, targets = task_of(data()), torch.randn(4, 3), shares(4).float()
    expected = -(targets * outputs.log_softmax(1)).sum(1)
    torch.testing.assert_close(task.loss(outputs, targets), expected)


def test_a_student_learns_the_shares():
    images = F.one_hot(torch.arange(COUNT) % 3, 16).float().view(COUNT, 1, 4, 4)
    made = from_tensors((images, shares()), (images, shares()), validation=12, calibration=6, normalized=True)
    made = with_unlabelled(made, images[:3])
    training = TrainingSettings(epochs=60, batch_size=15, learning_rate=0.5, optimizer="sgd", weight_decay=0.0)
    still = ViewSettings(flip=False, shift=0)
    student, _ = distil(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), None, made, training=training, views=still)
    found = student(images[:3]).softmax(1)
    torch.testing.assert_close(found, shares(3).float(), atol=0.02, rtol=0)


@pytest.mark.parametrize("row", [[0.5, 0.6, 0.1], [1.2, -0.1, -0.1], [torch.nan, 0.5, 0.5]])
def test_rows_that_are_no_shares_are_refused(row: list[float]):
    labels = shares()
    labels[7] = torch.tensor(row)
    with pytest.raises(UserError, match=r"the labels of image 7 .* are no shares of the classes \(1 images\)"):
        data(labels)


def test_shares_elsewhere_than_in_training_are_refused_and_so_is_what_needs_one_label():
    made = data()
    by_hand = Data("hand", made.classes, made.train, made.validation, made.calibration,
                   in_memory(made.test.inputs, shares().float()), made.preprocessing)  # fmt: skip
    with pytest.raises(UserError, match=r"the test split are shares of the classes, .*labels\.argmax\(1\)"):
        check_data(by_hand)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    settings = DistilSettings(teacher="live", losses=(KnowledgeLoss(name="dkd"),))
    with pytest.raises(UserError, match="dkd needs one label per sample, but labels are shares"):
        distil(network, LiveTeacher(network), made, settings)
