"""export() and load(): a network, float or quantized, as a file of the runtime that the file's suffix names."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import fx, nn

from distiq.errors import UserError, first_line
from distiq.files import sha256_of_file
from distiq.models.audio import front_ends
from distiq.models.layout import plain_copy
from distiq.models.signature import NAMES, Predict, Tensors, each, positional, tensors_of
from distiq.models.trace import copied
from distiq.numerics import sqnr_db
from distiq.recipe.quantize import Mode
from distiq.runtimes.c99 import C99
from distiq.runtimes.executorch import EXECUTORCH
from distiq.runtimes.inductor import INDUCTOR
from distiq.runtimes.litert import LITERT
from distiq.runtimes.lowering import is_quantized, qparams_of
from distiq.runtimes.onnx_runtime import ONNX_RUNTIME
from distiq.runtimes.openvino import OPENVINO
from distiq.runtimes.runtime import FileOptions, Footprint, Runtime
from distiq.runtimes.saturation import saturation
from distiq.runtimes.tflm import TFLM
from distiq.runtimes.uint8_input import Uint8Input

LEAST_DB = 10.0  # SQNR of a file's outputs on two samples; where only rounding differs it stays above 30
RUNTIMES = (ONNX_RUNTIME, OPENVINO, LITERT, EXECUTORCH, INDUCTOR, C99, TFLM)


def export(
    model: nn.Module, path: Path, example: Tensors, uint8_input: Uint8Input | None = None, integer_io: bool = False
) -> Path:
    """Writes the model with a dynamic batch; returns the path.

    Args:
        model: a float network or a `QuantizedModel`; it is not changed.
        path: ends with .onnx, .xml (OpenVINO; a .bin is put beside it), .tflite, .pte, .pt2, .c (a .h is put beside it)
            or .tflm.
        example: one or more normalized samples (B, ...), a dict by name where the network takes several inputs.
        uint8_input: the file takes uint8 images and normalizes them itself; only .onnx, .xml and .tflite.
        integer_io: the file takes and gives int8, with the scheme's quantization of the network's input and output;
            only .tflite. `load` takes and gives floats for such files, too.

    Raises:
        UserError: the suffix is unknown, the runtime is not installed, takes no uint8 images or no such scheme, or
            lacks an operation.
    """
    path = Path(path)
    runtime = runtime_of(path)
    if uint8_input is not None and not runtime.uint8_input:
        able = ", ".join(one.suffix for one in RUNTIMES if one.uint8_input)
        raise UserError(f"{path}: files of {runtime.title} take normalized float32, not uint8; those that can: {able}")
    if integer_io and not runtime.integer_io:
        able = ", ".join(one.suffix for one in RUNTIMES if one.integer_io)
        raise UserError(f"{path}: files of {runtime.title} take and give float32; those of integers: {able}")
    require(runtime, to_write=True)
    scheme = getattr(model, "scheme", None)
    if integer_io and not getattr(scheme, "integer_io", False):
        raise UserError(
            f"{path}: the network's input and output are not quantized; quantize it with Scheme(integer_io=True)"
        )
    bits = getattr(scheme, "activation_bits", 8)
    if bits == 8 and getattr(scheme, "wide_modules", ()):
        bits = 16
    if scheme is not None and (why := refusal(runtime, scheme.mode, bits, scheme.group_size)):
        raise UserError(f"{path}: {why}")
    pair = each(lambda one: one[:2] if len(one) > 1 else torch.cat([one, one]), example)
    if uint8_input is not None and len(tensors_of(example)) > 1:
        raise UserError(f"{path}: uint8_input is for networks of one input; normalize images before a call")
    named = getattr(scheme, "float_modules", front_ends(model))
    graph = lowered(model)
    half = scheme is not None and scheme.mode == "float16"
    runtime.export(graph, pair, path, FileOptions(named, uint8_input, integer_io, half))
    if uint8_input is None and not integer_io:
        _check_outputs(graph, pair, path)
    return path


@torch.no_grad()
def _check_outputs(graph: nn.Module, pair: Tensors, path: Path) -> None:
    """Raises UserError, and leaves no file, where a runtime computes something other than the network.

    The bound catches outright errors, not rounding: OpenVINO, for one, transforms a different axis than `torch.fft`.
    """
    is_graph = isinstance(graph, fx.GraphModule) and NAMES in graph.meta
    network = positional(graph, each(plain_copy, pair)) if is_graph else copied(graph, pair)
    expected = tensors_of(network.named(network.module(*network.inputs)))
    title, said = runtime_of(path).title, ""
    try:
        given = tensors_of(load(path)(pair))
        both = [one for one in zip(expected, given, strict=True) if one[0].is_floating_point() and one[0].any()]
        worst = min((sqnr_db(*one) for one in both if one[0].isfinite().all()), default=LEAST_DB)
        if not worst >= LEAST_DB:  # or no number
            said = f"gives other outputs than the network ({worst:.1f} dB SQNR)"
    except (RuntimeError, ValueError) as error:  # shapes that differ, and what runtimes raise
        said = f"fails on the network's own input: {first_line(error)}"
    if said:
        for part in files_of(path):
            part.unlink(missing_ok=True)
        raise UserError(f"{path}: {title} {said}; take another runtime, or write what it computes otherwise")


def refusal(runtime: Runtime, mode: Mode, activation_bits: int, group_size: int) -> str:
    """Why a runtime's files cannot hold such a scheme, and the nearest one that they can; empty where they can."""
    if activation_bits < 8:
        return (
            f"no runtime computes activations of {activation_bits} bits, which are simulated alone; nearest:"
            " activation_bits = 8"
        )
    refused = runtime.refuses(mode, activation_bits, group_size)
    if refused is None:
        return ""
    able = " or ".join(f'"{one.name}"' for one in RUNTIMES if not one.refuses(mode, activation_bits, group_size))
    nearest = f"{refused.nearest}, or runtime {able}"
    return f"distiq writes no files of {runtime.name} with {refused.what}; nearest: {nearest}"


