"""Joints: where a network concatenates results of unlike ranges, such as box coordinates in pixels and score logits.

One set of quantization parameters over both would leave the smaller part a few of its 256 steps, or none.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from distiq.models.signature import Tensors, for_graph
from distiq.quantization.operations import aten
from distiq.quantization.regions import tail

UNLIKE = 16.0  # ratio of two ranges from which they are unlike: the narrower one has 4 of 8 bits left


class Joint(NamedTuple):
    """A concatenation of values whose ranges (low, high) are unlike, along a dimension, of those sizes."""

    name: str
    ranges: tuple[tuple[float, float], ...]
    dimension: int
    sizes: tuple[int, ...]

    def __str__(self) -> str:
        parts = " and ".join(f"{low:.3g} to {high:.3g}" for low, high in self.ranges)
        return f'"{self.name}" joins outputs of unlike range ({parts}): it and what stands behind the last layers' + (
            " stay in float32"
        )


def parts_of(joints: Sequence[Joint], output: Tensor) -> dict[str, Tensor]:
    """What an output (B, ...) is joined of, such as "channels 0 to 3"; empty where no joint has its size."""
    for joint in reversed(joints):
        if output.ndim > joint.dimension and output.shape[joint.dimension] == sum(joint.sizes):
            ends = torch.tensor(joint.sizes).cumsum(0).tolist()
            names = [f"channels {end - size} to {end - 1}" for end, size in zip(ends, joint.sizes, strict=True)]
            return dict(zip(names, output.split(joint.sizes, joint.dimension), strict=True))
    return {}


def unlike_joints(graph: fx.GraphModule, samples: Tensors) -> list[Joint]:
    """The joints behind the last layers of an exported or prepared graph, by the ranges that values have for samples
    (B, ...)."""
    behind = tail(graph)
    joints = [node for node in graph.graph.nodes if node in behind and node.target is aten.cat.default]
    if not joints:
        return []
    observer = _RangeObserver(graph, joints)
    with torch.no_grad():
        observer.run(*for_graph(samples, graph))
    return [joint for joint in observer.found if _are_unlike(joint.ranges)]


def _are_unlike(ranges: Sequence[tuple[float, float]]) -> bool:
    widths = [max(high, 0.0) - min(low, 0.0) for low, high in ranges]
    return max(widths) > UNLIKE * max(min(widths), 1e-12)


class _RangeObserver(fx.Interpreter):
    """Runs a graph and keeps what some of its nodes join."""

    def __init__(self, graph: fx.GraphModule, joints: Sequence[fx.Node]) -> None:
        super().__init__(graph)
        self.joints = joints
        self.found: list[Joint] = []

    def run_node(self, n: fx.Node) -> Any:
        if n in self.joints:
            arguments: Any = n.args
            names, *along = arguments
            parts = [self.env[one] for one in names]
            dimension = along[0] % parts[0].ndim if along else 0
            ranges = tuple((float(one.min()), float(one.max())) for one in parts)
            self.found.append(Joint(n.name, ranges, dimension, tuple(one.shape[dimension] for one in parts)))
        return super().run_node(n)
