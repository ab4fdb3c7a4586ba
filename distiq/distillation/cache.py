"""A teacher's outputs, computed once per view and stored.

A file holds the float16 logits of every training sample for one view, beside the key of what made them: teacher,
data, views. It appears whole or not at all; one with another key or size is computed anew.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from distiq.data.splits import Data
from distiq.data.views import Views
from distiq.distillation.teacher import Knowledge, LiveTeacher
from distiq.files import save_tensors
from distiq.progress import Silent, Watch
from distiq.training import Batch

CHUNK = 512


class CachedTeacher:
    """Answers from the store; fills it for a view when the view is first asked for.

    Args:
        live: computes what is not stored.
        data, views: the training split and how its views are made.
        folder: where the files stand, one per view.
        key: says which teacher, data and views the files belong to.
    """

    def __init__(
        self, live: LiveTeacher, data: Data, views: Views, folder: Path, key: str, watch: Watch | None = None
    ) -> None:
        self.live, self.data, self.views = live, data, views
        self.folder, self.key, self.watch = folder, key, watch or Silent()
        self.loaded: tuple[int, Tensor] | None = None

    def __call__(self, batch: Batch) -> Knowledge:
        if self.loaded is None or self.loaded[0] != batch.view:
            with torch.autocast(batch.images.device.type, enabled=False):  # it knows no float16 on a CPU
                self.loaded = (batch.view, self._view(batch.view, batch.images.device))
        logits = self.loaded[1][batch.indices]
        return Knowledge(logits.to(batch.images.device).float())

    def __deepcopy__(self, _memo: dict) -> "CachedTeacher":
        return self  # copies of an objective (a moving average, a trial of its speed) share their teacher

    def _view(self, number: int, device: torch.device) -> Tensor:
        path = self.folder / f"view-{number:04d}.safetensors"
        stored = self._read(path)
        if stored is not None:
            return stored
        logits = self._compute(number, device)
        save_tensors({"logits": logits}, path, {"key": self.key})
        return logits

    def _read(self, path: Path) -> Tensor | None:
        try:
            with safe_open(path, "pt") as file:
                if (file.metadata() or {}).get("key") != self.key:
                    return None
                logits = file.get_tensor("logits")
        except (SafetensorError, OSError):
            return None
        return logits if len(logits) == len(self.data.train) else None

    def _compute(self, number: int, device: torch.device) -> Tensor:
        chunks = []
        total = len(self.data.train)
        for indices in torch.arange(total).split(CHUNK):
            samples = self.data.train.take(indices)
            images = self.data.normalize(self.views.view(samples.images, number, indices)).to(device)
            chunks.append(self.live(Batch(images, samples.labels, indices, number)).logits.half().cpu())
            self.watch.step(int(indices[-1]) + 1, total, {"teacher's answers to view": str(number)})
        return torch.cat(chunks)
