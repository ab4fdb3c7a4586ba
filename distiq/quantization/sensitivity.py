"""Sensitivity: what quantizing each tensor alone costs at the network's output. No labels are needed."""

from collections.abc import Callable, Collection
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from distiq.models.signature import one_output
from distiq.numerics import sqnr_db
from distiq.progress import Silent, Watch
from distiq.quantization.equalize import changed_fake_quantizers
from distiq.quantization.fake_quantize import (
    ActivationFakeQuantize,
    DynamicFakeQuantize,
    PerChannelWeightFakeQuantize,
    only_enabled,
)
from distiq.quantization.quantize import QuantizedModel
from distiq.quantization.streaming import chunks_of
from distiq.quantization.weights import layer_of
from distiq.records.sensitivity import NoiseRecord, SensitivityRecord
from distiq.tasks.classification import rows
from distiq.tasks.task import Task, one_part

SAMPLES = 128
FEWEST = 16
VALUES = SAMPLES * 3 * 96 * 96  # in the inputs of all samples together: large samples average as well over fewer
FakeQuantize = ActivationFakeQuantize | DynamicFakeQuantize | PerChannelWeightFakeQuantize


class QuantizedTensor(NamedTuple):
    """A tensor that the network quantizes: the module path it belongs to, what it is, its fake-quantize module."""

    place: str
    part: Literal["weights", "activations"]
    fake_quantize: FakeQuantize


def quantized_tensors(quantized: QuantizedModel) -> list[QuantizedTensor]:
    """All quantized tensors in the order of the network; tensors that share a fake-quantize module count once."""
    modules = dict(quantized.prepared.named_modules(remove_duplicate=False))
    by_module: dict[nn.Module, QuantizedTensor] = {}
    for node in quantized.prepared.graph.nodes:
        module, source = modules.get(str(node.target)) if node.op == "call_module" else None, node.all_input_nodes[:1]
        if isinstance(module, PerChannelWeightFakeQuantize):
            by_module.setdefault(module, QuantizedTensor(layer_of(source[0]), "weights", module))
        elif isinstance(module, ActivationFakeQuantize | DynamicFakeQuantize):
            by_module.setdefault(module, QuantizedTensor(place_of(source[0]), "activations", module))
    return list(by_module.values())


def enough(values: int) -> int:
    """How many samples, of that many input values each, suffice to locate the sources of the noise."""
    return max(FEWEST, min(SAMPLES, VALUES // max(1, values)))


def sensitivity(
    quantized: QuantizedModel,
    samples: Tensor,
    rung: str = "",
    watch: Watch | None = None,
    task: Task | None = None,
) -> SensitivityRecord:
    """Quantizes every tensor alone, then all weights and all activations together, and compares the outputs.

    Args:
        quantized: with weights rounded to nearest; after closed-form rounding or training no float32 reference is left.
        samples: (N, ...) normalized inputs, as the network sees them.
        rung: what the record names as its trial.
        task: which outputs it reads, and which parts they have, of which the noisiest counts; by default the logits.
    """
    watch = watch or Silent()
    tensors = quantized_tensors(quantized)
    read, parts = (task.read, task.components) if task else (one_output, one_part)
    reference = _outputs(quantized, samples, (), read)

    def sqnr(outputs: Tensor) -> float:
        own = parts(outputs)
        return min(sqnr_db(part, own[name]) for name, part in parts(reference).items())

    def noise(place: str, part: Literal["weights", "activations"], active: list[FakeQuantize]) -> NoiseRecord:
        outputs = _outputs(quantized, samples, active, read)
        db = sqnr(outputs)
        mixed = task is not None and task.class_dimension is None and reference.shape[1] > 1
        nat = 10 ** (-db / 10) / 2 if mixed else divergence(reference, outputs)
        return NoiseRecord(place=place, part=part, sqnr_db=db, divergence_nat=nat)

    single = []
    for number, tensor in enumerate(tensors):
        watch.step(number + 1, len(tensors), {"tensor": tensor.place})
        single.append(noise(tensor.place, tensor.part, [tensor.fake_quantize]))
    changed = changed_fake_quantizers(quantized.prepared)
    power = {one.fake_quantize: 10 ** (-result.sqnr_db / 10) for one, result in zip(tensors, single, strict=True)}
    total, balanced = sum(power.values()), sum(power[module] for module in power if module in changed)
    return SensitivityRecord(
        rung=rung,
        samples=len(samples),
        weights=noise("all", "weights", [one.fake_quantize for one in tensors if one.part == "weights"]),
        activations=noise("all", "activations", [one.fake_quantize for one in tensors if one.part == "activations"]),
        tensors=tuple(single),
        balanced_share=(balanced / total if total else 0.0) if changed else None,
        mean_share=mean_share(reference, _outputs(quantized, samples, [one.fake_quantize for one in tensors], read)),
    )


def mean_share(reference: Tensor, outputs: Tensor) -> float:
    """The share of the error's power that is the same for every sample; logits are (N, classes)."""
    error = (outputs - reference).double()
    power = float(error.square().mean())
    return float(error.mean(0).square().mean()) / power if power else 0.0


def divergence(reference: Tensor, outputs: Tensor) -> float:
    """Mean KL(reference || outputs) of the class probabilities in nat; logits are (N, classes), or (N, classes, ...).

    A single output has no classes: there it is that of normal distributions of unit variance around it.
    """
    if reference.shape[1] == 1:
        return float((reference - outputs).double().square().mean()) / 2
    own, other = (F.log_softmax(rows(one).double(), 1) for one in (reference, outputs))
    return float(F.kl_div(other, own, reduction="batchmean", log_target=True))


@torch.no_grad()
def _outputs(
    quantized: QuantizedModel, samples: Tensor, active: Collection[FakeQuantize], read: Callable[[Any], Tensor]
) -> Tensor:
    with only_enabled(quantized.prepared, active):
        return torch.cat([read(quantized(*chunk)) for chunk in chunks_of(quantized.prepared, samples)])


def place_of(node: fx.Node) -> str:
    """The module path of the operation that makes a value; the network's input is "input"."""
    if node.op == "placeholder":
        return "input"
    stack: Any = node.meta.get("nn_module_stack")
    path = list(stack.values())[-1][0] if stack else ""
    return path or node.name
