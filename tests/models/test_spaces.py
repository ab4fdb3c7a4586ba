"""Spaces of students: every network that they draw can be built, and counts one loss for each class."""

import json

import pytest
import torch

from distiq.data.labels import BOXES, MASK, SYMBOLS, TAGS, Labels, Target
from distiq.models.audio import front_ends
from distiq.models.build import build
from distiq.models.create import Tokens
from distiq.models.spaces import HOPS_MS, SPACES, SPACES_OF_TASKS, sounds
from distiq.recipe.training import StudentSettings
from distiq.run.forecast import drawn
from distiq.tasks.detection import detection
from distiq.tasks.segmentation import segmentation
from distiq.tasks.tokens import tokens
from distiq.tasks.transcripts import transcript

pytest.importorskip("optuna", reason="optuna is not installed")

EXAMPLES = {
    "image": torch.zeros(1, 3, 28, 28),
    "audio": torch.zeros(1, 8000),
    "text": torch.zeros(1, 12, dtype=torch.int64),
    "table": torch.zeros(1, 9),
}


@pytest.mark.parametrize("modality", SPACES)
def test_what_is_drawn_is_a_network(modality: str):
    models = set()
    for model, options in drawn(SPACES[modality], 12, seed=0):  # type: ignore[index]
        models.add(model)
        assert json.loads(json.dumps(options)) == options  # as a recipe holds it
        known = Tokens(50, 0, 1, ()) if modality == "text" else None
        rate = {"rate": 8000} if modality == "audio" else {}
        choice = StudentSettings(model=model, options={**rate, **options})
        build(choice, 4, EXAMPLES[modality], "student", known)
    assert len(models) == {"image": 3, "audio": 3, "text": 3, "table": 1}[modality]


def test_frames_of_sound_may_lie_farther_apart():
    hops = {options["hop_ms"] for _, options in drawn(sounds, 12, seed=0)}
    assert hops == set(HOPS_MS)
    small = {"rate": 8000, "widths": [8], "strides": [1]}
    frames = {}
    for hop in hops:
        choice = StudentSettings(model="ds_cnn", options={**small, "hop_ms": hop})
        model = build(choice, 4, EXAMPLES["audio"], "student")
        frames[hop] = model.get_submodule(front_ends(model)[0])(EXAMPLES["audio"]).shape[-1]
    assert frames == {hop: 1 + (8000 - 256) // int(8 * hop) for hop in hops}  # windows of 32 ms


IMAGE, TOKENS = torch.zeros(1, 3, 64, 96), torch.zeros(1, 12, dtype=torch.int64)
TASKS = {
    "detection": (detection(Labels(BOXES, tuple("abcd"), Target(), (64, 96))), IMAGE, torch.zeros(1, 1, 6)),
    "segmentation": (segmentation(Labels(MASK, tuple("abcd"), Target(), (64, 96))), IMAGE, torch.zeros(1, 64, 96)),
    "tokens": (tokens(Labels(TAGS, ("O", "B-a", "I-a", "B-b"), Target(), ())), TOKENS, torch.zeros(1, 12)),
    "transcript": (transcript(Labels(SYMBOLS, tuple("abcd"), Target(), ())), torch.zeros(1, 8000), torch.zeros(1, 3)),
}


@pytest.mark.parametrize("name", TASKS)
def test_what_is_drawn_for_a_task_is_its_network(name: str):
    task, example, targets = TASKS[name]
    assert task.name == name
    (space,) = (space for (task_name, _), space in SPACES_OF_TASKS.items() if task_name == name)
    for model, options in drawn(space, 4, seed=0):
        rate = {"rate": 8000} if name == "transcript" else {}
        known = Tokens(50, 0, 1, (), gives="tags") if name == "tokens" else None
        choice = StudentSettings(model=model, options={**rate, **options})
        build(choice, 4, example, "student", known, form=task.form(targets))
