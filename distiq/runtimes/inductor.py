"""Inductor: everything that touches it. AOTInductor compiles the graph into a .pt2 package, with oneDNN's int8 kernels.

Activations are stored as uint8, the type that those kernels take: the same grid. The package is machine code for the
instruction sets of the machine that compiled it. torch's number of threads is one for the process; `predict` sets it.
"""

import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from distiq.errors import UserError
from distiq.files import write_atomically
from distiq.runtimes.lowering import float_copy, is_quantized, with_unsigned_activations
from distiq.runtimes.silence import silence

LARGEST_BATCH = 65536
FLOAT_KERNELS = ("convolution", "addmm", "linear", "bmm", "mm_out")


def export_inductor(model: nn.Module, example: Tensor, path: Path) -> None:
    """Writes a .pt2 package with a dynamic batch; needs a C++ compiler. example: (B, ...), B >= 2.

    Raises:
        UserError: the graph cannot be compiled, or there is no compiler.
    """
    from torch._inductor import aoti_compile_and_package, config

    if is_quantized(model):
        assert isinstance(model, fx.GraphModule)
        graph: nn.Module = with_unsigned_activations(model)
    else:
        graph = float_copy(model)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.pt2"
        try:
            # Without freezing, weights are packed anew at every call and layers stay in float.
            with silence(), torch.no_grad(), config.patch(freezing=True):
                program = torch.export.export(graph, (example.contiguous(),), dynamic_shapes=({0: batch},))
                aoti_compile_and_package(program, package_path=str(target))
        except Exception as error:  # the compiler raises many kinds
            raise UserError(f"{path}: Inductor cannot compile this network: {str(error).splitlines()[0]}") from error
        write_atomically(path, target.read_bytes())


def load_inductor(path: Path, threads: int = 1) -> Callable[[Tensor], Tensor]:
    """A `predict` that runs the package.

    Raises:
        UserError: the file is missing or damaged.
    """
    from torch._inductor import aoti_load_package

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: Inductor cannot load this file: it is no .pt2 package")
    try:
        with silence():
            package = aoti_load_package(str(path))
    except Exception as error:  # torch raises many kinds
        raise UserError(f"{path}: Inductor cannot load this file: {str(error).splitlines()[0]}") from error

    def predict(inputs: Tensor) -> Tensor:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with torch.no_grad():
                return package(inputs.contiguous()).clone()
        finally:
            torch.set_num_threads(before)

    return predict


def float_operations(path: Path) -> tuple[str, ...]:
    """The kernels that the package calls for layers in float32, as "name (call number)"."""
    calls = re.findall(r"\baoti_torch_cpu_(\w+?)\(", _wrapper(path))
    return tuple(
        f"{name} ({number})"
        for number, name in enumerate(calls)
        if not name.startswith("_q") and any(kind in name for kind in FLOAT_KERNELS)
    )


def integer_kernels(path: Path) -> int:
    """How many of the package's calls are layers in integers."""
    return len(re.findall(r"= aoti_torch_cpu__q(?:conv|linear)|\(aoti_torch_cpu__q(?:conv|linear)", _wrapper(path)))


def _wrapper(path: Path) -> str:
    with zipfile.ZipFile(path) as package:
        names = [name for name in package.namelist() if name.endswith(".wrapper.cpp")]
        return "\n".join(package.read(name).decode() for name in names)
