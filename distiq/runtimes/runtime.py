"""Runtime: the one shape that every runtime has. Each is a constant at the end of its own file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn

from distiq.models.signature import Predict, Signature, Tensors
from distiq.recipe.quantize import Mode
from distiq.runtimes.uint8_input import Uint8Input


class Work(NamedTuple):
    """What a file multiplies for one sample: multiply-adds, and whether its layers are of integers."""

    macs: int
    is_int8: bool


class Footprint(NamedTuple):
    """What a file occupies on a microcontroller, in bytes: flash is code and constants, RAM all that it writes to.

    None marks an unknown size, such as flash where no cross compiler is installed.
    """

    flash_bytes: int | None
    ram_bytes: int | None


class FileOptions(NamedTuple):
    """How a file differs from the plain one, which takes and gives float32.

    Attributes:
        named: module paths; where the format keeps names, what computes in them carries the path in its name.
        uint8_input: the file takes uint8 images and normalizes them so.
        integer_io: the file takes (unless it takes uint8 images) and gives int8.
        half: large constants whose values are those of float16 are stored so and cast when the file is loaded.
    """

    named: Sequence[str] = ()
    uint8_input: Uint8Input | None = None
    integer_io: bool = False
    half: bool = False


class Refusal(NamedTuple):
    """The part of a scheme that a runtime's files cannot hold, and the nearest setting that they can, both in words."""

    what: str
    nearest: str


class Weight(NamedTuple):
    """A layer's integers (O, I, ...) and its scales (O,), or both of its groups: (O * I / group, group).

    A table of embeddings is read and a weight-only layer computed in float32: their integers are not multiplied.
    """

    integers: np.ndarray
    scales: np.ndarray
    is_multiplied: bool = True


class QuantizationParameters(NamedTuple):
    """What a quantized file or graph holds: integer weights, float32 weights, and (scale, zero point) of activations.

    Zero points are those of int8. `tolerance` is how exactly the scales of activations could be read. `constants` are
    the graph's constant activations, such as embeddings of relative positions, which a file may hold as integers.
    """

    weights: tuple[Weight, ...]
    floats: tuple[np.ndarray, ...]
    activations: frozenset[tuple[float, int]]
    tolerance: float = 1e-9
    constants: tuple[Weight, ...] = ()

    def differs_from(self, graph: "QuantizationParameters") -> str:
        """What in these parameters, read from a file, is not the graph's; empty where all is."""
        expected = {_bytes_of(weight.integers, weight.scales) for weight in (*graph.weights, *graph.constants)}
        stored = {_bytes_of(weight.integers, weight.scales) for weight in self.weights}
        if stored - expected:
            return f"{len(stored - expected)} integer weights are not the graph's"
        values = {_bytes_of(dequantized(weight)) for weight in self.weights} | {_bytes_of(one) for one in self.floats}
        of_graph = [dequantized(weight) for weight in graph.weights]
        if missing := [value for value in of_graph if _bytes_of(value) not in values and not self._was_read(value)]:
            return f"{len(missing)} of the graph's weights are not in the file"
        strange = [one for one in self.activations if not self._has(graph, one)]
        return f"the graph quantizes no activation so (scale, zero point): {sorted(strange)}" if strange else ""

    def _was_read(self, table: np.ndarray) -> bool:
        """Whether the file holds, in place of a table, only the rows that the network always reads, such as segments.

        Rows of zeros, such as that of the padding, say nothing.
        """
        width = table.shape[-1]
        rows = [one.reshape(-1, width) for one in self.floats if table.ndim == 2 and one.shape[-1] == width]
        return any((table == row).all(1).any() for part in rows for row in np.unique(part, axis=0) if row.any())

    def _has(self, graph: "QuantizationParameters", one: tuple[float, int]) -> bool:
        return any(
            zero_point == one[1] and abs(scale - one[0]) <= self.tolerance for scale, zero_point in graph.activations
        )


