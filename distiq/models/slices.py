"""Chunks and splits of an exported graph as slices: parts that stand in a list have no quantization parameters of their
own, and ExecuTorch plans them for the example's batch alone."""

from collections.abc import Collection
from itertools import accumulate
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten
CUTTING = {aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default}


def cut_by_slices(graph: fx.Graph, left: Collection[fx.Node] = ()) -> dict[fx.Node, str]:
    """Puts slices in the place of chunks and splits, but where the batch itself is cut, in place.

    Args:
        left: parts in whose place no slice is put, nor in that of the others of the same cut.

    Returns:
        the name of the part that each slice stands for.
    """
    slices = {}
    for node in list(graph.nodes):
        if node.target not in CUTTING or any(part in left for part in node.users):
            continue
        axis: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
        ends = list(accumulate(part.shape[axis] for part in node.meta["val"]))
        if not all(isinstance(end, int) for end in ends):
            continue
        for part in list(node.users):
            value, end = part.meta["val"], ends[part.args[1]]  # type: ignore[index]
            with graph.inserting_before(part):
                piece = graph.call_function(aten.slice.Tensor, (node.args[0], axis, end - value.shape[axis], end))
            piece.meta = dict(part.meta)
            part.replace_all_uses_with(piece)
            graph.erase_node(part)
            slices[piece] = part.name
        graph.erase_node(node)
    return slices
