"""Inductor: everything that touches it. AOTInductor compiles the graph to machine code, packed as a .pt2 file.

The reference graph is compiled as it is, but for activations as uint8, which oneDNN's integer kernels are written for.
Weights are packed for this processor's kernels. So a file is for processors with the instruction sets of the one that
compiled it; others are refused when it is loaded. A C++ compiler is needed to write a file, not to run it.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from distiq import environment
from distiq.errors import UserError, first_line
from distiq.files import write_atomically
from distiq.models.layout import free_dimensions
from distiq.models.recurrent import bilstm
from distiq.models.signature import (
    INPUT,
    OUTPUT,
    Positional,
    Predict,
    Signature,
    Tensors,
    TensorSpec,
    by_name,
    each,
    in_order,
    positional,
    specs,
    tensors_of,
    type_name,
)
from distiq.models.trace import trace
from distiq.runtimes.inductor_file import float_operations, metadata_of, operations, quantization_parameters
from distiq.runtimes.lowering import float_copy, is_quantized, with_float_weights, with_unsigned_activations
from distiq.runtimes.runtime import FileOptions, Runtime, Work
from distiq.runtimes.silence import silence

aten = torch.ops.aten
CACHE = "TORCHINDUCTOR_CACHE_DIR"
SIGNATURE, SETS, WORK = "distiq_signature", "distiq_instruction_sets", "distiq_work"
"""What distiq writes into a file's metadata, each in JSON: names, shapes and types; what the processor can do; the
shapes of a sample, its multiply-adds and whether they are of integers."""
UNKNOWN = Signature((TensorSpec(INPUT, (-1,), torch.float32),), (TensorSpec(OUTPUT, (-1,), torch.float32),))
COMPILER_SETTINGS: dict[str, Any] = {
    "freezing": True,  # weights are packed for integer kernels only where they are constants
    "always_keep_tensor_constants": True,  # else scales of up to 8 channels are computed at every call
    "cpp.dynamic_threads": True,  # else loops keep the number of threads of the moment of compilation
    "compile_threads": 1,
    "aot_inductor.precompile_headers": False,  # pays where one process compiles much
    "aot_inductor.enable_line_tables": False,
}
TRIED = (1, 33)  # samples
ALIKE = 0.1  # of the largest output: a value rounded the other way changes less, a wrong element order far more
TRIAL_SECONDS = 1200  # of a busy machine
TRIAL = """
import pathlib, sys, numpy, torch
torch.set_num_threads(1)
folder = pathlib.Path(sys.argv[1])
loader = torch._inductor.aoti_load_package(str(folder / "model.pt2")).loader
for number in range(int(sys.argv[2])):
    inputs = [torch.from_numpy(one) for one in numpy.load(folder / f"inputs{number}.npz").values()]
    numpy.savez(folder / f"outputs{number}.npz", *(one.numpy() for one in loader.boxed_run(inputs)))
"""


def _is_conv1d(node: fx.Node) -> bool:
    return node.target is torch.ops.aten.conv1d.default


def export_inductor(model: nn.Module, example: Tensors, path: Path, _options: FileOptions) -> None:
    """Writes a .pt2 file with a dynamic batch. example: inputs (B, ...), B >= 2. Takes tens of seconds.

    Raises:
        UserError: Inductor cannot compile the network, or its code gives other outputs than the network.
    """
    if is_quantized(model):
        assert isinstance(model, fx.GraphModule)
        # Inductor of torch 2.13 computes a wrong size for one-dimensional integer convolutions.
        graph: nn.Module = with_unsigned_activations(with_float_weights(model, _is_conv1d))
    else:
        graph = float_copy(model)
    try:
        with silence(), torch.no_grad(), _temporary_cache() as folder:
            network = positional(graph, each(torch.Tensor.contiguous, example))
            content = _compiled(network, folder)
            _try_out(network, folder)
    except Exception as error:  # tracing and compiling raise many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: Inductor cannot compile this network: {reason}") from error
    write_atomically(path, content)


def lacks_compiler() -> str:
    """Says that there is no C++ compiler, and what to install; empty where there is one."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler.split()[0]):
        return ""
    return (
        f"Inductor compiles with {compiler}, which is not installed here: apt-get install g++ (or your system's like),"
        " or name another compiler in the environment variable CXX"
    )


