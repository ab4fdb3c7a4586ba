"""The five networks of microcontrollers.py, trained on real data that comes with the packages; see its text."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distiq.data.load import load as load_data
from distiq.data.splits import Data
from distiq.models.audio import DSCNN
from distiq.models.frontend import MFCC, LogMel
from distiq.models.mlp import MLP
from distiq.models.resnet import ResNet
from distiq.recipe.read import load_recipe
from distiq.recipe.shipped import recipe_file

RATE = 8000
FRAMES = 5  # side by side in a sample of the autoencoder
UNUSUAL = 0.95  # share of the validation samples that the autoencoder calls usual


class Samples(NamedTuple):
    """What a network is trained, calibrated and tested on: inputs (N, ...), labels (N,) or, of an autoencoder, none."""

    train: Tensor
    labels: Tensor | None
    validation: Tensor
    calibration: Tensor
    test: Tensor
    test_labels: Tensor | None


class Subject(NamedTuple):
    """A network to train: `rate` is the largest learning rate."""

    name: str
    make: Callable[[], nn.Module]
    samples: Callable[[], Samples]
    epochs: int
    rate: float


class Judge(NamedTuple):
    """What outputs (N, C) mean.

    Attributes:
        answers: of inputs and outputs, (N,): the class, or whether a sample is unusual to an autoencoder.
        quality: in percent: accuracy, or the share of the variance that an autoencoder gives back.
    """

    answers: Callable[[Tensor, Tensor], Tensor]
    quality: Callable[[Tensor], float]


def _data(recipe: str) -> Data:
    settings = load_recipe(recipe_file(recipe))
    return load_data(settings.data, settings.seed)


def _classes(recipe: str, features: nn.Module | None = None) -> Samples:
    """The splits of a recipe, seen through fixed features."""
    data = _data(recipe)
    parts = []
    for split in (data.train, data.validation, data.calibration, data.test):
        inputs = data.normalize(split.inputs)
        parts.append(inputs if features is None else torch.cat([features(one) for one in inputs.split(100)]))
    train, validation, calibration, test = parts
    return Samples(train, data.train.labels, validation, calibration, test, data.test.labels)


def _frames() -> Samples:
    """Five frames of 128 log-mel bands side by side, of spoken digits, each value standardized: (N, 640)."""
    of_clips = _classes("spoken_digits", LogMel(RATE, 1024, 512, 128, centre=-5.0, spread=5.0))
    parts = [of_clips.train, of_clips.validation, of_clips.calibration, of_clips.test]
    rows = [one.unfold(2, FRAMES, 1).permute(0, 2, 3, 1).reshape(-1, 128 * FRAMES) for one in parts]
    mean, std = rows[0].mean(0), rows[0].std(0)
    train, validation, calibration, test = ((one - mean) / std for one in rows)
    return Samples(train, None, validation, calibration, test, None)


def _mfcc() -> Samples:
    return _classes("spoken_digits", MFCC(RATE, 10, 320, 160, 40, spread=20.0))


def _autoencoder() -> nn.Module:
    layers = [nn.Linear(640, 128), nn.ReLU(), nn.Linear(128, 8), nn.ReLU(), nn.Linear(8, 128), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, 640))


def _ds_cnn() -> nn.Module:
    """DS-CNN of MLPerf Tiny, (N, 10 MFCC, 49 frames) -> (N, 10); its first kernel is 5 x 9, since padding is even."""
    return DSCNN(10, nn.Identity(), 64, (5, 9), (2, 2), (64,) * 4)  # type: ignore[arg-type]


def _student() -> nn.Module:
    """The student of the recipe keyword_board, from sound to scores."""
    options = load_recipe(recipe_file("keyword_board")).student.options
    front = LogMel(RATE, 256, 128, 40, centre=-5.0, spread=5.0)
    return DSCNN(10, front, options["stem"], (5, 5), (2, 2), options["widths"], options["strides"])


SUBJECTS = (
    Subject("resnet8", lambda: ResNet(10, 1, (16, 32, 64), 1), lambda: _classes("fashion_mnist"), 4, 0.005),
    Subject("ds_cnn", _ds_cnn, _mfcc, 12, 0.005),
    Subject("keywords", _student, lambda: _classes("spoken_digits"), 12, 0.006),
    Subject("adult", lambda: MLP(2, 381, (64, 32)), lambda: _classes("adult"), 5, 0.003),
    Subject("autoencoder", _autoencoder, _frames, 10, 0.002),
)


def trained(subject: Subject, samples: Samples, folder: Path) -> nn.Module:
    """The network, trained once: AdamW, a cosine schedule, batches of 64, no views, no teacher."""
    torch.manual_seed(0)
    network, kept = subject.make(), folder / f"{subject.name}.safetensors"
    if kept.is_file():
        network.load_state_dict(load_file(kept))
        return network.eval()
    steps = subject.epochs * (len(samples.train) // 64)
    optimizer = torch.optim.AdamW(network.parameters(), subject.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, subject.rate, total_steps=steps)
    network.train()
    for _ in range(subject.epochs):
        order = torch.randperm(len(samples.train))
        for rows in order[: len(order) // 64 * 64].split(64):
            outputs = network(samples.train[rows])
            loss = (
                F.mse_loss(outputs, samples.train[rows])
                if samples.labels is None
                else F.cross_entropy(outputs, samples.labels[rows])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), kept)
    return network.eval()


@torch.no_grad()
def judge(network: nn.Module, samples: Samples) -> Judge:
    """How outputs of the network, by whatever file, are judged on the test set."""
    labels = samples.test_labels
    if labels is not None:
        return Judge(
            lambda _, outputs: outputs.argmax(1),
            lambda outputs: 100 * float((outputs.argmax(1) == labels).float().mean()),
        )
    errors = ((network(samples.validation) - samples.validation) ** 2).mean(1)
    limit, variance = errors.quantile(UNUSUAL), samples.test.var(0).mean()
    return Judge(
        lambda inputs, outputs: ((outputs - inputs) ** 2).mean(1) > limit,
        lambda outputs: 100 * (1 - float(((outputs - samples.test) ** 2).mean() / variance)),
    )


def cut_behind_front_end(network: nn.Module, samples: Samples) -> tuple[nn.Module, Samples]:
    """A network of sound without its front-end, and the samples as features: what a file without one computes."""
    assert isinstance(network, DSCNN)
    front = network.frontend
    body = _student()
    assert isinstance(body, DSCNN)
    body.load_state_dict(network.state_dict())
    body.frontend = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        seen = {
            name: torch.cat([front(one) for one in getattr(samples, name).split(100)])
            for name in ("calibration", "test")
        }
    return body.eval(), samples._replace(**seen)
