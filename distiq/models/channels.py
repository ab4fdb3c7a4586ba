"""Which channels of a convolution network belong together: read from its exported graph."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from distiq.errors import UserError, first_line

KEEPING = {  # operations that leave every channel where it is
    "relu", "relu_", "relu6", "relu6_", "hardtanh", "hardtanh_", "silu", "silu_", "gelu", "hardswish", "hardswish_",
    "hardsigmoid", "hardsigmoid_", "sigmoid", "sigmoid_", "tanh", "tanh_", "elu", "elu_", "leaky_relu", "leaky_relu_",
    "softplus", "mish", "mish_", "dropout", "dropout_", "feature_dropout", "clamp", "clamp_", "neg", "abs", "exp",
    "sqrt", "square", "pow", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d", "upsample_nearest2d",
    "upsample_bilinear2d", "contiguous", "clone", "detach", "to", "_to_copy", "alias",
}  # fmt: skip
JOINING = {"add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "maximum", "minimum"}
CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "convolution", "_convolution"}
TRANSPOSED = {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}


class Channels:
    """Channels that stay or go together. `first` is the one that stands for all that were joined with it; `parts` are
    what it turned out to be put together from."""

    def __init__(self, size: int) -> None:
        self.size, self.is_fixed = size, False
        self.parts: tuple[Channels, ...] = ()
        self._joined: Channels | None = None

    @property
    def first(self) -> "Channels":
        return self if self._joined is None else self._joined.first

    def join(self, other: "Channels") -> None:
        """Both leave together from now on."""
        one, two = self.first, other.first
        if one is not two:
            two._joined = one
            one.is_fixed = one.is_fixed or two.is_fixed


class Segment(NamedTuple):
    """A run of positions of a dimension: each of the channels `repeat` times in a row."""

    channels: Channels
    repeat: int = 1

    @property
    def size(self) -> int:
        return self.channels.size * self.repeat


Layout = tuple[Segment, ...]


def resolved(layout: Layout) -> Layout:
    """The layout by the channels that stand for others, and by the parts of what was put together."""
    plain: list[Segment] = []
    for segment in layout:
        first = segment.channels.first
        parts = resolved(tuple(Segment(part, segment.repeat) for part in first.parts))
        plain += parts or (Segment(first, segment.repeat),)
    return tuple(plain)


class Use(NamedTuple):
    """A dimension of a parameter or buffer that channels run along."""

    name: str
    dimension: int
    layout: Layout


@dataclass
class Groups:
    """What is known of a network's channels after its graph was read."""

    uses: list[Use] = field(default_factory=list)
    read_otherwise: set[str] = field(default_factory=set)  # parameters that an operation reads which is not understood
    layouts: dict[fx.Node, Layout] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)  # how often each value of a weight is multiplied, for one input

    def roots(self) -> list[Channels]:
        """The groups that may lose channels, in the order of the graph."""
        firsts = dict.fromkeys(segment.channels for use in self.uses for segment in resolved(use.layout))
        return [channels for channels in firsts if not channels.is_fixed]


