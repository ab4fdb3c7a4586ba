"""TFLM (TensorFlow Lite for Microcontrollers): everything that touches it, but for transposes (tflm_layout.py).

Its file is a .tflite file for one sample, with images channels last and the memory that it takes recorded in it.
"""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from distiq.device import run as runner
from distiq.errors import UserError, first_line
from distiq.files import write_atomically
from distiq.models.signature import Predict, Signature, Tensors, of_arrays
from distiq.recipe.quantize import Mode
from distiq.runtimes.c99_write import LINE, identifier
from distiq.runtimes.litert import converted, refuses, signature_of
from distiq.runtimes.litert_file import float_operations, operations, packed, parameters_of, unpacked
from distiq.runtimes.runtime import FileOptions, Footprint, QuantizationParameters, Refusal, Runtime, only_static_int8
from distiq.runtimes.tflm_layout import with_columns_as_in_the_graph, without_transposes

ALIGNMENT = 16  # of every constant, as cores without unaligned reads and vector kernels want it
LAST = (0, 2, 3, 1)  # batch, places, channels
ARENA = "[RecordingMicroAllocator] Arena allocation total"
KEPT_BYTES, ROOM_BYTES = 1024, 1 << 16
"""What the interpreter keeps of a tensor or an operation, and what it is given beside: both more than it takes."""
METHODS = {"CUMSUM": "CumSum", "BATCH_MATMUL": "BatchMatMul", "PADV2": "PadV2"}
"""How `MicroMutableOpResolver` spells operations that break its rule."""


class _Recorded(NamedTuple):
    """How TFLM ran a file: the arena that it took (0: it did not run), and what it printed."""

    arena_bytes: int
    said: str


def export_tflm(model: nn.Module, example: Tensors, path: Path, options: FileOptions) -> None:
    """Writes a .tflm file: a .tflite file of one sample, with a description of itself among its metadata.

    Args:
        options: `integer_io` wants a model whose input and output are quantized.

    Raises:
        UserError: an operation has no form in LiteRT, or no kernel in TFLM.
    """
    content = converted(model, example, path, options, one_sample=True, is_for_micro=True)
    stated = signature_of(content, path)
    file = unpacked(content)
    moved = without_transposes(file)
    recorded = _recorded(_aligned(file))
    if not recorded.arena_bytes:
        raise UserError(
            f"{path}: TFLM cannot run this network ({recorded.said}); replace that, or take another runtime"
        )
    about = {**_plain_signature(stated), "arena_bytes": recorded.arena_bytes, "columns": moved}
    _describe(file, about)
    write_atomically(path, _aligned(file))


def _plain_signature(stated: Signature) -> dict[str, Any]:
    """Converts the file's signature to that of the network, with a dynamic batch, and adds the axis orders."""
    sides, plain = (stated.inputs, stated.outputs), stated.to_json()
    orders = [[LAST if len(one.shape) == len(LAST) else tuple(range(len(one.shape))) for one in side] for side in sides]
    for side, of_side in zip(plain.values(), orders, strict=True):
        for tensor, order in zip(side, of_side, strict=True):
            tensor["shape"] = [-1, *(tensor["shape"][order.index(axis)] for axis in range(1, len(order)))]
    return {**plain, "orders": [[order[1:] for order in of_side] for of_side in orders]}


def _describe(file: Any, about: Mapping[str, Any]) -> None:
    """Puts a line that says what the file takes and gives among its metadata."""
    from ai_edge_litert import schema_py_generated as schema

    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(f"{runner.ABOUT_C}{json.dumps(about)} */".encode(), np.uint8)
    file.buffers.append(buffer)
    entry.name, entry.buffer = b"distiq", len(file.buffers) - 1
    file.metadata = [*(file.metadata or []), entry]


def _aligned(file: Any) -> bytes:
    """The file with every constant at a multiple of sixteen bytes."""
    import flatbuffers

    class Builder(flatbuffers.Builder):
        def CreateNumpyVector(self, x: np.ndarray) -> Any:
            self.Prep(ALIGNMENT, x.nbytes)
            return super().CreateNumpyVector(x)

    return packed(file, Builder(1024))


def _recorded(content: bytes) -> _Recorded:
    """Runs a file once, on zeros, with the recording allocator."""
    from tflite_micro.python.tflite_micro import runtime

    why = "it says no more"
    with tempfile.TemporaryFile() as sink:
        kept = os.dup(2)  # TFLM prints to the process's own error stream
        os.dup2(sink.fileno(), 2)
        try:
            interpreter = runtime.Interpreter.from_bytes(content, arena_size=_most_arena(content))
            for number in range(len(unpacked(content).subgraphs[0].inputs)):
                entry = interpreter.get_input_details(number)
                interpreter.set_input(np.zeros(entry["shape"], entry["dtype"]), number)
            interpreter.invoke()
            interpreter.print_allocations()
        except (RuntimeError, ValueError) as error:
            why = first_line(error)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        sink.seek(0)
        lines = [one for one in sink.read().decode(errors="replace").splitlines() if one.strip()]
    arena = next((one for one in lines if one.startswith(ARENA)), "")
    return (
        _Recorded(int(arena.removeprefix(ARENA).split()[0]), "") if arena else _Recorded(0, lines[0] if lines else why)
    )


