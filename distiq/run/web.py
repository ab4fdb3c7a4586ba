"""The file for browsers: float32, float16 and int8 measured in headless Chromium, the fastest delivered with a page."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from distiq.bundle.web import write_web
from distiq.bundle.write import WEB
from distiq.data.samples import Split
from distiq.data.splits import Data
from distiq.data.text import Text
from distiq.errors import UserError
from distiq.evaluation.statistics import paired_speed
from distiq.files import make_folder
from distiq.numerics import drawn
from distiq.quantization.scheme import Scheme
from distiq.recipe.budget import Budget
from distiq.recipe.recipe import Recipe
from distiq.records.quality import Quality
from distiq.records.speed import LatencyRecord
from distiq.records.trials import FLOAT16, FLOAT32, INT8
from distiq.records.web import WebFileRecord, WebRecord
from distiq.run import ladder
from distiq.run.climb import Climbed
from distiq.run.compare import ModelFile
from distiq.run.evidence import calibrated
from distiq.run.ledger import Ledger, Place
from distiq.run.measure import (
    Conditions,
    MeasuredNetwork,
    as_fed,
    conditions_of,
    export_file,
    file_logits,
    frame_of,
    scores,
)
from distiq.run.networks import Models
from distiq.run.select import Selection
from distiq.runtimes.export import load, runtime_of, size_bytes
from distiq.runtimes.onnx_runtime import ONNX_RUNTIME
from distiq.runtimes.web import RUNTIME, TOKENIZERS, Browser, fetch, lacks_browser, page_checksum
from distiq.tasks.choose import task_of
from distiq.tasks.score import kept, score
from distiq.timing.latency import summary

MOST = 2048  # samples of the test set that a file predicts in the browser
CHUNK = 16


class Turns(NamedTuple):
    """How files are timed in the browser."""

    rounds: int
    seconds: float


@dataclass(frozen=True)
class Candidate:
    """A file that could be delivered for the web: what it holds, and how good it is on the validation split."""

    file: ModelFile
    measured: ladder.Measured

    @property
    def key(self) -> str:
        return self.file.key


class Delivered(NamedTuple):
    """The folder for the bundle, and what was measured."""

    folder: Path
    record: WebRecord


def check_web(recipe: Recipe, data: Data) -> None:
    """Raises UserError where a recipe wants a page that cannot be made or measured here."""
    if not recipe.export.web:
        return
    if ONNX_RUNTIME.name not in recipe.measure.runtimes:
        raise UserError(
            f'export.web = true delivers an .onnx file; add "{ONNX_RUNTIME.name}" to measure.runtimes, or set it to'
            " false"
        )
    task = task_of(data)
    if task.decoding == "none":
        raise UserError(
            f"export.web = true, but only the code of {task.name} knows what its outputs mean, and a page has none of"
            " it; set it to false"
        )
    if why := lacks_browser():
        raise UserError(f"export.web = true, but {why}; or set it to false")


def packages(data: Data, cache: Path) -> list[Path]:
    """The third-party files that the page needs, fetched once."""
    wanted = (RUNTIME, TOKENIZERS) if _reads_texts(data) else (RUNTIME,)
    return [file for package in wanted for file in fetch(package, cache)]


def _reads_texts(data: Data) -> bool:
    return isinstance(data.preprocessing, Text) and bool(data.preprocessing.tokenizer)


def make_web(
    ledger: Ledger,
    recipe: Recipe,
    data: Data,
    models: Models,
    reference: MeasuredNetwork,
    student: MeasuredNetwork,
    climbed: Climbed,
    chosen: Selection,
) -> Delivered | None:
    """Measures the student's files in a browser and writes the page with the fastest; None where none is wanted."""
    if not recipe.export.web:
        return None
    make = partial(
        measure_web,
        name=recipe.name,
        student=student,
        reference=reference,
        candidates=_candidates(recipe, student, climbed, chosen),
        data=data,
        conditions=conditions_of(recipe, ONNX_RUNTIME.name),
        budget=recipe.budget,
        turns=Turns(recipe.measure.rounds, recipe.measure.seconds),
        float_modules=recipe.quantize.float_modules or (),
        kept_tokens=tuple(models.kept),
        frame=frame_of(student.module, data),
        page=page_checksum(),
        seed=recipe.seed,
    )
    step = ledger.step("web", "measuring the files in a browser", WebRecord, make)
    ledger.watch.note(step.record.sentence)
    ledger.watch.note(f"the page: {step.record.replay}")
    return Delivered(step.folder / WEB, step.record)


def _candidates(recipe: Recipe, student: MeasuredNetwork, climbed: Climbed, chosen: Selection) -> dict[str, Candidate]:
    """The float32 file and the best int8 file, if there is one, by what they hold."""
    is_first = recipe.measure.runtimes[0] == ONNX_RUNTIME.name
    trials = [trial for trial in chosen.trials if trial.form == INT8]
    rung = ladder.best(trials).rung if trials else ""
    files = [one for trial in climbed.trials if trial.rung == rung for one in trial.files]
    int8 = next((one for one in files if one.record.runtime == ONNX_RUNTIME.title), None)
    own = climbed.trials[0].files
    plain = student.file if is_first else next(
        one.float_path for one in own if one.record.runtime == ONNX_RUNTIME.title
    )  # fmt: skip
    assert plain is not None
    found = {FLOAT32: _candidate(plain, student.scores.validation)}
    return found | ({INT8: _candidate(int8.path, int8.record.scores.validation)} if int8 else {})


def _candidate(path: Path, validation: Quality) -> Candidate:
    """A candidate without latency, which is judged where it is measured, in the browser."""
    return Candidate(ModelFile(path), ladder.Measured(validation, size_bytes(path), 0.0))