def load_inductor(path: Path, threads: int = 1, _options: Mapping[str, str] = MappingProxyType({})) -> Predict:
    """A `predict` that runs the file; torch's number of threads is the given one during the call.

    Raises:
        UserError: the file is missing or damaged, or this processor lacks instructions that it was compiled to.
    """
    facts = metadata_of(path)
    missing = set(json.loads(facts.get(SETS, "[]"))) - set(environment.describe().instruction_sets)
    if missing:
        raise UserError(
            f"{path}: compiled for a processor with {', '.join(sorted(missing))}, which this one lacks; export it here"
        )
    stated = signature(path)
    names = [[one.name for one in side] for side in stated]
    try:
        with silence():
            loader = torch._inductor.aoti_load_package(str(path)).loader
    except Exception as error:  # torch raises many kinds
        raise UserError(f"{path}: Inductor cannot load this file: {first_line(error)}") from error

    def predict(inputs: Tensors) -> Tensors:
        tensors = in_order(inputs, names[0], str(path))
        for tensor, spec in zip(tensors, stated.inputs, strict=True):
            # The compiled code checks nothing: it would read out of the input's bounds.
            if stated is not UNKNOWN and not _fits(tensor, spec):
                kinds = (
                    f"{type_name(spec.dtype)} of {list(spec.shape)}",
                    f"{type_name(tensor.dtype)} of {list(tensor.shape)}",
                )
                raise UserError(f"{path}: {spec.name} takes {kinds[0]}, not {kinds[1]}")
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return by_name(loader.boxed_run([one.detach().contiguous() for one in tensors]), names[1])
        finally:
            torch.set_num_threads(before)

    return predict


def signature(path: Path) -> Signature:
    """What the file takes and gives; a file that distiq did not write does not say it."""
    stated = metadata_of(path).get(SIGNATURE)
    return Signature.from_json(json.loads(stated)) if stated else UNKNOWN


def work(path: Path, sample_shapes: Sequence[Sequence[int]]) -> Work | None:
    """The work of a file on one sample, as it was counted in the graph that was compiled; None for any other shape."""
    shapes, macs, is_int8 = json.loads(metadata_of(path).get(WORK, "[[], 0, false]"))
    return Work(macs, is_int8) if shapes == [list(shape) for shape in sample_shapes] else None


def needs_vnni(path: Path) -> bool:
    """Whether the file runs only on processors that add four products of 8 bits at once, exactly."""
    return bool({"avx512_vnni", "avx_vnni", "amx_int8"} & set(json.loads(metadata_of(path).get(SETS, "[]"))))


def _compiled(network: Positional, folder: Path) -> bytes:
    import torch._inductor.config

    free = free_dimensions(network)
    exported = trace(network, free)
    facts_of = {
        SIGNATURE: _signature(network, free).to_json(),
        SETS: environment.describe().instruction_sets,
        WORK: _work(network),
    }
    facts = {name: json.dumps(value) for name, value in facts_of.items()}
    if any(node.target is bilstm._opoverload for node in exported.graph.nodes):
        exported = exported.run_decompositions({bilstm._opoverload: states_of_bilstm})
    with torch._inductor.config.patch({**COMPILER_SETTINGS, "aot_inductor.metadata": facts}), _channels_last():
        torch._inductor.aoti_compile_and_package(exported, package_path=str(folder / "model.pt2"))
    return (folder / "model.pt2").read_bytes()


def states_of_bilstm(vectors: Tensor, lengths: Tensor, weights: list[Tensor]) -> Tensor:
    """`distiq.models.recurrent.bilstm` as a torch kernel, so that files run where distiq is not installed.

    The kernel takes no lengths: for the second direction every text is reversed, and its padding left in place.
    """
    steps = torch.arange(vectors.shape[1]).unsqueeze(0)
    stops = lengths.unsqueeze(1)
    is_text = steps < stops
    turned = torch.where(is_text, stops - 1 - steps, steps).unsqueeze(2)
    hidden = weights[1].shape[1]
    forward = _states(vectors, weights[:4], hidden)
    backward = _states(vectors.gather(1, turned.expand(-1, -1, vectors.shape[2])), weights[4:], hidden)
    states = torch.cat([forward, backward.gather(1, turned.expand(-1, -1, hidden))], 2)
    return torch.where(is_text.unsqueeze(2), states, 0.0)


def _states(vectors: Tensor, weights: list[Tensor], hidden: int) -> Tensor:
    """(B, L, inputs) -> the states (B, L, hidden) of one direction."""
    start, cell = (vectors.new_zeros(1, vectors.shape[0], hidden) for _ in range(2))
    turned = vectors.transpose(0, 1).contiguous()
    # no reversal, no packed batches, an LSTM of one layer with biases, one direction, batch second, no training
    plain: Any = (False, [], 2, hidden, 1, True, False, False, False)
    outputs: Any = aten.mkldnn_rnn_layer(turned, *weights, start, cell, *plain)
    return outputs[0].transpose(0, 1)


