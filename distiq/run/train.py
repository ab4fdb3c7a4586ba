"""Teacher, assistants and student are trained, or taken as they are: each is a step of the ledger."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from safetensors.torch import load_file
from torch import nn

from distiq import environment
from distiq.data.splits import Data
from distiq.data.views import Views
from distiq.distillation.cache import CachedTeacher
from distiq.distillation.distil import Distillation, distil
from distiq.distillation.teacher import LiveTeacher, Teacher
from distiq.files import save_tensors, sha256_of_json
from distiq.models.layout import make_contiguous
from distiq.models.pretrained import revision_of
from distiq.progress import Watch
from distiq.recipe.data import ViewSettings
from distiq.recipe.distil import DistilSettings, QuantRegularizationSettings
from distiq.recipe.part import changed
from distiq.recipe.recipe import Recipe
from distiq.recipe.training import TrainingSettings
from distiq.records.record import Record
from distiq.records.training import TrainingRecord
from distiq.run.ledger import CHECKPOINT, Ledger, Place, Step
from distiq.run.networks import Models, Network
from distiq.tasks.choose import task_of
from distiq.training import processes
from distiq.training.batches import Batches
from distiq.training.precision import faster_precision

WEIGHTS = "weights.safetensors"


class Trained(Record):
    """The record of a step that leaves weights."""

    origin: str
    training: TrainingRecord | None


class Precision(Record):
    """The record of the step that times a network's training in float32 and bfloat16."""

    faster: Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with the weights that a step left, in eval mode. Copy `module` before changing it."""

    network: Network
    module: nn.Module
    step: Step[Trained]

    @property
    def key(self) -> str:
        return self.step.key


def train_teacher(ledger: Ledger, recipe: Recipe, data: Data, teacher: Network) -> TrainedNetwork:
    """The teacher: given, loaded or trained."""
    if teacher.is_given or teacher.is_predictor or (teacher.source and not recipe.teacher.finetune):
        make: partial[Trained] = partial(keep_weights, network=teacher)
        return _loaded(teacher, ledger.step("teacher", "taking the teacher as it is", Trained, make))
    views = recipe.teacher_views
    make = partial(
        train,
        network=teacher,
        source=None,
        start=None,
        data=data,
        distillation=DistilSettings(teacher="none"),
        training=training_of(ledger, teacher, data, views),
        views=views,
        seed=recipe.seed,
    )
    return _loaded(teacher, ledger.step("teacher", "training the teacher", Trained, make, together=True))


def train_assistants(
    ledger: Ledger, recipe: Recipe, data: Data, assistants: Sequence[Network], teacher: TrainedNetwork
) -> TrainedNetwork:
    """The student's source: the teacher, or the last of a chain of assistants, each taught by the one before."""
    settings = changed(recipe.distil, {"quant_regularization": QuantRegularizationSettings()})
    for assistant in assistants:
        teacher = train_student(ledger, recipe, data, assistant, teacher, distillation=settings)
    return teacher


def train_student(
    ledger: Ledger,
    recipe: Recipe,
    data: Data,
    student: Network,
    source: TrainedNetwork,
    teacher: TrainedNetwork | None = None,
    distillation: DistilSettings | None = None,
    seed: int | None = None,
    watch: Watch | None = None,
) -> TrainedNetwork:
    """A student trained with the given settings and seed, by default the recipe's.

    Args:
        source: the network that teaches; not used where the settings take no teacher.
        teacher: the trained teacher that a student is cut from; where the settings take no teacher, the student is cut
            from the teacher as it was before training here.
        seed: for the student's weights, the order of the samples and the views.
        watch: shows the progress; if it raises, the training ends and its checkpoint stays.
    """
    settings, seed = distillation or recipe.distil, recipe.seed if seed is None else seed
    is_taught = settings.teacher != "none"
    if not is_taught:
        settings = DistilSettings(teacher="none", quant_regularization=settings.quant_regularization)
    title = f"training the {student.role} {'with its' if is_taught else 'without a'} teacher"
    make = partial(
        train,
        network=student,
        source=source if is_taught else None,
        start=teacher if is_taught and student.is_cut else None,
        data=data,
        distillation=settings,
        training=training_of(ledger, student, data, recipe.views),
        views=recipe.views,
        seed=seed,
    )
    title += f", seed {seed}" if seed != recipe.seed else ""
    return _loaded(student, ledger.step(student.role, title, Trained, make, together=True, watch=watch))


def _loaded(network: Network, step: Step[Trained]) -> TrainedNetwork:
    module = copy.deepcopy(network.module)
    module.load_state_dict(load_file(step.folder / WEIGHTS))
    return TrainedNetwork(network, module.eval(), step)


