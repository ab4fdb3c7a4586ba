"""fit(): the one training loop, on Accelerate.

An objective turns a batch into named losses, and fit lowers their sum; teachers and quantization stay outside. Order,
views and schedule are pure functions of (seed, epoch, step), so a checkpoint needs only weights, optimizer and the
random state, and a killed training ends with the same weights as one that was not.
"""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from distiq.data.splits import Data
from distiq.errors import UserError
from distiq.models.layout import make_contiguous
from distiq.progress import Silent, Watch
from distiq.recipe.training import TrainingSettings
from distiq.records.quality import Metric
from distiq.records.training import EpochRecord, TrainingRecord
from distiq.tasks.score import kept, score
from distiq.tasks.task import Task
from distiq.training import processes
from distiq.training.batches import Batch, Batches
from distiq.training.checkpoint import Checkpoint
from distiq.training.distributed import shared_statistics
from distiq.training.identity import first_difference, identity
from distiq.training.layout import memory_layout
from distiq.training.precision import faster_precision
from distiq.training.schedule import learning_rate, make_optimizer, moving_average


class Losses(dict[str, Tensor]):
    """Named, weighted scalars; their sum is minimized."""


def fit(
    objective: nn.Module,
    batches: Batches,
    settings: TrainingSettings,
    *,
    stage: str,
    validate: Callable[[nn.Module], Metric] | None = None,
    keep_best: bool = False,
    checkpoint: Path | None = None,
    watch: Watch | None = None,
) -> TrainingRecord:
    """Trains the parameters of `objective` in place.

    Several processes share every batch: each computes the losses of the whole batch from `gathered` outputs.

    Args:
        objective: `forward(Batch) -> Losses`.
        stage: what is trained, for messages and the record.
        validate: the metric of the objective (with averaged weights if `ema_decay` is set) after each epoch.
        keep_best: keep the weights of the epoch with the best metric instead of the last.
        checkpoint: a file that is written every `checkpoint_seconds` and read at the start if it is there.

    Raises:
        UserError: a loss or, at the end of an epoch, a weight is not finite; the checkpoint is damaged or of another
            training; float16 is asked for without a GPU; or a batch has fewer samples than there are processes.
    """
    watch = watch or Silent()
    if (smallest := min(settings.batch_size, len(batches.data.train))) < processes.count():
        raise UserError(
            f"{stage}: {processes.count()} processes share a batch of {smallest}; start at most {smallest} of them, or"
            " raise batch_size"
        )
    processes.start()
    precision: str = settings.precision
    own = identity(objective, batches, settings, stage) if checkpoint is not None else {}
    state = Checkpoint.read(checkpoint) if checkpoint is not None and checkpoint.exists() else None
    if state and (difference := first_difference(state.meta.get("training", {}), own)):
        raise UserError(
            f"{checkpoint}: this checkpoint is of another training ({difference}); delete it to train from the start,"
            " or name another file"
        )
    if precision == "auto":
        precision = str(state.meta["precision"]) if state else faster_precision(objective, batches, settings)
    set_seed(batches.seed)
    mixed = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[precision]
    AcceleratorState._reset_state()  # one process trains several networks, each with its own precision
    accelerator = Accelerator(mixed_precision=mixed)
    if precision == "float16" and accelerator.device.type == "cpu":  # Accelerate would train in float32 instead
        raise UserError(f'{stage}: precision = "float16" needs a GPU; take "float32" or "bfloat16"')
    layout = memory_layout(objective, batches, settings, accelerator)
    objective.to(memory_format=layout)  # type: ignore[call-overload]
    with shared_statistics(objective):
        model, optimizer = accelerator.prepare(objective, make_optimizer(objective, settings))
        plain = accelerator.unwrap_model(model)
        average = (
            AveragedModel(plain, multi_avg_fn=moving_average(settings.ema_decay), use_buffers=True)
            if settings.ema_decay
            else None
        )
        run = _Run(
            accelerator, model, plain, optimizer, average, settings, batches, layout, stage, precision, keep_best, own
        )
        if state:
            try:
                run.restore(state)
            except (RuntimeError, ValueError, KeyError) as error:
                raise UserError(
                    f"{checkpoint}: this checkpoint is of another training ({error}); delete it to train from the start"
                ) from error
        while run.epoch < settings.epochs:
            for batch, rate in run.one_epoch(validate, checkpoint, watch):
                run.learn(run.model(batch), rate)
        return run.finish()


