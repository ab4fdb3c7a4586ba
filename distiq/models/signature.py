"""Signature: the names, shapes and types of a network's inputs and outputs, from the module to the device.

One convention everywhere: a network's inputs are one Tensor, or a dict of several by name, and so are its outputs. A
single input or output is a Tensor, whatever its name: the simple case of the same convention, not another one.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from distiq.errors import UserError

Tensors = Tensor | dict[str, Tensor]
"""Inputs or outputs: the only one, or several by name; batch first."""
Predict = Callable[[Tensors], Tensors]
"""A network, or a file as its runtime's `load` opens it: inputs (B, ...) -> outputs.

Inputs are one Tensor, or a dict of several by the names of the signature; outputs likewise. A file of one input takes a
dict of one, too. Files take normalized float32, unless their signature says otherwise, and give float32.
"""
INPUT, OUTPUT = "input", "logits"
"""Names of a single input and a single output that are given as Tensors."""
NAMES = "distiq_names"
"""Where an exported graph keeps the names of its inputs and outputs: `graph.meta[NAMES]`."""


class AffineParameters(NamedTuple):
    """How a tensor of integers is quantized: value = (integer - zero_point) * scale."""

    scale: float
    zero_point: int


class TensorSpec(NamedTuple):
    """An input or output: its name, its shape, batch first and -1 where a size is free, and its type."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    quantization: AffineParameters | None = None


class Signature(NamedTuple):
    """What a network or a file takes and gives, each in its order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """Both sides as lists of name, shape and type, and of integers scale and zero point."""
        return {"inputs": [_plain(one) for one in self.inputs], "outputs": [_plain(one) for one in self.outputs]}

    @classmethod
    def from_json(cls, plain: Mapping[str, Sequence[Mapping[str, Any]]]) -> "Signature":
        """The signature that `to_json` wrote."""
        return cls(*(tuple(_spec(one) for one in plain[side]) for side in ("inputs", "outputs")))


def type_name(dtype: torch.dtype) -> str:
    """A type as people and files write it: "float32"."""
    return str(dtype).removeprefix("torch.")


def _plain(spec: TensorSpec) -> dict[str, Any]:
    plain = {"name": spec.name, "shape": list(spec.shape), "type": type_name(spec.dtype)}
    return plain | (spec.quantization._asdict() if spec.quantization else {})


def _spec(plain: Mapping[str, Any]) -> TensorSpec:
    quantization = AffineParameters(plain["scale"], plain["zero_point"]) if "scale" in plain else None
    return TensorSpec(plain["name"], tuple(plain["shape"]), getattr(torch, plain["type"]), quantization)


# Values by name -------------------------------------------------------------------------------------------------------


def in_order(inputs: Tensors, names: Sequence[str], what: str) -> list[Tensor]:
    """Inputs in the order of a network's names.

    Args:
        what: the network or the file, for messages.

    Raises:
        UserError: an input is missing, or the network has none of that name.
    """
    if isinstance(inputs, Tensor):
        if len(names) != 1:
            raise UserError(f"{what}: takes {len(names)} inputs, by name ({', '.join(names)}); one tensor is given")
        return [inputs]
    if set(inputs) != set(names):
        raise UserError(f"{what}: takes {', '.join(names)}; {', '.join(inputs) or 'nothing'} is given")
    return [inputs[name] for name in names]


def for_graph(inputs: Tensors, graph: fx.GraphModule) -> list[Tensor]:
    """Inputs in the order of an exported graph's placeholders."""
    return in_order(inputs, graph.meta[NAMES][0], "the network")


def by_name(values: Sequence[Tensor], names: Sequence[str]) -> Tensors:
    """Values in the order of their names, as the convention has them."""
    return values[0] if len(names) == 1 else dict(zip(names, values, strict=True))


def of_arrays(run: Callable[[Any], Any], names: Sequence[str], what: str) -> Predict:
    """A `predict` of what computes on arrays as the bundle's runner does: inputs by name, outputs alone or by name."""

    def predict(given: Tensors) -> Tensors:
        outputs = run({name: one.numpy() for name, one in zip(names, in_order(given, names, what), strict=True)})
        arrays = outputs if isinstance(outputs, dict) else {"": outputs}
        return by_name([torch.from_numpy(one) for one in arrays.values()], list(arrays))

    return predict


