"""The recipe: one TOML file, read into frozen values.

Every key is declared here or in settings/ with its default and its meaning; `distiq init` prints them. An unknown
key, a wrong type, an impossible combination and a missing file are refused before any work, with the file, the key,
what was found and what to do.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from distiq.errors import UserError
from distiq.settings.data import (
    SHORTEST_TEXT,
    AudioSettings,
    AudioViewSettings,
    DataSettings,
    TableSettings,
    TextSettings,
    TextViewSettings,
    ViewSettings,
)
from distiq.settings.distil import (
    OUTPUT_LOSSES,
    CacheSettings,
    DistilSettings,
    FriendlySettings,
    KnowledgeLoss,
    LayerLoss,
    OutputLoss,
    TokenLoss,
)
from distiq.settings.part import Part
from distiq.settings.quantize import (
    INTEGER_IO_LACKS,
    STATIC_BY_NOW,
    Mode,
    QuantizeSettings,
    Rung,
    impossible,
)
from distiq.settings.toml import described, plain
from distiq.settings.training import (
    FROM_TEACHER,
    AssistantSettings,
    GridTrainingSettings,
    ModelSettings,
    StudentSettings,
    TeacherSettings,
    TrainingSettings,
)

__all__ = [
    "OUTPUT_LOSSES", "AssistantSettings", "AudioSettings", "AudioViewSettings", "Budget", "CacheSettings",
    "DataSettings", "DistilSettings", "EvaluationSettings", "ExportSettings", "FriendlySettings",
    "GridTrainingSettings", "KnowledgeLoss", "LayerLoss", "MeasureSettings", "Mode", "ModelSettings", "OutputLoss",
    "QuantizeSettings", "Recipe", "Rung", "RuntimeName", "StudentSettings", "TableSettings", "TeacherSettings",
    "TextSettings", "TextViewSettings", "TokenLoss", "TrainingSettings", "ViewSettings", "describe", "impossible",
    "load_recipe", "parse_recipe", "runtime_lacks", "to_toml",
]  # fmt: skip
RuntimeName = Literal["onnxruntime", "openvino", "litert", "executorch", "inductor"]
RELATIVE = "correct the path (it is taken relative to the recipe's folder)"


def runtime_lacks(runtime: str, mode: Mode, activation_bits: int, group_size: int) -> str:
    """Why a runtime's files cannot hold such a scheme, and the nearest that they can; empty where they can."""
    if runtime == "onnxruntime" or (mode == "static" and activation_bits == 8):
        return ""
    if mode == "weight_only" and runtime == "openvino" and not group_size:
        return ""
    if group_size and runtime == "openvino":
        why, nearest = "groups of weights", "group_size = 0"
    elif mode == "dynamic":
        why = "grids that are made at each run"
        if runtime == "litert":
            why += " (its kernels make one for each row of a layer's input, the graph has one for all)"
        nearest = 'mode = "weight_only" or "static"' if runtime == "openvino" else 'mode = "static"'
    elif mode == "weight_only":
        why, nearest = "integer weights beside float32 activations", 'mode = "static"'
    else:
        why, nearest = "activations of 16 bits", "activation_bits = 8"
    return f'distiq writes no files of {runtime} with {why}; nearest: {nearest}, or runtime "onnxruntime"'


class Budget(Part):
    """The limits that the deployed file must keep; each is optional."""

    accuracy_drop_points: float | None = Field(
        None, description="largest loss of accuracy against the teacher, in percentage points"
    )
    auc_drop_points: float | None = Field(
        None, description="two classes: largest loss of AUC against the teacher, in hundredths"
    )
    f1_drop_points: float | None = Field(
        None, description="several labels: largest loss of micro F1 against the teacher, in hundredths"
    )
    correlation_drop_points: float | None = Field(
        None, description="regression: largest loss of Pearson's correlation against the teacher, in hundredths"
    )
    size_kb: float | None = Field(None, gt=0, description="largest file, in kilobytes of 1000 bytes")
    latency_ms: float | None = Field(None, gt=0, description="largest median time of one image, in milliseconds")
    bit_operations_m: float | None = Field(
        None,
        gt=0,
        description="most bit operations of one sample, in millions: multiply-adds times bits of weight and activation;"
        " for accelerators, the runtimes here compute narrow weights as int8",
    )

    @property
    def quality_drop_points(self) -> float | None:
        """Largest loss of accuracy, or of correlation, against the teacher: a run has one of the two."""
        return self.accuracy_drop_points if self.correlation_drop_points is None else self.correlation_drop_points


