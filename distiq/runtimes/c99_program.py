"""A network as a list of C calls over buffers, for one sample, and where in the arena each buffer lies."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distiq.errors import UserError
from distiq.models.signature import AffineParameters

ALIGNMENT = 16
MOST_AXES = 6  # of a move
Q31, CMSIS = "DISTIQ_Q31", "DISTIQ_CMSIS_NN"  # macros; fields of a step under these names are theirs alone
Kind = Literal["int8", "int16", "float32"]
WIDTH = {"int8": 1, "int16": 2, "float32": 4}
ENDING = {"int8": "s8", "int16": "s16", "float32": "f32"}  # of kernels' names
BOUNDS: dict[Kind, tuple[int, int]] = {"int8": (-128, 127), "int16": (-32768, 32767)}


@dataclass(frozen=True, eq=False)
class Buffer:
    """Memory of one tensor: in the arena, given by the caller ("input_0"), or a constant array of that name."""

    name: str
    count: int
    kind: Kind
    is_external: bool = False

    @property
    def size(self) -> int:
        """In bytes, as the arena is divided."""
        return -(-self.count * WIDTH[self.kind] // ALIGNMENT) * ALIGNMENT


class Value(NamedTuple):
    """A tensor of one sample: the strides of a meta tensor (1, ...) say how it lies in its buffer.

    Attributes:
        affine: how its integers are quantized; None of floats.
        unflattened: for features in the memory order of a feature map, that feature map.
    """

    buffer: Buffer
    layout: Tensor
    affine: AffineParameters | None = None
    unflattened: "Value | None" = None

    @property
    def reference(self) -> str:
        """The pointer to it in C."""
        start = int(self.layout.storage_offset())
        return f"{self.buffer.name} + {start}" if start else self.buffer.name

    @property
    def kind(self) -> Kind:
        return self.buffer.kind


class Array(NamedTuple):
    """A constant of the C file; `about` is what is needed to read it back, `macros` are those without which no kernel
    uses it."""

    name: str
    values: np.ndarray
    about: dict[str, Any] | None = None
    macros: tuple[str, ...] = ()


class Step(NamedTuple):
    """One call: `struct` holds what does not change, `arguments` are pointers."""

    kernel: str
    struct: str
    fields: dict[str, Any]
    reads: tuple[Buffer, ...]
    writes: Buffer
    scratch: Buffer | None
    arguments: tuple[str, ...]
    operation: str
    kind: Kind
    macs: int


@dataclass
class Program:
    """Steps and constants in order of creation; `module` is the named module that the next ones belong to."""

    steps: list[Step] = field(default_factory=list)
    arrays: list[Array] = field(default_factory=list)
    quantized: dict[Buffer, AffineParameters] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    count: int = 0
    module: str = ""

    def name(self, letter: str) -> str:
        self.count += 1
        return f"{letter}{self.count}"

    def array(self, values: np.ndarray, about: dict[str, Any] | None = None, macros: tuple[str, ...] = ()) -> str:
        """The name of a new constant; equal ones that are not read back are kept once."""
        for one in self.arrays:
            if (about, one.about, one.macros) != (None, None, macros):
                continue
            if one.values.dtype == values.dtype and np.array_equal(one.values, values):
                return one.name
        self.arrays.append(Array(self.name("c"), np.ascontiguousarray(values), about, macros))
        return self.arrays[-1].name

    def new(self, layout: Tensor, affine: AffineParameters | None = None, kind: Kind = "int8") -> Value:
        """A tensor in the arena, as integers of that kind where `affine` says how."""
        buffer = Buffer(self.name("t"), layout.numel(), "float32" if affine is None else kind)
        if affine is not None:
            self.quantized[buffer] = affine
        return Value(buffer, layout, affine)

    def constant(self, values: Tensor, order: Sequence[int]) -> Value:
        """Floats of the file, their axes in that order in memory."""
        laid = values.detach().float().permute(*order).contiguous()
        buffer = Buffer(self.array(laid.numpy()), values.numel(), "float32", is_external=True)
        return Value(buffer, ordered_layout(tuple(values.shape), order))

    def step(
        self, kernel: str, struct: str, fields: dict[str, Any], reads: Iterable[Value], writes: Value, operation: str,
        macs: int = 0, scratch: Buffer | None = None,
    ) -> Value:  # fmt: skip
        """Adds a call, and returns what it writes."""
        reads = tuple(reads)
        passed = [one.reference for one in reads] + ([scratch.name] if scratch else []) + [writes.reference]
        seen = reads[0] if reads and operation != "quantize" else writes
        buffers = tuple(one.buffer for one in reads)
        self.steps.append(
            Step(
                kernel,
                struct,
                fields,
                buffers,
                writes.buffer,
                scratch,
                tuple(passed),
                self.module + operation,
                seen.kind,
                macs,
            )
        )
        return writes


# How tensors lie in memory --------------------------------------------------------------------------------------------


def ordered_layout(shape: Sequence[int], order: Sequence[int]) -> Tensor:
    """A dense tensor of that shape with its axes in that order, outermost first."""
    made = torch.empty([shape[axis] for axis in order], device="meta")
    return made.permute(*[order.index(axis) for axis in range(len(shape))])


def order_of(layout: Tensor) -> tuple[int, ...] | None:
    """Axes of a dense tensor from the outermost to the innermost, those of one place last; None where it has gaps."""
    wide = [axis for axis, size in enumerate(layout.shape) if size > 1]
    order = sorted(wide, key=lambda axis: -layout.stride()[axis])
    expected = 1
    for axis in reversed(order):
        if layout.stride()[axis] != expected:
            return None
        expected *= layout.shape[axis]
    return (*order, *(axis for axis, size in enumerate(layout.shape) if size <= 1))


def lies_in(layout: Tensor, order: Sequence[int]) -> bool:
    """Whether a tensor is dense with its axes in that order."""
    axes = order_of(layout)
    return axes is not None and [axis for axis in axes if layout.shape[axis] > 1] == [
        axis for axis in order if layout.shape[axis] > 1
    ]


def channels_last(axes: int) -> tuple[int, ...]:
    """Batch, places, channels."""
    return (0, *range(2, axes), 1) if axes > 1 else tuple(range(axes))


# Moves ----------------------------------------------------------------------------------------------------------------


def settled(program: Program, value: Value) -> Value:
    """The value in the order of its own shape, where it was a feature map in another."""
    if value.unflattened is None:
        return value
    plain = in_order(program, value.unflattened, range(value.unflattened.layout.ndim))
    return value._replace(buffer=plain.buffer, layout=plain.layout.view(value.layout.shape), unflattened=None)


def in_order(program: Program, value: Value, order: Sequence[int]) -> Value:
    """The value with its axes in that order in memory; moved if it lies otherwise."""
    value = settled(program, value)
    if lies_in(value.layout, order):
        return value
    to = program.new(ordered_layout(tuple(value.layout.shape), order), value.affine, value.kind)
    return move(program, value, to, to.layout, "transpose")


def dense(program: Program, value: Value) -> Value:
    """The value without gaps, in the order in which it lies."""
    value = settled(program, value)
    if order_of(value.layout) is not None:
        return value
    axes = sorted(range(value.layout.ndim), key=lambda axis: -value.layout.stride()[axis])
    return in_order(program, value, axes)


def same_layout(value: Value) -> Tensor:
    """A layout in the order of a dense value."""
    order = order_of(value.layout)
    assert order is not None
    return ordered_layout(tuple(value.layout.shape), order)


def move(program: Program, value: Value, to: Value, place: Tensor, operation: str) -> Value:
    """Copies a value into a part of another."""
    sizes, source, target = _merged(value.layout, place)
    if len(sizes) > MOST_AXES:
        raise UserError(
            f"C99: a tensor of {len(sizes)} axes is put in another order; at most {MOST_AXES} are supported"
        )
    missing = MOST_AXES - len(sizes)
    fields = {
        "sizes": [1] * missing + sizes,
        "from": [0] * missing + source,
        "to": [0] * missing + target,
        "from_start": int(value.layout.storage_offset()),
        "to_start": int(place.storage_offset()),
    }
    start = value._replace(layout=value.layout.as_strided(value.layout.shape, value.layout.stride(), 0))
    return program.step(f"move_{ENDING[value.kind]}", "distiq_move", fields, [start], to, operation)


def _merged(source: Tensor, target: Tensor) -> tuple[list[int], list[int], list[int]]:
    """Sizes and strides of the fewest axes that one pass over both tensors needs, in the order of the target."""
    axes = [axis for axis, size in enumerate(source.shape) if size > 1]
    axes.sort(key=lambda axis: -target.stride()[axis])
    merged: list[list[int]] = []
    for axis in axes:
        size, of_source, of_target = source.shape[axis], source.stride()[axis], target.stride()[axis]
        if merged and merged[-1][1] == of_source * size and merged[-1][2] == of_target * size:
            merged[-1] = [merged[-1][0] * size, of_source, of_target]
        else:
            merged.append([size, of_source, of_target])
    merged = merged or [[1, 0, 0]]
    return [one[0] for one in merged], [one[1] for one in merged], [one[2] for one in merged]


# The arena ------------------------------------------------------------------------------------------------------------


class Arena(NamedTuple):
    """Where each buffer starts, the total bytes, and the most bytes live at once, a lower bound for every plan."""

    starts: dict[Buffer, int]
    size: int
    lower_bound: int


def planned(program: Program) -> Arena:
    """Lets buffers that are never live together share memory, each at the lowest free offset; tries several orders."""
    lives = _lifetimes(program)
    orders: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
        lambda one: (-one.size, *lives[one]),
        lambda one: (*lives[one], -one.size),
        lambda one: (-lives[one][1], lives[one][0], -one.size),
        lambda one: (-one.size * (1 + lives[one][1] - lives[one][0]), *lives[one]),
        lambda one: (lives[one][0] - lives[one][1], -one.size),
    )
    plans = [_placed(sorted(lives, key=order), lives) for order in orders]
    starts = min(plans, key=_end)
    at_once = [
        sum(one.size for one, (first, last) in lives.items() if first <= number <= last)
        for number in range(len(program.steps))
    ]
    return Arena(starts, _end(starts), max(at_once, default=0))


def _placed(buffers: Sequence[Buffer], lives: Mapping[Buffer, tuple[int, int]]) -> dict[Buffer, int]:
    starts: dict[Buffer, int] = {}
    for buffer in buffers:
        first, last = lives[buffer]
        beside = [one for one in starts if lives[one][0] <= last and first <= lives[one][1]]
        start = 0
        for other in sorted(beside, key=lambda one: starts[one]):
            if start + buffer.size <= starts[other]:
                break
            start = max(start, starts[other] + other.size)
        starts[buffer] = start
    return starts


def _end(starts: Mapping[Buffer, int]) -> int:
    return max((start + buffer.size for buffer, start in starts.items()), default=0)


def _lifetimes(program: Program) -> dict[Buffer, tuple[int, int]]:
    """The first and the last step of each buffer of the arena."""
    lives: dict[Buffer, tuple[int, int]] = {}
    outside = {value.buffer for value in (*program.inputs, *program.outputs)}
    for number, step in enumerate(program.steps):
        used = (*step.reads, step.writes, *([step.scratch] if step.scratch else []))
        for buffer in used:
            if not buffer.is_external and buffer not in outside:
                lives[buffer] = lives.get(buffer, (number, number))[0], number
    return lives
