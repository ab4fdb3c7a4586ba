"""measure_peak(): how many multiply-adds a second one thread of this CPU reaches; the yardstick for a file's rate."""

import time
from collections.abc import Callable

import torch

from distiq.records.speed import PeakRecord, gmac_per_s
from distiq.runtimes.onnx_session import matrix_product

SIZE = 768  # rows and columns: large enough to be bound by multiplying, not by reading
LEAST_CALLS = 3
MOST_PEAK_SECONDS = 0.5  # for each of the four; longer finds nothing faster


def measure_peak(seconds: float) -> PeakRecord:
    """Multiplies square matrices of int8 and of float32, in ONNX Runtime and in torch, and keeps the best of each.

    Args:
        seconds: how long each of the four is repeated, at least `LEAST_CALLS` times.
    """
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(-127, 128, (2, SIZE, SIZE), generator=generator, dtype=torch.int8)
    real = torch.randn(2, SIZE, SIZE, generator=generator)
    ways: dict[bool, dict[str, Callable[[], object]]] = {
        True: {
            "ONNX Runtime": matrix_product(SIZE, of_integers=True),
            "torch": lambda: torch._int_mm(small[0], small[1]),
        },
        False: {
            "ONNX Runtime": matrix_product(SIZE, of_integers=False),
            "torch": lambda: torch.mm(real[0], real[1]),
        },
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        best = {
            of_integers: max((_rate(call, seconds), name) for name, call in calls.items())
            for of_integers, calls in ways.items()
        }
    finally:
        torch.set_num_threads(threads)
    return PeakRecord(
        int8_gmac_per_s=best[True][0],
        int8_by=best[True][1],
        float32_gmac_per_s=best[False][0],
        float32_by=best[False][1],
    )


def _rate(call: Callable[[], object], seconds: float) -> float:
    """1e9 multiply-adds per second of the quickest call; the first, which prepares, is not counted."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < LEAST_CALLS or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return gmac_per_s(SIZE**3, 1e3 * min(times))
