"""C99: a network as one C file and its header, without a heap, an operating system or a library.

The file computes one sample, its feature maps with channels last, in a static arena. Results of integer layers are
rescaled in float32; with -DDISTIQ_Q31 by an int32 multiplier and a shift, for cores without a float unit.
"""

import math
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import fx, nn

from distiq.device import run as runner
from distiq.errors import UserError, first_line
from distiq.files import write_atomically
from distiq.models.layout import free_dimensions
from distiq.models.signature import (
    NAMES,
    Positional,
    Predict,
    Signature,
    Tensors,
    TensorSpec,
    of_arrays,
    positional,
)
from distiq.models.trace import copied, trace
from distiq.recipe.quantize import Mode
from distiq.runtimes.c99_board import write_board
from distiq.runtimes.c99_lower import lowered_to_c
from distiq.runtimes.c99_program import Value, planned
from distiq.runtimes.c99_write import about_of, parameters_of, steps_of, written
from distiq.runtimes.runtime import (
    FileOptions,
    Footprint,
    QuantizationParameters,
    Refusal,
    Runtime,
    Work,
    only_static_int8,
)

CROSS = "arm-none-eabi-gcc"
FOR_BOARD = ("-Os", "-ffp-contract=off", "-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
FREE = {"quantize", "dequantize", "requantize", "copy", "transpose", "fill", "pad", "concat"}
"""Operations that compute nothing."""


def export_c99(model: nn.Module, example: Tensors, path: Path, options: FileOptions) -> None:
    """Writes a .c file and its header.

    Args:
        options: `integer_io` wants a model whose input and output are quantized.

    Raises:
        UserError: an operation has no kernel in C, or an input is not float32.
    """
    try:
        network = _traced(model, example)
        graph = network.module
        assert isinstance(graph, fx.GraphModule)
        with torch.no_grad():
            program = lowered_to_c(graph, network.inputs, options.integer_io, options.named)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    sides = (network.input_names, program.inputs), (network.output_names, program.outputs)
    stated = Signature(*(tuple(map(_spec, names, values)) for names, values in sides))
    sources = written(program, planned(program), stated, path.stem)
    write_atomically(path.with_suffix(".h"), sources.header.encode())
    write_atomically(path, sources.source.encode())


def _traced(model: nn.Module, example: Tensors) -> Positional:
    """A network as a graph; float32 ones are traced as they are."""
    if isinstance(model, fx.GraphModule) and NAMES in model.meta:
        return positional(model, example)
    network = copied(model, example)
    graph = trace(network, free_dimensions(network)).module(check_guards=False)
    return Positional(graph, network.inputs, network.input_names, network.output_names)


def _spec(name: str, value: Value) -> TensorSpec:
    kind = torch.float32 if value.affine is None else torch.int8
    return TensorSpec(name, (-1, *value.layout.shape[1:]), kind, value.affine)


def load_c99(path: Path, threads: int = 1, options: Mapping[str, str] = MappingProxyType({})) -> Predict:
    """A `predict` that runs the file, compiled for this processor; it computes in one thread.

    Args:
        options: "define": a macro to compile with, such as DISTIQ_Q31.

    Raises:
        UserError: the file is missing or damaged, or there is no compiler.
    """
    names = [one.name for one in signature(path).inputs]
    if why := lacks_compiler():
        raise UserError(why)
    try:
        run = runner.c99(path, threads, dict(options))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: C99 cannot load this file: {first_line(error)}") from error
    return of_arrays(run, names, str(path))


def lacks_compiler() -> str:
    """What has to be installed, in a sentence; empty where a C compiler is available."""
    if runner.compiler():
        return ""
    return "C99: no C compiler is found here: install gcc or clang, or name one in the variable CC"


def signature(path: Path) -> Signature:
    """What the file takes and gives; of int8 also how it is quantized."""
    return Signature.from_json(_about(path))


def _text(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return path.read_text(encoding="utf-8", errors="replace")


def _about(path: Path) -> dict[str, Any]:
    text = _text(path)
    try:
        return about_of(text)
    except (StopIteration, ValueError, KeyError) as error:
        raise UserError(f"{path}: C99 cannot load this file: it says nothing of its network") from error


def quantization_parameters(path: Path) -> QuantizationParameters:
    """The integer weights, scales and zero points that the file holds."""
    return parameters_of(_text(path))


def operations(path: Path) -> dict[str, dict[str, int]]:
    """How many operations of each kind compute in each type."""
    by_kind: dict[str, Counter[str]] = {}
    for name, kind, _ in steps_of(_text(path)):
        by_kind.setdefault(name.rpartition("/")[2], Counter())[kind] += 1
    return {name: dict(counts) for name, counts in sorted(by_kind.items())}


def float_operations(path: Path) -> tuple[str, ...]:
    """The operations that compute in float32, as "number (kind)"; those of a named module as "module/number (kind)"."""
    names = []
    for number, (name, kind, _) in enumerate(steps_of(_text(path))):
        module, slash, operation = name.rpartition("/")
        if kind == "float32" and operation not in FREE:
            names.append(f"{module}{slash}{number} ({operation})")
    return tuple(names)


def work(path: Path, _shapes: Sequence[Sequence[int]]) -> Work | None:
    """The multiply-adds of a sample."""
    steps = [(kind, macs) for _, kind, macs in steps_of(_text(path)) if macs]
    return Work(sum(macs for _, macs in steps), any(kind == "int8" for kind, _ in steps))


def _refuses(mode: Mode, _activation_bits: int, group_size: int) -> Refusal | None:
    """Activations of 16 bits have kernels of their own."""
    return only_static_int8(mode, 8, group_size)


def parts(path: Path) -> tuple[Path, ...]:
    """The C file and its header."""
    return path, path.with_suffix(".h")


def footprint(path: Path) -> Footprint:
    """Flash of a Cortex-M4 (-Os, code and constants), and RAM: the arena, inputs and outputs.

    Sound that a front-end reads counts as the int16 of a microphone, which `model_run_pcm16` takes. Flash is None where
    no cross compiler is installed.

    Raises:
        UserError: the cross compiler refuses the file.
    """
    about = _about(path)
    inputs, outputs = Signature.from_json(about)
    passed = sum(map(_size, (*inputs, *outputs)))
    if about["pcm16"]:
        passed -= _size(inputs[0]) // 2
    return Footprint(None if lacks_cross_compiler() else _flash(path), about["arena_bytes"] + passed)


def _size(spec: TensorSpec) -> int:
    return math.prod(abs(size) for size in spec.shape) * (1 if spec.dtype == torch.int8 else 4)


def lacks_cross_compiler() -> str:
    """What has to be installed to measure flash, in a sentence; empty where nothing is missing."""
    if shutil.which(CROSS):
        return ""
    return f"C99: {CROSS}, which measures flash, is not found here: install gcc-arm-none-eabi"


def _flash(path: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model.o"
        words = [CROSS, *runner.COMPILED[:1], *FOR_BOARD, "-c", str(path), "-o", str(made)]
        compiled = subprocess.run(words, capture_output=True, text=True)
        if compiled.returncode:
            raise UserError(f"{path}: {CROSS} refuses it: {first_line(Exception(compiled.stderr))}")
        sizes = subprocess.run(["arm-none-eabi-size", str(made)], capture_output=True, text=True, check=True).stdout
    return sum(int(one) for one in sizes.splitlines()[1].split()[:2])


C99 = Runtime(
    name="c99",
    title="C99",
    suffix=".c",
    packages=(),
    install="",
    imported="ctypes",
    export=export_c99,
    load=load_c99,
    signature=signature,
    quantization_parameters=quantization_parameters,
    operations=operations,
    float_operations=float_operations,
    refuses=_refuses,
    integer_io=True,
    wide=True,
    work=work,
    parts=parts,
    lacks_tool=lacks_compiler,
    write_beside=write_board,
    footprint=footprint,
    lacks_measure=lacks_cross_compiler,
)
