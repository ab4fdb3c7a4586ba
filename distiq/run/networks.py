"""Teacher, assistants and student of a recipe before they are trained here: built, or handed in from Python."""

import contextlib
import copy
import importlib.metadata
import inspect
import re
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from distiq.data.labels import TAGS, filled
from distiq.data.splits import Data
from distiq.data.text import Text
from distiq.distillation.adapt import adapted, example_of
from distiq.files import sha256_of_file, sha256_of_json, sha256_of_tensors
from distiq.models.build import build, cut, static
from distiq.models.create import STATIC, Tokens
from distiq.models.from_onnx import files_of_onnx, is_onnx
from distiq.models.predictor import Predictor, build_predictor
from distiq.models.signature import read_outputs
from distiq.models.weights import usable
from distiq.progress import Watch
from distiq.recipe.recipe import Recipe
from distiq.recipe.training import ModelSettings, StudentSettings, TeacherSettings
from distiq.run.keys import PACKAGE
from distiq.run.reach import Place, code_key, whole
from distiq.tasks.choose import task_of

ADDRESS = re.compile(" at 0x[0-9a-f]+")
INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib"))
LOSS_SAMPLES = 64  # whose loss decides which channels of a network matter
CUT_TEXTS = 512  # on which neurons are chosen, and those that stay take over from the others
SAMPLES = 8  # on which a callable is tried, and by whose outputs networks are distinguished


@dataclass(frozen=True)
class Network:
    """One of a recipe's networks before it is trained here.

    Args:
        role: "teacher", "assistants.0" and so on, "student".
        settings: the recipe's.
        module: as it was handed in, or built with the recipe's `seed`; of one that is cut from the teacher, the form
            alone: which neurons stay is chosen when it is trained, which takes a while.
        is_given: it was handed in from Python.
        rebuild: builds the recipe's network with newly drawn weights, or cuts it from a trained teacher if given one.
        key: identifies the code that it runs and the weights that it starts from.
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
        """Whether it is a callable, which has no layers and no file."""
        return any(isinstance(module, Predictor) for module in self.module.modules())

    @property
    def is_cut(self) -> bool:
        """Whether it starts as a part of the teacher."""
        return isinstance(self.settings, StudentSettings) and self.settings.is_cut and not self.is_given

    @property
    def source(self) -> str:
        """The file or hub name that its weights come from; empty where they are drawn, or were handed in."""
        file = self.settings.model if is_onnx(self.settings.model) else ""
        return "" if self.is_given else self.settings.weights or file

    @property
    def name(self) -> str:
        """Its name in records: its model, the function that gave the callable, or the class that was handed in."""
        if self.is_given:
            return type(self.module).__name__
        predict = self.settings.predict if isinstance(self.settings, TeacherSettings) else ""
        return Path(predict).name if predict else self.settings.model

    def fresh(self, seed: int, teacher: nn.Module | None = None) -> nn.Module:
        """A copy to be trained: of what was handed in, else with weights drawn from the seed.

        Args:
            teacher: as it was trained, where the network is cut from it.
        """
        if self.is_given or (teacher is None and seed == self.seed and not self.is_cut):
            return copy.deepcopy(self.module)
        set_seed(seed)
        return self.rebuild(teacher)


@dataclass(frozen=True)
class Models:
    """A recipe's networks. `kept` are the tokens that a student with a trimmed vocabulary knows; empty for others."""

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
    trimmed = isinstance(data.preprocessing, Text) and recipe.student.options.get("trim_vocabulary") and student is None
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
        watch: receives a note of what was unwrapped from a file of weights.
    """
    settings = recipe.networks()[role]
    rebuild = partial(_built, role, settings, data, teacher)
    if given is None:
        set_seed(recipe.seed)
    module = _taken(recipe, data, role, given, watch) if given is not None else rebuild(None, watch, is_form=True)
    key = network_key(
        module, None if given is not None else settings, data.normalize(data.calibration.drawn(SAMPLES).inputs)
    )
    return Network(role, settings, module, given is not None, recipe.seed, rebuild, key)


def _built(
    role: str,
    settings: ModelSettings,
    data: Data,
    teacher: nn.Module | None,
    trained: nn.Module | None,
    watch: Watch | None = None,
    is_form: bool = False,
) -> nn.Module:
    """The recipe's network; a student that is cut from `trained`, or from the teacher before its training.

    Args:
        is_form: of a cut one the form counts, not which neurons stay.
    """
    tokens, names, form = _tokens(data), data.classes, task_of(data).form(data.train.labels[:2])
    if isinstance(settings, TeacherSettings) and settings.predict:
        tried = data.normalize(data.calibration.drawn(SAMPLES).inputs)
        return build_predictor(settings.predict, data, settings.options, tried)
    if isinstance(settings, StudentSettings) and settings.model == STATIC and teacher is not None and tokens:
        return static(teacher, settings, form, data.example, tokens)
    if isinstance(settings, StudentSettings) and settings.is_cut:
        source = teacher if trained is None else trained
        assert source is not None
        texts = data.normalize(data.train.drawn(CUT_TEXTS).inputs) if tokens and not is_form else None
        return cut(source, settings, form, data.example, tokens, partial(_loss, data=data), texts)
    if not isinstance(settings, TeacherSettings):
        return build(settings, form.classes, data.example, role, tokens, names, watch, form)
    own = settings.preprocessing
    form, labels = (form._replace(outputs=len(own.labels)), ()) if own.labels else (form, names)
    network = build(settings, form.classes, example_of(data, own), role, tokens, labels, watch, form)
    is_trained = bool(settings.weights or is_onnx(settings.model)) and not settings.finetune
    return adapted(network, data, own, watch, is_trained)


def _loss(model: nn.Module, data: Data) -> Tensor:
    """A network's loss on the calibration split."""
    task, split = task_of(data), data.calibration.drawn(LOSS_SAMPLES)
    return task.loss(task.read(model(data.normalize(split.inputs))), filled(split.labels)).mean()


