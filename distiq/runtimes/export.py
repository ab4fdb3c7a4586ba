"""export(): a network, float or quantized, as a file of the runtime that the file's ending names."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.runtimes import onnx_runtime

Predict = Callable[[Tensor], Tensor]
RUNTIMES = {".onnx": "ONNX Runtime"}


def export(model: nn.Module, path: Path, example: Tensor) -> Path:
    """Writes the model with a dynamic batch; returns the path.

    Args:
        model: a float network or a `QuantizedModel`; it is not changed.
        example: one or more normalized inputs (B, ...).

    Raises:
        UserError: the ending is unknown, or an operation has no form in that runtime.
    """
    path = Path(path)
    check_ending(path)
    reference = getattr(model, "reference", None)
    graph = reference() if reference is not None else model
    pair = example[:2] if len(example) > 1 else torch.cat([example, example])
    kept_in_float = model.scheme.float_modules if reference is not None else ()  # type: ignore[union-attr]
    onnx_runtime.export_onnx(graph, pair, path, kept_in_float)  # type: ignore[arg-type]
    return path


def load(path: Path, threads: int = 1) -> Predict:
    """A `predict` that runs the file: normalized inputs (B, ...) float32 -> outputs float32.

    Raises:
        UserError: the ending is unknown, the file is missing or damaged.
    """
    check_ending(Path(path))
    return onnx_runtime.load_onnx(Path(path), threads)


def check_ending(path: Path) -> None:
    if path.suffix not in RUNTIMES:
        raise UserError(f"{path}: distiq writes and runs {', '.join(RUNTIMES)}, not {path.suffix or 'a bare name'}")
