"""Several processes of one run, as `accelerate launch` and torchrun start them: who writes, who waits, who speaks.

Every process runs the whole pipeline and makes the same decisions from the same records. All processes train together;
everything else is done by the main process alone, while the others wait for its result.
"""

import contextlib
import datetime
import functools
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

LONGEST_WAIT = datetime.timedelta(days=30)  # of the others, while the main process measures
FAILED = "distiq failed"
SIZES = ("WORLD_SIZE", "LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
T = TypeVar("T")


def count() -> int:
    """How many processes a launcher started for this run: 1 unless it also said which of them this is, and where they
    meet. A WORLD_SIZE alone is left over from somewhere else."""
    if not all(os.environ.get(name) for name in ("RANK", "MASTER_ADDR", "MASTER_PORT")):
        return 1
    try:
        return int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        return 1


def is_main() -> bool:
    return count() == 1 or int(os.environ.get("RANK", "0")) == 0


def start() -> None:
    """Joins the processes, on the CPU where there is no other device. All must call it; further calls do nothing."""
    if count() > 1:
        _waiting()
    else:
        for name in SIZES:  # Accelerate would wait for others where one of these is left over
            os.environ.pop(name, None)


@functools.cache
def _waiting() -> Any:
    """The group to wait in: over sockets, which cost nothing, with a timeout that no measurement reaches."""
    import torch
    from accelerate.state import PartialState

    warnings.filterwarnings("ignore", "Grad strides do not match bucket view")  # a matter of speed, and torch's own
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    PartialState(cpu=on_cpu or not torch.accelerator.is_available())
    return torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)


def on_main(work: Callable[[], T]) -> T:
    """The result of `work`, done by the main process, in every process; the others wait. It must be picklable."""
    if count() == 1:
        return work()
    import torch

    group = _waiting()
    results = [work() if is_main() else None]
    torch.distributed.broadcast_object_list(results, src=0, group=group)
    return results[0]  # type: ignore[return-value]


def main_first(work: Callable[[], T]) -> T:
    """Does `work` in every process; the others begin when the main one has finished, and may read its files."""
    if not is_main():
        wait()
    result = work()
    if is_main():
        wait()
    return result


def wait() -> None:
    """Waits until every process is here."""
    if count() > 1:
        import torch

        torch.distributed.barrier(group=_waiting())


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Of several processes that fail, the first says why; the others, which only lost contact with it, end silently."""
    try:
        yield
    except (Exception, KeyboardInterrupt):
        if not _first_to_fail():
            raise SystemExit(1) from None
        raise


def _first_to_fail() -> bool:
    if count() == 1:
        return True
    from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

    place, port = os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", "0"))
    try:
        return TCPStore(place, port, is_master=False, timeout=datetime.timedelta(seconds=10)).add(FAILED, 1) == 1
    except (DistError, RuntimeError, OSError):
        return True  # said twice is better than not at all
