"""Which training a checkpoint is of: what decides its course, in words that name the first thing that differs."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from torch import Tensor, nn

from distiq.files import sha256_of_json
from distiq.recipe.training import TrainingSettings
from distiq.training.batches import Batches

PLAIN = (bool, int, float, str, type(None))


def identity(objective: nn.Module, batches: Batches, settings: TrainingSettings, stage: str) -> dict[str, str]:
    """What decides a training, each as a text: its stage, settings, seed, views, data, and what is trained.

    Weights are left out: those of a network that was not seeded are in its checkpoint alone.
    """
    chosen = settings.model_dump(exclude={"checkpoint_seconds"})
    return {
        "stage": stage,
        "settings": json.dumps(chosen, sort_keys=True),
        "seed": str(batches.seed),
        "views": f"{batches.views.settings.model_dump_json()} {batches.views.seed}",
        "data": batches.data.digest(),
        "objective": sha256_of_json(_facts(objective)),
    }


def first_difference(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """What two trainings differ in, in words; empty where they are the same."""
    for name, own in here.items():
        other = there.get(name, "")
        if name == "settings" and other != own:
            before, now = json.loads(other or "{}"), json.loads(own)
            key = next(key for key in now if before.get(key) != now[key])
            return f"its {key} is {before.get(key)}, here {now[key]}"
        if other != own and name in ("stage", "seed"):
            return f"its {name} is {other}, here {own}"
        if other != own:
            return f"its {name} differs" if name != "views" else "its views differ"
    return ""


def _facts(value: Any) -> Any:
    """A value as JSON: what decides how it computes, and nothing that differs from process to process."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, BaseModel):
        return json.loads(value.model_dump_json())
    if isinstance(value, Tensor):
        return [list(value.shape), str(value.dtype)]
    if isinstance(value, nn.Module):
        own = {
            name: _facts(entry) for name, entry in sorted(vars(value).items()) if name[0] != "_" and name != "training"
        }
        tensors = {name: _facts(tensor) for name, tensor in value.state_dict().items()}
        return [_kind(value), own, tensors, {name: _facts(child) for name, child in value.named_children()}]
    if isinstance(value, list | tuple):
        return [_facts(entry) for entry in value]
    if isinstance(value, dict):
        return {str(name): _facts(entry) for name, entry in value.items()}
    return [_kind(value), getattr(value, "key", None) if isinstance(getattr(value, "key", None), str) else None]


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
