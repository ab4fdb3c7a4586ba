"""operations(): what a network computes, operation by operation, as matrix products where they are some."""

import copy
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from distiq.evaluation.cost import without_onednn

PRODUCTS = {"addmm", "mm", "bmm", "baddbmm"}
POOLS = {"mean", "avg_pool2d", "_adaptive_avg_pool2d", "max_pool2d_with_indices", "adaptive_max_pool2d", "amax", "sum"}
JOINING = {"add", "add_", "sub", "mul", "mul_", "div", "cat"}
ACTIVATIONS = {
    "silu", "silu_", "gelu", "hardswish", "hardswish_", "hardsigmoid", "sigmoid", "tanh", "elu", "softplus", "mish",
    "leaky_relu", "_softmax",
}  # fmt: skip
FUSED = {  # of no time of their own: part of the operation before them, or a view
    "relu", "relu_", "hardtanh", "hardtanh_", "clamp", "clamp_", "native_batch_norm", "native_dropout", "view", "t",
    "_unsafe_view", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "detach", "transpose", "permute",
    "expand", "slice", "select", "unsqueeze", "squeeze", "alias", "clone", "_to_copy", "empty", "zeros", "as_strided",
    "ones", "full", "split", "unbind", "_reshape_alias", "scalar_tensor", "lift_fresh",
}  # fmt: skip


class Operation(NamedTuple):
    """One operation on one sample. A convolution or linear layer is `groups` products of `rows` x `inner` with
    `inner` x `columns` values; other kinds have rows of values that they write, or pools that they read."""

    kind: str
    rows: int
    columns: int = 1
    inner: int = 1
    groups: int = 1

    @property
    def macs(self) -> int:
        """Multiply-add operations."""
        return self.rows * self.columns * self.inner * self.groups

    def padded_macs(self, columns: int, inner: int) -> int:
        """Multiply-add operations of a kernel that computes so many columns and adds so many products at a time."""
        return self.rows * self.groups * _up(self.columns, columns) * _up(self.inner, inner)

    @property
    def weights(self) -> int:
        """Values of the matrix that belongs to the network."""
        return self.columns * self.inner * self.groups if self.kind in WEIGHTED else 0


WEIGHTED = ("first convolution", "convolution", "pointwise", "depthwise", "linear")


def _up(value: int, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple


class _Recorder(TorchDispatchMode):
    """Records every operation that runs while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        written = result[0] if isinstance(result, tuple | list) and result else result
        if isinstance(written, Tensor) and (one := _described(func.overloadpacket.__name__, args, written)):
            self.found.append(one)
        return result


def _described(name: str, args: Any, written: Tensor) -> Operation | None:
    if name in FUSED:
        return None
    if name in ("convolution", "_convolution"):
        return _convolution(args[1], args[8] if len(args) > 8 else 1, written)
    if name in PRODUCTS:
        one, other = [given for given in args if isinstance(given, Tensor)][-2:]
        groups = math.prod(one.shape[:-2])
        return Operation("product" if one.ndim > 2 else "linear", one.shape[-2], other.shape[-1], one.shape[-1], groups)
    if name in POOLS:
        return Operation("pool", args[0].numel())
    kinds = (("joining", JOINING), ("activation", ACTIVATIONS))
    return Operation(next((kind for kind, names in kinds if name in names), "other"), written.numel())


def _convolution(weight: Tensor, groups: int, written: Tensor) -> Operation:
    outputs, inputs, *kernel = weight.shape
    rows, columns, inner = math.prod(written.shape[2:]), outputs // groups, inputs * math.prod(kernel)
    if groups > 1 and inputs == 1:
        kind = "depthwise"
    elif math.prod(kernel) == 1:
        kind = "pointwise"
    else:
        kind = "convolution" if inputs * groups > 3 else "first convolution"
    return Operation(kind, rows, columns, inner, groups)


def operations(model: nn.Module, example: Tensor) -> tuple[Operation, ...]:
    """The operations that a network runs on one sample, in their order. example: (B, ...)."""
    network = copy.deepcopy(model).cpu().eval()
    with without_onednn(), torch.no_grad(), _Recorder() as recorder:
        network(example[:1])
    return tuple(recorder.found)
