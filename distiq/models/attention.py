"""Attention in an exported graph, written out: for converters, and for quantized factors of its products."""

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten
ATTENTION = aten.scaled_dot_product_attention.default


def write_out_attention(graph: fx.GraphModule) -> None:
    """Puts two products and a softmax in the place of every attention, in place.

    Causal attention, and that of grouped heads, stays as it is.
    """
    for node in list(graph.graph.nodes):
        if node.target is not ATTENTION:
            continue
        arguments: Any = (*node.args, *(None, 0.0, False)[len(node.args) - 3 :])
        query, key, value, mask, _, causal = arguments
        if causal or node.kwargs.get("enable_gqa"):
            continue
        scale = node.kwargs.get("scale") or query.meta["val"].shape[-1] ** -0.5
        meta = {name: about for name, about in node.meta.items() if name != "val"}

        def call(operation: Any, arguments: tuple, meta: dict[str, Any] = meta) -> fx.Node:
            made = graph.graph.call_function(operation, arguments)
            made.meta = dict(meta)
            return made

        with graph.graph.inserting_before(node):
            products = call(aten.matmul.default, (query, call(aten.transpose.int, (key, -2, -1))))
            scores = call(aten.mul.Tensor, (products, scale))
            if mask is not None and mask.meta["val"].dtype == torch.bool:
                shown = call(aten.full.default, ([], 0.0))
                hidden = call(aten.full.default, ([], -torch.inf))
                mask = call(aten.where.self, (mask, shown, hidden))
            if mask is not None:
                scores = call(aten.add.Tensor, (scores, mask))
            shares = call(aten.softmax.int, (scores, -1))
            node.replace_all_uses_with(call(aten.matmul.default, (shares, value)))
        graph.graph.erase_node(node)  # no dead code to torch, since its dropout may draw numbers
    graph.recompile()
