"""A teacher is a value with one method: whatever stands behind it, it turns a batch into knowledge."""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from distiq.data.labels import SHARES, UNLABELLED, form_of
from distiq.data.splits import Data
from distiq.distillation.adapt import columns_of, refit
from distiq.distillation.hooks import feature_hooks
from distiq.errors import UserError
from distiq.models.predictor import are_probabilities, logarithms
from distiq.models.signature import Tensors, one_output
from distiq.models.weights import usable
from distiq.training.batches import Batch


@dataclass(frozen=True)
class Knowledge:
    """A teacher's outputs for a batch: logits (B, classes) float32 and activations by module path."""

    logits: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)


class Teacher(Protocol):
    """Turns a batch into knowledge, without a gradient."""

    def __call__(self, batch: Batch) -> Knowledge: ...


class _Logits:
    """A teacher's outputs (B, classes) as logits: logarithms if its first batch shows that they are probabilities."""

    def __init__(self) -> None:
        self.are_probabilities: bool | None = None

    def __call__(self, outputs: Tensor) -> Tensor:
        outputs = outputs.float()
        if self.are_probabilities is None:
            self.are_probabilities = outputs.ndim == 2 and are_probabilities(outputs)
            if self.are_probabilities:
                warnings.warn("teacher: its outputs are probabilities; their logarithms are taken", stacklevel=3)
        return logarithms(outputs) if self.are_probabilities else outputs


