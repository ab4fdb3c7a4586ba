"""export() and load(): a network, float or quantized, as a file of the runtime that the file's ending names."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from distiq.errors import UserError
from distiq.files import sha256_of_file
from distiq.models.audio import front_ends
from distiq.models.from_onnx import files_of_onnx
from distiq.recipe.measure import runtime_lacks
from distiq.recipe.quantize import Mode
from distiq.runtimes import executorch, inductor, litert, onnx_runtime, openvino
from distiq.runtimes.litert import IntegerTensor
from distiq.runtimes.lowering import Entry, Grids, Work, is_quantized, qparams_of
from distiq.runtimes.saturation import saturation
from distiq.runtimes.uint8_input import Uint8Input

Predict = Callable[[Tensor], Tensor]


class Runtime(NamedTuple):
    """A runtime: how it is called, what it needs, and the functions of its file.

    Attributes:
        install: the versions that are known to work together, for pip.
        grids: reads a file's integers and scales.
        entry: reads what a file takes.
        by_onnx: its files are made by way of ONNX; `export` takes module paths that operations are to be named after.
        takes_uint8: `export` makes files that take uint8 images.
        integer_io: reads the grids of a file that takes and gives integers; None where `export` makes no such files.
        work: counts a file's multiply-adds; None where no count is written yet.
        settings: options beside threads under which a file can run faster, the default (none) first; `load` takes them
            where there is more than that.
        lacks_tool: says what else is needed to write a file and is not here, with what to install.
    """

    title: str
    ending: str
    packages: tuple[str, ...]
    install: str
    export: Callable[..., None]
    load: Callable[..., Predict]
    float_operations: Callable[[Path], tuple[str, ...]]
    grids: Callable[[Path], Grids]
    entry: Callable[[Path], Entry]
    by_onnx: bool = False
    takes_uint8: bool = False
    integer_io: Callable[[Path], dict[str, IntegerTensor]] | None = None
    settings: tuple[dict[str, str], ...] = ({},)
    work: Callable[[Path, Sequence[int]], Work | None] | None = None
    lacks_tool: Callable[[], str] | None = None


RUNTIMES: dict[str, Runtime] = {
    "onnxruntime": Runtime(
        "ONNX Runtime", ".onnx", ("onnxruntime",), "onnxruntime==1.32.0",
        onnx_runtime.export_onnx, onnx_runtime.load_onnx, onnx_runtime.float_operations, onnx_runtime.grids,
        onnx_runtime.entry, by_onnx=True, takes_uint8=True, settings=onnx_runtime.SETTINGS, work=onnx_runtime.work,
    ),
    "openvino": Runtime(
        "OpenVINO", ".xml", ("openvino",), "openvino==2026.4.1",
        openvino.export_openvino, openvino.load_openvino, openvino.float_operations, openvino.grids,
        openvino.entry, by_onnx=True, takes_uint8=True, settings=openvino.SETTINGS,
    ),
    "litert": Runtime(
        "LiteRT", ".tflite", ("ai_edge_litert", "litert_torch"), "litert-torch==0.10.0 ai-edge-litert==2.3.0",
        litert.export_litert, litert.load_litert, litert.float_operations, litert.grids,
        litert.entry, takes_uint8=True, integer_io=litert.integer_io,
    ),
    "executorch": Runtime(
        "ExecuTorch", ".pte", ("executorch",), "executorch==1.5.1",
        executorch.export_executorch, executorch.load_executorch, executorch.float_operations, executorch.grids,
        executorch.entry,
    ),
    "inductor": Runtime(
        "Inductor", ".pt2", ("torch",), "torch==2.13.0",
        inductor.export_inductor, inductor.load_inductor, inductor.float_operations, inductor.grids,
        inductor.entry, work=inductor.work, lacks_tool=inductor.lacks_compiler,
    ),
}  # fmt: skip


def export(
    model: nn.Module, path: Path, example: Tensor, uint8_input: Uint8Input | None = None, integer_io: bool = False
) -> Path:
    """Writes the model with a dynamic batch; returns the path.

    Args:
        model: a float network or a `QuantizedModel`; it is not changed.
        path: ends with .onnx, .xml (OpenVINO; a .bin is put beside it), .tflite, .pte or .pt2.
        example: one or more normalized inputs (B, ...).
        uint8_input: the file takes uint8 images and normalizes them so; .onnx, .xml and .tflite alone.
        integer_io: the file takes and gives int8 on the grids of the network's ends, which its scheme has to have;
            .tflite alone. `load` takes and gives floats of such files, too.

    Raises:
        UserError: the ending is unknown, the runtime is not installed, takes no pixels or no such scheme, or lacks an
            operation.
    """
    path = Path(path)
    runtime = runtime_of(path)
    if uint8_input is not None and not runtime.takes_uint8:
        able = ", ".join(one.ending for one in RUNTIMES.values() if one.takes_uint8)
        raise UserError(f"{path}: files of {runtime.title} take normalized float32, not pixels; those that can: {able}")
    if integer_io and runtime.integer_io is None:
        able = ", ".join(one.ending for one in RUNTIMES.values() if one.integer_io)
        raise UserError(f"{path}: files of {runtime.title} take and give float32; those of integers: {able}")
    require(runtime, to_write=True)
    scheme = getattr(model, "scheme", None)
    if integer_io and not getattr(scheme, "integer_io", False):
        raise UserError(f"{path}: the network has no grids at its ends; quantize it with Scheme(integer_io=True)")
    if scheme is not None and (why := lacks(path, scheme.mode, scheme.activation_bits, scheme.group_size)):
        raise UserError(f"{path}: {why}")
    pair = example[:2] if len(example) > 1 else torch.cat([example, example])
    named = getattr(scheme, "float_modules", front_ends(model))
    if runtime.by_onnx:
        runtime.export(lowered(model), pair, path, named, uint8_input)
    elif runtime.integer_io:
        runtime.export(lowered(model), pair, path, uint8_input, integer_io)
    else:
        runtime.export(lowered(model), pair, path)
    return path


def lacks(path: Path, mode: Mode, activation_bits: int, group_size: int) -> str:
    """Why a file of that ending cannot hold such a scheme, and the nearest that it can; empty where it can."""
    name = next(name for name, runtime in RUNTIMES.items() if runtime.ending == path.suffix)
    return runtime_lacks(name, mode, activation_bits, group_size)


def load(path: Path, threads: int = 1, options: Mapping[str, str] | None = None) -> Predict:
    """A `predict` that runs the file: inputs (B, ...), normalized float32 unless it takes others -> outputs float32.

    Args:
        options: of the runtime, such as those of `Runtime.settings`.

    Raises:
        UserError: the ending is unknown, the runtime is not installed, the file is missing or damaged.
    """
    runtime = runtime_of(Path(path))
    require(runtime)
    return runtime.load(Path(path), threads, options) if options else runtime.load(Path(path), threads)


def lowered(model: nn.Module) -> nn.Module:
    """The reference graph of a `QuantizedModel`; any other network as it is."""
    reference = getattr(model, "reference", None)
    return reference() if reference is not None else model


def differences(model: nn.Module, path: Path) -> str:
    """What of the file's integers and scales is not the quantized graph's; empty where all is."""
    graph = lowered(model)
    assert isinstance(graph, fx.GraphModule)
    assert is_quantized(graph)
    return runtime_of(path).grids(path).differs_from(qparams_of(graph))


def pair_sums(path: Path) -> str:
    """Whether a quantized file's integers can saturate on an x86 CPU without VNNI, in a sentence; empty if not asked.

    XNNPACK (LiteRT, ExecuTorch) widens to 16 bits before it multiplies; an Inductor file that was compiled to VNNI
    runs nowhere else.
    """
    runtime = runtime_of(path)
    asked = runtime.ending in (".onnx", ".xml") or (runtime.ending == ".pt2" and not inductor.needs_vnni(path))
    found = saturation(runtime.grids(path)) if asked else None
    return found.sentence() if found is not None and found.channels else ""


def integer_io(path: Path) -> dict[str, IntegerTensor]:
    """The types and grids of the ends of a file that takes ("input") or gives ("output") int8; empty if none does."""
    read = runtime_of(path).integer_io
    return read(path) if read else {}


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that a model consists of: an OpenVINO model has its weights beside it, an ONNX file may have them."""
    if path.suffix == ".onnx":
        return tuple(files_of_onnx(path))
    return (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,)