class _Run:
    """The state of one training."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        plain: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: AveragedModel | None,
        settings: TrainingSettings,
        batches: Batches,
        layout: torch.memory_format,
        stage: str,
        precision: str,
        keep_best: bool,
        own: dict[str, str],
    ) -> None:
        self.accelerator, self.model, self.plain = accelerator, model, plain
        self.optimizer, self.average, self.settings = optimizer, average, settings
        self.batches, self.layout, self.stage = batches, layout, stage
        self.precision, self.keep_best = precision, keep_best
        self.own = own  # which training this is
        self.epoch = self.step = 0
        self.sums: dict[str, float] = {}
        self.seconds = 0.0
        self.history: list[EpochRecord] = []
        self.best: dict[str, Tensor] = {}
        self.kept = 0

    def one_epoch(
        self, validate: Callable[[nn.Module], Metric] | None, checkpoint: Path | None, watch: Watch
    ) -> Iterator[tuple[Batch, float]]:
        """The batches and learning rates from the current step to the end of the epoch, each to be trained on."""
        settings, per_epoch = self.settings, len(self.batches)
        total = settings.epochs * per_epoch
        began = saved = time.monotonic()
        first, images = self.step, 0
        own, number = self.accelerator.process_index, self.accelerator.num_processes
        self.model.train()
        for batch in self.batches.epoch(self.epoch, self.step, own, number):
            rate = learning_rate(settings, self.epoch * per_epoch + self.step, total)
            yield batch.to(self.accelerator.device, self.layout), rate
            self.step += 1
            images += batch.whole or len(batch.labels)
            now = time.monotonic()
            watch.step(
                self.epoch * per_epoch + self.step,
                total,
                {
                    "epoch": f"{self.epoch + 1}/{settings.epochs}",
                    **{name: value / self.step for name, value in self.sums.items()},
                    "lr": rate,
                    "samples/s": float(int(images / (now - began))),
                },
            )
            if checkpoint is not None and now - saved >= settings.checkpoint_seconds and self.step < per_epoch:
                self._save(checkpoint, self.seconds + now - began)
                saved = time.monotonic()
        spent = time.monotonic() - began
        self.seconds += spent
        self._end_epoch(validate, images / spent, self.seconds, rate if self.step > first else 0.0)
        if checkpoint is not None:
            self._save(checkpoint, self.seconds)
        metric = self.history[-1].validation
        watch.epoch(self.epoch, metric.goodness if metric else None)

    def learn(self, losses: Losses, rate: float) -> None:
        """One step of the optimizer, from the losses of a batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise UserError(
                f"{self.stage}: the loss part(s) {', '.join(broken)} became {values[broken[0]]} in epoch"
                f" {self.epoch + 1}, step {self.step + 1}; lower learning_rate (now at most"
                f' {self.settings.learning_rate}), set clip_norm = 1.0, or use precision = "float32"'
            )
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.optimizer.zero_grad()
        self.accelerator.backward(sum(losses.values()))
        if self.settings.clip_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.plain)

    @property
    def evaluated(self) -> nn.Module:
        return self.average.module if self.average is not None else self.plain

    def _end_epoch(
        self, validate: Callable[[nn.Module], Metric] | None, images_per_s: float, seconds: float, rate: float
    ) -> None:
        self._check_weights()
        metric = None
        if validate is not None:
            self.evaluated.eval()
            metric = processes.on_main(lambda: validate(self.evaluated))
        self.history.append(
            EpochRecord(
                epoch=self.epoch + 1,
                losses={name: value / self.step for name, value in self.sums.items()},
                learning_rate=rate,
                images_per_s=images_per_s,
                seconds=seconds,
                validation=metric,
            )
        )
        best = max((entry.validation.goodness for entry in self.history if entry.validation), default=-math.inf)
        if not self.keep_best or metric is None or metric.goodness >= best:
            self.kept = self.epoch + 1
            if self.keep_best:
                self.best = {key: value.detach().cpu().clone() for key, value in self.evaluated.state_dict().items()}
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}

    def _check_weights(self) -> None:
        """Raises if the epoch's last step broke the weights: no loss is computed after it that would reveal this."""
        state = self.plain.state_dict().items()
        broken = [name for name, value in state if value.is_floating_point() and not torch.isfinite(value).all()]
        if broken:
            more = f" and {len(broken) - 1} more" if broken[1:] else ""
            raise UserError(
                f"{self.stage}: {broken[0]}{more} became NaN or infinite in"
                f" the last step of epoch {self.epoch + 1}, whose loss was finite, but not its gradient; lower"
                f" learning_rate (now at most {self.settings.learning_rate}), or set clip_norm = 1.0"
            )

    def finish(self) -> TrainingRecord:
        """Puts the kept weights into the objective and returns the training's record."""
        kept = self.best or self.evaluated.state_dict()
        self.plain.load_state_dict(kept)
        make_contiguous(self.plain).eval()
        return TrainingRecord(
            stage=self.stage,
            epochs=tuple(self.history),
            steps=self.settings.epochs * len(self.batches),
            kept=self.kept,
            precision=self.precision,
            device=str(self.accelerator.device),
            seconds=self.seconds,
        )

    def _save(self, path: Path, seconds: float) -> None:
        if not self.accelerator.is_main_process:
            return
        tensors = {f"model.{key}": value for key, value in self.plain.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{key}": value for key, value in self.average.state_dict().items()}
        tensors |= {f"best.{key}": value for key, value in self.best.items()}
        for number, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{number}.{key}": torch.as_tensor(value) for key, value in entry.items() if value is not None
            }
        tensors["random"] = torch.get_rng_state()
        if self.accelerator.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.accelerator.device)
        meta: dict[str, object] = {
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums,
            "seconds": seconds,
            "precision": self.precision,
            "kept": self.kept,
            "history": [entry.model_dump() for entry in self.history],
            "scaler": scaler.state_dict() if (scaler := self.accelerator.scaler) is not None else None,
            "training": self.own,
        }
        Checkpoint(tensors, meta).write(path)

    def restore(self, state: Checkpoint) -> None:
        """Goes back to where a checkpoint was written."""
        meta = state.meta
        if self.accelerator.scaler is not None and meta["scaler"]:  # of float16: the scale that its losses had reached
            self.accelerator.scaler.load_state_dict(meta["scaler"])
        self.epoch, self.step, self.sums = meta["epoch"], meta["step"], dict(meta["sums"])
        self.seconds, self.kept = meta["seconds"], meta["kept"]
        self.history = [EpochRecord.model_validate(entry) for entry in meta["history"]]
        self.plain.load_state_dict(_part(state.tensors, "model."))
        if self.average is not None:
            self.average.load_state_dict(_part(state.tensors, "average."))
        self.best = _part(state.tensors, "best.")
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in _part(state.tensors, "optimizer.").items():
            number, _, name = key.partition(".")
            entries.setdefault(int(number), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": entries})
        torch.set_rng_state(state.tensors["random"])
        if self.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(state.tensors["random.cuda"], self.accelerator.device)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


@torch.no_grad()
def validation_metric(model: nn.Module, data: Data, task: Task, batch: int = 500) -> Metric:
    """The task's primary metric of the model, on whatever device it is, on the validation split.

    Raises:
        UserError: an output is not finite.
    """
    device = next(model.parameters()).device
    outputs = []
    for samples in data.validation.chunks(batch):
        inputs = data.normalize(samples.to(device))
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        outputs.append(kept(task, model(inputs)))
    return score(task, torch.cat(outputs), data.validation.labels).primary
