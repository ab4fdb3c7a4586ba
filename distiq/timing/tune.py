"""tune(): the settings of a runtime under which one file is fastest here, found by timing them in turns."""

import contextlib
from pathlib import Path

import torch
from torch import Tensor

from distiq.errors import UserError
from distiq.evaluation.statistics import paired_speed
from distiq.models.signature import Predict, Tensors, each, tensors_of
from distiq.records.speed import TriedRecord, TuningRecord
from distiq.runtimes.export import load, runtime_of
from distiq.timing.latency import latencies

SAME = 1e-3  # of the outputs' span: sums in another order move less, another precision moves more


def tune(path: Path, threads: int, inputs: Tensors, rounds: int, seconds: float) -> TuningRecord:
    """Times the file under each setting of its runtime, one sample at a time, with the given threads and with one.

    Args:
        inputs: (B, ...) as the file takes them; the first is timed, and predictions for all are compared.
        rounds, seconds: how many turns every setting has, and how long one is.

    Raises:
        UserError: the file cannot be loaded.
    """
    asked = [
        (number, options) for number in sorted({threads, 1}, reverse=True) for options in runtime_of(path).settings
    ]
    opened: dict[str, Predict] = {}
    outputs: dict[str, Tensors] = {}
    for number, (count, options) in enumerate(asked):
        # What this CPU or version of the runtime does not know is left out; the default has to work.
        with contextlib.suppress(*(() if number == 0 else (UserError, RuntimeError, ValueError))):
            predict = load(path, count, options)
            outputs[str(number)] = each(torch.clone, predict(inputs))
            opened[str(number)] = predict
    counts = {name: asked[int(name)][0] for name in opened}
    timed = latencies(opened, each(lambda one: one[:1], inputs), counts, rounds, seconds)
    default, expected = timed["0"], outputs["0"]
    tried = []
    for name, latency in timed.items():
        count, options = asked[int(name)]
        tried.append(
            TriedRecord(
                threads=count,
                options=options,
                latency=latency,
                against_default=paired_speed(default.turns_ms, latency.turns_ms),
                same_predictions=_same(outputs[name], expected),
            )
        )
    better = [
        number
        for number, entry in enumerate(tried)
        if entry.same_predictions and entry.against_default.verdict == "faster"
    ]
    return TuningRecord(
        tried=tuple(tried), chosen=min(better, key=lambda number: tried[number].latency.p50_ms, default=0)
    )


def _same(outputs: Tensors, expected: Tensors) -> bool:
    """Whether outputs differ no more than sums in another order do; all (B, ...)."""
    return all(_alike(one, other) for one, other in zip(tensors_of(outputs), tensors_of(expected), strict=True))


def _alike(output: Tensor, expected: Tensor) -> bool:
    span = float(expected.max() - expected.min())
    is_near = float((output - expected).abs().max()) <= SAME * span
    return is_near and bool((output.flatten(1).argmax(1) == expected.flatten(1).argmax(1)).all())
