"""Latency of several models, measured in turns in one process."""

import statistics
import time
from collections.abc import Mapping, Sequence

from distiq.models.signature import Predict, Tensors, batch_size
from distiq.records.speed import LatencyRecord

WARM_UPS = 3


def latencies(
    models: Mapping[str, Predict],
    batch: Tensors,
    threads: int | Mapping[str, int],
    rounds: int = 7,
    seconds: float = 0.4,
) -> dict[str, LatencyRecord]:
    """Times several models side by side, interleaved, so that a drift of the machine's speed affects all of them alike.

    Args:
        batch: the inputs of every call (B, ...).
        threads: what the models were loaded with, by name where they differ; it is recorded, not set.
        rounds: how many turns each model has; every other round runs in reverse order.
        seconds: length of a turn, after `WARM_UPS` calls that are not counted, or as many as fit into that time.
    """
    turns: dict[str, list[list[float]]] = {name: [] for name in models}
    for number in range(rounds):
        names = list(models) if number % 2 == 0 else list(models)[::-1]
        for name in names:
            turns[name].append(_turn(models[name], batch, seconds))
    own = dict.fromkeys(models, threads) if isinstance(threads, int) else threads
    return {name: summary(values, batch_size(batch), own[name]) for name, values in turns.items()}


def _turn(predict: Predict, batch: Tensors, seconds: float) -> list[float]:
    warm = time.perf_counter() + seconds
    for _ in range(WARM_UPS):
        predict(batch)
        if time.perf_counter() > warm:
            break
    values: list[float] = []
    end = time.perf_counter() + seconds
    while not values or time.perf_counter() < end:
        began = time.perf_counter()
        predict(batch)
        values.append(time.perf_counter() - began)
    return values


def summary(turns: Sequence[Sequence[float]], batch: int, threads: int) -> LatencyRecord:
    """The record of calls that were timed in turns, in seconds."""
    times = [value for turn in turns for value in turn]
    median = statistics.median(times)
    p95, p99 = (sorted(times)[min(len(times) - 1, int(share * len(times)))] for share in (0.95, 0.99))
    return LatencyRecord(
        batch=batch,
        threads=threads,
        runs=len(times),
        p50_ms=median * 1e3,
        p95_ms=p95 * 1e3,
        throughput_per_s=batch / median,
        p99_ms=p99 * 1e3,
        turns_ms=tuple(statistics.median(turn) * 1e3 for turn in turns),
    )
