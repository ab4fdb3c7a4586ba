"""Candidates of a search: what a student costs is measured before it is trained; what it learns, as it learns it."""

import copy
import re
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distiq.data.splits import Data
from distiq.evaluation.cost import multiply_adds, parameter_count
from distiq.files import sha256_of_json
from distiq.models.audio import front_ends
from distiq.models.build import OF_CUTS
from distiq.models.spaces import Space
from distiq.progress import Watch
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe.distil import KnowledgeLoss
from distiq.recipe.part import changed
from distiq.recipe.recipe import Recipe
from distiq.records.search import Candidate, CandidateCost, SearchRecord
from distiq.run.climb import plain_scheme
from distiq.run.forecast import NOTHING, Forecast
from distiq.run.ledger import Ledger, Place, Step
from distiq.run.measure import Conditions, Turns, as_fed, conditions_of, example_of, export_file, turns_of
from distiq.run.networks import Network, build_network
from distiq.run.train import TrainedNetwork
from distiq.runtimes.export import checksums, load, size_bytes
from distiq.timing.latency import latencies

KEEP_LAYERS = "keep_layers"
LAYER = re.compile(r"(?P<above>.+\.layer\.)(?P<number>\d+)(?P<below>(\..+)?)")  # as encoders of texts name theirs
SAMPLES = 16  # on which ranges are calibrated: a file's cost does not depend on them


@dataclass(frozen=True)
class Yardstick:
    """The recipe's own student, untrained, and its time: every candidate is timed in turns with it, so that a drift of
    the machine's speed affects both alike."""

    path: Path
    latency_ms: float

    @property
    def key(self) -> str:
        return sha256_of_json([checksums(self.path), self.latency_ms])


def yardstick(step: Step[CandidateCost], recipe: Recipe) -> Yardstick:
    """The file that a step made, as what others are timed with."""
    return Yardstick(step.folder / conditions_of(recipe).model_file, step.record.latency_ms)


def cost_of(
    ledger: Ledger, recipe: Recipe, data: Data, student: Network, beside: Yardstick | None
) -> Step[CandidateCost]:
    """The cost of the student's quantized file in the runtime that the recipe delivers, before it is trained."""
    make = partial(
        measure_untrained,
        student=student,
        beside=beside,
        data=data,
        scheme=untrained_scheme(recipe, student.module),
        conditions=conditions_of(recipe),
        turns=turns_of(recipe),
    )
    return ledger.step("candidate", f"timing {student.settings.model}, untrained", CandidateCost, make)


def untrained_scheme(recipe: Recipe, model: nn.Module) -> Scheme:
    """The scheme that a run starts from. In float32 stay the modules that the recipe names, else front-ends: untrained,
    a network cannot tell what int8 would do to them, and to trained ones it does harm."""
    kept = recipe.quantize.float_modules
    if kept is None:
        kept = front_ends(model) if recipe.quantize.mode != "float16" else ()
    return replace(plain_scheme(recipe, None), float_modules=kept)


def measure_untrained(
    place: Place,
    *,
    student: Network,
    beside: Yardstick | None,
    data: Data,
    scheme: Scheme,
    conditions: Conditions,
    turns: Turns,
) -> CandidateCost:
    """The step that makes the file of an untrained student, and times it."""
    model, fed = as_trained(student.module), as_fed(data, conditions.export)
    quantized = quantize(model, data.normalize(data.calibration.inputs[:SAMPLES]), scheme)
    path = export_file(quantized, place.folder / conditions.model_file, data, conditions.export)
    models = {"candidate": load(path, conditions.threads)}
    if beside is not None:
        models["yardstick"] = load(beside.path, conditions.threads)
    one = fed.normalize(data.calibration.fetch(torch.arange(1)))
    timed = latencies(models, one, conditions.threads, turns.rounds, turns.seconds)
    latency_ms = timed["candidate"].p50_ms
    if beside is not None:
        pairs = zip(timed["candidate"].turns_ms, timed["yardstick"].turns_ms, strict=True)
        latency_ms = beside.latency_ms * statistics.median(own / other for own, other in pairs)
    return CandidateCost(
        latency_ms=latency_ms,
        size_kb=size_bytes(path) / 1000,
        parameters=parameter_count(model),
        macs=multiply_adds(model, example_of(data)),
    )


def as_trained(model: nn.Module) -> nn.Module:
    """A copy, in eval mode, in which no tensor is all zeros or ones any more: files keep equal tensors once, and so
    those of new norms and biases are smaller than they will be."""
    changed, generator = copy.deepcopy(model).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*changed.parameters(), *changed.buffers()]:
            if tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
                tensor += (0.1 + 0.8 * torch.rand(tensor.shape, generator=generator)).to(tensor)
    return changed


@dataclass(frozen=True)
class Shared:
    """All that candidates have in common.

    Args:
        teacher, source: see `train_student`. limits: by key. beside: what candidates are timed with.
    """

    recipe: Recipe
    data: Data
    models: tuple[Network, ...]
    teacher: TrainedNetwork
    source: TrainedNetwork
    space: Space
    limits: dict[str, float]
    beside: Yardstick | None
    forecast: Forecast = NOTHING