class MeasureSettings(Part):
    """Where files are measured, and how latency is."""

    runtimes: tuple[RuntimeName, ...] = Field(
        ("onnxruntime",),
        min_length=1,
        description='every trial is measured in each, the first is delivered (see quantize.fall_back): "onnxruntime",'
        ' "openvino", "litert", "executorch", "inductor"',
    )
    threads: int = Field(1, ge=1, description="threads of the runtime")
    throughput_batch: int = Field(32, ge=1, description="images per batch when throughput is measured")
    rounds: int = Field(5, ge=1, description="interleaved rounds over all files")
    seconds: float = Field(0.1, gt=0, description="time spent on each file and batch size in one round")
    lengths: tuple[int, ...] = Field(
        (16, 64, 128),
        description="texts: one text is also timed at these lengths, in tokens, as far as data.text.length allows",
    )
    tune: bool = Field(
        False,
        description="time each file under the runtime's settings first; the fastest with the same answers is kept",
    )

    @field_validator("runtimes")
    @classmethod
    def _runtimes_differ(cls, names: tuple[RuntimeName, ...]) -> tuple[RuntimeName, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"{list(names)} names a runtime twice; name each once")
        return names

    @field_validator("lengths")
    @classmethod
    def _lengths_are_texts(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        if any(length < SHORTEST_TEXT for length in lengths):
            raise ValueError(f"{list(lengths)}: a text has {SHORTEST_TEXT} tokens at least")
        return tuple(sorted(set(lengths)))


class EvaluationSettings(Part):
    """What is measured beside accuracy."""

    keyword: str = Field(
        "", description="a class, such as the word that wakes a device: how often it is missed, how often falsely heard"
    )
    false_accepts: float = Field(
        0.01, ge=0, lt=1, description="share of the other samples that may be taken for the keyword"
    )


class ExportSettings(Part):
    """What the exported files take."""

    pixels: bool = Field(
        False, description="images: files take uint8 pixels and normalize them themselves (not executorch)"
    )
    integer_io: bool = Field(
        False,
        description="litert: int8 files take and give int8 on the grids of the network's own ends, for devices without"
        " float32; the logits get 8 bits, and no layer stays float32",
    )


class Recipe(Part):
    """Everything that a run needs to know."""

    name: str = Field("distiq", pattern=r"^[A-Za-z0-9._-]+$", description="of the run; its folder is runs/<name>")
    seed: int = Field(0, ge=0, lt=2**31, description="of weights, order and views")
    data: DataSettings = Field(default_factory=DataSettings)
    views: ViewSettings = Field(default_factory=ViewSettings)
    teacher: TeacherSettings = Field(default_factory=TeacherSettings)
    assistants: tuple[AssistantSettings, ...] = Field(
        (),
        description="[[assistants]]: networks between the two, from large to small (Mirzadeh et al. 2020)",
    )
    student: StudentSettings = Field(default_factory=StudentSettings)
    distil: DistilSettings = Field(default_factory=DistilSettings)
    quantize: QuantizeSettings = Field(default_factory=QuantizeSettings)
    export: ExportSettings = Field(default_factory=ExportSettings)
    budget: Budget = Field(default_factory=Budget)
    measure: MeasureSettings = Field(default_factory=MeasureSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)

    def networks(self) -> dict[str, ModelSettings]:
        """The recipe's networks by role: teacher, assistants.0 and so on, student."""
        between = {f"assistants.{number}": assistant for number, assistant in enumerate(self.assistants)}
        return {"teacher": self.teacher, **between, "student": self.student}

    @model_validator(mode="after")
    def _mixed_images_have_no_label(self) -> Self:
        if (self.views.mixup or self.views.cutmix) and any(loss.name == "dkd" for loss in self.distil.losses):
            raise ValueError("dkd needs one label per image, but views.mixup or views.cutmix blends two; set them to 0")
        return self

    @model_validator(mode="after")
    def _pixels_have_a_form(self) -> Self:
        without = [name for name in self.measure.runtimes if name not in ("onnxruntime", "openvino", "litert")]
        if self.export.pixels and without:
            raise ValueError(
                f"export.pixels = true, but files of {without[0]} take normalized float32; set it to false, or measure"
                ' in "onnxruntime", "openvino" and "litert" alone'
            )
        return self

    @model_validator(mode="after")
    def _integers_have_a_form(self) -> Self:
        if self.export.integer_io and "litert" not in self.measure.runtimes:
            raise ValueError(
                "export.integer_io = true, but files of litert alone take integers; add it to measure.runtimes, or set"
                " integer_io to false"
            )
        if self.export.integer_io and (self.quantize.mode != "static" or self.quantize.activation_bits != 8):
            raise ValueError(f"export.{INTEGER_IO_LACKS}")
        return self

    @model_validator(mode="after")
    def _runtimes_hold_the_scheme(self) -> Self:
        settings = self.quantize
        for name in self.measure.runtimes:
            if why := runtime_lacks(name, settings.mode, settings.activation_bits, settings.group_size):
                raise ValueError(f"quantize and measure.runtimes: {why}")
        return self

    @model_validator(mode="after")
    def _ranges_are_of_grids(self) -> Self:
        if self.distil.friendly.range and self.quantize.mode == "weight_only":
            raise ValueError(
                f'distil.friendly.range = {self.distil.friendly.range:g}, but quantize.mode = "weight_only" leaves'
                " activations float32, whose range costs nothing; set it to 0"
            )
        return self

    @model_validator(mode="after")
    def _a_callable_has_no_layers(self) -> Self:
        if self.teacher.predict and self.distil.layer_losses:
            raise ValueError(
                f"{self.distil.layer_losses[0].name} reads the teacher's layers, but teacher.predict is a callable,"
                " which has none; use losses between outputs alone"
            )
        return self

    @model_validator(mode="after")
    def _a_student_is_cut_from_a_network(self) -> Self:
        if not self.student.is_cut:
            return self
        if self.teacher.predict:
            raise ValueError(
                'student.weights = "teacher", but teacher.predict is a callable; nothing can be cut from it'
            )
        if self.student.model != self.teacher.model:
            raise ValueError(
                f'student.weights = "teacher" cuts the student from the teacher, but their models differ:'
                f' "{self.student.model}" and "{self.teacher.model}"; name the same'
            )
        return self

    @model_validator(mode="after")
    def _assistants_have_a_teacher(self) -> Self:
        if self.assistants and self.distil.teacher == "none":
            raise ValueError('assistants need a teacher, but distil.teacher = "none"; set it to "cached" or "live"')
        if any(assistant.weights for assistant in self.assistants):
            raise ValueError("an assistant is trained here and takes no weights; name a trained network as the teacher")
        if self.assistants and self.distil.layer_losses:
            raise ValueError(
                f"{self.distil.layer_losses[0].name} names layers of one teacher and one student; with assistants use"
                " losses between outputs alone"
            )
        return self


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe and applies overrides such as ``distil.epochs=3``.

    Paths in a recipe are taken relative to the recipe's folder.

    Raises:
        UserError: the file is missing, is not TOML, or says something that distiq does not understand.
    """
    path = Path(path)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read the recipe ({error.strerror}); `distiq init` writes one") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error
    for override in overrides:
        _override(tree, override)
    recipe = parse_recipe(tree, str(path))
    _check_files(recipe, path)
    return _with_absolute_paths(recipe, path.parent.resolve())


def parse_recipe(tree: dict[str, Any], name: str = "recipe") -> Recipe:
    """Builds a Recipe from nested dictionaries; `name` stands in the error messages.

    Raises:
        UserError: one line for each thing that is wrong.
    """
    try:
        # JSON mode of the strict parser takes a list for a tuple; nothing else is converted.
        return Recipe.model_validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        problems = error.errors()
        # What a wrong entry makes of the list around it is no problem of its own.
        around = {problem["loc"][:depth] for problem in problems for depth in range(len(problem["loc"]))}
        lines = [_explain(name, tree, problem) for problem in problems if problem["loc"] not in around]
        raise UserError("\n".join(lines)) from None


def _override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise UserError(f"--set {override}: write it as key=value, for example --set student.training.epochs=3")
    *parents, last = key.strip().split(".")
    for number, parent in enumerate(parents):
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise UserError(f"--set {override}: {'.'.join(parents[: number + 1])} is a value, not a table")
    try:
        tree[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        tree[last] = text


def _explain(name: str, tree: dict[str, Any], problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    place = f"{name}: {key}" if key else name
    if problem["type"] == "extra_forbidden":
        known = _known_keys(problem["loc"][:-1])
        return f"{place}: unknown key; {_suggest(str(problem['loc'][-1]), known)}"
    if problem["type"] == "missing":
        return f"{place}: this key is required"
    if problem["type"] == "value_error":
        return f"{place}: {problem['ctx']['error']}"
    if problem["type"] == "literal_error" and (names := re.findall("'([^']*)'", problem["ctx"]["expected"])):
        found = str(problem["input"])
        if found == "mse" and problem["loc"][:2] == ("quantize", "rungs"):
            return f"{place}: {STATIC_BY_NOW}"
        return f'{place}: "{found}" is none of its values; {_suggest(found, names)}'
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{place}: {message}, but found {json.dumps(problem['input'], default=str)}"


def _suggest(found: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(found, known, n=1, cutoff=0.6)
    return f'did you mean "{nearest[0]}"?' if nearest else f"known here: {', '.join(known)}"


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    part: Any = Recipe
    for step in location:
        if isinstance(step, str):
            part = part.model_fields[step].annotation
            part = next((a for a in getattr(part, "__args__", ()) if isinstance(a, type)), part)
    return list(part.model_fields)


def _check_files(recipe: Recipe, path: Path) -> None:
    folder = path.parent.resolve()
    if recipe.data.source == "fashion_mnist" and recipe.data.download and not recipe.data.folder:
        raise UserError(f"{path}: data.download = true fetches into data.folder; name one, such as data/fashion_mnist")
    if recipe.data.source == "folder" and not recipe.data.folder:
        raise UserError(f'{path}: data.folder: source = "folder" needs a folder that holds train/ and test/')
    if recipe.data.source == "audio" and not recipe.data.folder:
        raise UserError(f'{path}: data.folder: source = "audio" needs a folder of clips')
    if recipe.data.source in ("table", "text") and not (recipe.data.folder or recipe.data.text.hub):
        kind = recipe.data.source
        hub = ", or a data set in data.text.hub" if kind == "text" else ""
        raise UserError(f'{path}: data.folder: source = "{kind}" needs the folder of data.{kind}.train and .test{hub}')
    if recipe.data.folder and not recipe.data.download and not (folder / recipe.data.folder).is_dir():
        raise UserError(f"{path}: data.folder: no such folder: {folder / recipe.data.folder}; {RELATIVE}")
    for role, settings in recipe.networks().items():
        weights = settings.weights
        if weights.endswith((".safetensors", ".pt", ".pth")) and not (folder / weights).is_file():
            raise UserError(f"{path}: {role}.weights: no such file: {folder / weights}; {RELATIVE}")
        name = settings.model.removeprefix("transformers:")
        config = folder / name / "config.json"
        if not name or not config.is_file():
            continue
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type", "NAME")
        if settings.model != f"transformers:{kind}":  # a folder may be called as the architecture is
            raise UserError(
                f"{path}: {role}.model: {folder / name} is a folder of transformers; write model ="
                f' "transformers:{kind}" and weights = "{name}"'
            )
    sources = {
        "data.source": recipe.data.source,
        **{f"{role}.model": settings.model for role, settings in recipe.networks().items()},
    }
    sources["teacher.predict"] = recipe.teacher.predict
    for key, source in sources.items():
        file = source.partition(":")[0]
        if file.endswith((".py", ".onnx")) and not (folder / file).is_file():
            raise UserError(f"{path}: {key}: no such file: {folder / file}; {RELATIVE}")


def _with_absolute_paths(recipe: Recipe, folder: Path) -> Recipe:
    def absolute(text: str, is_path: bool) -> str:
        return str(folder / text) if text and is_path else text

    def located(settings: Any) -> Any:
        is_file = settings.weights.endswith((".safetensors", ".pt", ".pth")) or (folder / settings.weights).is_dir()
        is_file = is_file and settings.weights != FROM_TEACHER
        return settings.model_copy(
            update={
                "weights": absolute(settings.weights, is_file),
                "model": absolute(settings.model, ".py:" in settings.model or settings.model.endswith(".onnx")),
            }
        )

    named = {key: getattr(recipe.data.text, key) for key in ("tokenizer", "hub")}  # in a hub, or here
    text = recipe.data.text.model_copy(
        update={key: absolute(name, (folder / name).exists()) for key, name in named.items()}
    )
    data = recipe.data.model_copy(
        update={
            "text": text,
            "folder": absolute(recipe.data.folder, True),
            "source": absolute(recipe.data.source, ".py:" in recipe.data.source),
        }
    )
    return recipe.model_copy(
        update={
            "data": data,
            "teacher": located(recipe.teacher).model_copy(update={"predict": absolute(recipe.teacher.predict, True)}),
            "assistants": tuple(located(assistant) for assistant in recipe.assistants),
            "student": located(recipe.student),
        }
    )


def describe(name: str = "distiq") -> str:
    """A commented recipe of that name: every key, its default and its meaning, as TOML."""
    return described(Recipe(name=re.sub(r"[^A-Za-z0-9._-]+", "-", name)), "")


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML; reading it back gives an equal Recipe."""
    return plain(recipe.model_dump(), "")