def _taken(recipe: Recipe, data: Data, role: str, given: nn.Module, watch: Watch | None) -> nn.Module:
    """A copy of what was handed in, in float32; a teacher is fed and read as it was trained."""
    module = usable(copy.deepcopy(given), f"{role}: {type(given).__name__}", watch)
    return adapted(module, data, recipe.teacher.preprocessing, watch) if role == "teacher" else module


def _tokens(data: Data) -> Tokens | None:
    text = data.preprocessing
    if not isinstance(text, Text):
        return None
    gives: Literal["classes", "tags", "vector"] = "tags" if data.labels.form is TAGS else "classes"
    if task_of(data).decoding == "vector":
        gives = "vector"
    used = data.used_tokens()
    counts = data.train.inputs.flatten().bincount(minlength=text.vocabulary) if gives == "vector" else None
    return Tokens(
        text.vocabulary, text.pad, *used, text.separator, text.pads_left, gives, text.special, text.around, counts
    )


# What decides a network before it is trained --------------------------------------------------------------------------


def network_key(module: nn.Module, settings: ModelSettings | None, samples: Tensor) -> str:
    """Identifies the code that a network runs and the weights that it starts from.

    Args:
        settings: the recipe's; None for a network that was handed in.
        samples: (B, ...), normalized. For code that is not distiq's, the outputs for them enter the key, too: they
            distinguish networks that differ in ways that neither weights nor text form show.
    """
    named = [] if settings is None else [settings.model, getattr(settings, "predict", "")]
    factories = [Path(reference.rpartition(":")[0]) for reference in named if ".py:" in reference]
    parts = {
        "built": None if settings is None else [*named, settings.options],
        "files": _onnx_files(settings),
        "form": ADDRESS.sub("", str(module)),
        "weights": sha256_of_tensors({**dict(module.named_buffers()), **module.state_dict()}),
        "code": _code(module, factories),
        "versions": _versions(module),
        "outputs": _outputs(module, samples) if settings is None or factories else None,
    }
    return sha256_of_json(parts)[:16]


def _onnx_files(settings: ModelSettings | None) -> list[str]:
    if settings is None or not is_onnx(settings.model):
        return []
    return [sha256_of_file(file) for file in files_of_onnx(Path(settings.model))]


def _code(model: nn.Module, factories: Sequence[Path]) -> list[str]:
    """Hashes of the code of a network's classes, of the factories that made it, and of what both import."""
    own: list[Place] = []
    local: list[Place] = [place for file in factories for place in whole(file)]
    roots, texts = {file.parent for file in factories}, list[str]()
    for kind in {type(module) for module in model.modules()}:
        file = _source_file(kind)
        if file is None:
            continue
        if kind.__module__ == "__main__":  # the rest of a script is no part of its networks
            texts.append(inspect.getsource(kind))
        elif file.is_relative_to(PACKAGE):
            own.append((file, kind.__qualname__.partition(".")[0]))
        else:
            local += whole(file)
            roots.add(file.parents[kind.__module__.count(".") + (file.name == "__init__.py")])
    return [code_key(own, (PACKAGE.parent,)), code_key(local, sorted(roots)), *sorted(texts)]


def _source_file(kind: type) -> Path | None:
    """The file that a class is written in; None where it is installed, or cannot be read."""
    try:
        file = Path(inspect.getfile(kind)).resolve()
    except (OSError, TypeError):
        return None
    is_installed = any(file.is_relative_to(folder) for folder in INSTALLED) and not file.is_relative_to(PACKAGE)
    return None if is_installed or not file.is_file() else file


def _versions(model: nn.Module) -> dict[str, str]:
    """The versions of the installed packages that a network's classes come from."""
    packages = sorted({type(module).__module__.partition(".")[0] for module in model.modules()} - {"distiq"})
    versions = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


@torch.no_grad()
def _outputs(model: nn.Module, samples: Tensor) -> str:
    """Hash of the outputs, rounded so far that sums in another order do not change it: in double precision where the
    network can, since that leaves more digits."""
    if isinstance(model, Predictor):
        return _rounded(model(samples), 2**8)
    try:
        double = copy.deepcopy(model).double().eval()
        return _rounded(_joined(double(samples.double() if samples.is_floating_point() else samples)), 2**20)
    except (RuntimeError, TypeError, ValueError):  # the network itself converts to float32
        return _rounded(_joined(copy.deepcopy(model).eval()(samples)), 2**8)


def _joined(returned: object) -> Tensor:
    """All outputs of a network as one tensor; a single output unchanged."""
    outputs = read_outputs(returned)
    return outputs if isinstance(outputs, Tensor) else torch.cat([one.flatten() for one in outputs.values()])


def _rounded(outputs: object, steps: int) -> str:
    """Hash of outputs, rounded to steps of their magnitude; for anything but a tensor, the name of its type."""
    if not isinstance(outputs, Tensor):
        return type(outputs).__name__
    scale = 2.0 ** outputs.abs().max().clamp(min=1e-30).log2().floor()
    return sha256_of_tensors({"outputs": (outputs / scale * steps).round().long(), "scale": scale})