def _most_arena(content: bytes) -> int:
    """More bytes than a file takes: all of its tensors at once, and as much for the kernels' own memory."""
    graph = unpacked(content).subgraphs[0]
    values = sum(8 * math.prod(int(size) for size in one.shape) for one in graph.tensors if one.shape is not None)
    return 2 * values + KEPT_BYTES * (len(graph.tensors) + len(graph.operators)) + ROOM_BYTES


def load_tflm(path: Path, threads: int = 1, _options: Mapping[str, str] = MappingProxyType({})) -> Predict:
    """A `predict` that runs the file in TFLM's reference kernels, sample by sample, in one thread.

    Raises:
        UserError: the file is missing or damaged.
    """
    names = [one.name for one in signature(path).inputs]
    try:
        run = runner.tflm(path, threads)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: TFLM cannot load this file: {first_line(error)}") from error
    return of_arrays(run, names, str(path))


def _about(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return runner.about_of(path.read_bytes())
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: TFLM cannot load this file: it says nothing of its network") from error


def signature(path: Path) -> Signature:
    """What the network takes and gives; of int8 also how it is quantized."""
    return Signature.from_json(_about(path))


def quantization_parameters(path: Path) -> QuantizationParameters:
    """The integer weights, scales and zero points that the file holds."""
    return parameters_of(with_columns_as_in_the_graph(unpacked(path.read_bytes()), _about(path)["columns"]))


def footprint(path: Path) -> Footprint:
    """RAM: the arena as TFLM recorded it here, inputs and outputs within; flash is the firmware's, and not known."""
    return Footprint(None, _about(path)["arena_bytes"])


def _refuses(mode: Mode, activation_bits: int, group_size: int) -> Refusal | None:
    """Like LiteRT, except for float16, which TFLM's DEQUANTIZE does not support."""
    return (only_static_int8 if mode == "float16" else refuses)(mode, activation_bits, group_size)


def lacks_flash() -> str:
    """Why flash cannot be measured."""
    return 'TFLM\'s interpreter and kernels are part of a firmware; leave flash_kb out, or measure in "c99"'


# Beside the file ------------------------------------------------------------------------------------------------------


def write_sources(path: Path, _inputs: Tensors, _outputs: Tensors) -> tuple[Path, ...]:
    """Writes the file as a C++ array with its header, and the list of its operators; returns the three."""
    content, about, name = path.read_bytes(), _about(path), identifier(path.stem)
    data, header, resolver = (path.with_name(f"{path.stem}_{end}") for end in ("data.cc", "data.h", "resolver.h"))
    write_atomically(data, _data(content, name, header.name).encode())
    write_atomically(header, _header(content, name, about["arena_bytes"]).encode())
    write_atomically(resolver, _resolver(path, name).encode())
    return data, header, resolver


def _data(content: bytes, name: str, header: str) -> str:
    each = [f"0x{one:02x}," for one in content]
    width = (LINE - 2) // 5
    lines = ["  " + "".join(each[start : start + width]) for start in range(0, len(each), width)]
    return "\n".join(
        [
            "/* Written by distiq: a .tflite file. */",
            f'#include "{header}"\n',
            f"alignas({ALIGNMENT}) const unsigned char {name}_data[{len(content)}] = {{",
            *lines,
            "};\n",
        ]
    )


def _header(content: bytes, name: str, arena_bytes: int) -> str:
    upper = name.upper()
    return f"""/* Written by distiq. The arena is what TFLM's reference kernels took on a 64-bit computer; its pointers
   are twice as long as a microcontroller's; kernels of a vendor may want memory of their own. */
#ifndef DISTIQ_{upper}_DATA_H
#define DISTIQ_{upper}_DATA_H

#define {upper}_ARENA_BYTES {arena_bytes}

extern const unsigned char {name}_data[{len(content)}];

#endif
"""


def _resolver(path: Path, name: str) -> str:
    kinds = [kind.upper() for kind in operations(path)]
    upper, calls = name.upper(), " ||\n         ".join(f"resolver.{method(kind)}() != kTfLiteOk" for kind in kinds)
    return f"""/* Written by distiq: the operators of the file, and no others. */
#ifndef DISTIQ_{upper}_RESOLVER_H
#define DISTIQ_{upper}_RESOLVER_H

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

using {name}_resolver = tflite::MicroMutableOpResolver<{len(kinds)}>;

inline TfLiteStatus {name}_register({name}_resolver& resolver) {{
  return ({calls})
             ? kTfLiteError
             : kTfLiteOk;
}}

#endif
"""


def method(kind: str) -> str:
    """How `MicroMutableOpResolver` names what adds an operator: CONV_2D gives AddConv2D."""
    plain = METHODS.get(kind) or "".join(part.capitalize() for part in kind.split("_"))
    return "Add" + (plain[:-1] + "D" if plain.endswith("2d") else plain)


TFLM = Runtime(
    name="tflm",
    title="TFLM",
    suffix=".tflm",
    packages=("tflite_micro", "ai_edge_litert", "litert_torch"),
    install="tflite-micro==0.dev20261023182759 litert-torch==0.10.0 ai-edge-litert==2.3.0",
    imported="tflite_micro",
    export=export_tflm,
    load=load_tflm,
    signature=signature,
    quantization_parameters=quantization_parameters,
    operations=operations,
    float_operations=float_operations,
    refuses=_refuses,
    integer_io=True,
    wide=True,
    write_beside=write_sources,
    footprint=footprint,
    lacks_measure=lacks_flash,
)
