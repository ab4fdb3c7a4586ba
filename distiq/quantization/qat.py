"""Quantization-aware training: the quantized model is trained further.

It starts from the calibrated model, with batch norm folded. Activations keep their calibrated ranges, unless their
scales are to be learned, too. 8-bit scales of weights follow the weights, also those that rounding had fixed; those of
narrower weights are learned. The loss is passed in: this module does not know whether it involves a teacher.
"""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from distiq.data.splits import Data
from distiq.data.views import Views
from distiq.errors import UserError
from distiq.numerics import symmetric_bounds
from distiq.progress import Watch
from distiq.quantization.fake_quantize import PerChannelWeightFakeQuantize
from distiq.quantization.graph import bias_fake_quantizers, parameter_of
from distiq.quantization.quantize import QuantizedModel, activation_fake_quantizers
from distiq.recipe.data import ViewSettings
from distiq.recipe.part import changed
from distiq.recipe.training import QATSettings, TrainingSettings
from distiq.records.quality import Metric
from distiq.records.training import TrainingRecord
from distiq.tasks.choose import task_of
from distiq.tasks.task import Task
from distiq.training.batches import Batch, Batches
from distiq.training.fit import Losses, fit, validation_metric

EIGHT_BITS = symmetric_bounds(8)[1]
LossFn = Callable[[Tensor, Batch], Losses]


class _Objective(nn.Module):
    def __init__(self, quantized: QuantizedModel, loss_fn: LossFn, task: Task) -> None:
        super().__init__()
        self.quantized, self.loss_fn, self.task = quantized, loss_fn, task

    def forward(self, batch: Batch) -> Losses:
        return self.loss_fn(self.task.read(self.quantized(batch.inputs)), batch)


def train_quantized(
    quantized: QuantizedModel,
    loss_fn: LossFn,
    data: Data,
    training: TrainingSettings | None = None,
    *,
    views: ViewSettings | None = None,
    learn_ranges: bool = False,
    seed: int = 0,
    task: Task | None = None,
    stage: str = "quantization-aware training",
    checkpoint: Path | None = None,
    watch: Watch | None = None,
) -> TrainingRecord:
    """Trains a calibrated model in place and keeps the epoch whose *quantized* validation metric was best.

    Args:
        loss_fn: (logits (B, classes), batch) -> named losses.
        training: two gentle epochs by default. Its precision must be "float32" (or "auto", which means that here).
        learn_ranges: also learn the steps of activations; their zero points stay as calibrated.

    Raises:
        UserError: another precision, or the loss is not finite.
    """
    training = training or QATSettings()
    if training.precision not in ("float32", "auto"):
        raise UserError(f'{stage}: precision = "{training.precision}" cannot hold 8-bit values exactly; take "float32"')
    training, task = changed(training, {"precision": "float32"}), task or task_of(data)

    for module in quantized.modules():
        if isinstance(module, PerChannelWeightFakeQuantize):
            module.learn() if module.quant_max < EIGHT_BITS else module.follow()
    if learn_ranges:
        for activation in activation_fake_quantizers(quantized):
            activation.learn()

    def metric(objective: nn.Module) -> Metric:
        return validation_metric(objective.quantized, data, task)  # type: ignore[arg-type]

    batches = Batches(data, Views(views or ViewSettings(), seed), training.batch_size, seed)
    objective = _Objective(quantized, loss_fn, task)
    with _empty_rows_stay(quantized.prepared):
        record = fit(
            objective,
            batches,
            training,
            stage=stage,
            validate=metric,
            keep_best=True,
            checkpoint=checkpoint,
            watch=watch,
        )
    quantized.cpu()
    if learn_ranges:
        _hold_biases(quantized)
    return record


@contextmanager
def _empty_rows_stay(prepared: fx.GraphModule) -> Iterator[None]:
    """Rows of zeros in tables of embeddings get no gradient: those of padding and of special tokens count nothing."""
    handles = []
    for node in prepared.graph.nodes:
        if node.target is torch.ops.aten.embedding.default:
            source: Any = node.args[0]
            while source.op == "call_module":  # the fake quantization of the table
                source = source.args[0]
            table = operator.attrgetter(str(source.target))(prepared) if source.op == "get_attr" else None
            if table is None or not table.requires_grad:
                continue
            rows = table.detach().any(1, keepdim=True)
            handles.append(table.register_hook(lambda gradient, rows=rows: gradient * rows.to(gradient.device)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _hold_biases(quantized: QuantizedModel) -> None:
    """Raises the scales of weights whose accumulators have become too fine for their biases; none is lowered."""
    for node, bias_fake_quantize in bias_fake_quantizers(quantized.prepared):
        smallest = bias_fake_quantize.pair[1].smallest_scale
        before = smallest.clone()
        bias_fake_quantize.freeze(parameter_of(quantized.prepared, node))
        smallest.clamp_(min=before)