def read(model: nn.Module, example: Tensor) -> Groups:
    """The groups of a network's channels, by the operations that it runs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, (example,))
    except Exception as error:  # torch.export raises many kinds, none of them public
        raise UserError(f"keep_channels, keep_macs: the network cannot be traced ({first_line(error)})") from error
    kinds = (InputKind.PARAMETER, InputKind.BUFFER)
    named = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.kind in kinds}
    groups, by_name = Groups(), dict[tuple[str, int], Layout]()
    for node in program.graph.nodes:
        if node.op == "call_function":
            _visit(node, groups, named, by_name)
        elif node.op == "output":
            _fix_all(node, groups, named)
    for use in groups.uses:
        if use.name in groups.read_otherwise:
            _fix(use.layout)
    return groups


def _visit(node: fx.Node, groups: Groups, named: dict[str, str | None], by_name: dict[tuple[str, int], Layout]) -> None:
    """Says where the channels of an operation's output come from; what is not understood keeps all its inputs'."""
    given: tuple[Any, ...] = node.args
    kind = node.target.overloadpacket.__name__ if hasattr(node.target, "overloadpacket") else ""
    inputs = [one for one in node.all_input_nodes if one.name not in named]
    weights = [named[one.name] if isinstance(one, fx.Node) and one.name in named else None for one in given]
    layouts = [_layout(groups, one) for one in inputs]

    def use(name: str | None, dimension: int, layout: Layout) -> None:
        if name is None:
            return
        if (before := by_name.get((name, dimension))) is not None:
            _join(before, layout)
        by_name[name, dimension] = layout
        groups.uses.append(Use(name, dimension, layout))

    result: Layout | None = None
    if kind in CONVOLUTIONS and len(inputs) == 1 and (weight := weights[1]):
        result = _convolution(node, weight, weights[2] if len(weights) > 2 else None, layouts[0], use)
        groups.rows[weight] = groups.rows.get(weight, 0) + math.prod(_shape(node)[2:])
    elif kind == "linear" and len(inputs) == 1 and (weight := weights[1]) and _dimensions(inputs[0]) == 2:
        result = (Segment(Channels(_shape(node)[1])),)
        groups.rows[weight] = groups.rows.get(weight, 0) + 1
        use(weight, 0, result)
        use(weight, 1, layouts[0])
        use(weights[2] if len(weights) > 2 else None, 0, result)
    elif kind in TRANSPOSED and len(inputs) == 1 and (weight := weights[1]):  # all its channels stay
        groups.rows[weight] = groups.rows.get(weight, 0) + math.prod(_shape(inputs[0])[2:])
    elif kind == "batch_norm" and len(inputs) == 1:
        result = layouts[0]
        for name in weights[1:5]:
            use(name, 0, result)
    elif kind == "prelu" and len(inputs) == 1:
        result = layouts[0]
        if _shape(given[1])[0] > 1:
            use(weights[1], 0, result)
    elif (kind in KEEPING and len(inputs) == 1) or (kind == "mean" and _keeps_channels(node)):
        result = layouts[0]
    elif kind in JOINING and not any(weights):
        result = _joined(inputs, layouts)
    elif kind == "cat" and (given[1:] or (0,))[0] == 1:
        parts = [_layout(groups, one) for one in given[0]]
        result = tuple(segment for part in parts for segment in part)
    elif kind in ("flatten", "view", "reshape", "_unsafe_view") and _flattens(node):
        repeat = _shape(node)[1] // _shape(inputs[0])[1]
        result = tuple(Segment(segment.channels, segment.repeat * repeat) for segment in layouts[0])
    if result is None or sum(segment.size for segment in result) != (_shape(node) or (0, 0))[1:2][0]:
        _fix_all(node, groups, named)
        return
    groups.layouts[node] = result


def _convolution(
    node: fx.Node, weight: str, bias: str | None, layout: Layout, use: Callable[[str | None, int, Layout], None]
) -> Layout | None:
    """Of a convolution, or one of each channel for itself; None of one of other groups."""
    channels, grouped = _shape(node)[1], _shape(node.args[1])
    if grouped[1] == _shape(node.args[0])[1]:
        made: Layout = (Segment(Channels(channels)),)
        use(weight, 1, layout)
    elif grouped[1] == 1 and channels % _shape(node.args[0])[1] == 0:
        times = channels // _shape(node.args[0])[1]
        made = tuple(Segment(segment.channels, segment.repeat * times) for segment in layout)
    else:
        return None
    use(weight, 0, made)
    use(bias, 0, made)
    return made


def _layout(groups: Groups, node: fx.Node) -> Layout:
    """Where a value's channels come from; those of an input, or of what is not understood, stay."""
    if node not in groups.layouts:
        size = (_shape(node) or (0, 0))[1:2]
        fixed = Channels(size[0] if size else 0)
        fixed.is_fixed = True
        groups.layouts[node] = (Segment(fixed),)
    return groups.layouts[node]


def _joined(inputs: Sequence[fx.Node], layouts: Sequence[Layout]) -> Layout | None:
    """Of values that are added or multiplied place by place: their channels leave together."""
    whole = max((_shape(one) or (0, 0))[1:2] or (0,) for one in inputs)
    alike = [layout for one, layout in zip(inputs, layouts, strict=True) if (_shape(one) or ())[1:2] == whole]
    if len({_dimensions(one) for one in inputs}) > 1 or not alike:
        return None
    for layout in alike[1:]:
        _join(alike[0], layout)
    return alike[0]


def _join(one: Layout, other: Layout) -> None:
    """Channels at the same places leave together; where the places do not match, they stay."""
    one, other = resolved(one), resolved(other)
    if [(segment.size, segment.repeat) for segment in one] == [(segment.size, segment.repeat) for segment in other]:
        for first, second in zip(one, other, strict=True):
            first.channels.join(second.channels)
        return
    for single, parts in ((one, other), (other, one)):
        if len(single) == 1 and all(segment.repeat == 1 for segment in (*single, *parts)):
            single[0].channels.parts = tuple(segment.channels for segment in parts)
            if single[0].channels.is_fixed:
                _fix(parts)
            return
    _fix((*one, *other))


def _fix(layout: Layout) -> None:
    for segment in resolved(layout):
        segment.channels.is_fixed = True


def _fix_all(node: fx.Node, groups: Groups, named: dict[str, str | None]) -> None:
    for one in node.all_input_nodes:
        _fix(groups.layouts.get(one, ()))
        if name := named.get(one.name):
            groups.read_otherwise.add(name)


def _shape(node: object) -> tuple[int, ...]:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _dimensions(node: fx.Node) -> int:
    return len(_shape(node))


def _keeps_channels(node: fx.Node) -> bool:
    """Whether a mean is over other dimensions than the channels'."""
    given: tuple[Any, ...] = node.args
    over = given[1] if len(given) > 1 else None
    return isinstance(over, list | tuple) and all(one % len(_shape(given[0])) > 1 for one in over)


def _flattens(node: fx.Node) -> bool:
    """Whether a value (B, C, ...) becomes (B, C * ...)."""
    before, after = _shape(node.args[0]), _shape(node)
    return len(before) >= 2 and len(after) == 2 and before[0] == after[0] and after[1] % before[1] == 0