def each(function: Callable[[Tensor], Tensor], values: Tensors) -> Tensors:
    """The function applied to every tensor."""
    return function(values) if isinstance(values, Tensor) else {name: function(one) for name, one in values.items()}


def tensors_of(values: Tensors) -> list[Tensor]:
    """The tensors without their names."""
    return [values] if isinstance(values, Tensor) else list(values.values())


def batch_size(values: Tensors) -> int:
    """How many samples there are."""
    return len(tensors_of(values)[0])


def split(values: Tensors, size: int) -> Iterator[Tensors]:
    """Batches of at most `size` samples."""
    for start in range(0, batch_size(values), size):
        yield each(lambda one, start=start: one[start : start + size], values)  # type: ignore[misc]


def concatenated(parts: Sequence[Tensors]) -> Tensors:
    """Batches joined to one."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    return {name: torch.cat([part[name] for part in parts]) for name in first}  # type: ignore[index]


# What networks return -------------------------------------------------------------------------------------------------


def read_outputs(returned: Any) -> Tensors:
    """What a network returned, as the convention has it: a Tensor, a tuple, a dict or an output of transformers.

    Outputs are called by their keys, those of a tuple "output_0", "output_1", ...; nested ones by both, as
    "hidden_states_1". What is None is left out.

    Raises:
        UserError: it holds no tensor, or something other than tensors.
    """
    if isinstance(returned, Tensor):
        return returned
    named = read_by_name(returned)
    return by_name(list(named.values()), list(named))


def read_by_name(returned: Any) -> dict[str, Tensor]:
    """What a network returned, by name even where it is a single tensor; see `read_outputs`."""
    named = dict(_named(returned, "" if not isinstance(returned, Tensor) else OUTPUT))
    if not named:
        raise UserError(f"the network returns {type(returned).__name__} without a tensor; return logits")
    return named


def _named(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    match value:
        case None:
            return
        case Tensor():
            yield name, value
        case Mapping():
            for key, item in value.items():
                yield from _named(item, f"{name}_{key}" if name else str(key))
        case tuple() | list():
            keys = getattr(value, "_fields", None) or range(len(value))
            start = "" if hasattr(value, "_fields") and not name else f"{name or 'output'}_"
            for key, item in zip(keys, value, strict=True):
                yield from _named(item, f"{start}{key}")
        case _:
            raise UserError(
                f"the network returns {type(value).__name__}{f' as {name}' if name else ''}; distiq reads tensors, and"
                " tuples and dicts of them"
            )


def one_output(returned: Any) -> Tensor:
    """The one output that a loss or a metric reads: the only one, or among several the one called "logits".

    Raises:
        UserError: there are several, and none is called so.
    """
    outputs = read_outputs(returned)
    if isinstance(outputs, Tensor):
        return outputs
    if OUTPUT not in outputs:
        raise UserError(f'the network gives {", ".join(outputs)}; the task reads one output: call it "{OUTPUT}"')
    return outputs[OUTPUT]


class OutputForm(NamedTuple):
    """What a task reads of a network: how many outputs for each sample (0: any number), at how many dimensions of
    places, such as none of a class, one of tokens, two of pixels; and how whatever the network returns becomes that one
    tensor."""

    outputs: int
    dimensions: int = 0
    read: Callable[[Any], Tensor] = one_output
    of_classes: int = 0

    @property
    def classes(self) -> int:
        """How many classes a network is made for: those that it tells apart, where it gives more than their logits."""
        return self.of_classes or self.outputs

    def fits(self, outputs: Tensor) -> bool:
        """Whether outputs (B, outputs, ...) have this form."""
        return outputs.ndim == 2 + self.dimensions and self.outputs in (0, outputs.shape[1])


def call(model: Callable[..., Any], inputs: Tensors) -> Tensors:
    """A network's outputs, however it returns them; several inputs are given by name."""
    return read_outputs(model(inputs) if isinstance(inputs, Tensor) else model(**inputs))