def _signature(network: Positional, free: Sequence[Collection[int]]) -> Signature:
    outputs = tensors_of(network.named(network.module(*network.inputs)))
    given = specs(network.output_names, outputs, [{0}] * len(outputs))
    return Signature(specs(network.input_names, network.inputs, free), given)


def _work(network: Positional) -> tuple[list[list[int]], int, bool]:
    """The shapes of a sample, its multiply-adds, and whether layers multiply integers."""
    with FlopCounterMode(display=False) as counter:
        network.module(*(one[:1] for one in network.inputs))
    shapes = [list(one.shape[1:]) for one in network.inputs]
    return shapes, counter.get_total_flops() // 2, is_quantized(network.module)


def _try_out(network: Positional, folder: Path) -> None:
    """Raises RuntimeError unless the compiled code, in a process of its own, gives the graph's outputs.

    For some networks Inductor of torch 2.13 generates code that reads out of bounds or assumes a wrong memory order.
    """
    free = free_dimensions(network)
    longest = max((one.shape[1] for one, axes in zip(network.inputs, free, strict=True) if 1 in axes), default=0)
    lengths = sorted({2, 1 + longest // 2, longest}) if longest else [0]
    tried = [(count, length, _samples(network, free, count, length)) for length in lengths for count in TRIED]
    for number, (_, _, inputs) in enumerate(tried):
        np.savez(folder / f"inputs{number}.npz", *(one.numpy() for one in inputs))
        (folder / f"outputs{number}.npz").unlink(missing_ok=True)
    command = [sys.executable, "-c", TRIAL, str(folder), str(len(tried))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TRIAL_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"its code gives no outputs within {TRIAL_SECONDS} s") from error
    for number, (count, length, inputs) in enumerate(tried):
        what = f"{count} samples" + (f" of {length} tokens" if length else "")
        output = folder / f"outputs{number}.npz"
        if not output.is_file():
            raise RuntimeError(f"its code fails with {what} (exit code {done.returncode})")
        expected = tensors_of(network.named(network.module(*inputs)))
        for one, other in zip(np.load(output).values(), expected, strict=True):
            if not _alike(torch.from_numpy(one), other):
                raise RuntimeError(f"its code computes {what} otherwise than the network")


def _alike(output: Tensor, expected: Tensor) -> bool:
    if output.shape != expected.shape:
        return False
    return bool((output - expected).abs().max() <= ALIKE * expected.abs().max() + 1e-5)


def _samples(network: Positional, free: Sequence[Collection[int]], count: int, length: int) -> list[Tensor]:
    """So many samples of the example, their tokens cut to a length where it is free."""
    repeated = [one.repeat(-(-count // len(one)), *[1] * (one.ndim - 1))[:count] for one in network.inputs]
    return [one[:, :length].contiguous() if 1 in axes else one for one, axes in zip(repeated, free, strict=True)]


@contextlib.contextmanager
def _channels_last() -> Iterator[None]:
    """Tells Inductor of torch 2.13 that an integer convolution's result is channels-last, as it always is.

    For a dynamic batch and one input channel it expects the other order, which float convolutions use (pytorch's pull
    request 121400), and would read the result's values in the wrong order.
    """
    import torch._inductor.mkldnn_ir

    mkldnn_ir: Any = torch._inductor.mkldnn_ir
    before = mkldnn_ir.is_contiguous_storage_and_layout
    mkldnn_ir.is_contiguous_storage_and_layout = lambda x: x.get_dtype() != torch.uint8 and before(x)
    try:
        yield
    finally:
        mkldnn_ir.is_contiguous_storage_and_layout = before


@contextlib.contextmanager
def _temporary_cache() -> Iterator[Path]:
    """A folder that Inductor writes its sources and libraries to, and that is gone afterwards."""
    before = os.environ.get(CACHE)
    with tempfile.TemporaryDirectory(prefix="distiq-inductor-") as folder:
        os.environ[CACHE] = folder
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ[CACHE]
            else:
                os.environ[CACHE] = before


def _fits(inputs: Tensor, spec: TensorSpec) -> bool:
    if inputs.dtype != spec.dtype or inputs.ndim != len(spec.shape):
        return False
    return all(stated in (-1, size) for size, stated in zip(inputs.shape, spec.shape, strict=True))


INDUCTOR = Runtime(
    name="inductor",
    title="Inductor",
    suffix=".pt2",
    packages=("torch",),
    install="torch==2.13.0",
    imported="torch._inductor.package",
    export=export_inductor,
    load=load_inductor,
    signature=signature,
    quantization_parameters=quantization_parameters,
    operations=operations,
    float_operations=float_operations,
    work=work,
    may_saturate=lambda path: not needs_vnni(path),  # a file that was compiled to VNNI runs nowhere else
    lacks_tool=lacks_compiler,
)
