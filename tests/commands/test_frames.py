"""compress(): how far it is from the command to a loss."""

import traceback
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import distiq
from distiq.commands.compress import compress
from distiq.data.splits import from_tensors
from distiq.recipe.read import parse_recipe

PACKAGE = str(Path(distiq.__file__).parent)


class Reached(Exception):
    """A loss was reached while a network was trained."""


def network(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, width), nn.ReLU(), nn.Linear(width, 2))


def test_nine_frames_lie_between_compress_and_the_innermost_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = torch.nn.functional.kl_div
    names: list[str] = []

    def watched(*args: object, **options: object) -> torch.Tensor:
        frames = [frame.name for frame in traceback.extract_stack() if frame.filename.startswith(PACKAGE)]
        if "fit" in frames:  # losses are tried before anything is trained, too
            names.extend(frames)
            raise Reached
        return own(*args, **options)

    monkeypatch.setattr(F, "kl_div", watched)
    labels = torch.arange(80) % 2
    images = torch.rand(80, 1, 6, 6) + labels.view(-1, 1, 1, 1)
    data = from_tensors((images[:60], labels[:60]), (images[60:], labels[60:]), validation=10, calibration=10)
    recipe = parse_recipe(
        {
            "student": {"training": {"epochs": 1, "batch_size": 16, "precision": "float32"}},
            "views": {"flip": False, "shift": 0},
            "measure": {"throughput_batch": 2, "rounds": 1, "seconds": 0.002},
        }
    )
    with pytest.raises(Reached):
        compress(recipe, run=tmp_path / "run", teacher=network(8), student=network(4), data=data)
    between = names[names.index("compress") + 1 :]
    assert between[0] == "train_student" and between[-1] == "kd"
    assert len(between) <= 9, between