def student_of(recipe: Recipe, data: Data, models: tuple[Network, ...]) -> Network:
    """The recipe's student, which may be cut from the teacher."""
    return build_network(recipe, data, "student", teacher=models[0].module)


def with_student(recipe: Recipe, candidate: Candidate) -> Recipe:
    """The recipe with the student that was found. It starts from no other network's weights, unless the recipe's is cut
    from the teacher, and its options cut that, too."""
    student: dict[str, Any] = {"model": candidate.model, "options": candidate.options}
    if is_cut(recipe, candidate):
        losses = tuple(
            _of_other_layers(loss, recipe.student.options, candidate.options) for loss in recipe.distil.losses
        )
        recipe = changed(recipe, {"distil": changed(recipe.distil, {"losses": losses})})
    else:
        student |= {"weights": "", "training": changed(recipe.student.training, {"pretrained_rate": 1.0})}
    return changed(recipe, {"student": changed(recipe.student, student)})


def _of_other_layers(loss: KnowledgeLoss, own: Mapping[str, Any], options: Mapping[str, Any]) -> KnowledgeLoss:
    """The loss with paths into an encoder of which other layers stay; a layer that two paths lead to is compared with
    the later of the teacher's."""
    before, after = own.get(KEEP_LAYERS), options.get(KEEP_LAYERS)
    if after is None or after == before:
        return loss

    def nearest(path: str) -> str:
        found = LAYER.fullmatch(path)
        if found is None:
            return path
        number = int(found["number"])
        origin = number if before is None or number >= len(before) else before[number]
        place = min(range(len(after)), key=lambda place: (abs(after[place] - origin), place))
        return f"{found['above']}{place}{found['below']}"

    paths = [nearest(path) for path in loss.student]
    pairs = dict(zip(paths, loss.teacher, strict=True)) if len(set(paths)) < len(paths) and loss.name != "fsp" else None
    student, teacher = (tuple(pairs), tuple(pairs.values())) if pairs else (tuple(paths), loss.teacher)
    return changed(loss, {"student": student, "teacher": teacher})


def is_cut(recipe: Recipe, candidate: Candidate) -> bool:
    """Whether a candidate is a part of the teacher, as the recipe's own student is."""
    own = recipe.student
    return own.is_cut and candidate.model == own.model and all(name in OF_CUTS for name in candidate.options)


class JudgedWatch:
    """Forwards all progress to another listener, and each epoch's metric to a judge, which may raise."""

    def __init__(self, watch: Watch, judge: Callable[[int, float], None]) -> None:
        self.watch, self.judge = watch, judge

    def stage(self, title: str) -> None:
        self.watch.stage(title)

    def step(self, done: int, total: int, values: Mapping[str, float | str]) -> None:
        self.watch.step(done, total, values)

    def note(self, text: str) -> None:
        self.watch.note(text)

    def epoch(self, number: int, goodness: float | None) -> None:
        self.watch.epoch(number, goodness)
        if goodness is not None:
            self.judge(number, goodness)


def figures_of(candidate: Candidate) -> dict[str, float]:
    """A candidate's figures, for trackers."""
    figures = {key: float(value) for key, value in candidate.cost} if candidate.cost else {}
    return figures | ({"validation": candidate.validation.value} if candidate.validation else {})


def figures_of_search(record: SearchRecord) -> dict[str, float]:
    """What a search found, for trackers."""
    primary = record.test.primary
    figures = {f"test/{primary.name}": primary.value, "chosen": float(record.chosen)}
    return figures | ({"better than the recipe's own": record.compared.difference} if record.compared else {})


def in_words(candidate: Candidate) -> str:
    """What became of a candidate, in one line."""
    cost = f", {candidate.cost.latency_ms:.3g} ms, {candidate.cost.size_kb:.1f} kB" if candidate.cost else ""
    metric = f", {candidate.validation.in_words} on the validation split" if candidate.validation else ""
    why = f" ({candidate.why})" if candidate.why else ""
    return f"candidate {candidate.number}: {candidate.model}{cost}{metric}: {candidate.outcome}{why}"


def front_of(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """The Pareto front: the trained candidates for which no other is at least as good in quality, latency and size and
    better in one of them; the best in quality first."""
    trained = [one for one in candidates if one.outcome == "trained" and not one.why]
    ranked = sorted(trained, key=_figures, reverse=True)
    return tuple(one for one in ranked if not any(_beats(other, one) for other in trained))


def _figures(candidate: Candidate) -> tuple[float, float, float]:
    assert candidate.cost is not None
    assert candidate.validation is not None
    return candidate.validation.goodness, -candidate.cost.size_kb, -candidate.cost.latency_ms


def _beats(one: Candidate, other: Candidate) -> bool:
    better = [own >= others for own, others in zip(_figures(one), _figures(other), strict=True)]
    return all(better) and _figures(one) != _figures(other)
