"""bench(): files of any runtime, and bundles, timed side by side on this machine."""

import datetime
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from distiq import environment
from distiq.bundle.open import Bundle
from distiq.data.audio import Audio
from distiq.errors import UserError
from distiq.models.onnx_inputs import one_input
from distiq.models.signature import Predict, Tensors, TensorSpec, by_name, each, tensors_of
from distiq.progress import Silent, Watch
from distiq.records.speed import BenchFile, BenchRecord, LatencyRecord
from distiq.records.trials import FLOAT16, FLOAT32
from distiq.runtimes.export import checksums, load, require, runtime_of, size_bytes
from distiq.runtimes.runtime import Work
from distiq.timing.latency import latencies
from distiq.timing.peak import MOST_PEAK_SECONDS, measure_peak
from distiq.timing.tune import tune as tune_file

Shape = Sequence[int] | Mapping[str, Sequence[int]]
THROUGHPUT_BATCH = 32
NO_PADDING = -1  # a number that no token has: nothing is masked


class _Opened(NamedTuple):
    """A model file, one sample (1, ...) that it takes, its multiply-adds if they are known, its seconds of sound.

    `run` is the file itself, or what is run in its place; see `one_input`.
    """

    path: Path
    run: Path
    threads: int
    predict: Predict
    sample: Tensors
    work: Work | None
    sound_s: float


def bench(
    files: Sequence[Path],
    *,
    threads: int | None = None,
    batch: int = THROUGHPUT_BATCH,
    rounds: int = 10,
    seconds: float = 0.2,
    shape: Shape = (),
    rate: int = 0,
    tune: bool = False,
    sample: Tensors | None = None,
    watch: Watch | None = None,
) -> BenchRecord:
    """Times files in turns: batch 1 and a larger batch, after a warm-up.

    Args:
        files: .onnx, .xml, .tflite, .pte, .pt2 or .c; for a bundle's folder, its model file is timed under the settings
            that its card names.
        threads: of each runtime; by default 1, for a bundle the number on its card.
        batch: samples per call where throughput is measured.
        rounds, seconds: how many turns every file has, and how long one is.
        shape: that of one sample, for files that do not state it; for a file with several inputs, a shape by name.
        rate: for files that take sound, samples per second; a bundle states its own.
        tune: also time each file under the settings of its runtime.
        sample: the input of a call to every file, in place of noise of the given shape.

    Raises:
        UserError: a file is missing or damaged, a bundle is not whole, its runtime is not installed, or its shape is
            not known.
    """
    watch = watch or Silent()
    watch.stage("loading the files")
    with tempfile.TemporaryDirectory(prefix="distiq-") as folder:
        if sample is not None:
            opened = {str(file): _opened_on(Path(file), threads or 1, sample) for file in files}
        else:
            opened = {str(file): _opened(Path(file), threads, shape, rate, Path(folder)) for file in files}
        return _timed(opened, batch, rounds, seconds, tune, watch)


def _timed(
    models: Mapping[str, _Opened], batch: int, rounds: int, seconds: float, tune: bool, watch: Watch
) -> BenchRecord:
    by_name: dict[str, tuple[LatencyRecord, ...]] = dict.fromkeys(models, ())
    for size in sorted({1, batch}):
        calls = {name: _call(model.predict, model.sample, size) for name, model in models.items()}
        able = {name: call for name, call in calls.items() if _works(call, name, size, watch)}
        watch.stage(f"batch {size}: {len(able)} files, {rounds} rounds, about {rounds * seconds * len(able):.0f} s")
        threads = {name: models[name].threads for name in able}
        timed = latencies(able, torch.zeros(size), threads, rounds, seconds)
        for name, latency in timed.items():
            by_name[name] = (*by_name[name], latency)
    if tune:
        watch.stage("timing the settings of each file's runtime")
    results = [
        BenchFile(
            file=name,
            runtime=runtime_of(model.path).title,
            size_bytes=size_bytes(model.path),
            sha256=checksums(model.path),
            latency=by_name[name],
            tuning=tune_file(model.run, model.threads, model.sample, rounds, seconds) if tune else None,
            macs=model.work.macs if model.work else None,
            is_int8=model.work is not None and model.work.is_int8,
            sound_s=model.sound_s,
        )
        for name, model in models.items()
    ]
    peak = measure_peak(min(rounds * seconds, MOST_PEAK_SECONDS))
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return BenchRecord(created=created, environment=environment.describe(), files=tuple(results), peak=peak)


