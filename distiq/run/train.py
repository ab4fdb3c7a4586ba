"""Teacher and students of a recipe: built, refused early, trained in steps of a ledger."""

import contextlib
import copy
import hashlib
import inspect
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from accelerate.utils import set_seed
from safetensors.torch import load_file
from torch import nn

from distiq import environment
from distiq.data.splits import Data
from distiq.data.text import check_same_tokens
from distiq.data.views import Views
from distiq.distillation.cache import CachedTeacher
from distiq.distillation.distil import Distillation, check_losses, check_smoothing, distil
from distiq.distillation.quant_regularization import quant_regularization
from distiq.distillation.teacher import LiveTeacher, Teacher
from distiq.errors import UserError
from distiq.factory import source_of
from distiq.files import save_tensors, sha256_of_file, sha256_of_json
from distiq.models.audio import check_rate
from distiq.models.build import Tokens, build, check_output, cut
from distiq.models.from_onnx import files_of_onnx, is_onnx
from distiq.models.layout import make_contiguous
from distiq.models.predictor import build_predictor
from distiq.progress import Watch
from distiq.recipe.data import TextViewSettings, ViewSettings
from distiq.recipe.distil import DistilSettings, QuantRegularizationSettings
from distiq.recipe.recipe import Recipe
from distiq.recipe.training import ModelSettings, TrainingSettings
from distiq.records.record import NOUNS, Record
from distiq.records.training import TrainingRecord
from distiq.run.ledger import CHECKPOINT, Ledger, Step
from distiq.training import processes
from distiq.training.batches import Batches
from distiq.training.precision import faster_precision

WEIGHTS = "weights.safetensors"
TRAINING_CODE = ("run/train.py", "training", "numerics.py", "data", "models", "distillation")


class Trained(Record):
    """The record of a step that leaves weights."""

    origin: str
    training: TrainingRecord | None


class Precision(Record):
    """The record of the step that times a network's training in float32 and bfloat16."""

    faster: Literal["float32", "bfloat16"]


class Source(NamedTuple):
    """A trained network by its role and step."""

    role: str
    step: Step


def basis_of(recipe: Recipe) -> str:
    """Says which teacher and student a record is of: a hash of the recipe without what comes after their training."""
    later = {"name", "quantize", "export", "budget", "measure", "evaluation"}
    return sha256_of_json(recipe.model_dump(mode="json", exclude=later))[:16]


def _source(model: nn.Module) -> list[str]:
    """The source of a network's own classes, where it can be read: the same weights can be computed with otherwise."""
    found = set()
    for kind in {type(module) for module in model.modules() if not type(module).__module__.startswith("torch.")}:
        with contextlib.suppress(OSError, TypeError):
            found.add(inspect.getsource(kind))
    return sorted(found)


