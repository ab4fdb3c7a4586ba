"""The recipe: one TOML file, read into frozen values.

Every key is declared in this room with its default and its meaning; `distiq init --all` prints them. An unknown
key, a wrong type, an impossible combination and a missing file are refused before any work, with the file, the key,
what was found and what to do.
"""

import json
import re
from typing import Self

from pydantic import Field, ValidationError, field_validator, model_validator

from distiq.recipe.budget import Budget
from distiq.recipe.data import (
    DataSettings,
    ViewSettings,
)
from distiq.recipe.distil import (
    DistilSettings,
)
from distiq.recipe.measure import EvaluationSettings, ExportSettings, MeasureSettings
from distiq.recipe.part import Part
from distiq.recipe.quantize import INTEGER_IO_LACKS, QuantizeSettings
from distiq.recipe.search import SearchSettings
from distiq.recipe.toml import described, plain
from distiq.recipe.track import TrackSettings
from distiq.recipe.training import (
    AssistantSettings,
    ModelSettings,
    StudentSettings,
    TeacherSettings,
)

RELATIVE = "correct the path (it is taken relative to the recipe's folder)"


class Recipe(Part):
    """Everything that a run needs to know."""

    name: str = Field(
        "distiq", max_length=100, pattern=r"^[A-Za-z0-9._-]+$", description="of the run; its folder is runs/<name>"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of weights, order and views")
    task: str = Field(
        "", description='what is learned: by default what the labels say, or a task of your own, "file.py:function"'
    )
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
    search: SearchSettings = Field(default_factory=SearchSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    track: TrackSettings = Field(default_factory=TrackSettings)

    @field_validator("name")
    @classmethod
    def _name_is_that_of_a_folder(cls, name: str) -> str:
        if not name.strip("."):
            raise ValueError(f'"{name}" is no folder below runs/; give the run a name')
        return name

    def code(self) -> tuple[str, ...]:
        """What this recipe runs of code that is not distiq's: functions of files, and pickles that it trusts."""
        sources = (
            self.data.source,
            self.teacher.predict,
            self.search.space,
            *(network.model for network in self.networks().values()),
        )
        functions = [source for source in sources if ".py:" in source]
        trusted = [network.weights for network in self.networks().values() if network.trust and network.weights]
        pickles = [weights for weights in trusted if not weights.endswith(".safetensors")]
        return tuple(dict.fromkeys([*functions, *pickles]))

    def networks(self) -> dict[str, ModelSettings]:
        """The recipe's networks by role: teacher, assistants.0 and so on, student."""
        between = {f"assistants.{number}": assistant for number, assistant in enumerate(self.assistants)}
        return {"teacher": self.teacher, **between, "student": self.student}

    @property
    def teacher_views(self) -> ViewSettings:
        """What a teacher is trained on here: new views in every epoch, and texts unchanged, since a label may not hold
        for an altered one, except where `teacher.views` says otherwise."""
        merged = self.views.model_dump() | {"distinct": 0, "text": {}}
        for key, value in self.teacher.views.items():
            merged[key] = merged[key] | value if isinstance(value, dict) and key in merged else value
        return ViewSettings.model_validate_json(json.dumps(merged))

    @model_validator(mode="after")
    def _the_teacher_has_its_views(self) -> Self:
        settings = self.teacher
        is_loaded = bool(settings.weights or settings.model.endswith(".onnx")) and not settings.finetune
        if settings.views and (settings.predict or is_loaded):
            raise ValueError(
                "teacher.views is for a teacher that is trained here; leave it out, or set finetune = true"
            )
        try:
            self.teacher_views  # noqa: B018 (refuses what is no view)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(("teacher.views", *map(str, first["loc"])))
            raise ValueError(f"{place}: {first['msg']}; [views] has the keys") from error
        return self

    @model_validator(mode="after")
    def _mixed_images_have_no_label(self) -> Self:
        if (self.views.mixup or self.views.cutmix) and any(loss.name == "dkd" for loss in self.distil.losses):
            raise ValueError("dkd needs one label per image, but views.mixup or views.cutmix blends two; set them to 0")
        return self

    @model_validator(mode="after")
    def _integers_have_a_form(self) -> Self:
        if self.export.integer_io and (self.quantize.mode != "static" or self.quantize.activation_bits != 8):
            raise ValueError(f"export.{INTEGER_IO_LACKS}")
        return self

    @model_validator(mode="after")
    def _ranges_belong_to_integers(self) -> Self:
        if self.distil.quant_regularization.range and self.quantize.mode == "weight_only":
            raise ValueError(
                f"distil.quant_regularization.range = {self.distil.quant_regularization.range:g}, but quantize.mode ="
                ' "weight_only" leaves activations float32, whose range costs nothing; set it to 0'
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


def describe(name: str = "distiq") -> str:
    """A commented recipe of that name: every key, its default and its meaning, as TOML."""
    return described(Recipe(name=re.sub(r"[^A-Za-z0-9._-]+", "-", name)), "")


def schema() -> str:
    """The JSON schema of a recipe, by which editors complete keys and mark wrong values."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(head | Recipe.model_json_schema(), indent=1, ensure_ascii=False) + "\n"


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML; reading it back gives an equal Recipe."""
    return plain(recipe.model_dump(), "")
