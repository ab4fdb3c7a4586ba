"""What a task reads of a network with several outputs, and what it keeps of them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from distiq.data.splits import Data, from_tensors
from distiq.distillation.distil import distil
from distiq.errors import UserError
from distiq.evaluation.evaluate import evaluate, outputs
from distiq.recipe.distil import DistilSettings
from distiq.recipe.training import TrainingSettings
from distiq.tasks.choose import task_of
from distiq.tasks.task import Task


class TwoHeads(nn.Module):
    """Logits of the first classes and of the others, as outputs of their own."""

    def __init__(self, data: Data, split: int) -> None:
        super().__init__()
        self.split = split
        self.linear = nn.Linear(data.example.numel(), len(data.classes))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        logits = self.linear(images.flatten(1))
        return {"first": logits[:, : self.split], "others": logits[:, self.split :]}


@pytest.fixture
def data() -> Data:
    """Three classes; the first pixel of an image is its label."""
    labels = torch.arange(120) % 3
    images = torch.rand(120, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    images[:, 0, 0, 0] = labels.float()
    pairs = (images[:80], labels[:80]), (images[80:], labels[80:])
    return from_tensors(*pairs, ["a", "b", "c"], validation=10, calibration=10, normalized=True)


@pytest.fixture
def task(data: Data) -> Task:
    """The data's own, for two heads; of the outputs only which is the largest is kept."""
    return replace(
        task_of(data),
        read=lambda returned: torch.cat([returned["first"], returned["others"]], 1),
        keep=lambda logits: nn.functional.one_hot(logits.argmax(1), logits.shape[1]).float(),
    )


def test_a_network_of_two_outputs_is_taught_and_scored_as_one(data: Data, task: Task):
    network, teacher = TwoHeads(data, 1), TwoHeads(data, 1)
    settings, training = DistilSettings(teacher="live"), TrainingSettings(epochs=2, batch_size=10)
    student, _ = distil(network, teacher, data, settings, training, task=task)
    joined = task.read(student(data.normalize(data.test.inputs)))
    expected = float((joined.argmax(1) == data.test.labels).double().mean())
    assert evaluate(student, data, task=task).primary.value == pytest.approx(expected)
    assert outputs(student, data, data.test, task).unique().tolist() == [0, 1]


def test_another_number_of_outputs_is_refused(data: Data, task: Task):
    with pytest.raises(UserError, match=f"needs {len(data.classes)} outputs each"):
        evaluate(TwoHeads(data, 1), data, task=replace(task, read=lambda returned: returned["first"]))
