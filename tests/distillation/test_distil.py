"""distil(): what is trained, what is not, and what is refused before training."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from distiq.data.labels import LABEL_SET, NUMBER, Labels
from distiq.data.splits import Data, from_tensors, with_unlabelled
from distiq.data.views import Views
from distiq.distillation import losses
from distiq.distillation.cache import CachedTeacher
from distiq.distillation.distil import Distillation, check_losses, distil, output_losses, task_loss
from distiq.distillation.teacher import Knowledge, LiveTeacher, MeanTeacher
from distiq.errors import UserError
from distiq.models.text import EmbeddingBag
from distiq.progress import Lines
from distiq.recipe.data import ViewSettings
from distiq.recipe.distil import DistilSettings, KnowledgeLoss
from distiq.recipe.training import TrainingSettings
from distiq.tasks.multi_label import multi_label
from distiq.tasks.regression import regression
from distiq.tasks.task import Task
from distiq.training.batches import Batch, Batches

LIVE = DistilSettings(teacher="live")


def layers(**pairs: tuple[str, str]) -> DistilSettings:
    losses = [KnowledgeLoss(name=name, student=(one,), teacher=(other,)) for name, (one, other) in pairs.items()]
    return DistilSettings(teacher="live", losses=tuple(losses))


def states_equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_neither_network_is_changed(student, teacher, data: Data, training: TrainingSettings):
    networks = (student.eval(), teacher.train())
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    trained, _ = distil(student, teacher, data, LIVE, training)
    assert all(states_equal(old, network.state_dict()) for old, network in zip(before, networks, strict=True))
    assert (student.training, teacher.training) == (False, True)
    assert all(parameter.requires_grad for network in networks for parameter in network.parameters())
    assert not states_equal(before[0], trained.state_dict())
    assert not trained.training
    assert [p.stride() for p in trained.parameters()] == [p.stride() for p in student.parameters()]


def test_losses_are_named_and_weighted(student, teacher, data: Data, task: Task):
    settings = DistilSettings(teacher="live", temperature=2.0, task_weight=0.25, kd_weight=0.5)
    batch = next(Batches(data, Views(ViewSettings(), 0), 16, 0).epoch(0))
    answering = LiveTeacher(teacher)
    found = Distillation(student.eval(), answering, settings, task=task)(batch)
    ours, theirs = student(batch.inputs), answering(batch).logits
    divergence = F.kl_div(F.log_softmax(ours / 2, 1), F.softmax(theirs / 2, 1), reduction="batchmean")
    assert set(found) == {"task", "kd"}
    torch.testing.assert_close(found["task"], 0.25 * F.cross_entropy(ours, batch.labels))
    torch.testing.assert_close(found["kd"], 0.5 * 4 * divergence)


@pytest.mark.parametrize(("weights", "names"), [((1.0, 0.0), {"task"}), ((0.0, 1.0), {"kd"})])
def test_a_loss_without_weight_is_not_there(weights, names, student, teacher, data: Data, training: TrainingSettings):
    settings = DistilSettings(teacher="live", task_weight=weights[0], kd_weight=weights[1])
    _, record = distil(student, teacher, data, settings, training)
    assert set(record.epochs[0].losses) == names


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_a_teacher_it_is_the_plain_task_loss(smoothing: float, student, data: Data, task: Task):
    batch = next(Batches(data, Views(ViewSettings(), 0), 16, 0).epoch(0))
    objective = Distillation(student.eval(), None, DistilSettings(task_weight=0.1), smoothing, task=task)
    found = objective(batch)
    assert list(found) == ["task"]
    expected = F.cross_entropy(student(batch.inputs), batch.labels, label_smoothing=smoothing)
    torch.testing.assert_close(found["task"], expected)


def test_gradient_goes_to_the_student_alone(student, teacher, data: Data, task: Task):
    batch = next(Batches(data, Views(ViewSettings(), 0), 16, 0).epoch(0))
    objective = Distillation(student, LiveTeacher(teacher), LIVE, task=task)
    sum(objective(batch).values()).backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any(name.startswith("teacher") for name in objective.state_dict())


def test_hints_and_attention_run_and_projections_are_dropped(student, teacher, data: Data, training: TrainingSettings):
    settings = layers(hint_mse=("stages.1", "stages.0"), attention_transfer=("stages.0", "stages.1"))
    trained, record = distil(student, teacher, data, settings, training)
    assert set(record.epochs[0].losses) == {"task", "kd", "hint_mse", "attention_transfer"}
    assert trained.state_dict().keys() == student.state_dict().keys()
    assert not any(module._forward_hooks for module in trained.modules())


def test_hints_of_linear_layers(student, teacher, data: Data, training: TrainingSettings):
    _, record = distil(student, teacher, data, layers(hint_mse=("classifier", "classifier")), training)
    assert "hint_mse" in record.epochs[0].losses


def test_learning_from_a_teacher_lowers_the_divergence(student, teacher, data: Data):
    training = TrainingSettings(epochs=6, batch_size=32, learning_rate=0.05, precision="float32")
    settings = DistilSettings(teacher="live", task_weight=0.0, kd_weight=1.0)
    _, record = distil(student, teacher, data, settings, training)
    assert record.epochs[-1].losses["kd"] < record.epochs[0].losses["kd"] / 2


@pytest.mark.parametrize("kind", ["live", "cached"])
def test_copies_of_the_objective_share_the_teacher(kind: str, student, teacher, data: Data, tmp_path, task: Task):
    """The moving average and the choice of precision copy the objective; a watch, which holds a lock, has no copy."""
    answering = LiveTeacher(teacher)
    if kind == "cached":
        watch = Lines(Console(quiet=True))
        answering = CachedTeacher(answering, data, Views(ViewSettings(), 0), tmp_path, "key", watch)
    assert copy.deepcopy(Distillation(student, answering, LIVE, task=task)).teacher is answering
    training = TrainingSettings(epochs=1, batch_size=32, learning_rate=0.05, precision="auto", ema_decay=0.5)
    trained, _ = distil(student, answering, data, LIVE, training)
    assert trained.state_dict().keys() == student.state_dict().keys()


def test_cached_and_live_teachers_train_alike(student, teacher, data: Data, training: TrainingSettings, tmp_path):
    live = LiveTeacher(teacher)
    stored = CachedTeacher(live, data, Views(ViewSettings(), 0), tmp_path, "key")
    records = [distil(student, one, data, LIVE, training)[1] for one in (live, stored)]
    one, other = (record.epochs[-1].losses["kd"] for record in records)
    assert one == pytest.approx(other, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (layers(hint_mse=("stages.7", "stages.0")), r'no module "stages\.7"; near it: .*stages\.1'),
        (layers(attention_transfer=("stages.0", "layers.0")), 'no module "layers.0"'),
        (
            layers(hint_mse=("classifier", "stages.0")),
            r"hint_mse \(classifier; stages.0\): student \(2, 2\) and teacher .*or both \(B, C\)",
        ),
        (
            layers(attention_transfer=("classifier", "classifier")),
            r"do not fit; choose layers that are both \(B, C",
        ),
        (layers(attention_transfer=("stages.0", "classifier")), r"choose layers that are both \(B, C, H, W\)"),
    ],
)
def test_wrong_pairs_are_refused_before_training(
    settings, message: str, student, teacher, data: Data, training, tmp_path
):
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(UserError, match=message):
        distil(student, teacher, data, settings, training, checkpoint=checkpoint)
    assert not checkpoint.exists()
    with pytest.raises(UserError, match=message):
        check_losses(student, teacher, settings, data)


def test_a_cached_teacher_with_hints_is_refused(student, teacher, data: Data, training: TrainingSettings, tmp_path):
    stored = CachedTeacher(LiveTeacher(teacher), data, Views(ViewSettings(), 0), tmp_path, "key")
    with pytest.raises(UserError, match=r'set distil\.teacher = "live"'):
        distil(student, stored, data, layers(hint_mse=("stages.0", "stages.0")), training)


def test_a_loss_that_is_not_finite_stops_with_its_name(student, data: Data, training: TrainingSettings):
    def broken(batch: Batch) -> None:
        known = LiveTeacher(nn.Sequential(nn.Flatten(), nn.Linear(144, 2)))(batch)
        known.logits.fill_(float("nan"))
        return known

    with pytest.raises(UserError, match=r"student: the loss part\(s\) kd became nan in epoch 1, step 1; lower"):
        distil(student, broken, data, LIVE, training)


def test_unlabelled_samples_teach_through_the_teacher_alone(student, teacher, data: Data, task: Task):
    more = with_unlabelled(data, data.train.inputs[:40])
    assert len(more.train) == len(data.train) + 40
    batch = Batches(more, Views(ViewSettings(flip=False, shift=0), 0), 16, 0).batch(0, torch.tensor([0, 3, 100, 120]))
    assert batch.labels[2:].tolist() == [-1, -1]
    found = Distillation(student.eval(), LiveTeacher(teacher), LIVE, task=task)(batch)
    logits = student(batch.inputs)
    torch.testing.assert_close(found["task"], 0.1 * F.cross_entropy(logits[:2], batch.labels[:2]))
    torch.testing.assert_close(found["kd"], 0.9 * losses.kd(logits, teacher.eval()(batch.inputs)))
    alone = batch._replace(labels=torch.full((4,), -1))
    assert Distillation(student, None, LIVE, task=task)(alone)["task"].item() == 0


def test_a_loss_that_needs_every_label_is_refused(student, teacher, data: Data):
    settings = DistilSettings(teacher="live", losses=(KnowledgeLoss(name="dkd"),))
    three = replace(data, classes=("0", "1", "2"))
    with pytest.raises(UserError, match="dkd needs the label of every sample"):
        check_losses(student, teacher, settings, with_unlabelled(three, data.train.inputs[:4]))


def test_unlabelled_images_must_fit(data: Data):
    with pytest.raises(UserError, match="make them alike"):
        with_unlabelled(data, torch.zeros(4, 3, 12, 12))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_images_count_for_both_labels(smoothing: float, student, data: Data, task: Task):
    views = Views(ViewSettings(mixup=1.0), 0)
    batch = Batches(data, views, 16, 0).batch(0, torch.arange(16))
    logits = student.eval()(batch.inputs)
    targets = torch.zeros(16, 2)
    for labels, shares in ((batch.labels, batch.shares), (batch.partners, 1 - batch.shares)):
        targets += F.one_hot(labels, 2) * shares.unsqueeze(1)
    expected = F.cross_entropy(logits, targets * (1 - smoothing) + smoothing / 2)
    torch.testing.assert_close(Distillation(student, None, LIVE, smoothing, task=task)(batch)["task"], expected)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (KnowledgeLoss(name="kd", options={"temperature": "x"}), "distil.losses: kd: unsupported"),
        (KnowledgeLoss(name="kd", options={"temperature": 0}), "gives nan for an example; check its options"),
        (KnowledgeLoss(name="kd", options={"heat": 3}), "unknown option 'heat'; it has temperature"),
        (KnowledgeLoss(name="multi_level_kd", options={"temperatures": []}), "multi_level_kd"),
    ],
)
def test_options_that_cannot_be_are_refused(loss: KnowledgeLoss, message: str, student, teacher, data: Data):
    with pytest.raises(UserError, match=message):
        check_losses(student, teacher, DistilSettings(teacher="live", losses=(loss,)), data)


def test_layers_of_a_mean_teacher_are_refused(student, data: Data):
    with pytest.raises(UserError, match="a MeanTeacher gives outputs alone"):
        distil(student, MeanTeacher(), data, layers(hint_mse=("stem", "stem")))


def test_the_task_loss_of_several_labels_is_that_of_each_and_of_known_ones_alone():
    several = multi_label(Labels(LABEL_SET, ("a", "b")))
    logits, labels = torch.tensor([[0.0, 2.0], [1.0, -1.0], [5.0, 5.0]]), torch.tensor([[1, 0], [0, 1], [-1, -1]])
    batch = Batch(torch.zeros(3, 1), labels, torch.arange(3), 0)
    plain = (math.log(2) + math.log1p(math.exp(2)) + 2 * math.log1p(math.exp(1))) / 4
    assert task_loss(several, logits, batch, 0.0).item() == pytest.approx(plain)
    undecided = (F.softplus(logits[:2]) + F.softplus(-logits[:2])).mean().item() / 2
    assert task_loss(several, logits, batch, 0.4).item() == pytest.approx(0.6 * plain + 0.4 * undecided)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"losses": (KnowledgeLoss(name="dist"),)},
            "dist compares each class with the others, which multi_label does not have",
        ),
        ({"teacher": "cached", "cache": {"storage": "top_k"}}, r'storage = "top_k" keeps logits up to a shift'),
    ],
)
def test_what_several_labels_do_not_bear_is_refused(student, teacher, data: Data, settings, said):
    flags = F.one_hot(data.train.labels, len(data.classes))
    several = replace(data, train=replace(data.train, labels=flags))
    with pytest.raises(UserError, match=said):
        check_losses(student, teacher, DistilSettings(**{"teacher": "live", **settings}), several)


def test_the_losses_of_numbers_are_squared_errors_of_known_ones_alone():
    logits, labels = torch.tensor([[1.0], [2.0], [5.0]]), torch.tensor([0.0, -1.0, math.nan])
    batch, theirs = Batch(torch.zeros(3, 1), labels, torch.arange(3), 0), torch.tensor([[1.0], [4.0], [2.0]])
    number = regression(Labels(NUMBER, ("number",)))
    assert task_loss(number, logits, batch, 0.0).item() == pytest.approx((1 + 9) / 2)
    found = output_losses(number, logits, batch, Knowledge(theirs), DistilSettings(task_weight=0.5, kd_weight=2.0))
    assert found["task"].item() == pytest.approx(2.5) and found["kd"].item() == pytest.approx(2 * (0 + 4 + 9) / 3)


def numbers(data: Data) -> Data:
    """The data with a number of each sample in place of its class."""
    parts = {part: getattr(data, part) for part in ("train", "validation", "calibration", "test")}
    parts = {part: replace(samples, labels=samples.labels.float()) for part, samples in parts.items()}
    return replace(data, classes=("number",), **parts)


@pytest.mark.parametrize("name", ["soft_cross_entropy", "dkd", "dist", "logit_standardization_kd", "multi_level_kd"])
def test_losses_between_classes_are_refused_for_numbers(student, teacher, data: Data, name):
    settings = DistilSettings(teacher="live", losses=(KnowledgeLoss(name=name),))
    with pytest.raises(
        UserError, match=f"distil.losses: {name} compares each class with the others, .* use kd, .* or logit_mse"
    ):
        check_losses(student, teacher, settings, numbers(data))


@pytest.mark.parametrize("storage", ["top_k", "quantized"])
def test_stores_of_classes_are_refused_for_numbers(student, teacher, data: Data, storage):
    with pytest.raises(UserError, match=f'storage = "{storage}" keeps logits up to a shift, which .* do not bear'):
        check_losses(student, teacher, DistilSettings(cache={"storage": storage}), numbers(data))


def test_numbers_are_not_smoothed(student, data: Data):
    with pytest.raises(UserError, match=r"student: label_smoothing = 0\.1 moves probability to other classes"):
        distil(student, None, numbers(data), training=TrainingSettings(label_smoothing=0.1))


def test_a_student_learns_numbers_from_its_teacher_alone():
    tokens = torch.randint(1, 5, (120, 4), generator=torch.Generator().manual_seed(0))
    samples = tokens, tokens.float().sum(1)
    data = from_tensors(samples, samples, ["sum"], 20, 20, modality="text")

    class Sum(nn.Module):
        def forward(self, tokens):
            return (tokens.float().sum(1, keepdim=True) - data.target.mean) / data.target.std

    torch.manual_seed(0)
    settings = DistilSettings(task_weight=0.0, kd_weight=0.5, losses=(KnowledgeLoss(name="logit_mse"),), teacher="live")
    training = TrainingSettings(epochs=30, batch_size=16, optimizer="adamw", learning_rate=0.03, precision="float32")
    trained, record = distil(EmbeddingBag(1, 5, dropout=0.0), Sum(), data, settings, training)
    assert record.epochs[-1].validation.value > 0.99
    error = (trained(data.test.inputs)[:, 0].detach() - data.test.labels).square().mean().sqrt()
    assert float(error) < 0.2
