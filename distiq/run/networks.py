"""Teacher, assistants and student of a recipe before they are trained here: built, or handed in from Python."""

import copy
import hashlib
import importlib.metadata
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from distiq.data.splits import Data
from distiq.factory import source_of
from distiq.files import sha256_of_json, sha256_of_tensors
from distiq.models.build import Tokens, build, cut
from distiq.models.from_onnx import is_onnx
from distiq.models.predictor import Predictor, build_predictor
from distiq.progress import Watch
from distiq.recipe.recipe import Recipe
from distiq.recipe.training import ModelSettings, StudentSettings, TeacherSettings

LIBRARIES = ("transformers", "timm", "torchvision")
"""Packages whose version decides what their networks compute."""
SAMPLES = 8  # on which a callable is tried, and by whose outputs networks are told apart


@dataclass(frozen=True)
class Network:
    """One of a recipe's networks before it is trained here.

    Args:
        role: "teacher", "assistants.0" and so on, "student".
        settings: the recipe's.
        module: as it was handed in, or built with the recipe's `seed`.
        is_given: it was handed in from Python.
        rebuild: the recipe's network, with weights drawn anew; where a trained teacher is given, cut from it.
        key: says by which code it computes, and from which weights.
    """

    role: str
    settings: ModelSettings
    module: nn.Module
    is_given: bool
    seed: int
    rebuild: Callable[[nn.Module | None], nn.Module]
    key: str

    @property
    def is_predictor(self) -> bool:
        """It is a callable, which has no layers and no file."""
        return isinstance(self.module, Predictor)

    @property
    def is_cut(self) -> bool:
        """It starts as a part of the teacher."""
        return isinstance(self.settings, StudentSettings) and self.settings.is_cut and not self.is_given

    @property
    def source(self) -> str:
        """The file or hub name that its weights come from; empty where they are drawn, or were handed in."""
        file = self.settings.model if is_onnx(self.settings.model) else ""
        return "" if self.is_given else self.settings.weights or file

    @property
    def name(self) -> str:
        """What a record calls it: its model, the function that gave the callable, or the class that was handed in."""
        if self.is_given:
            return type(self.module).__name__
        predict = self.settings.predict if isinstance(self.settings, TeacherSettings) else ""
        return Path(predict).name if predict else self.settings.model

    def fresh(self, seed: int, teacher: nn.Module | None = None) -> nn.Module:
        """A copy to be trained: of what was handed in, else with weights drawn from the seed.

        Args:
            teacher: as it was trained, where the network is cut from it.
        """
        if self.is_given or (teacher is None and seed == self.seed):
            return copy.deepcopy(self.module)
        set_seed(seed)
        return self.rebuild(teacher)


@dataclass(frozen=True)
class Models:
    """A recipe's networks. `kept` are the tokens that a student with a trimmed vocabulary knows; empty of others."""

    teacher: Network
    assistants: tuple[Network, ...]
    student: Network
    kept: tuple[int, ...]

    @property
    def all(self) -> tuple[Network, ...]:
        return self.teacher, *self.assistants, self.student


def build_models(
    recipe: Recipe, data: Data, watch: Watch, teacher: nn.Module | None = None, student: nn.Module | None = None
) -> Models:
    """All networks of a recipe, each with weights drawn from its seed, or as it is given.

    Args:
        teacher, student: in place of the recipe's; they are copied.

    Raises:
        UserError: a network cannot be built; see `build`.
    """
    watch.stage("checking the networks")
    roles = [f"assistants.{number}" for number in range(len(recipe.assistants))]
    first = build_network(recipe, data, "teacher", teacher, watch=watch)
    between = tuple(build_network(recipe, data, role, watch=watch) for role in roles)
    last = build_network(recipe, data, "student", student, first.module, watch)
    trimmed = data.kind == "text" and recipe.student.options.get("trim_vocabulary") and student is None
    return Models(first, between, last, data.used_tokens()[1] if trimmed else ())


def build_network(
    recipe: Recipe,
    data: Data,
    role: str,
    given: nn.Module | None = None,
    teacher: nn.Module | None = None,
    watch: Watch | None = None,
) -> Network:
    """The network of one role; see `build_models`.

    Args:
        teacher: before its training; what the student is cut from.
        watch: is told what was unwrapped of a file of weights.
    """
    settings = recipe.networks()[role]
    rebuild = partial(_built, role, settings, data, teacher)
    if given is None:
        set_seed(recipe.seed)
    module = copy.deepcopy(given) if given is not None else rebuild(None, watch)
    key = network_key(module, settings, data.normalize(data.calibration.inputs[:SAMPLES]))
    return Network(role, settings, module, given is not None, recipe.seed, rebuild, key)


def _built(
    role: str,
    settings: ModelSettings,
    data: Data,
    teacher: nn.Module | None,
    trained: nn.Module | None,
    watch: Watch | None = None,
) -> nn.Module:
    """The recipe's network; a student that is cut from `trained`, or from the teacher before its training."""
    tokens, names = _tokens(data), data.classes
    if isinstance(settings, TeacherSettings) and settings.predict:
        tried = data.normalize(data.calibration.inputs[:SAMPLES])
        return build_predictor(settings.predict, data, settings.options, tried)
    if isinstance(settings, StudentSettings) and settings.is_cut:
        source = teacher if trained is None else trained
        assert source is not None
        return cut(source, settings, len(names), data.example, tokens)
    return build(settings, len(names), data.example, role, tokens, names, watch)


def _tokens(data: Data) -> Tokens | None:
    if data.kind != "text":
        return None
    return Tokens(*data.tokens, *data.used_tokens(), data.preparation.get("text", {}).get("separator"))


# What decides a network before it is trained --------------------------------------------------------------------------


def network_key(module: nn.Module, settings: ModelSettings, samples: Tensor) -> str:
    """Says by which code a network computes, and from which weights.

    Args:
        samples: (B, ...), normalized; a callable is known by its outputs for them.
    """
    references = [settings.model, settings.predict if isinstance(settings, TeacherSettings) else ""]
    parts = {
        "form": str(module),
        "weights": sha256_of_tensors(module.state_dict()),
        "code": [source_of(reference) for reference in references if ".py:" in reference],
        "classes": _source(module),
        "versions": _versions(module),
        "outputs": _outputs(module, samples) if isinstance(module, Predictor) else None,
    }
    return sha256_of_json(parts)[:16]


def _source(model: nn.Module) -> list[str]:
    """The source of a network's own classes, where it can be read: the same weights can be computed with otherwise."""
    sources = set()
    for kind in {type(module) for module in model.modules()}:
        if kind.__module__.partition(".")[0] not in ("torch", "distiq", *LIBRARIES):
            try:
                sources.add(inspect.getsource(kind))
            except (OSError, TypeError):
                continue
    return sorted(sources)


def _versions(model: nn.Module) -> dict[str, str]:
    """Of the libraries that a network's classes come from."""
    packages = {type(module).__module__.partition(".")[0] for module in model.modules()}
    return {package: importlib.metadata.version(package) for package in LIBRARIES if package in packages}


def _outputs(model: nn.Module, samples: Tensor) -> str:
    with torch.no_grad():
        return hashlib.sha256(model(samples).contiguous().numpy().tobytes()).hexdigest()