def _opened(path: Path, threads: int | None, shape: Shape, rate: int, folder: Path) -> _Opened:
    if path.is_dir():
        bundle = Bundle(path, threads)
        macs, is_int8 = bundle.card["measured"]["cost"]["macs"], bundle.card["rung"] not in (FLOAT16, FLOAT32)
        sound_s = bundle.preprocessing.seconds if isinstance(bundle.preprocessing, Audio) else 0.0
        sample: Tensors = bundle.inputs(1)
        return _Opened(bundle.model, bundle.model, bundle.threads, bundle.run, sample, Work(macs, is_int8), sound_s)
    run = one_input(path, Path(tempfile.mkdtemp(dir=folder)), NO_PADDING)
    sample, count = _sample(run, shape), runtime_of(path).work
    shapes = [tuple(one.shape[1:]) for one in tensors_of(sample)]
    sound_s = shapes[0][0] / rate if rate and len(shapes[0]) == 1 else 0.0
    work, threads = count(run, shapes) if count else None, threads or 1
    return _Opened(path, run, threads, load(run, threads), sample, work, sound_s)


def _opened_on(path: Path, threads: int, sample: Tensors) -> _Opened:
    require(runtime_of(path))
    count, tensors = runtime_of(path).work, tensors_of(sample)
    is_one = all(one.ndim and len(one) == 1 for one in tensors)  # states and the like have no batch axis in front
    work = count(path, [tuple(one.shape[1:]) for one in tensors]) if count and is_one else None
    return _Opened(path, path, threads, load(path, threads), sample, work, 0.0)


def _sample(path: Path, shape: Shape) -> Tensors:
    """One sample that the file takes: noise, or zeros where it takes integers."""
    runtime = runtime_of(path)
    require(runtime)
    inputs = runtime.signature(path).inputs
    named = shape if isinstance(shape, Mapping) else {inputs[0].name: shape} if len(inputs) == 1 or not shape else None
    if named is None or not named.keys() <= {one.name for one in inputs}:
        names = " ".join(f"{one.name}=3,224,224" for one in inputs)
        raise UserError(f"{path}: takes {len(inputs)} inputs; give the shape of each by its name: --shape {names!r}")
    samples = [_noise(spec, tuple(named.get(spec.name, ())), path) for spec in inputs]
    return by_name(samples, [one.name for one in inputs])


def _noise(spec: TensorSpec, shape: tuple[int, ...], path: Path) -> Tensor:
    own = spec.shape[1:]
    if shape and (len(shape) != len(own) or any(size not in (-1, had) for size, had in zip(own, shape, strict=True))):
        stated, given = (",".join("any" if size < 1 else str(size) for size in sizes) for sizes in (own, shape))
        raise UserError(f"{path}: takes samples of shape {stated}, not {given}; leave --shape out, or make it fit")
    shape = shape or own
    if not shape or min(shape) < 1:
        raise UserError(
            f'{path}: the file leaves the shape of a sample of "{spec.name}" open; give it, such as --shape 3,224,224'
        )
    if not spec.dtype.is_floating_point:
        return torch.zeros((1, *shape), dtype=spec.dtype)
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(0)).to(spec.dtype)


def _call(predict: Predict, sample: Tensors, size: int) -> Predict:
    inputs = each(lambda one: one.repeat(size, *[1] * (one.ndim - 1)), sample)
    return lambda _: predict(inputs)


def _works(call: Predict, name: str, size: int, watch: Watch) -> bool:
    """Whether the file takes a batch of this size; a file with a fixed batch size may not."""
    try:
        call(torch.zeros(size))
    except Exception as error:  # every runtime raises its own exception types
        if size == 1:
            raise UserError(f"{name}: the file does not run: {str(error).splitlines()[0]}") from error
        watch.note(f"{name}: takes no batch of {size}")
        return False
    return True
