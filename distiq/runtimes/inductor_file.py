"""Reads an Inductor file back: the steps of its program, their types, its constants."""

import itertools
import json
import math
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distiq.errors import UserError
from distiq.runtimes.lowering import SHIFT
from distiq.runtimes.runtime import QuantizationParameters, Weight
from distiq.runtimes.silence import silence

MOVING = {"cat"}
"""Calls that compute nothing."""
CONSTANT = re.compile(
    r'constants_info_\[\d+\]\.name = "(\w+)";.*?dtype = cached_torch_dtype_(\w+);.*?data_size = (\d+);'
    r'.*?shape = {(.*?)};.*?layout = .*?cached_torch_layout_(\w+)\).*?original_fqn = "(.*?)";',
    re.DOTALL,
)
"""Name, type, bytes, sizes, layout, name in the graph."""
FUSED = re.compile(r"^\s*cpp_fused_(\w+)\((.*)\);", re.MULTILINE)
WRITTEN = re.compile(r"\((\w+)\*\)\(\w+\.data_ptr\(\)\)")
READ_TYPE = re.compile(r"\(const (\w+)\*\)\(\w+\.data_ptr\(\)\)")
BYTES, FLOATS = {"uint8_t", "int8_t"}, {"float", "double", "half", "bfloat16"}
READ = re.compile(r"\(const \w+\*\)\((\w+)\.data_ptr\(\)\)")
CALL = re.compile(r"aoti_torch_cpu_(\w+)\((.*)\)\);")
KERNEL_TYPE = re.compile(r"int32_t (var_\d+) = cached_torch_dtype_(\w+);")
RESULT = re.compile(r", ([-+.e\d]+), (-?\d+)L, &(var_\d+), ")


def operations(path: Path) -> dict[str, dict[str, int]]:
    """How many steps of each kind compute float32, and how many integers."""
    types: dict[str, Counter[str]] = {}
    for name, in_float in _steps(path):
        types.setdefault(name, Counter())["float32" if in_float else "int8"] += 1
    return {kind: dict(counts) for kind, counts in sorted(types.items())}


def float_operations(path: Path) -> tuple[str, ...]:
    """The steps of the program that compute float32, as "number (type)", from its source, which the file holds."""
    return tuple(f"{number} ({name})" for number, (name, in_float) in enumerate(_steps(path)) if in_float)


def _steps(path: Path) -> Iterator[tuple[str, bool]]:
    """Each step's name, and whether it computes float32.

    A loop that Inductor wrote computes in float32 between the integers that it reads and writes, as every such kernel
    does; it counts as float32 if it writes no integers of 8 bits, but reads or writes floats.
    """
    program, outside = _program(path), _outside(path)
    steps = re.finditer(rf"{FUSED.pattern}|{CALL.pattern}|proxy_executor_call_function\(\w+, (\d+),", program, re.M)
    for step in steps:
        fused, arguments, called, _, place = step.groups()
        if fused:
            written, read = set(WRITTEN.findall(arguments)), set(READ_TYPE.findall(arguments))
            yield fused.rpartition("_")[0], not written & BYTES and bool((written | read) & FLOATS)
        elif called:
            yield called, not called.startswith("_q") and called not in MOVING
        else:
            name = outside[int(place)]
            yield name, not name.startswith("quantized")


def quantization_parameters(path: Path) -> QuantizationParameters:
    """What the file's integer kernels are called with, and its float32 weights.

    Rows of tables are read and scaled in loops.
    """
    program, constants = _program(path), _constants(path)
    types = dict(KERNEL_TYPE.findall(program))
    weights, activations = [], set()
    for name, arguments in CALL.findall(program):
        if not name.startswith("_q"):
            continue
        named = [constants[part] for part in re.findall(r"\w+", arguments) if part in constants]
        scale, zero_point, weight, weight_scale = named[:4]
        activations.add((float(scale), int(zero_point) - SHIFT))
        weights.append(Weight(_output_first(weight, name), weight_scale.numpy()))
        result, zero, kind = RESULT.findall(arguments)[-1]
        if types[kind] == "uint8":
            activations.add((float(np.float32(result)), int(zero) - SHIFT))
    for _, arguments in FUSED.findall(program):
        read = [constants[part] for part in READ.findall(arguments) if part in constants]
        for place, table in enumerate(read):
            scales = [one for one in read[place:] if one.dtype == torch.float32 and one.shape == table.shape[:1]]
            if table.dtype == torch.int8 and scales:
                weights.append(Weight(table.numpy(), scales[0].numpy(), is_multiplied=False))
    floats = [one.contiguous().numpy() for one in constants.values() if one.dtype == torch.float32 and one.ndim > 1]
    return QuantizationParameters(tuple(weights), tuple(floats), frozenset(activations))


def _output_first(weight: Tensor, name: str) -> np.ndarray:
    """A layer's weight as (O, I, ...): that of a linear layer stands transposed."""
    return (weight.T if "linear" in name else weight).contiguous().numpy()


def _member(path: Path, ending: str) -> bytes:
    """The content of the archive's only entry of that ending; empty where there is none."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(ending)]
            return archive.read(names[0]) if names else b""
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path}: Inductor cannot load this file: {error}") from error


def metadata_of(path: Path) -> dict[str, str]:
    """The file's metadata."""
    return json.loads(_member(path, ".wrapper_metadata.json") or b"{}")


def _program(path: Path) -> str:
    """The source of the calls that one run of the file makes."""
    return _member(path, ".wrapper.cpp").decode().partition("void AOTInductorModel::run_impl(")[2]


def _outside(path: Path) -> list[str]:
    """The operations that the program leaves to torch's dispatcher."""
    nodes = json.loads(_member(path, ".wrapper.json") or b'{"nodes": []}')["nodes"]
    return [node["node"]["target"].removeprefix("torch.ops.") for node in nodes]


def _constants(path: Path) -> dict[str, Tensor]:
    """The compiled library's constants by their names in the source.

    The library returns them under their names in the graph, which several scales share; those scales are read from
    the library itself, where the constants lie one after another.
    """
    library = _member(path, ".wrapper.so")
    named: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory(prefix="distiq-inductor-") as folder, silence():
        (Path(folder) / "model.so").write_bytes(library)
        opened = torch._C._aoti.AOTIModelContainerRunnerCpu(str(Path(folder) / "model.so"), 1)
        for name, value in opened.extract_constants_map(False).items():
            named[name] = (value.to_dense() if value.is_mkldnn else value).clone()
        del opened
    entries = CONSTANT.findall(_member(path, ".wrapper.cpp").decode())
    origins = Counter(origin for *_, origin in entries)
    lengths = [int(length) for _, _, length, *_ in entries]
    offsets = dict(zip((name for name, *_ in entries), itertools.accumulate(lengths, initial=0), strict=False))
    alone = {
        name: named[origin].numpy().tobytes()
        for name, _, _, _, layout, origin in entries
        if origins[origin] == 1 and layout == "strided" and named[origin].is_contiguous()
    }
    telling = max(alone, key=lambda name: len(set(alone[name])))  # zero points are zeros, which occur anywhere
    start = library.find(alone[telling]) - offsets[telling]
    assert all(library.startswith(content, start + offsets[name]) for name, content in alone.items())
    constants = {}
    for name, kind, _, sizes, _, origin in entries:
        if origins[origin] > 1:
            shape = [int(size) for size in re.findall(r"\d+", sizes)]
            array = np.frombuffer(library, kind, math.prod(shape), start + offsets[name])
            constants[name] = torch.from_numpy(array.reshape(shape).copy())
        else:
            constants[name] = named[origin]
    return constants
