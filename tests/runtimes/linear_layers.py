"""A runtime that distiq does not have: chains of linear layers and ReLU, as .npz files that numpy computes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.models.signature import INPUT, OUTPUT, Predict, Signature, Tensors, TensorSpec, in_order, positional
from distiq.recipe.quantize import Mode
from distiq.runtimes.runtime import FileOptions, QuantizationParameters, Refusal, Runtime, Weight

aten = torch.ops.aten
WITHOUT_WEIGHTS = {aten.relu.default: "relu", aten.flatten.using_ints: "flatten"}


def export_npz(model: nn.Module, example: Tensors, path: Path, _options: FileOptions) -> None:
    """Each layer's weight and bias; integer weights with a scale for each output."""
    network = positional(model, example)
    graph = torch.export.export(network.module, network.inputs).module(check_guards=False)
    arrays: dict[str, np.ndarray] = {"shape": np.array(network.inputs[0].shape[1:])}
    for number, (kind, tensors) in enumerate(_layers(graph, path)):
        arrays |= {f"{number}/{kind}/{part}": tensor.detach().numpy() for part, tensor in tensors.items()}
    np.savez(path, **arrays)


def _layers(graph: Any, path: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    def value(node: Any) -> Tensor:
        owner, _, name = str(node.target).rpartition(".")
        return getattr(graph.get_submodule(owner), name)

    for node in graph.graph.nodes:
        if node.target is aten.linear.default:
            _, weight, bias = node.args
            packed = {"scales": value(weight.args[1])} if weight.op == "call_function" else {}
            yield "linear", {"weight": value(weight.args[0] if packed else weight), "bias": value(bias), **packed}
        elif node.target in WITHOUT_WEIGHTS:
            yield WITHOUT_WEIGHTS[node.target], {"none": torch.zeros(0)}
        elif node.op == "call_function" and "dequantize_per_channel" not in str(node.target):
            raise UserError(f"{path}: linear layers alone, not {node.target}, can be written")


def _read(path: Path) -> tuple[tuple[int, ...], list[tuple[str, dict[str, np.ndarray]]]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        arrays = dict(np.load(path))
    except ValueError as error:
        raise UserError(f"{path}: Linear Layers cannot load this file: {error}") from error
    shape, layers = tuple(arrays.pop("shape").tolist()), dict[str, tuple[str, dict[str, np.ndarray]]]()
    for name, array in arrays.items():
        number, kind, part = name.split("/")
        layers.setdefault(number, (kind, {}))[1][part] = array
    return shape, list(layers.values())


def load_npz(path: Path, _threads: int = 1, _options: Mapping[str, str] = MappingProxyType({})) -> Predict:
    _, layers = _read(path)

    def predict(inputs: Tensors) -> Tensors:
        values = in_order(inputs, [INPUT], str(path))[0].numpy()
        for kind, parts in layers:
            if kind == "relu":
                values = np.maximum(values, 0)
            elif kind == "flatten":
                values = values.reshape(len(values), -1)
            else:
                weight = parts["weight"].astype(np.float32) * parts.get("scales", np.ones(1, np.float32))[:, None]
                values = values @ weight.T + parts["bias"]
        return torch.from_numpy(values)

    return predict


def signature(path: Path) -> Signature:
    shape, layers = _read(path)
    outputs = len([parts for kind, parts in layers if kind == "linear"][-1]["bias"])
    inputs = TensorSpec(INPUT, (-1, *shape), torch.float32)
    return Signature((inputs,), (TensorSpec(OUTPUT, (-1, outputs), torch.float32),))


def quantization_parameters(path: Path) -> QuantizationParameters:
    parts = [parts for kind, parts in _read(path)[1] if kind == "linear"]
    weights = [Weight(one["weight"], one["scales"], is_multiplied=False) for one in parts if "scales" in one]
    return QuantizationParameters(tuple(weights), (), frozenset())


def operations(path: Path) -> dict[str, dict[str, int]]:
    kinds = [kind for kind, _ in _read(path)[1]]
    return {kind: {"float32": kinds.count(kind)} for kind in sorted(set(kinds))}


def float_operations(path: Path) -> tuple[str, ...]:
    return tuple(f"{number} ({kind})" for number, (kind, _) in enumerate(_read(path)[1]) if kind == "linear")


def _refuses(mode: Mode, activation_bits: int, group_size: int) -> Refusal | None:
    takes = mode == "weight_only" and activation_bits == 8 and not group_size
    return None if takes else Refusal("quantized activations", 'mode = "weight_only"')


LINEAR_LAYERS = Runtime(
    name="linear_layers",
    title="Linear Layers",
    suffix=".npz",
    packages=("numpy",),
    install="numpy",
    imported="numpy",
    export=export_npz,
    load=load_npz,
    signature=signature,
    quantization_parameters=quantization_parameters,
    operations=operations,
    float_operations=float_operations,
    refuses=_refuses,
)