def checksums(path: Path) -> dict[str, str]:
    """The SHA-256 of each of a model's files, by its name."""
    return {file.name: sha256_of_file(file) for file in files_of(path)}


def size_bytes(path: Path) -> int:
    """Size of the model on disk, all its files."""
    return sum(file.stat().st_size for file in files_of(path))


def runtime_of(path: Path) -> Runtime:
    """The runtime that a file's ending names.

    Raises:
        UserError: the ending is unknown.
    """
    for runtime in RUNTIMES.values():
        if path.suffix == runtime.ending:
            return runtime
    endings = ", ".join(runtime.ending for runtime in RUNTIMES.values())
    raise UserError(f"{path}: distiq writes and runs {endings}, not {path.suffix or 'a bare name'}")


def require(runtime: Runtime, to_write: bool = False) -> None:
    """Refuses a runtime whose packages are not installed, and of which no file can be written if that is asked for.

    Raises:
        UserError: with the line that installs what is missing.
    """
    missing = [package for package in runtime.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"{runtime.title} is not installed here ({', '.join(missing)}): pip install {runtime.install}")
    if to_write and runtime.lacks_tool and (why := runtime.lacks_tool()):
        raise UserError(why)


def operations(path: Path) -> dict[str, dict[str, int]]:
    """How many operations of each kind the runtime runs in each type: {"QLinearConv": {"int8": 12}}.

    Kinds are the runtime's own words; 8-bit types of either sign are "int8".
    """
    read = {
        ".onnx": onnx_runtime.operations,
        ".xml": openvino.operations,
        ".tflite": litert.operations,
        ".pte": executorch.operations,
        ".pt2": inductor.operations,
    }
    return read[runtime_of(path).ending](path)
