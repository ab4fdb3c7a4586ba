"""Transposed convolutions in the form that LiteRT has: without padding; the rows it would remove are sliced off after.

litert-torch converts padded ones only if the output is as large as the input times the stride, and it treats the rows
that `output_padding` adds as zeros, although products reach into them.
"""

import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from distiq.runtimes.lowering import copy_of_graph

aten = torch.ops.aten
AXES = {aten.conv_transpose1d.default: 1, aten.conv_transpose2d.input: 2}
KINDS = (nn.ConvTranspose1d, nn.ConvTranspose2d)
END = 2**63 - 1  # of a slice that goes on to the last row
DEFAULTS: tuple[Any, ...] = (None, 1, 0, 0, 1, 1)  # bias, stride, padding, output_padding, groups, dilation


class _Cut(NamedTuple):
    """What takes the place of padding, a number for each axis: the `output_padding` that is left without padding, and
    the first and last (as in slices) of the rows that stay."""

    beyond: list[int]
    first: list[int]
    last: list[int | None]


def _cut(kernel: Sequence[int], stride: Any, padding: Any, more: Any, dilation: Any) -> _Cut | None:
    """None where LiteRT computes the layer as it is."""
    stride, padding, more, dilation = (_each(value, len(kernel)) for value in (stride, padding, more, dilation))
    rows = list(zip(kernel, stride, padding, more, dilation, strict=True))
    if not any(more) and all(not cut or (size - step == 2 * cut and apart == 1) for size, step, cut, _, apart in rows):
        return None
    pairs = list(zip(more, padding, strict=True))
    last = [own - cut if own < cut else None for own, cut in pairs]
    return _Cut([max(0, own - cut) for own, cut in pairs], padding, last)


def _each(value: Any, count: int) -> list[int]:
    return list(value) * (count // len(value)) if isinstance(value, Sequence) else [value] * count


class _Unpadded(nn.Module):
    """A transposed convolution without padding, whose output is sliced; it is called as a module, so its hooks run."""

    def __init__(self, layer: nn.ConvTranspose1d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        layer: Any = self.layer
        own = layer.padding, layer.output_padding
        sizes, count = (layer.stride, layer.padding, layer.kernel_size), len(layer.kernel_size)
        more = layer._output_padding(x, output_size, *sizes, count, layer.dilation)
        cut = _cut(layer.kernel_size, layer.stride, layer.padding, more, layer.dilation)
        if cut is not None:
            layer.padding, layer.output_padding = (0,) * count, tuple(cut.beyond)
        try:
            x = layer(x, None if cut is not None else output_size)
        finally:
            layer.padding, layer.output_padding = own
        for axis, first, last in _slices(cut):
            x = x.narrow(axis, first, x.shape[axis] - first + (last or 0))
        return x


def without_padding(network: nn.Module) -> nn.Module:
    """A float network in which no transposed convolution has padding that LiteRT lacks, in place.

    Layers whose `forward` is not torch's stay as they are.
    """
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if isinstance(module, KINDS) and type(module).forward in (kind.forward for kind in KINDS):
            owner, _, attribute = name.rpartition(".")
            if not attribute:
                return _Unpadded(module)
            setattr(network.get_submodule(owner), attribute, _Unpadded(module))
    return network


def with_cut_outputs(reference: fx.GraphModule) -> fx.GraphModule:
    """A copy of a reference graph in which no transposed convolution has padding that LiteRT lacks."""
    graph = copy_of_graph(reference)
    for layer in list(graph.graph.nodes):
        if layer.target not in AXES:
            continue
        given: list[Any] = list(layer.args[2:])
        bias, stride, padding, more, groups, dilation = (*given, *DEFAULTS[len(given) :])
        cut = _cut(_shape_of(graph, layer.args[1])[2:], stride, padding, more, dilation)
        if cut is None:
            continue
        stride, dilation = (_each(value, len(cut.first)) for value in (stride, dilation))
        layer.args = (*layer.args[:2], bias, stride, [0] * len(cut.first), cut.beyond, groups, dilation)
        value, users = layer, list(layer.users)
        for axis, first, last in _slices(cut):
            with graph.graph.inserting_after(value):
                value = graph.graph.call_function(
                    aten.slice.Tensor, (value, axis, first, END if last is None else last)
                )
        for user in users:
            user.replace_input_with(layer, value)
    graph.recompile()
    return graph


def is_of_rows(layer: fx.Node) -> bool:
    """Whether it is a transposed convolution of one dimension, whose integer weights litert-torch puts out of order."""
    return layer.target is aten.conv_transpose1d.default


def _slices(cut: _Cut | None) -> Iterator[tuple[int, int, int | None]]:
    if cut is not None:
        yield from ((axis, *ends) for axis, ends in enumerate(zip(cut.first, cut.last, strict=True), 2) if any(ends))


def _shape_of(graph: fx.GraphModule, weight: Any) -> torch.Size:
    while weight.op != "get_attr":
        weight = weight.all_input_nodes[0]
    shape: torch.Size = operator.attrgetter(str(weight.target))(graph).shape
    return shape