class Networks:
    """Makes the networks of one recipe; every training is a step of the ledger, reused when nothing changed.

    Args:
        given: networks in place of the recipe's, by role; the teacher's is trained already.
    """

    def __init__(
        self, recipe: Recipe, ledger: Ledger, data: Data, watch: Watch, given: dict[str, nn.Module | None] | None = None
    ) -> None:
        self.recipe, self.ledger, self.data, self.watch = recipe, ledger, data, watch
        self.given: dict[str, nn.Module | None] = {"teacher": None, "student": None, **(given or {})}
        self.first: dict[str, nn.Module] = {}  # as built with the recipe's seed
        self.start: Step | None = None  # the teacher's, once it is there
        self.digest = data.digest()
        self.shared = {"data": self.digest, "torch": environment.describe().versions["torch"]}

    def refuse_early(self, *others: DistilSettings) -> dict[str, nn.Module]:
        """Builds all networks and tries them: what cannot work is refused before anything is trained.

        Args:
            others: what the student shall also be trained with.
        """
        self.watch.stage("checking the networks")
        if self.data.kind != "image" and (self.recipe.views.mixup or self.recipe.views.cutmix):
            raise UserError(
                f"views.mixup and views.cutmix blend images, but the data are {NOUNS[self.data.kind]}; set both to 0"
            )
        if self.data.kind == "text" and self.recipe.views.text.mask and self.data.words.mask is None:
            raise UserError("views.text.mask: the tokenizer has no mask token [MASK] or <mask>; set it to 0")
        if "text" in self.data.preparation:
            tokenizer = self.data.preparation["text"]["tokenizer"]
            for role, network in self.recipe.networks().items():
                if network.weights:
                    check_same_tokens(tokenizer, Path(network.weights), f"{role}.weights")
        for role, network in self.recipe.networks().items():
            check_smoothing(network.training, self.data, f"{role}.training")
        built = {role: self.build(role) for role in self.recipe.networks()}
        for role, model in built.items():
            check_output(model, len(self.data.classes), self.data.example, role)
            check_rate(model, self.data.rate, role)
        for settings in (self.recipe.distil, *others):
            quant_regularization(built["student"], settings.quant_regularization, self.data.example)
            if settings.teacher != "none":
                check_losses(built["student"], built["teacher"], settings, self.data)
        if self.kept:
            self.watch.note(self._trimmed())
        return built

    @property
    def kept(self) -> tuple[int, ...]:
        """Of a student with a trimmed vocabulary: the tokens that it knows."""
        trimmed = self.data.kind == "text" and self.recipe.student.options.get("trim_vocabulary")
        return self.data.used_tokens()[1] if trimmed and self.given["student"] is None else ()

    def _trimmed(self) -> str:
        """What a trimmed vocabulary does not know of the test texts."""
        vocabulary, pad = self.data.tokens
        unknown, used = self.data.used_tokens()
        found = self.data.test.inputs[self.data.test.inputs != pad]
        strange = ~torch.isin(found, torch.tensor(used)) | (found == unknown)
        return (
            f"student: a vocabulary of {len(used)} of {vocabulary} tokens; {int(strange.sum())} of the {len(found)}"
            " tokens of the test texts count as unknown"
        )

    def settings(self, role: str) -> ModelSettings:
        return self.recipe.networks()[role]

    def name(self, role: str) -> str:
        """What a record calls the recipe's network: its model, or the function that gave the callable."""
        settings = self.settings(role)
        return Path(predict).name if (predict := getattr(settings, "predict", "")) else settings.model

    def views(self, role: str) -> ViewSettings:
        """What a network is shown: students the views that their teacher answers, the teacher always new ones, and
        texts as they are: a label may not hold for others."""
        always_new = {"distinct": 0, "text": TextViewSettings()}
        return self.recipe.views.model_copy(update=always_new) if role == "teacher" else self.recipe.views

    def build(self, role: str, seed: int | None = None, start: Step | None = None) -> nn.Module:
        """A network before training: a copy of the given one, or the recipe's with weights drawn from the seed.

        Args:
            start: the trained teacher, where the network is cut from it.
        """
        given = self.given.get(role)
        if given is not None:
            return copy.deepcopy(given)
        if start is not None:
            set_seed(self.recipe.seed if seed is None else seed)
            return self._cut(self.load("teacher", start))
        if seed is not None and seed != self.recipe.seed:
            set_seed(seed)
            return self._built(role)
        if role not in self.first:
            set_seed(self.recipe.seed)
            self.first[role] = self._built(role)
        return copy.deepcopy(self.first[role])

    def _built(self, role: str) -> nn.Module:
        teacher = self.recipe.teacher
        if role == "teacher" and teacher.predict:
            trial = self.data.normalize(self.data.calibration.inputs[:8])
            return build_predictor(teacher.predict, self.data, teacher.options, trial)
        if role == "student" and self.recipe.student.is_cut:
            return self._cut(self.build("teacher"))
        names = self.data.classes
        return build(self.settings(role), len(names), self.data.example, role, self._tokens, names)

    @property
    def _tokens(self) -> Tokens | None:
        if self.data.kind != "text":
            return None
        separator = self.data.preparation.get("text", {}).get("separator")
        return Tokens(*self.data.tokens, *self.data.used_tokens(), separator)

    def _cut(self, teacher: nn.Module) -> nn.Module:
        return cut(teacher, self.recipe.student, len(self.data.classes), self.data.example, self._tokens)

    def inputs(self, role: str) -> dict[str, Any]:
        """What decides a network before it is trained: its code, options and starting weights."""
        given, settings = self.given.get(role), self.settings(role)
        if given is not None:
            tensors = {key: value.detach().cpu().contiguous().numpy() for key, value in given.state_dict().items()}
            state = {key: hashlib.sha256(value.tobytes()).hexdigest() for key, value in tensors.items()}
            return {"given": sha256_of_json([str(given), _source(given), state])}
        inputs: dict[str, Any] = {"model": settings.model, "options": settings.options, "weights": settings.weights}
        if predict := getattr(settings, "predict", ""):
            return {
                "predict": predict,
                "options": settings.options,
                "code": source_of(predict),
            }
        if is_onnx(settings.model):
            inputs["file"] = [sha256_of_file(file) for file in files_of_onnx(Path(settings.model))]
        if ".py:" in settings.model:
            inputs["code"] = source_of(settings.model)
        weights = Path(settings.weights)
        if settings.weights and weights.is_file():
            inputs["weights"] = sha256_of_file(weights)
        elif settings.weights and weights.is_dir():
            inputs["weights"] = {file.name: sha256_of_file(file) for file in weights.iterdir() if file.is_file()}
        return inputs

    def training(self, role: str) -> TrainingSettings:
        """How a network is trained. "auto" is decided once, so that all trainings of a role can be compared."""
        settings = self.settings(role).training
        if settings.precision != "auto":
            return settings

        def make(_folder: Path) -> Precision:
            self.watch.stage(f"timing training steps of the {role} in float32 and bfloat16")
            objective = Distillation(self.build(role), None, DistilSettings(teacher="none"))
            batches = Batches(self.data, Views(self.views(role), self.recipe.seed), settings.batch_size, 0)
            return Precision(faster=faster_precision(objective, batches, settings))

        machine = environment.describe()
        inputs = {
            "network": self.inputs(role),
            "training": settings.model_dump(),
            "machine": [machine.cpu, machine.device],
        }
        inputs = self.shared | inputs
        step = self.ledger.step(f"precision-{role}", inputs, TRAINING_CODE, Precision, make, together=True)
        return settings.model_copy(update={"precision": step.record.faster})

    def teacher(self) -> Step:
        """The teacher's weights: given, loaded or trained."""
        settings, given = self.recipe.teacher, self.given["teacher"] is not None
        source = settings.weights or (settings.model if is_onnx(settings.model) else "")
        loaded = given or (bool(source) and not settings.finetune) or bool(settings.predict)
        inputs = self.shared | {"seed": self.recipe.seed, "network": self.inputs("teacher")}
        training = self.settings("teacher").training
        if not loaded:
            training = self.training("teacher")
            inputs |= {"training": settings.training.model_dump(), "views": self.views("teacher").model_dump()}

        def make(folder: Path) -> Trained:
            model = self.build("teacher")
            if loaded:
                save_tensors(make_contiguous(model).state_dict(), folder / WEIGHTS)
                origin = "given" if given else "a callable" if settings.predict else f"loaded from {source}"
                return Trained(origin=origin, training=None)
            alone = DistilSettings(teacher="none")
            return self._train("teacher", model, None, alone, training, self.recipe.seed, folder)

        self.start = self.ledger.step("teacher", inputs, TRAINING_CODE, Trained, make, together=not loaded)
        return self.start

    def last_teacher(self, teacher: Step) -> Source:
        """The network that teaches the student: the teacher, or the last of a chain of assistants that it taught."""
        source = Source("teacher", teacher)
        for number in range(len(self.recipe.assistants)):
            role = f"assistants.{number}"
            source = Source(role, self._taught(role, source, self.recipe.distil, self.recipe.seed))
        return source

    def student(self, source: Source, distillation: DistilSettings, seed: int) -> Step:
        """The weights of a student trained with the given settings and seed.

        A student that is cut from the teacher is cut from the trained one; where the settings take no teacher, from
        what the recipe's teacher is before it is trained here.

        Args:
            source: who teaches; not read where the settings take no teacher.
            seed: of the student's weights, the order of the samples and the views.
        """
        return self._taught("student", source, distillation, seed)

    def _taught(self, role: str, source: Source, distillation: DistilSettings, seed: int) -> Step:
        taught, training = distillation.teacher != "none", self.training(role)
        if role != "student":
            distillation = distillation.model_copy(update={"quant_regularization": QuantRegularizationSettings()})
        is_cut = role == "student" and self.recipe.student.is_cut and self.given["student"] is None
        start = (self.start or self.teacher()) if is_cut and taught else None
        basis = start.key if start else self.inputs("teacher") if is_cut else None
        inputs = self.shared | {
            "seed": seed,
            "network": self.inputs(role),
            "training": self.settings(role).training.model_dump(),
            "views": self.recipe.views.model_dump(),
            "distil": distillation.model_dump(exclude={"cache": {"limit_mb"}}) if taught else None,
            "losses": [loss.model_dump() for loss in distillation.output_losses] if taught else None,
            "teacher": source.step.key if taught else None,
            "quant_regularization": distillation.quant_regularization.model_dump(),
            **({"start": basis} if basis else {}),
        }

        def make(folder: Path) -> Trained:
            teacher = self.answering(source, distillation, seed)
            return self._train(role, self.build(role, seed, start), teacher, distillation, training, seed, folder)

        return self.ledger.step(role, inputs, TRAINING_CODE, Trained, make, together=True)

    def load(self, role: str, step: Step) -> nn.Module:
        """The network that a step left, in eval mode."""
        model = self.build(role)
        model.load_state_dict(load_file(step.folder / WEIGHTS))
        return model.eval()

    def answering(self, source: Source, distillation: DistilSettings, seed: int) -> Teacher | None:
        """The teacher as the settings want it; its stored outputs serve every student of the same seed."""
        if distillation.teacher == "none":
            return None
        live = LiveTeacher(self.load(*source), distillation.teacher_paths)
        if distillation.teacher == "live":
            return live
        key = f"{source.step.key} {self.digest} {self.recipe.views.model_dump_json()} {seed}"
        form = sha256_of_json([distillation.cache.storage, distillation.cache.top_k, distillation.teacher_paths])[:6]
        folder = self.ledger.folder / "cache" / f"teacher-{source.step.key}-{form}-seed{seed}"
        views = Views(self.recipe.views, seed)
        return CachedTeacher(
            live, self.data, views, folder, key, self.watch, distillation.cache, distillation.teacher_paths
        )

    def _train(
        self,
        role: str,
        model: nn.Module,
        teacher: Teacher | None,
        distillation: DistilSettings,
        training: TrainingSettings,
        seed: int,
        folder: Path,
    ) -> Trained:
        how = "" if role == "teacher" else " without a teacher" if teacher is None else " with its teacher"
        self.watch.stage(f"training the {role}{how}" + (f", seed {seed}" if seed != self.recipe.seed else ""))
        trained, record = distil(
            model,
            teacher,
            self.data,
            distillation,
            training,
            views=self.views(role),
            seed=seed,
            stage=role,
            checkpoint=folder / CHECKPOINT,
            watch=self.watch,
        )
        if processes.is_main():
            save_tensors(trained.state_dict(), folder / WEIGHTS)
        accuracy = record.epochs[-1].validation_accuracy or 0.0
        self.watch.note(
            f"{record.steps} steps in {record.seconds:.0f} s ({record.precision}), validation {self.data.measure}"
            f" {100 * accuracy:.2f} %"
        )
        own = self.settings(role)
        weights = own.weights or (own.model if is_onnx(own.model) else "")
        if role == "student" and self.recipe.student.is_cut:
            weights = "the teacher's weights" + ("" if teacher else " before its training")
        origin = f"trained here from {weights}" if weights and self.given.get(role) is None else "trained here"
        return Trained(origin=origin, training=record)