# The step -------------------------------------------------------------------------------------------------------------


def measure_web(
    place: Place,
    *,
    name: str,
    student: MeasuredNetwork,
    reference: MeasuredNetwork,
    candidates: Mapping[str, Candidate],
    data: Data,
    conditions: Conditions,
    budget: Budget,
    turns: Turns,
    float_modules: tuple[str, ...],
    kept_tokens: tuple[int, ...],
    frame: int,
    page: str,
    seed: int,
) -> WebRecord:
    """The step that makes the float16 file, measures all files in a browser, and writes and opens the page.

    Args:
        frame: as for `write_bundle`. page: the page's checksum.
    """
    half = _halved(place, student, reference, data, conditions, float_modules, seed)
    found = {FLOAT32: candidates[FLOAT32], FLOAT16: half, **candidates}
    others, fed = packages(data, place.cache), as_fed(data, conditions.export)
    with Browser({form: one.file.path for form, one in found.items()}, others) as browser:
        record = _measured(browser, found, fed, reference, budget, turns)
        folder, model = place.folder / WEB, place.folder / WEB / "model.onnx"
        make_folder(folder)
        shutil.copyfile(found[record.delivered].file.path, model)
        write_web(folder, name, model, fed, record, others, kept_tokens, frame)
        return WebRecord.model_validate(record.model_dump() | {"replay": browser.replay(folder)})


def _halved(
    place: Place,
    student: MeasuredNetwork,
    reference: MeasuredNetwork,
    data: Data,
    conditions: Conditions,
    float_modules: tuple[str, ...],
    seed: int,
) -> Candidate:
    """The student's float16 file."""
    scheme = Scheme(mode="float16", float_modules=float_modules)
    quantized = calibrated(student.module, data, scheme, seed, place.watch)
    path = export_file(quantized, place.folder / "float16.onnx", data, conditions.export)
    logits = file_logits(path, data, conditions)
    return _candidate(path, scores(logits, data, conditions.evaluation, reference, student).validation)


def _measured(
    browser: Browser,
    files: Mapping[str, Candidate],
    data: Data,
    reference: MeasuredNetwork,
    budget: Budget,
    turns: Turns,
) -> WebRecord:
    """Each file's quality on the test set or a part of it, its agreement with the native predictions, and its time."""
    part, task = _part(data), task_of(data)
    outputs = {form: _outputs(browser, form, data, part, one.file.path) for form, one in files.items()}
    timed = _timed(browser, {form: one.file.path for form, one in files.items()}, data, turns)
    plain = timed[FLOAT32]
    records = [
        WebFileRecord(
            form=form,
            size_bytes=one.measured.size_bytes,
            quality=score(task, outputs[form].browser, part.labels).primary,
            agreement=task.agreement(outputs[form].native, outputs[form].browser),
            latency=timed[form],
            speed=None if form == FLOAT32 else paired_speed(plain.turns_ms, timed[form].turns_ms),
            breaches=ladder.judge(budget, reference.scores.validation, one.measured),
        )
        for form, one in files.items()
    ]
    return WebRecord(
        package=f"{RUNTIME.name} {RUNTIME.version}",
        browser=browser.version,
        samples=len(part),
        of_samples=len(data.test),
        files=tuple(records),
        delivered=fastest(records).form,
    )


def _part(data: Data) -> Split:
    """At most `MOST` of the test samples; those that are judged together stay together."""
    together = task_of(data).together
    firsts = together * drawn(len(data.test) // together, MOST // together)
    return data.test.take((firsts.unsqueeze(1) + torch.arange(together)).flatten())


class _Outputs(NamedTuple):
    """Kept outputs of one file, in the browser and in ONNX Runtime."""

    browser: Tensor
    native: Tensor


def _outputs(browser: Browser, form: str, data: Data, part: Split, path: Path) -> _Outputs:
    task, native, name = task_of(data), load(path), _input(path)
    found: list[Tensor] = []
    expected: list[Tensor] = []
    for numbers in torch.arange(len(part)).split(CHUNK):
        inputs = data.normalize(part.fetch(numbers))
        outputs = browser.run(form, {name: inputs.numpy()}).outputs
        returned = {key: torch.from_numpy(one.copy()) for key, one in outputs.items()}
        found.append(kept(task, returned if len(returned) > 1 else next(iter(returned.values()))))
        expected.append(kept(task, native(inputs)))
    return _Outputs(torch.cat(found), torch.cat(expected))


def _input(path: Path) -> str:
    return runtime_of(path).signature(path).inputs[0].name


def _timed(browser: Browser, paths: Mapping[str, Path], data: Data, turns: Turns) -> dict[str, LatencyRecord]:
    """Latency of one sample, the files in turns."""
    inputs = data.normalize(data.test.drawn(1).inputs).numpy()
    forms, times = list(paths), {form: list[list[float]]() for form in paths}
    for number in range(turns.rounds):
        for form in forms if number % 2 == 0 else forms[::-1]:
            answer = browser.run(form, {_input(paths[form]): inputs}, turns.seconds)
            times[form].append([ms / 1e3 for ms in answer.times_ms])
    return {form: summary(own, 1, 1) for form, own in times.items()}


def fastest(files: Sequence[WebFileRecord]) -> WebFileRecord:
    """The fastest of the files that break the fewest limits; of those equally fast within the noise, the smallest."""
    fewest = min(len(one.breaches) for one in files)
    able = [one for one in files if len(one.breaches) == fewest]
    first = min(able, key=lambda one: one.latency.p50_ms)
    alike = [
        one
        for one in able
        if one is first or paired_speed(first.latency.turns_ms, one.latency.turns_ms).verdict != "slower"
    ]
    return min(alike, key=lambda one: one.size_bytes)