def keep_weights(place: Place, *, network: Network) -> Trained:
    """The step of a network that is not trained here: its weights."""
    save_tensors(make_contiguous(network.fresh(network.seed)).state_dict(), place.folder / WEIGHTS)
    given, predictor = network.is_given, network.is_predictor
    origin = "given" if given else "a callable" if predictor else f"loaded from {_source(network)}"
    return Trained(origin=origin, training=None)


def train(
    place: Place,
    *,
    network: Network,
    source: TrainedNetwork | None,
    start: TrainedNetwork | None,
    data: Data,
    distillation: DistilSettings,
    training: TrainingSettings,
    views: ViewSettings,
    seed: int,
) -> Trained:
    """The step of a network that is trained here: its weights.

    Args:
        source: the network that teaches. start: the trained teacher that the network is cut from.
    """
    if (place.folder / WEIGHTS).is_file() and not (place.folder / CHECKPOINT).exists():  # see `salvage`
        return Trained(origin="weights of a step whose record was damaged, whole by their own checksum", training=None)
    teacher = live_or_cached(place, source, data, distillation, views, seed) if source else None
    trained, record = distil(
        network.fresh(seed, start.module if start else None),
        teacher,
        data,
        distillation,
        training,
        views=views,
        seed=seed,
        stage=network.role,
        checkpoint=place.folder / CHECKPOINT,
        watch=place.watch,
    )
    if processes.is_main():
        save_tensors(trained.state_dict(), place.folder / WEIGHTS)
    place.watch.note(_summary(record))
    return Trained(origin=_origin(network, is_taught=source is not None), training=record)


def _summary(record: TrainingRecord) -> str:
    metric = record.epochs[-1].validation
    validated = f", {metric.in_words} on the validation split" if metric else ""
    return f"{record.steps} steps in {record.seconds:.0f} s ({record.precision}){validated}"


def _source(network: Network) -> str:
    """Where weights were loaded from, with the commit of a hub's repository."""
    commit = revision_of(network.module) if network.source else ""
    return f"{network.source}, revision {commit}" if commit else network.source


def _origin(network: Network, is_taught: bool) -> str:
    source = _source(network)
    if network.is_cut:
        source = "the teacher's weights" + ("" if is_taught else " before its training")
    return f"trained here from {source}" if source else "trained here"


def live_or_cached(
    place: Place, source: TrainedNetwork, data: Data, distillation: DistilSettings, views: ViewSettings, seed: int
) -> Teacher | None:
    """The teacher as the settings want it; its stored outputs serve every student of the same seed."""
    if distillation.teacher == "none":
        return None
    live = LiveTeacher(copy.deepcopy(source.module), distillation.teacher_paths, task_of(data).read)
    if distillation.teacher == "live":
        return live
    key = f"{source.key} {data.digest()} {views.model_dump_json()} {seed}"
    form = sha256_of_json([distillation.cache.storage, distillation.cache.top_k, distillation.teacher_paths])[:6]
    folder = place.cache / f"teacher-{source.key}-{form}-seed{seed}"
    settings, paths = distillation.cache, distillation.teacher_paths
    return CachedTeacher(live, data, Views(views, seed), folder, key, place.watch, settings, paths, place.cache)


# Precision ------------------------------------------------------------------------------------------------------------


def training_of(ledger: Ledger, network: Network, data: Data, views: ViewSettings) -> TrainingSettings:
    """How a network is trained. "auto" is decided once, so that all trainings of a role can be compared."""
    training = network.settings.training
    if training.precision != "auto":
        return training
    machine = environment.describe()
    make = partial(
        time_precision,
        network=network,
        data=data,
        views=views,
        training=training,
        machine=[machine.cpu, machine.device],
    )
    title = f"timing training steps of the {network.role} in float32 and bfloat16"
    step = ledger.step(f"precision-{network.role}", title, Precision, make, together=True)
    return changed(training, {"precision": step.record.faster})


def time_precision(
    _place: Place, *, network: Network, data: Data, views: ViewSettings, training: TrainingSettings, machine: list[str]
) -> Precision:
    """The step that times a few training steps in both precisions, on the machine that is named."""
    objective = Distillation(copy.deepcopy(network.module), None, DistilSettings(teacher="none"), task=task_of(data))
    batches = Batches(data, Views(views, network.seed), training.batch_size, 0)
    return Precision(faster=faster_precision(objective, batches, training))


def basis_of(recipe: Recipe, data: Data, models: Models) -> str:
    """Identifies the teacher, student and data of a record: a hash of the recipe without what comes after their
    training, of the data, and of the networks."""
    later = {"name", "quantize", "export", "budget", "measure", "evaluation", "track"}
    own = [recipe.model_dump(mode="json", exclude=later), data.digest(), [network.key for network in models.all]]
    return sha256_of_json(own)[:16]
