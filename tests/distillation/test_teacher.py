"""A live teacher: frozen, in eval mode, without gradients, in full precision."""

import pytest
import torch
from torch import nn

from distiq.data.labels import CLASS, Labels
from distiq.distillation.distil import as_teacher
from distiq.distillation.teacher import LiveTeacher, PredictTeacher, freeze
from distiq.errors import UserError
from distiq.recipe.distil import DistilSettings, KnowledgeLoss
from distiq.tasks.classification import classification
from distiq.training.batches import Batch

TASK = classification(Labels(CLASS, ("cat", "dog")))


@pytest.fixture
def batch() -> Batch:
    return Batch(torch.randn(5, 1, 12, 12), torch.zeros(5, dtype=torch.long), torch.arange(5), 0)


def test_frozen_and_in_eval(teacher: nn.Module):
    model = LiveTeacher(teacher.train()).model
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_answers_carry_no_gradient_and_leave_statistics_alone(teacher: nn.Module, batch: Batch):
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    known = LiveTeacher(teacher, ["stages.1"])(batch._replace(inputs=batch.inputs.requires_grad_()))
    assert not known.logits.requires_grad
    assert not known.features["stages.1"].requires_grad
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())


def test_full_precision_under_autocast(teacher: nn.Module, batch: Batch):
    live = LiveTeacher(teacher, ["stem"])
    plain = live(batch)
    with torch.autocast("cpu", torch.bfloat16):
        known = live(batch)
    assert known.features["stem"].dtype == known.logits.dtype == torch.float32
    assert torch.equal(known.logits, plain.logits)


def test_a_network_is_copied_and_the_caller_s_stays_as_it_is(teacher: nn.Module, batch: Batch):
    teacher.train()
    loss = KnowledgeLoss(name="hint_mse", student=("stem",), teacher=("stages.0",))
    answering = as_teacher(teacher, DistilSettings(teacher="live", losses=(loss,)), TASK)
    assert answering is not None
    assert set(answering(batch).features) == {"stages.0"}
    assert all(module.training for module in teacher.modules())
    assert all(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize("value", [None, LiveTeacher(nn.Identity())])
def test_no_teacher_and_a_ready_one_pass_unchanged(value: LiveTeacher | None):
    assert as_teacher(value, DistilSettings(), TASK) is value


def test_freeze_is_in_place(teacher: nn.Module):
    assert freeze(teacher) is teacher


class Shares(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :3].softmax(1)


@pytest.mark.parametrize("make", [LiveTeacher, PredictTeacher])
def test_probabilities_become_their_logarithms_and_that_is_said_once(make, batch: Batch):
    answering = make(Shares())
    with pytest.warns(UserWarning, match="its outputs are probabilities; their logarithms are taken"):
        found = answering(batch).logits
    torch.testing.assert_close(found, batch.inputs.flatten(1)[:, :3].log_softmax(1), atol=1e-5, rtol=1e-4)
    assert torch.equal(answering(batch).logits, found)


def test_a_double_teacher_is_brought_to_float32(teacher: nn.Module, batch: Batch):
    expected = LiveTeacher(teacher)(batch).logits
    assert torch.equal(LiveTeacher(teacher.double())(batch).logits, expected)
    next(parameter for name, parameter in teacher.named_parameters() if name.startswith("stem")).data[0] = torch.nan
    with pytest.raises(UserError, match="NaN or infinite values in stem"):
        LiveTeacher(teacher)
