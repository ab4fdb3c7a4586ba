"""The teacher's classifier at the end of the student: frozen, counted, exported with it."""

import pytest
import torch
from torch import nn

from distiq.data.splits import Data
from distiq.distillation.distil import distil
from distiq.distillation.simkd import projector, reuse_classifier
from distiq.errors import UserError
from distiq.evaluation.cost import parameter_count
from distiq.recipe.distil import DistilSettings, KnowledgeLoss
from distiq.recipe.training import TrainingSettings


@pytest.fixture
def example(data: Data) -> torch.Tensor:
    return data.normalize(data.train.inputs[:2])


def test_projector_and_classifier_count(student, teacher, example: torch.Tensor):
    made = reuse_classifier(student, teacher, example)
    added = parameter_count(projector(8, 12)) + parameter_count(teacher.classifier)
    assert parameter_count(made) == parameter_count(student) - parameter_count(student.classifier) + added
    assert made(example).shape == (2, 2)
    assert torch.equal(made.classifier.weight, teacher.classifier.weight)
    assert isinstance(student.pool, nn.AdaptiveAvgPool2d), "the caller's student stays as it is"


def test_equal_maps_give_the_teacher_s_answer(teacher, example: torch.Tensor):
    made = reuse_classifier(teacher, teacher, example)
    made.pool[0] = nn.Identity()
    torch.testing.assert_close(made.eval()(example), teacher.eval()(example))


def test_the_classifier_is_not_trained(student, teacher, data: Data, example: torch.Tensor):
    made = reuse_classifier(student, teacher, example)
    loss = KnowledgeLoss(name="feature_mse", student=("pool.0",), teacher=("stages",))
    settings = DistilSettings(teacher="live", task_weight=0.0, kd_weight=0.0, losses=(loss,))
    training = TrainingSettings(epochs=5, batch_size=32, learning_rate=0.1, precision="float32")
    trained, record = distil(made, teacher, data, settings, training)
    assert torch.equal(trained.classifier.weight, teacher.classifier.weight)
    assert set(record.epochs[0].losses) == {"feature_mse"}
    assert record.epochs[-1].losses["feature_mse"] < 0.7 * record.epochs[0].losses["feature_mse"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [({"pool": "pol"}, 'no module "pol"; near it: pool'), ({"pool": "classifier"}, r"takes \(2, 8\); name the module")],
)
def test_wrong_paths_are_refused(paths: dict, message: str, student, teacher, example: torch.Tensor):
    with pytest.raises(UserError, match=message):
        reuse_classifier(student, teacher, example, **paths)


def test_maps_of_another_size_are_refused(student, example: torch.Tensor):
    from distiq.models.resnet import ResNet

    with pytest.raises(UserError, match="change the student's strides"):
        reuse_classifier(student, ResNet(2, 1, (4, 6, 8), 1), example)


def test_no_hook_is_left_behind(student, teacher, example: torch.Tensor):
    made = reuse_classifier(student, teacher, example)
    assert not any(module._forward_pre_hooks for model in (student, teacher, made) for module in model.modules())
