"""Losses between layers of networks for texts: by module path, padding left out."""

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from distiq.data.splits import Data, from_tensors
from distiq.data.views import Views
from distiq.distillation.distil import Distillation, _terms, check_losses, distil
from distiq.distillation.feature_losses import embedded
from distiq.distillation.teacher import LiveTeacher
from distiq.distillation.terms import output_loss
from distiq.errors import UserError
from distiq.recipe.data import ViewSettings
from distiq.recipe.distil import DistilSettings, KnowledgeLoss, TokenLoss
from distiq.recipe.training import TrainingSettings
from distiq.tasks.choose import task_of
from distiq.training.batches import Batch, Batches

LOSSES = get_args(TokenLoss)


class Reader(nn.Module):
    """Embeddings, two layers over each token, the mean over the text, a classifier; padding is 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding, self.classifier = nn.Embedding(20, width), nn.Linear(width, 2)
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.layers[1](torch.relu(self.layers[0](self.embedding(tokens))))
        return self.classifier(embedded(hidden, (tokens != 0).float()))


def options_of(name: str) -> dict[str, int]:
    return {"heads": 2} if name == "minilm_relation" else {}


def settings_of(name: str, layers: tuple[str, ...] = ("layers.1",), **options: int) -> DistilSettings:
    others = tuple(path.replace("1", "0") for path in layers)
    loss = KnowledgeLoss(name=name, student=layers, teacher=others, options=options)
    return DistilSettings(teacher="live", task_weight=0.5, kd_weight=0.0, losses=(loss,))


def make_data() -> Data:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 20, (40, 9), generator=generator)
    tokens *= torch.arange(9) < torch.randint(3, 7, (40, 1), generator=generator)
    labels = torch.arange(40) % 2
    return from_tensors((tokens[:32], labels[:32]), (tokens[32:], labels[32:]), None, 4, 4, modality="text")


@pytest.fixture
def data() -> Data:
    return make_data()


def objective_of(name: str, data: Data, widths: tuple[int, int], **options: int) -> tuple[Distillation, Batches]:
    torch.manual_seed(0)
    student, teacher = Reader(widths[0]).eval(), LiveTeacher(Reader(widths[1]), ["layers.0"])
    settings, batches = settings_of(name, **options), Batches(data, Views(ViewSettings(), 0), 8, 0)
    terms = _terms(student, teacher, settings, batches)
    return Distillation(student, teacher, settings, 0.0, terms, task=task_of(data)).eval(), batches


@pytest.mark.parametrize("name", [*LOSSES, "rkd", "embedding_cosine", "correlation_congruence"])
def test_padding_counts_in_no_loss(name: str, data: Data):
    objective, batches = objective_of(name, data, (4, 6), **options_of(name))
    batch = next(batches.epoch(0))
    assert batch.mask is not None
    more = torch.zeros(8, 5, dtype=torch.int64)
    longer = batch._replace(inputs=torch.cat([batch.inputs, more], 1), mask=torch.cat([batch.mask, more], 1))
    torch.testing.assert_close(objective(longer)[name], objective(batch)[name])


def test_hidden_states_are_compared_over_the_tokens(data: Data):
    objective, batches = objective_of("hidden_mse", data, (6, 6))
    batch: Batch = next(batches.epoch(0))
    student, teacher = objective.student, objective.teacher.model
    ours = student.layers[1](torch.relu(student.layers[0](student.embedding(batch.inputs))))
    squares = (ours - teacher.layers[0](teacher.embedding(batch.inputs))).square()
    torch.testing.assert_close(objective(batch)["hidden_mse"], squares[batch.inputs != 0].mean())


@pytest.mark.parametrize("name", LOSSES)
def test_a_projection_trains_and_is_dropped(name: str, data: Data):
    settings = settings_of(name, ("layers.1", "layers.1"), **options_of(name))
    training = TrainingSettings(epochs=1, batch_size=8, learning_rate=0.01, precision="bfloat16")
    student = Reader(4)
    trained, record = distil(student, Reader(6), data, settings, training)
    assert set(record.epochs[0].losses) == {"task", name}
    assert trained.state_dict().keys() == student.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("feature_mse", "layers.1", "of texts they would count padding; take hidden_mse or minilm_relation"),
        ("similarity_preserving", "layers.1", "of texts they would count padding"),
        ("hidden_mse", "classifier", r"do not fit; choose layers that are both \(B, L, D\)"),
        ("minilm_relation", "layers.1", "12 relation heads do not divide the width 4"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, layer: str, message: str, data: Data):
    with pytest.raises(UserError, match=message):
        check_losses(Reader(4), Reader(4), settings_of(name, (layer,)), data)


def test_kd_without_options_is_at_temperature_four(data: Data):
    ours, theirs = torch.randn(8, 2), torch.randn(8, 2)
    loss = output_loss(task_of(data), KnowledgeLoss(name="kd"), torch.zeros(8, dtype=torch.int64))
    softened = (theirs / 4).log_softmax(1)
    expected = 16 * (softened.exp() * (softened - (ours / 4).log_softmax(1))).sum(1).mean()  # T^2 KL(teacher, student)
    torch.testing.assert_close(loss(ours, theirs), expected)