def specs(names: Sequence[str], tensors: Sequence[Tensor], free: Sequence[Collection[int]]) -> tuple[TensorSpec, ...]:
    """The specs of tensors.

    Args:
        free: for each tensor, the dimensions whose size may differ in another call.
    """
    return tuple(
        TensorSpec(name, tuple(-1 if axis in open_axes else size for axis, size in enumerate(one.shape)), one.dtype)
        for name, one, open_axes in zip(names, tensors, free, strict=True)
    )


# Networks for exporters -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Positional:
    """A network that takes its inputs by position and returns a tensor, or a tuple of tensors; with an example."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    @property
    def has_usual_names(self) -> bool:
        """Whether it is a network from a Tensor to a Tensor, whose names need not be kept."""
        return (self.input_names, self.output_names) == ((INPUT,), (OUTPUT,))

    def named(self, outputs: Any) -> Tensors:
        """What the module returned, by name."""
        return by_name([outputs] if isinstance(outputs, Tensor) else list(outputs), self.output_names)


@torch.no_grad()
def positional(model: nn.Module, example: Tensors) -> Positional:
    """A network in the one form that exporters take. Pass a copy: its `forward` may change.

    A network from a Tensor to a Tensor stays as it is, and so does an exported graph.

    Args:
        example: inputs (B, ...); the network is run on them to see what it returns.

    Raises:
        UserError: it has no such inputs, or returns something other than tensors.
    """
    if isinstance(model, fx.GraphModule) and NAMES in model.meta:
        input_names, output_names = model.meta[NAMES]
        return Positional(model, tuple(in_order(example, input_names, "the network")), input_names, output_names)
    before = [one.clone() for one in tensors_of(example)]
    if isinstance(example, Tensor):
        inputs: dict[str, Tensor] = {INPUT: example}
        returned = model(example)
    else:
        inputs = _as_declared(model, example)
        returned = model(**inputs)
    check_kept(before, example)
    _check_rows(read_by_name(returned), batch_size(example))
    if isinstance(example, Tensor) and isinstance(returned, Tensor):
        return Positional(model, (example,), (INPUT,), (OUTPUT,))
    forward, names = model.forward, () if isinstance(example, Tensor) else tuple(inputs)
    output_names = tuple(read_by_name(returned))

    def by_position(*tensors: Tensor) -> Any:
        read = read_outputs(forward(**dict(zip(names, tensors, strict=True))) if names else forward(*tensors))
        return read if isinstance(read, Tensor) else tuple(read.values())

    model.forward = by_position
    return Positional(model, tuple(inputs.values()), tuple(inputs), output_names)


def check_kept(before: Sequence[Tensor], inputs: Tensors) -> None:
    """Raises UserError where a network has changed its inputs: the next reader would see other values.

    Args:
        before: the inputs' values as they were.
    """
    for was, now in zip(before, tensors_of(inputs), strict=True):
        if not torch.equal(was.nan_to_num(), now.nan_to_num()):
            raise UserError("the network changes its input in place; write x = x - 1 in place of x -= 1 or x.sub_(1)")


def _check_rows(outputs: dict[str, Tensor], batch: int) -> None:
    """Raises UserError unless every output has a row for each sample."""
    for name, output in outputs.items():
        if output.ndim == 0 or len(output) != batch:
            raise UserError(
                f'the network gives "{name}" of shape {tuple(output.shape)} for {batch} samples; every output needs a'
                " row for each sample, which depends on that sample alone"
            )


def _as_declared(model: nn.Module, example: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs in the order in which the network's `forward` names them."""
    declared = inspect.signature(model.forward).parameters
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in declared.values())
    unknown = [name for name in example if name not in declared]
    if unknown and not takes_any:
        raise UserError(f"the network takes {', '.join(declared)}; it has no input called {', '.join(unknown)}")
    return {name: example[name] for name in (*(one for one in declared if one in example), *unknown)}
