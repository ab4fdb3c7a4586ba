"""All files of a run timed side by side, at its end."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from distiq import environment
from distiq.data.splits import Data
from distiq.data.text import Text
from distiq.files import sha256_of_json
from distiq.models.signature import Predict
from distiq.recipe.measure import ExportSettings, MeasureSettings
from distiq.recipe.recipe import Recipe
from distiq.records.speed import ComparisonRecord, LengthRecord, TuningRecord
from distiq.run.ledger import Ledger, Place
from distiq.run.measure import MeasuredNetwork, Turns, as_fed, side_by_side
from distiq.run.trial import QuantizedTeacher, Trial
from distiq.runtimes.export import checksums, load, runtime_of
from distiq.timing.latency import latencies
from distiq.timing.peak import MOST_PEAK_SECONDS, measure_peak
from distiq.timing.tune import tune

TUNED_ON = 8  # samples on which predictions under a runtime's settings are compared
LENGTHS_SECONDS = 20.0  # at most, for timing texts of several lengths, plus as long again for warming up
SIDE_BY_SIDE = "timing all files side by side"


@dataclass(frozen=True)
class ModelFile:
    """A file of the run; its bytes are its key."""

    path: Path

    @property
    def key(self) -> str:
        return sha256_of_json(checksums(self.path))


Files = Mapping[str, ModelFile]
"""The files of a run, by their names in its records."""


def files_of(
    reference: MeasuredNetwork,
    quantized: QuantizedTeacher | None,
    student: MeasuredNetwork,
    trials: tuple[Trial, ...],
) -> dict[str, ModelFile]:
    """All files of a run, in the order in which they were made."""
    paths: dict[str, Path] = {}
    if reference.file is not None:
        paths["teacher-float32"] = reference.file
    if quantized is not None:
        paths["teacher-int8"] = quantized.path
    assert student.file is not None
    paths["student-float32"] = student.file
    for trial in trials:
        for file in trial.files:
            paths |= {file.record.float_file: file.float_path, file.record.file: file.path}
    return {name: ModelFile(path) for name, path in paths.items()}


def time_together(ledger: Ledger, recipe: Recipe, data: Data, files: Files) -> ComparisonRecord:
    """All files of the run, timed side by side."""
    here, settings = environment.describe(), recipe.measure
    make = partial(
        compare,
        files=files,
        data=data,
        settings=settings,
        export=recipe.export,
        machine={"cpu": here.cpu, **here.versions},
    )
    title = "timing the settings of each file's runtime" if settings.tune else SIDE_BY_SIDE
    return ledger.step("comparison", title, ComparisonRecord, make).record


def compare(
    place: Place,
    *,
    files: Files,
    data: Data,
    settings: MeasureSettings,
    export: ExportSettings,
    machine: Mapping[str, str],
) -> ComparisonRecord:
    """The step that times the files, on the machine that is named: under the fastest settings if the recipe asks."""
    fed, paths = as_fed(data, export), {name: file.path for name, file in files.items()}
    tuning: dict[str, TuningRecord] = {}
    if settings.tune:
        inputs = fed.normalize(data.test.drawn(TUNED_ON).inputs)
        tuning = {
            name: tune(path, settings.threads, inputs, settings.rounds, settings.seconds)
            for name, path in paths.items()
        }
        place.watch.stage(SIDE_BY_SIDE)
    models, threads = _loaded(paths, settings, tuning)
    timed = side_by_side(models, threads, fed, Turns(settings.throughput_batch, settings.rounds, settings.seconds))
    fixed = fixed_lengths(paths, data)
    return ComparisonRecord(
        threads=settings.threads,
        files=timed,
        tuning=tuning,
        lengths=_lengths(models, threads, fixed, fed, settings) if data.preprocessing.has_lengths else (),
        fixed_lengths=fixed,
        peak=measure_peak(min(settings.rounds * settings.seconds, MOST_PEAK_SECONDS)),
    )


def _loaded(
    paths: Mapping[str, Path], settings: MeasureSettings, tuning: Mapping[str, TuningRecord]
) -> tuple[dict[str, Predict], dict[str, int]]:
    """The files loaded under their settings, and the number of threads of each."""
    threads = {name: tuning[name].setting.threads if name in tuning else settings.threads for name in paths}
    options = {name: tuning[name].setting.options if name in tuning else {} for name in paths}
    return {name: load(path, threads[name], options[name]) for name, path in paths.items()}, threads


def fixed_lengths(paths: Mapping[str, Path], data: Data) -> dict[str, int]:
    """For texts: the files that take a single length only, and that length in tokens."""
    if not data.preprocessing.has_lengths:
        return {}
    lengths = {name: runtime_of(path).signature(path).inputs[0].shape[1] for name, path in paths.items()}
    return {name: length for name, length in lengths.items() if length > 0}


def _lengths(
    models: Mapping[str, Predict],
    threads: Mapping[str, int],
    fixed: Mapping[str, int],
    data: Data,
    settings: MeasureSettings,
) -> tuple[LengthRecord, ...]:
    """Latency of one text cut to each of `measure.lengths` that texts of this data can have, side by side.

    Turns are cut short where all together would take more than `LENGTHS_SECONDS`.
    """
    lengths = [tokens for tokens in settings.lengths if tokens <= data.sample_shape[0]]
    if not lengths:
        return ()
    assert isinstance(data.preprocessing, Text)
    longest = data.preprocessing.lengths(data.test.inputs).argmax()
    text = data.normalize(data.test.fetch(longest.unsqueeze(0)))
    seconds = min(settings.seconds, LENGTHS_SECONDS / (settings.rounds * len(models) * len(lengths)))
    records = []
    for tokens in lengths:
        able = {name: model for name, model in models.items() if fixed.get(name, tokens) == tokens}
        timed = latencies(able, text[:, :tokens].contiguous(), threads, settings.rounds, seconds)
        records.append(LengthRecord(tokens=tokens, files=timed))
    return tuple(records)