class LiveTeacher:
    """A network that runs at every step: frozen, in eval mode, without gradients, in full precision.

    Probabilities are replaced by their logarithms, with a warning.

    Args:
        model: is moved to the batch's device when it is first used, and brought to float32; the caller's object is not
            changed otherwise.
        paths: modules whose activations are wanted.
        read: what the model returns -> outputs (B, outputs, ...); see `Task.read`.

    Raises:
        UserError: a weight is NaN or infinite.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str] = (), read: Callable[[Any], Tensor] = one_output) -> None:
        self.model, self.paths = freeze(usable(model, f"teacher: {type(model).__name__}")), tuple(paths)
        self.read = read
        self.logits = _Logits()

    def __call__(self, batch: Batch) -> Knowledge:
        self.model.to(batch.inputs.device)
        with (
            torch.no_grad(),
            torch.autocast(batch.inputs.device.type, enabled=False),
            feature_hooks(self.model, self.paths) as features,
        ):
            logits = self.read(self.model(batch.inputs))
        return Knowledge(self.logits(logits), features)

    def __deepcopy__(self, _memo: dict) -> "LiveTeacher":
        return self  # copies of an objective (a moving average, a trial of its speed) share their teacher


def freeze(model: nn.Module) -> nn.Module:
    """The same model in eval mode, with parameters that take no gradient."""
    return model.eval().requires_grad_(False)


class PredictTeacher:
    """A teacher without a PyTorch model: any callable from images to logits, such as `distiq.load("teacher.onnx")`.

    Args:
        predict: normalized inputs (B, ...) float32 -> logits or probabilities (B, classes), an array, or as networks
            return them.
    """

    def __init__(self, predict: Callable[[Tensor], Tensors | np.ndarray]) -> None:
        self.predict, self.logits = predict, _Logits()

    def __call__(self, batch: Batch) -> Knowledge:
        with torch.no_grad():
            outputs = self.predict(batch.inputs.cpu().contiguous())
            logits = torch.as_tensor(outputs) if isinstance(outputs, np.ndarray) else one_output(outputs)
        return Knowledge(self.logits(logits).to(batch.inputs.device))

    def __deepcopy__(self, _memo: dict) -> "PredictTeacher":
        return self


class Ensemble:
    """Several teachers as one: the logarithm of their probabilities' mean.

    Args:
        weights: "mean" weights all equally; "confidence" weights each by how well it predicts the sample's label, as
            Zhang et al. 2022 do, "Confidence-aware multi-teacher knowledge distillation" (arXiv:2201.00007),
            equation 3: (1 - softmax of the cross entropies) / (teachers - 1).
    """

    def __init__(self, teachers: Sequence[Teacher], weights: Literal["mean", "confidence"] = "mean") -> None:
        if len(teachers) < 2:
            raise UserError(f"Ensemble: {len(teachers)} teacher(s) given; it needs two or more")
        self.teachers, self.weights = tuple(teachers), weights

    def __call__(self, batch: Batch) -> Knowledge:
        logs = torch.stack([teacher(batch).logits.float().log_softmax(1) for teacher in self.teachers])
        count = len(logs)
        if self.weights == "mean":
            shares = logs.new_full((count, len(batch.labels)), 1 / count)
        else:
            if batch.partners is not None:
                raise UserError('Ensemble: "confidence" needs one label per image, but views blend two; take "mean"')
            if form_of(batch.labels) is SHARES:
                raise UserError('Ensemble: "confidence" needs one label per sample, but labels are shares; take "mean"')
            is_labelled = batch.labels != UNLABELLED
            surprise = -logs.gather(2, batch.labels.clamp(min=0).expand(count, -1).unsqueeze(2)).squeeze(2)
            shares = (1 - (surprise * is_labelled).softmax(0)) / (count - 1)  # without a label all weigh the same
        return Knowledge((logs + shares.log().unsqueeze(2)).logsumexp(0))

    def __deepcopy__(self, _memo: dict) -> "Ensemble":
        return self


class AdaptedTeacher:
    """A teacher that was trained with other preprocessing, at another resolution, or with another order of labels.

    Args:
        teacher: takes images preprocessed in its own way and predicts its own classes.
        data: the student's data; its preprocessing is undone, and logits are given for its classes.
        classes: the teacher's classes in its order; None means the data's. Classes that the data lacks are left out.
        mean, std: the teacher's normalization per channel, of pixels in 0..1; None means the data's.
        size: (height, width) that the teacher expects; None leaves the image as it is.

    Raises:
        UserError: the data has a class that the teacher does not know; both lists are shown.
    """

    def __init__(
        self,
        teacher: Teacher,
        data: Data,
        *,
        classes: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.teacher = teacher
        self.view = refit(data, mean or (), std or (), size or ())
        self.columns = torch.tensor(columns_of(data, data.classes if classes is None else classes))

    def __call__(self, batch: Batch) -> Knowledge:
        inputs = batch.inputs if self.view is None else self.view.to(batch.inputs.device)(batch.inputs)
        knowledge = self.teacher(batch._replace(inputs=inputs))
        return Knowledge(knowledge.logits[:, self.columns.to(knowledge.logits.device)], knowledge.features)

    def __deepcopy__(self, _memo: dict) -> "AdaptedTeacher":
        return self


class MeanTeacher:
    """The moving average of the student's own weights as its teacher.

    Tarvainen and Valpola 2017, "Mean teachers are better role models" (arXiv:1703.01780): the average takes in the
    student's weights before each call, weighted at least as much as in a plain mean of all so far.
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = decay
        self.student: nn.Module | None = None
        self.average: nn.Module | None = None

    def follow(self, student: nn.Module) -> nn.Module:
        """Starts from a copy of the student, and returns it: it belongs in the training's checkpoint."""
        self.student, self.average = student, freeze(copy.deepcopy(student))
        self.average.register_buffer("updates", torch.zeros(()))
        return self.average

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Knowledge:
        assert self.student is not None, "follow() comes first"
        assert self.average is not None
        if self.student.training:
            count = self.average.get_buffer("updates")
            decay = min(self.decay, float(count / (count + 1)))
            count += 1
            own = {**dict(self.student.named_parameters()), **dict(self.student.named_buffers())}
            for name, value in (*self.average.named_parameters(), *self.average.named_buffers()):
                if name != "updates":
                    value.copy_(value * decay + own[name] * (1 - decay) if value.is_floating_point() else own[name])
        with torch.autocast(batch.inputs.device.type, enabled=False):
            return Knowledge(self.average.eval()(batch.inputs).float())