def load(path: Path, threads: int = 1, options: Mapping[str, str] | None = None) -> Predict:
    """A `predict` that runs the file; see `Predict` for what it takes and gives.

    Args:
        options: of the runtime, such as those of `Runtime.settings`.

    Raises:
        UserError: the suffix is unknown, the runtime is not installed, the file is missing or damaged.
    """
    runtime = runtime_of(Path(path))
    require(runtime)
    return runtime.load(Path(path), threads, options or {})


def lowered(model: nn.Module) -> nn.Module:
    """The reference graph of a `QuantizedModel`; any other network as it is."""
    reference = getattr(model, "reference", None)
    return reference() if reference is not None else model


def differences(model: nn.Module, path: Path) -> str:
    """How the file's integers and scales differ from the graph's; empty where they do not, or it has none."""
    graph = lowered(model)
    assert isinstance(graph, fx.GraphModule)
    if not is_quantized(graph):
        return ""
    return runtime_of(path).quantization_parameters(path).differs_from(qparams_of(graph))


def pair_sums(path: Path) -> str:
    """Whether a quantized file's integers can saturate on an x86 CPU without VNNI, in a sentence; empty if not asked.

    XNNPACK (LiteRT, ExecuTorch) widens to 16 bits before it multiplies.
    """
    runtime = runtime_of(path)
    counted = saturation(runtime.quantization_parameters(path)) if runtime.may_saturate(path) else None
    return counted.sentence() if counted is not None and counted.channels else ""


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that a model consists of: an OpenVINO model has its weights beside it, an ONNX file may have them."""
    return runtime_of(path).parts(path)


def checksums(path: Path) -> dict[str, str]:
    """The SHA-256 of each of a model's files, by its name."""
    return {file.name: sha256_of_file(file) for file in files_of(path)}


def size_bytes(path: Path) -> int:
    """Size of the model on disk, all its files."""
    return sum(file.stat().st_size for file in files_of(path))


def footprint(path: Path) -> Footprint:
    """The flash and RAM that a file takes on a microcontroller, as far as they are known."""
    measured = runtime_of(path).footprint
    return measured(path) if measured else Footprint(None, None)


def runtime_of(path: Path) -> Runtime:
    """The runtime that a file's suffix names.

    Raises:
        UserError: the suffix is unknown.
    """
    for runtime in RUNTIMES:
        if path.suffix == runtime.suffix:
            return runtime
    suffixes = ", ".join(runtime.suffix for runtime in RUNTIMES)
    raise UserError(f"{path}: distiq writes and runs {suffixes}, not {path.suffix or 'a bare name'}")


def runtime_named(name: str) -> Runtime:
    """The runtime that a recipe names.

    Raises:
        UserError: there is none of that name.
    """
    for runtime in RUNTIMES:
        if name == runtime.name:
            return runtime
    names = ", ".join(f'"{runtime.name}"' for runtime in RUNTIMES)
    raise UserError(f'measure.runtimes: "{name}" is no runtime; there are {names}')


def require(runtime: Runtime, to_write: bool = False) -> None:
    """Refuses a runtime whose packages are not installed, or, to write files, whose tools are missing.

    Raises:
        UserError: with the line that installs what is missing.
    """
    missing = [package for package in runtime.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"{runtime.title} is not installed here ({', '.join(missing)}): pip install {runtime.install}")
    if to_write and runtime.lacks_tool and (why := runtime.lacks_tool()):
        raise UserError(why)


def operations(path: Path) -> dict[str, dict[str, int]]:
    """How many operations of each kind the runtime runs in each type: {"QLinearConv": {"int8": 12}}."""
    return runtime_of(path).operations(path)
