"""The files beside a C file in a bundle: a program that replays the test vectors, here and on an emulated board."""

import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distiq.device import run as runner
from distiq.files import write_atomically
from distiq.models.signature import Signature, Tensors, TensorSpec, tensors_of
from distiq.runtimes.c99_write import C_TYPES, about_of, array_text, identifier

FILES = ("main.c", "Makefile", "CMakeLists.txt", "qemu.c", "qemu.ld")
VECTORS = "vectors.h"
MOST_VECTORS, MOST_VALUES = 16, 60_000
"""How many samples are kept in the program, which has to fit into half a megabyte of flash."""


class Side(NamedTuple):
    """Samples of one input or output as the C file takes them: (N, ...) in memory."""

    name: str
    values: np.ndarray

    @property
    def length(self) -> int:
        return self.values[0].size


def write_board(path: Path, inputs: Tensors, outputs: Tensors) -> tuple[Path, ...]:
    """Writes the program beside a C file; returns its files.

    Args:
        inputs, outputs: samples of the network and what the file gives for them here, as `load` takes and gives them.
    """
    about, prefix = about_of(path.read_text(encoding="utf-8")), identifier(path.stem)
    stated = Signature.from_json(about)
    taken = _sides("in", inputs, stated.inputs, about["orders"][0])
    given = _sides("expected", outputs, stated.outputs, about["orders"][1])
    total = sum(side.length for side in (*taken, *given))
    count = min(MOST_VECTORS, len(taken[0].values), max(1, MOST_VALUES // total))
    write_atomically(path.with_name(VECTORS), _vectors(path.stem, prefix, taken, given, count).encode())
    folder = importlib.resources.files("distiq.runtimes") / "c99_board"
    for name in FILES:
        text = (folder / name).read_text(encoding="utf-8").replace("MODEL", path.stem)
        write_atomically(path.with_name(name), text.encode())
    return tuple(path.with_name(name) for name in (*FILES, VECTORS))


def as_laid(values: np.ndarray, spec: TensorSpec, order: Sequence[int]) -> np.ndarray:
    """Samples (N, ...) of an input or output in the memory layout and type of the C file: floats or quantized."""
    tensor: dict[str, Any] = {"dtype": values.dtype, "quantization": None}
    if spec.quantization is not None:
        tensor = {"dtype": np.dtype(np.int8), "quantization": spec.quantization}
    return np.ascontiguousarray(runner.as_taken(values, tensor).transpose([0, *order]))


def _sides(name: str, values: Tensors, specs: Sequence[TensorSpec], orders: Sequence[Sequence[int]]) -> list[Side]:
    together = zip(tensors_of(values), specs, orders, strict=True)
    laid = [as_laid(one.numpy(), spec, order) for one, spec, order in together]
    return [Side(f"{name}_{number}", one) for number, one in enumerate(laid)]


def _vectors(stem: str, prefix: str, taken: Sequence[Side], given: Sequence[Side], count: int) -> str:
    arrays = [array_text(side.name, side.values[:count]) for side in (*taken, *given)]
    results = [side.name.replace("expected", "got") for side in given]
    buffers = [
        f"static {C_TYPES[str(side.values.dtype)]} {result}[{side.length}];"
        for side, result in zip(given, results, strict=True)
    ]
    passed = ", ".join((*(f"{side.name} + (v) * {side.length}" for side in taken), *results))
    same = " && ".join(
        f"memcmp({result}, {side.name} + (v) * {side.length}, sizeof {result}) == 0"
        for side, result in zip(given, results, strict=True)
    )
    return "\n".join(
        [
            "/* Written by distiq: test vectors, and what the file gave for them where it was made. */",
            f'#include "{stem}.h"\n',
            f"#define VECTORS {count}",
            *arrays,
            *buffers,
            f"#define RUN(v) {prefix}_run({passed})",
            f"#define SAME(v) ({same})\n",
        ]
    )
