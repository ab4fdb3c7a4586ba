"""Every loss that a recipe may name trains: in bfloat16, from a cached teacher, on several processes."""

import copy
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from distiq.data.splits import Data, from_tensors
from distiq.data.views import Views
from distiq.distillation.cache import CachedTeacher
from distiq.distillation.distil import Distillation, _terms, distil, output_losses
from distiq.distillation.teacher import LiveTeacher
from distiq.models.resnet import ResNet
from distiq.recipe.data import ViewSettings
from distiq.recipe.distil import (
    OUTPUT_LOSSES,
    CacheSettings,
    DistilSettings,
    KnowledgeLoss,
    LayerLoss,
    OutputLoss,
    TokenLoss,
)
from distiq.recipe.training import TrainingSettings
from distiq.tasks.choose import task_of
from distiq.training.batches import Batches

WITH_PLACES = ("sequence_kd", "channel_kd")  # of outputs at every frame or pixel
NAMES = [*(name for name in get_args(OutputLoss) if name not in WITH_PLACES), *get_args(LayerLoss)]
CLASSES = 3


def make_data() -> Data:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (80, 1, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.arange(80) % CLASSES
    return from_tensors((images[:64], labels[:64]), (images[64:], labels[64:]), validation=8, calibration=8)


@pytest.fixture(scope="module")
def data() -> Data:
    return make_data()


def settings_of(name: str, teacher: str = "live", **more: Any) -> DistilSettings:
    layers = () if name in OUTPUT_LOSSES else ("stem", "stages.1")
    if name in ("rkd", "pkt", "crd", "embedding_cosine", "similarity_queue", "correlation_congruence"):
        layers = ("pool",)
    loss = KnowledgeLoss(name=name, student=layers, teacher=layers, weight=0.01)
    return DistilSettings(teacher=teacher, task_weight=0.5, kd_weight=0.0, losses=(loss,), **more)


def networks(name: str) -> tuple[ResNet, ResNet]:
    torch.manual_seed(1)
    # these alone need as many channels on both sides.
    return ResNet(CLASSES, 1, (4, 8), 1), ResNet(CLASSES, 1, (4, 8) if name in ("fsp", "feature_mse") else (6, 12), 1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_trains_a_step(name: str, precision: str, data: Data):
    student, teacher = networks(name)
    training = TrainingSettings(epochs=1, batch_size=16, learning_rate=0.01, precision=precision)
    trained, record = distil(student, teacher, data, settings_of(name), training, views=ViewSettings(shift=1))
    assert set(record.epochs[0].losses) == {"task", name}
    assert trained.state_dict().keys() == student.state_dict().keys()
    assert all(torch.isfinite(value).all() for value in trained.state_dict().values())
    assert not torch.equal(trained.stages[0][0].conv1.weight, student.stages[0][0].conv1.weight)


@pytest.mark.parametrize("name", NAMES)
def test_a_cached_teacher_serves_as_well_as_a_live_one(name: str, data: Data, tmp_path: Path):
    student, teacher = networks(name)
    settings = settings_of(name, "cached", cache=CacheSettings(features=True))
    live, views = LiveTeacher(teacher, settings.teacher_paths), Views(ViewSettings(shift=1), 0)
    cached = CachedTeacher(live, data, views, tmp_path, "key", None, settings.cache, settings.teacher_paths)
    batch = next(Batches(data, views, 16, 0).epoch(0))
    values = []
    for answering in (live, cached):
        torch.manual_seed(0)
        if name in OUTPUT_LOSSES:
            values.append(
                output_losses(task_of(data), student.eval()(batch.inputs), batch, answering(batch), settings)[name]
            )
            continue
        terms = _terms(copy.deepcopy(student), answering, settings, Batches(data, views, 16, 0))
        torch.manual_seed(0)  # masks and negatives are drawn
        objective = Distillation(student.eval(), answering, settings, 0.0, terms, task=task_of(data))
        values.append(objective.eval()(batch)[name])
    torch.testing.assert_close(values[0], values[1], rtol=5e-3, atol=1e-4)


PROCESS = """
import sys, torch
from accelerate.state import PartialState
from tests.contracts.test_losses_train import make_data, networks, settings_of
from tests.distillation import test_terms as texts
from distiq.distillation.distil import distil
from pathlib import Path
from distiq.data.views import Views
from distiq.distillation.cache import CachedTeacher
from distiq.distillation.teacher import LiveTeacher
from distiq.recipe.training import TrainingSettings
from distiq.recipe.data import ViewSettings
torch.set_num_threads(1)
def line(name, model, record):
    state = model.state_dict().values()
    total = sum(float((value.double() * torch.arange(1, 1 + value.numel()).view_as(value)).sum()) for value in state)
    return f"{name} {PartialState().num_processes} {total:.9g} {sum(record.epochs[0].losses.values()):.9g}"
made = make_data()
training = TrainingSettings(epochs=1, batch_size=16, learning_rate=0.01, precision="float32")
lines = []
for name in sys.argv[2:]:
    student, teacher = networks(name)
    trained, record = distil(student, teacher, made, settings_of(name), training)
    lines.append(line(name, trained, record))
for name in texts.LOSSES:
    settings = texts.settings_of(name, **texts.options_of(name))
    trained, record = distil(texts.Reader(4), texts.Reader(6), texts.make_data(), settings, training)
    lines.append(line(name, trained, record))
student, teacher = networks("kd")
cached = CachedTeacher(LiveTeacher(teacher), made, Views(ViewSettings(), 0), Path(sys.argv[1]) / "cache", "key")
trained, record = distil(student, cached, made, settings_of("kd"), training)
lines.append(line("cached", trained, record))
rank = PartialState().process_index
open(f"{sys.argv[1]}/{rank}.txt", "w").write("\\n".join(lines))
"""


@pytest.mark.slow
def test_trains_on_two_processes_as_on_one(tmp_path: Path):
    """Weights and statistics of batch norm are those of one process but for rounding, and alike to the bit in both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}", "--no-python",
    ]  # fmt: skip
    root = Path(__file__).parents[2]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    found = {}
    for number, command in ((2, launcher), (1, [])):
        place = tmp_path / str(number)
        place.mkdir()
        script = [*command, sys.executable, "-c", PROCESS, str(place), *NAMES]
        ran = subprocess.run(script, capture_output=True, text=True, cwd=root, env=environment)
        assert ran.returncode == 0, ran.stderr[-3000:]
        found[number] = [(place / f"{rank}.txt").read_text().splitlines() for rank in range(number)]
    assert found[2][0] == found[2][1]
    two, one = ([line.split() for line in found[number][0]] for number in (2, 1))
    assert [line[:2] for line in two] == [[name, "2"] for name in [*NAMES, *get_args(TokenLoss), "cached"]]
    for (name, _, *ours), (_, _, *theirs) in zip(two, one, strict=True):  # sums over the state, losses
        assert [float(value) for value in ours] == pytest.approx([float(value) for value in theirs], rel=1e-4), name
