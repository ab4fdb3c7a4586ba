"""bench(): files of any runtime, timed side by side on this machine."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from distiq import environment
from distiq.errors import UserError
from distiq.evaluation.cost import latencies
from distiq.evaluation.evaluate import Predict
from distiq.progress import Silent, Watch
from distiq.records import BenchFile, BenchRecord, LatencyRecord
from distiq.runtimes.export import load, require, runtime_of, size_bytes


def bench(
    files: Sequence[Path],
    *,
    threads: int = 1,
    batch: int = 32,
    rounds: int = 10,
    seconds: float = 0.2,
    shape: Sequence[int] = (),
    watch: Watch | None = None,
) -> BenchRecord:
    """Times files in turns: batch 1 and a larger batch, after a warm-up.

    Args:
        files: .onnx, .xml, .tflite or .pte, each of one input.
        batch: samples per call where throughput is measured.
        rounds, seconds: how many turns every file has, and how long one is.
        shape: of one sample, for files that do not say it.

    Raises:
        UserError: a file is missing or damaged, its runtime is not installed, or its shape is not known.
    """
    watch = watch or Silent()
    watch.stage("loading the files")
    paths = {str(file): Path(file) for file in files}
    models = {name: load(path, threads) for name, path in paths.items()}
    samples = {name: _sample(path, tuple(shape)) for name, path in paths.items()}
    found: dict[str, tuple[LatencyRecord, ...]] = dict.fromkeys(paths, ())
    for size in sorted({1, batch}):
        calls = {name: _call(predict, samples[name], size) for name, predict in models.items()}
        able = {name: call for name, call in calls.items() if _works(call, name, size, watch)}
        watch.stage(f"batch {size}: {len(able)} files, {rounds} rounds, about {rounds * seconds * len(able):.0f} s")
        timed = latencies(able, torch.zeros(size), threads, rounds, seconds)
        found = {name: (*found[name], *([timed[name]] if name in timed else [])) for name in found}
    results = [
        BenchFile(file=name, runtime=runtime_of(path).title, size_bytes=size_bytes(path), latency=found[name])
        for name, path in paths.items()
    ]
    return BenchRecord(environment=environment.describe(), files=tuple(results))


def _sample(path: Path, shape: tuple[int, ...]) -> Tensor:
    """One sample that the file takes: noise, or zeros where it takes integers."""
    runtime = runtime_of(path)
    require(runtime)
    entry = runtime.entry(path)
    shape, dtype = shape or entry.shape[1:], entry.dtype
    if not shape or min(shape) < 1:
        raise UserError(f"{path}: the file leaves the shape of a sample open; give it, such as --shape 3,224,224")
    if not dtype.is_floating_point:
        return torch.zeros((1, *shape), dtype=dtype)
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(0)).to(dtype)


def _call(predict: Predict, sample: Tensor, size: int) -> Predict:
    inputs = sample.repeat(size, *[1] * (sample.ndim - 1))
    return lambda _: predict(inputs)


def _works(call: Predict, name: str, size: int, watch: Watch) -> bool:
    """Whether the file takes a batch of this size; a file of a fixed batch may not."""
    try:
        call(torch.zeros(size))
    except Exception as error:  # every runtime raises its own kinds
        if size == 1:
            raise UserError(f"{name}: the file does not run: {str(error).splitlines()[0]}") from error
        watch.note(f"{name}: takes no batch of {size}")
        return False
    return True