def dequantized(weight: Weight) -> np.ndarray:
    """The float32 values of a weight."""
    shape = (-1, *[1] * (weight.integers.ndim - 1))
    return weight.integers.astype(np.float32) * weight.scales.astype(np.float32).reshape(shape)


def _bytes_of(*arrays: np.ndarray) -> bytes:
    """Arrays in one order of bytes; axes of length 1 make no difference, since runtimes add and drop them."""
    return b"/".join(np.ascontiguousarray(np.squeeze(array)).tobytes() for array in arrays)


def only_static_int8(mode: Mode, activation_bits: int, _group_size: int) -> Refusal | None:
    """Why a runtime that holds int8 weights and activations alone refuses a scheme; None where it takes it."""
    match mode:
        case "dynamic":
            return Refusal("activations that are quantized at each run", 'mode = "static"')
        case "weight_only":
            return Refusal("integer weights beside float32 activations", 'mode = "static"')
        case "float16":
            return Refusal("float16 weights", 'mode = "static"')
    return None if activation_bits == 8 else Refusal("activations of 16 bits", "activation_bits = 8")


def one_file(path: Path) -> tuple[Path, ...]:
    """The parts of a model that is a single file."""
    return (path,)


@dataclass(frozen=True)
class Runtime:
    """A runtime: what it is called, what it needs and accepts, and the functions of its file.

    Attributes:
        name: in recipes, such as "onnxruntime". title: for people, such as "ONNX Runtime".
        suffix: that its files end with.
        packages: what has to be importable. install: the versions that are known to work together, for pip.
        imported: the module that a device imports to run a file.
        export: writes a network, float32 or the reference graph of a quantized one, with a dynamic batch.
        load: opens a file with so many threads, and options of the runtime by their names there.
        signature: reads what a file takes and gives; of integers also how they are quantized.
        quantization_parameters: reads a file's integers and scales back.
        operations: counts a file's operations by kind and type, kinds in the runtime's own words; 8-bit types of either
            sign are "int8".
        float_operations: names the operations that compute in float32 in a quantized file.
        refuses: says why its files cannot hold a scheme of that mode, bits of activations and group size.
        uint8_input: whether it writes files that take uint8 images.
        integer_io: whether it writes files that take and give int8.
        wide: whether it computes 16-bit activations in integers.
        settings: options beside threads under which a file can run faster, the default (none) first.
        work: counts a file's multiply-adds for a sample, given the shape of each of its inputs in the file's order;
            None where no count is written.
        parts: the files that a model consists of.
        may_saturate: whether a file's integers can saturate on an x86 CPU without VNNI, whose kernels would add two
            products in 16 bits.
        write_beside: writes what a bundle has beside a file to replay samples, given with their outputs; returns it.
        footprint: what a file takes of a microcontroller's flash and RAM.
        lacks_measure: says what is not here that measuring flash takes, with what to install.
        lacks_tool: says what else is needed to write a file and is not here, with what to install.
    """

    name: str
    title: str
    suffix: str
    packages: tuple[str, ...]
    install: str
    imported: str
    export: Callable[[nn.Module, Tensors, Path, FileOptions], None]
    load: Callable[[Path, int, Mapping[str, str]], Predict]
    signature: Callable[[Path], Signature]
    quantization_parameters: Callable[[Path], QuantizationParameters]
    operations: Callable[[Path], dict[str, dict[str, int]]]
    float_operations: Callable[[Path], tuple[str, ...]]
    refuses: Callable[[Mode, int, int], Refusal | None] = only_static_int8
    uint8_input: bool = False
    integer_io: bool = False
    wide: bool = False
    settings: tuple[Mapping[str, str], ...] = ({},)
    work: Callable[[Path, Sequence[Sequence[int]]], Work | None] | None = None
    parts: Callable[[Path], tuple[Path, ...]] = one_file
    may_saturate: Callable[[Path], bool] = lambda _path: False
    lacks_tool: Callable[[], str] | None = None
    write_beside: Callable[[Path, Tensors, Tensors], tuple[Path, ...]] | None = None
    footprint: Callable[[Path], Footprint] | None = None
    lacks_measure: Callable[[], str] | None = None
