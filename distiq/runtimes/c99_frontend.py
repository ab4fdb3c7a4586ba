"""log_mel(): the front-end of an audio network as one C call that processes a frame at a time.

As a convolution and matrix products it would need the whole spectrum in RAM and a Fourier basis of a quarter of a
megabyte in flash; a fast Fourier transform needs two frames and three tables of one period.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx

from distiq.runtimes.c99_program import Buffer, Program, Value, in_order, ordered_layout
from distiq.runtimes.lowering import aten

LAST = 2**63 - 1  # where a slice to the end ends
LARGEST_ERROR = 1e-4
"""Of a basis in float32 beside the one that the transform computes."""


class LogMel(NamedTuple):
    """A front-end in a graph: its nodes, the last of which gives the features, and its numbers."""

    nodes: tuple[fx.Node, ...]
    window: Tensor
    filters: Tensor
    floor: float
    centre: float
    spread: float


def find_log_mel(conv: fx.Node, basis: Any, constants: Mapping[fx.Node, Any]) -> LogMel | None:
    """The front-end that a convolution with a windowed Fourier basis begins; None for any other convolution.

    Args:
        constants: constants of the graph so far.
    """
    if not isinstance(basis, Tensor) or basis.ndim != 3 or basis.shape[1] != 1 or conv.args[2:3] not in ((), (None,)):
        return None
    window = _window(basis[:, 0])
    square = _only_user(conv, aten.mul.Tensor)
    if window is None or square is None or square.args[:2] != (conv, conv):
        return None
    halves = _halves(square, len(basis) // 2)
    sums = {user for half in halves[-2:] for user in half.users}
    power = sums.pop() if len(halves) >= 2 and len(sums) == 1 else None
    if power is None or power.target is not aten.add.Tensor or set(power.args) != set(halves[-2:]):
        return None
    mel = _only_user(power, aten.matmul.default)
    filters = constants.get(mel.args[0]) if mel is not None and isinstance(mel.args[0], fx.Node) else None
    raised = _only_user(mel, aten.add.Tensor) if mel is not None and isinstance(filters, Tensor) else None
    logarithm = _only_user(raised, aten.log.default) if raised is not None else None
    if mel is None or raised is None or logarithm is None or not isinstance(raised.args[1], float):
        return None
    assert isinstance(filters, Tensor)
    nodes, numbers = [square, *halves, power, mel, raised, logarithm], [0.0, 1.0]
    for place, target in enumerate((aten.sub.Tensor, aten.div.Tensor)):
        last = _only_user(nodes[-1], target)
        if last is not None and last.args[0] is nodes[-1] and isinstance(last.args[1], int | float):
            nodes.append(last)
            numbers[place] = float(last.args[1])
    return LogMel(tuple(nodes), window, filters, raised.args[1], *numbers)


def _only_user(node: fx.Node, target: Any) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target is target else None


def _halves(square: fx.Node, frequencies: int) -> list[fx.Node]:
    """The parts of a spectrum's squares, cosines and sines, and what cuts them."""
    users = list(square.users)
    if len(users) == 1 and users[0].target in (aten.chunk.default, aten.split.Tensor):
        return [users[0], *users[0].users]
    slices: set[Any] = {one.args[2:4] for one in users if one.target is aten.slice.Tensor}
    lower = (0, frequencies)
    return users if slices in ({lower, (frequencies, end)} for end in (2 * frequencies, LAST)) else []


def _window(basis: Tensor) -> Tensor | None:
    """What a Fourier basis (2 * (length // 2 + 1), length) is multiplied with; None of other matrices."""
    count, length = basis.shape
    if count != 2 * (length // 2 + 1):
        return None
    window, angles = basis[0].double(), _angles(length)
    frequencies = torch.arange(count // 2).unsqueeze(1) * torch.arange(length) % length
    expected = torch.cat([torch.cos(angles)[frequencies], torch.sin(angles)[frequencies]]) * window
    return basis[0] if float((basis - expected).abs().max()) < LARGEST_ERROR else None


def _angles(length: int) -> Tensor:
    return torch.arange(length, dtype=torch.float64) * (2 * math.pi / length)


def log_mel(program: Program, value: Value, frontend: LogMel, hop: int) -> Value:
    """(1, 1, T) -> (1, bands, frames)."""
    value = in_order(program, value, range(value.layout.ndim))
    length, bands = len(frontend.window), len(frontend.filters)
    frames = (value.layout.shape[2] - length) // hop + 1
    first, start, weights = [], [0], []
    for band in frontend.filters.numpy():
        inside = np.flatnonzero(band)
        low, high = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
        first.append(low)
        weights.append(band[low:high])
        start.append(start[-1] + high - low)
    angles = _angles(length)
    fields = {
        "window": program.array(frontend.window.float().numpy()),
        "cosines": program.array(torch.cos(angles).float().numpy()),
        "sines": program.array(torch.sin(angles).float().numpy()),
        "weights": program.array(np.concatenate(weights).astype(np.float32)),
        "first": program.array(np.array(first, np.int32)), "start": program.array(np.array(start, np.int32)),
        "length": length, "hop": hop, "frames": frames, "bands": bands,
        "floor": frontend.floor, "centre": frontend.centre, "spread": frontend.spread,
    }  # fmt: skip
    to = program.new(ordered_layout((1, bands, frames), (0, 1, 2)))
    scratch = Buffer(program.name("p"), 2 * length, "float32")
    macs = frames * (2 * length * max(length.bit_length() - 1, 1) + start[-1])
    return program.step("log_mel", "distiq_log_mel", fields, [value], to, "log_mel", macs, scratch)
