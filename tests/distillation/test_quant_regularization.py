"""Terms that make a student easy to quantize: by formula, by the sign of their gradient, by the noise's moments."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from distiq.data.splits import Data
from distiq.distillation.distil import Distillation, distil
from distiq.distillation.quant_regularization import (
    balance_loss,
    folded,
    kurtosis_loss,
    noisy,
    quant_regularization,
    range_loss,
)
from distiq.errors import UserError
from distiq.models.mobilenet import MobileNetV2
from distiq.progress import Silent
from distiq.recipe.distil import DistilSettings, QuantRegularizationSettings
from distiq.recipe.read import load_recipe
from distiq.recipe.recipe import Recipe
from distiq.recipe.training import AssistantSettings, TrainingSettings
from distiq.run.check import check_networks
from distiq.run.ledger import Ledger
from distiq.run.networks import build_models
from distiq.run.train import TrainedNetwork, train_assistants, train_student, train_teacher
from distiq.tasks.choose import task_of
from distiq.training.batches import Batch

ALL = QuantRegularizationSettings(kurtosis=0.5, range=0.25, balance=2.0, noise=0.5, noise_bits=4)
SGD = TrainingSettings(epochs=2, batch_size=32, learning_rate=0.05, precision="float32", checkpoint_seconds=0.0)


def with_terms(settings: QuantRegularizationSettings, teacher: str = "none") -> DistilSettings:
    return DistilSettings(teacher=teacher, quant_regularization=settings)


@pytest.fixture
def depthwise() -> MobileNetV2:
    torch.manual_seed(3)
    return MobileNetV2(2, 1, stem=8, stages=((1, 8, 1, 1), (2, 8, 1, 2)), head=0)


@pytest.fixture
def batch(data: Data) -> Batch:
    return Batch(data.normalize(data.train.inputs[:16]), data.train.labels[:16], torch.arange(16), 0)


# The formulas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "kurtosis"), [([1.0, -1.0], 1.0), ([1.0, 0.0, 0.0, -1.0], 2.0)])
def test_kurtosis_by_hand(values: list[float], kurtosis: float):
    weight = torch.tensor([values, values])
    assert kurtosis_loss(weight).item() == pytest.approx((kurtosis - 1.8) ** 2)


def test_weights_spread_evenly_over_their_range_cost_nothing():
    even = torch.linspace(-1, 1, 4001).repeat(2, 1)
    assert kurtosis_loss(even).item() == pytest.approx(0.0, abs=1e-5)
    normal = torch.randn(4, 50_000, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    assert kurtosis_loss(normal) > 0.5  # a normal distribution has 3


def test_kurtosis_takes_no_notice_of_the_scale_of_an_output():
    weight = torch.randn(3, 40, dtype=torch.float64)
    scaled = weight * torch.tensor([[1.0], [7.0], [0.1]])
    torch.testing.assert_close(kurtosis_loss(scaled), kurtosis_loss(weight))


def test_range_by_hand():
    near = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    assert range_loss(near) == 0.0
    far = torch.zeros(2, 50)
    far[0, 0], far[1, 0] = 10.0, -10.0  # mean 0, variance 200 / 100: both lie 10 / sqrt(2) from the mean
    assert range_loss(far).item() == pytest.approx((10 / math.sqrt(2) - 4) ** 2)


def test_the_gradient_pulls_an_outlier_in():
    values = torch.randn(8, 100, generator=torch.Generator().manual_seed(0))
    values[2, 5] = 30.0
    values.requires_grad_()
    range_loss(values).backward()
    assert values.grad[2, 5] > 0
    assert values.grad.abs().argmax() == 205
    without = torch.zeros(4, 10, requires_grad=True)
    range_loss(without).backward()
    assert torch.equal(without.grad, torch.zeros(4, 10))  # and no NaN of a dead layer


def test_balance_by_hand():
    weight = torch.tensor([[4.0, -1.0], [1.0, 1.0], [-2.0, 0.0]])
    assert balance_loss(weight).item() == pytest.approx(1 - (1 + 0.25 + 0.5) / 3)
    weight.requires_grad_()
    balance_loss(weight).backward()
    assert weight.grad[0, 0] > 0  # the largest shrinks
    assert weight.grad[2, 0] > 0  # -2 moves away from zero
    assert (weight.grad[1] < 0).all()


def test_folded_weights_are_those_of_the_folded_layer():
    torch.manual_seed(0)
    layer, norm = nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4).eval()
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    x = torch.randn(2, 4, 6, 6)
    expected = norm(layer(x)) - norm(layer(torch.zeros_like(x)))
    found = nn.functional.conv2d(x, folded(layer.weight, norm), groups=4)
    torch.testing.assert_close(found, expected)


def test_the_scale_that_batch_norm_takes_back_has_no_gradient():
    layer, norm = nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4)
    balance_loss(folded(layer.weight, norm)).backward()
    along = (layer.weight.grad * layer.weight.detach()).flatten(1).sum(1)
    torch.testing.assert_close(along, torch.zeros(4), atol=1e-6, rtol=0)
    assert norm.weight.grad.abs().sum() > 0


def test_noise_is_uniform_over_one_step_of_each_output():
    weight = torch.ones(2, 200_000)
    weight[1] = 14.0
    torch.manual_seed(0)
    noise = noisy(weight, 1.0, 4) - weight
    steps = torch.tensor([1.0, 14.0]) / 7  # 4 bits: -7 to 7
    assert (noise.abs().amax(1) <= steps / 2 + 1e-6).all()
    torch.testing.assert_close(noise.mean(1), torch.zeros(2), atol=0.01, rtol=0)
    torch.testing.assert_close(noise.var(1), steps**2 / 12, rtol=0.02, atol=0)


def test_a_share_of_the_weights_has_noise():
    weight = torch.ones(1, 100_000, requires_grad=True)
    torch.manual_seed(0)
    found = noisy(weight, 0.25, 8)
    assert (found != weight).double().mean().item() == pytest.approx(0.25, abs=0.01)
    found.sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))


# In a student ---------------------------------------------------------------------------------------------------------


def test_layers_are_found(depthwise: MobileNetV2, data: Data):
    found = quant_regularization(depthwise, ALL, data.example)
    assert found.depthwise == tuple(f"stages.{at}.depthwise.0" for at in ("0.0", "1.0"))
    assert found.norms == {path: path[:-1] + "1" for path in found.layers if path != "classifier"}
    assert set(found.layers) - set(found.inner) == {"stem.0"}  # it reads the image


def test_terms_are_named_weighted_and_means_over_layers(depthwise: MobileNetV2, data: Data, batch: Batch):
    settings = QuantRegularizationSettings(kurtosis=0.5, range=0.25, balance=2.0)
    easy = quant_regularization(depthwise, settings, data.example)
    found = Distillation(depthwise, None, with_terms(settings), easy=easy, task=task_of(data))(batch)
    assert list(found) == ["task", "kurtosis", "range", "balance"]
    layers = [layer for layer in depthwise.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    expected = torch.stack([kurtosis_loss(layer.weight) for layer in layers]).mean()
    torch.testing.assert_close(found["kurtosis"], 0.5 * expected)
    pairs = [depthwise.get_submodule(f"stages.{at}.depthwise") for at in ("0.0", "1.0")]
    expected = torch.stack([balance_loss(folded(pair[0].weight, pair[1])) for pair in pairs]).mean()
    torch.testing.assert_close(found["balance"], 2.0 * expected)
    sum(found.values()).backward()
    assert all(parameter.grad is not None for parameter in depthwise.parameters())
    assert not any(module._forward_pre_hooks for module in depthwise.modules())


def test_noise_is_there_in_training_alone(depthwise: MobileNetV2, data: Data, batch: Batch):
    easy = quant_regularization(depthwise, QuantRegularizationSettings(noise=1.0, noise_bits=4), data.example)
    before = copy.deepcopy(depthwise.state_dict())
    plain = depthwise.eval()(batch.inputs)
    assert torch.equal(easy(depthwise, batch.inputs)[0], plain)
    depthwise.train()
    first, second = (easy(depthwise, batch.inputs)[0] for _ in range(2))
    assert not torch.equal(first, second)
    weights = [name for name, value in depthwise.named_parameters() if not torch.equal(value, before[name])]
    assert weights == []


@pytest.mark.parametrize(
    ("term", "says"), [({"balance": 1.0}, "no depthwise convolution"), ({"range": 1.0}, "no layer behind another one")]
)
def test_a_term_without_layers_is_refused(term: dict, says: str, data: Data):
    student = nn.Sequential(nn.Flatten(), nn.Linear(144, 2))
    with pytest.raises(UserError, match=f"distil.quant_regularization.{next(iter(term))} = 1: .*{says}.*set it to 0"):
        distil(student, None, data, with_terms(QuantRegularizationSettings(**term)), SGD)


def test_a_student_without_weighted_layers_is_refused(data: Data):
    student = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(144))
    with pytest.raises(UserError, match=r"noise = 0\.5: the student has no convolution or linear layer"):
        quant_regularization(student, QuantRegularizationSettings(noise=0.5), data.example)


# In a training --------------------------------------------------------------------------------------------------------


def test_training_lowers_what_it_is_asked_to(depthwise: MobileNetV2, data: Data):
    training = SGD.model_copy(update={"epochs": 6})
    settings = QuantRegularizationSettings(kurtosis=1.0, balance=1.0)
    _, record = distil(depthwise, None, data, with_terms(settings), training)
    first, last = record.epochs[0].losses, record.epochs[-1].losses
    assert set(first) == {"task", "kurtosis", "balance"}
    assert last["kurtosis"] < first["kurtosis"]
    assert last["balance"] < first["balance"]


@pytest.mark.parametrize("kind", ["none", "live"])
def test_without_a_weight_nothing_changes(kind: str, depthwise: MobileNetV2, teacher, data: Data):
    """The plain losses alone, as before there were such terms, give the same bits."""

    def trained(settings: DistilSettings) -> dict:
        return distil(depthwise, teacher if kind == "live" else None, data, settings, SGD)[0].state_dict()

    off, plain = trained(with_terms(QuantRegularizationSettings(), kind)), trained(DistilSettings(teacher=kind))
    assert all(torch.equal(off[key], plain[key]) for key in plain)
    assert quant_regularization(depthwise, QuantRegularizationSettings(), data.example) is None


def test_a_killed_training_ends_with_the_same_bits(depthwise: MobileNetV2, data: Data, tmp_path: Path):
    settings = with_terms(ALL)
    whole, _ = distil(depthwise, None, data, settings, SGD)

    class Killed(Silent):
        def step(self, number: int, total: int, values: dict) -> None:
            if number == 5:
                raise KeyboardInterrupt

    file = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        distil(depthwise, None, data, settings, SGD, checkpoint=file, watch=Killed())
    again, _ = distil(depthwise, None, data, settings, SGD, checkpoint=file)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in whole.state_dict().items())


# In a recipe ----------------------------------------------------------------------------------------------------------

SMALL = {"model": "mobilenet_v2", "options": {"stem": 8, "stages": [[1, 8, 1, 1]], "head": 0}, "training": SGD}


def recipe_of(settings: DistilSettings, **parts: object) -> Recipe:
    return Recipe.model_validate({"teacher": SMALL, "student": SMALL, "distil": settings, **parts}, strict=False)


def trained(recipe: Recipe, data: Data, folder: Path) -> tuple[TrainedNetwork, TrainedNetwork, TrainedNetwork]:
    """Teacher, who teaches the student, student."""
    with Ledger(folder) as ledger:
        models = build_models(recipe, data, Silent())
        teacher = train_teacher(ledger, recipe, data, models.teacher)
        source = train_assistants(ledger, recipe, data, models.assistants, teacher)
        return teacher, source, train_student(ledger, recipe, data, models.student, source, teacher)


@pytest.mark.parametrize("kind", ["none", "cached"])
def test_a_term_is_part_of_the_student_s_key_and_of_no_other_s(kind: str, data: Data, tmp_path: Path):
    terms = QuantRegularizationSettings(), QuantRegularizationSettings(kurtosis=1.0)
    plain, eased = (trained(recipe_of(with_terms(settings, kind)), data, tmp_path) for settings in terms)
    assert plain[0].key == eased[0].key
    assert plain[2].key != eased[2].key


def test_assistants_are_trained_without(data: Data, tmp_path: Path):
    settings = with_terms(QuantRegularizationSettings(balance=1.0), "cached")
    recipe = recipe_of(settings, assistants=(AssistantSettings(**SMALL),))
    _, source, student = trained(recipe, data, tmp_path)
    assert "balance" not in source.step.record.training.epochs[0].losses
    assert "balance" in student.step.record.training.epochs[0].losses


def test_the_student_is_refused_before_the_teacher_is_trained(data: Data):
    plain = {**SMALL, "model": "resnet", "options": {"widths": [4], "blocks": 1}}
    recipe = recipe_of(with_terms(QuantRegularizationSettings(balance=1.0), "cached"), student=plain)
    with pytest.raises(
        UserError, match=r"distil\.quant_regularization\.balance = 1: the student has no depthwise convolution"
    ):
        check_networks(data, build_models(recipe, data, Silent()), (recipe.distil,), Silent())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[distil.quant_regularization]\nrange = 1.0\n[quantize]\nmode = 'weight_only'", "leaves activations float32"),
        ("[distil.quant_regularization]\nnoise_bits = 4", "noise = 0 draws none; set noise = 1.0"),
        ("[distil.quant_regularization]\nnoise = 1.5", "less than or equal to 1"),
        ("[distil.quant_regularization]\nkurtosys = 1.0", 'did you mean "kurtosis"'),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_recipe(text: str, says: str, tmp_path: Path):
    path = tmp_path / "my.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=says):
        load_recipe(path)
