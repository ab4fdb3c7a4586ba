"""The check that no rewriting of a graph has changed the network: on the example rows, before anything is quantized."""

from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from distiq.errors import UserError
from distiq.numerics import sqnr_db

LEAST_DB = 80.0  # float32 arithmetic in another order stays above 100
STANDS_FOR = "distiq_stands_for"
"""Key of a node's `meta`: the name of the traced node whose value it gives, where that has another name."""


class _Recording(fx.Interpreter):
    """Runs a graph and keeps the value of every node, by the name of the traced node that it stands for."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op.startswith("call") and isinstance(value, Tensor):
            self.values[n.meta.get(STANDS_FOR, n.name)] = value.clone()
        return value


def outputs_of(model: nn.Module, example: tuple[Any, ...]) -> list[Tensor]:
    """The tensors that a network returns for example rows, in order; random draws are the same each time."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = model(*(one.clone() if isinstance(one, Tensor) else one for one in example))
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def check_unchanged(
    before: fx.GraphModule, after: fx.GraphModule, example: tuple[Any, ...], outputs: list[Tensor]
) -> None:
    """Raises UserError unless the graph `after` gives the same outputs; names the first node unlike that of `before`.

    Args:
        example: rows as the network sees them, one entry per input.
        outputs: what the network gives for them, as `outputs_of` orders them.
    """
    given = outputs_of(after, example)
    worst = min(map(agreement_db, outputs, given), default=float("inf"))
    if len(given) == len(outputs) and worst >= LEAST_DB:
        return
    place = _first_difference(before, after, example)
    raise UserError(
        f"the network's graph gives other outputs than the network ({worst:.1f} dB agreement, not"
        f" {LEAST_DB:.0f}){place}; write that operation without in-place changes, or keep its module in float32"
        " (float_modules)"
    )


def agreement_db(reference: Tensor, value: Tensor) -> float:
    """SQNR of the finite values in dB; minus infinity where shapes or infinite values differ."""
    if reference.shape != value.shape:
        return float("-inf")
    reference, value = reference.detach().double(), value.detach().double()
    finite = torch.isfinite(reference)
    if not torch.equal(finite, torch.isfinite(value)) or not torch.equal(
        reference[~finite].nan_to_num(), value[~finite].nan_to_num()
    ):
        return float("-inf")
    return sqnr_db(reference[finite], value[finite])


def _first_difference(before: fx.GraphModule, after: fx.GraphModule, example: tuple[Any, ...]) -> str:
    """The first node of the traced graph that has another value, in words."""
    recordings = []
    for graph in (before, after):
        recording = _Recording(graph)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            recording.run(*(one.clone() if isinstance(one, Tensor) else one for one in example))
        recordings.append(recording.values)
    traced, rewritten = recordings
    for node in before.graph.nodes:
        if node.name in traced and node.name in rewritten:
            sqnr = agreement_db(traced[node.name], rewritten[node.name])
            if sqnr < LEAST_DB:
                stack = cast("dict[str, tuple[str, Any]]", node.meta.get("nn_module_stack", {}))
                module = next((path for path, _ in reversed(stack.values()) if path), "")
                where = f' in "{module}"' if module else ""
                return f'; the first to differ is "{node.name}" ({node.target}){where}, {sqnr:.1f} dB'
    return ""
