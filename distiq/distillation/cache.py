"""A teacher's outputs, computed once per view and stored.

A file holds the outputs for every training sample for one view, beside the key of what made them (teacher, data,
views, form) and a checksum. It appears whole or not at all; one that is stale or damaged is computed anew. A view is
computed in fixed chunks when it is first needed, so that a resumed training reads the same bits.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from distiq.data.splits import Data
from distiq.data.text import Text
from distiq.data.views import Views
from distiq.distillation.storage import decode, encode, half_where_it_fits
from distiq.distillation.teacher import Knowledge, Teacher
from distiq.errors import UserError
from distiq.files import load_tensors, save_tensors
from distiq.progress import Silent, Watch
from distiq.recipe.distil import CacheSettings
from distiq.tasks.choose import task_of
from distiq.training import processes
from distiq.training.batches import Batch, Batches
from distiq.training.padding import EXACT, TRIED, takes_any_length, without_padding

CHUNK = 512
Rows = dict[str, Tensor]


class CachedTeacher:
    """Reads outputs from the store; computes those of a view when the view is first needed.

    Args:
        live: computes what is not stored.
        data, views: the training split and how its views are made.
        folder: where the files stand, one per view.
        key: says which teacher, data and views the files belong to.
        settings: the form and the largest size of the store.
        paths: the teacher's modules whose activations are stored too.
        beside: the folders whose files count against the largest size, too, such as those of a run's other teachers.

    Raises:
        UserError: activations of texts are to be stored.
    """

    def __init__(
        self,
        live: Teacher,
        data: Data,
        views: Views,
        folder: Path,
        key: str,
        watch: Watch | None = None,
        settings: CacheSettings | None = None,
        paths: Sequence[str] = (),
        beside: Path | None = None,
    ) -> None:
        if paths and data.preprocessing.has_lengths:
            raise UserError(
                f"distil: {paths[0]} of texts cannot be stored, since their lengths differ; set distil.teacher ="
                ' "live", or leave the losses between layers out'
            )
        self.live, self.folder, self.watch, self.paths = live, folder, watch or Silent(), tuple(paths)
        self.settings = settings or CacheSettings()
        self.beside = beside
        self.batches = Batches(data, views, CHUNK, seed=0)
        self.outputs = task_of(data).outputs
        form = self.settings.model_dump_json(exclude={"limit_mb"})
        self.key = f"{key} {form} {' '.join(self.paths)}"
        self.loaded: tuple[int, Rows] | None = None
        self.too_large = False  # a single view is more than the store may hold
        self.full = False  # whether the note about it was shown

    def __call__(self, batch: Batch) -> Knowledge:
        device = batch.inputs.device
        if self.too_large:
            return self.live(batch)
        if self.loaded is None or self.loaded[0] != batch.view:
            self.loaded = None  # one view at a time in memory
            with torch.autocast(device.type, enabled=False):  # it knows no float16 on a CPU
                stored = self._view(batch.view, device)
            if stored is None:
                return self.live(batch)
            self.loaded = (batch.view, stored)
        indices = batch.indices.cpu()  # distributed wrappers move every tensor of a batch
        rows = {name: tensor[indices] for name, tensor in self.loaded[1].items()}
        features = {path: rows.pop(_feature(path)).to(device).float() for path in self.paths}
        return Knowledge(decode(rows, self.outputs).to(device), features)

    def __deepcopy__(self, _memo: dict) -> "CachedTeacher":
        return self  # copies of an objective (a moving average, a trial of its speed) share their teacher

    def _view(self, number: int, device: torch.device) -> Rows | None:
        """Every sample's outputs for a view. Of several processes the main one computes and writes, the others read.

        None if a view is larger than the whole store may be.
        """
        path = self.folder / f"view-{number:04d}.safetensors"
        if not processes.is_main():
            processes.wait()
        try:
            stored = self._read(path)
            if stored is not None:
                return stored
            stored = self._compute(number, device)
            if stored is not None and self._has_room(stored, path):
                save_tensors(stored, path, {"key": self.key})
            return stored
        finally:
            if processes.is_main():
                processes.wait()

    def _has_room(self, rows: Rows, path: Path) -> bool:
        stored = self.beside.glob("*/view-*.safetensors") if self.beside else self.folder.glob("view-*.safetensors")
        others = sum(file.stat().st_size for file in stored if file != path)
        has_room = others + sum(tensor.nbytes for tensor in rows.values()) <= self.settings.limit_mb * 1e6
        if not has_room and not self.full:
            self.full = True
            self.watch.note(
                f"the store of teachers' outputs is full (cache.limit_mb = {self.settings.limit_mb:g}); views beyond it"
                " are computed anew each time; `distiq clean RUN` frees what no record names"
            )
        return has_room

    def _read(self, path: Path) -> Rows | None:
        try:
            rows, meta = load_tensors(path)
        except ValueError:
            return None
        return rows if meta.get("key") == self.key else None

    def _compute(self, number: int, device: torch.device) -> Rows | None:
        chunks: list[Rows] = []
        total = len(self.batches.data.train)
        order = self._order()
        live = self._live(number, order, device)
        for indices in order.split(CHUNK):
            knowledge = live(self.batches.batch(number, indices).to(device))
            chunk = encode(knowledge.logits.float().cpu(), self.settings)
            chunks.append(
                chunk
                | {_feature(path): half_where_it_fits(knowledge.features[path].float().cpu()) for path in self.paths}
            )
            bytes_each = sum(rows.nbytes for rows in chunks[0].values()) / min(CHUNK, total)
            if bytes_each * total > self.settings.limit_mb * 1e6:
                self.too_large = True
                self.watch.note(f"a view's outputs exceed cache.limit_mb = {self.settings.limit_mb:g}: not stored")
                return None
            self.watch.step(sum(map(_rows, chunks)), total, {"teacher's outputs for view": str(number)})
        back = order.argsort()
        return {name: torch.cat([chunk[name] for chunk in chunks])[back] for name in chunks[0]}

    def _order(self) -> Tensor:
        """The samples as they are computed: texts by their length, so that little is padding."""
        data = self.batches.data
        if not isinstance(data.preprocessing, Text):
            return torch.arange(len(data.train))
        return data.preprocessing.lengths(data.train.inputs).argsort(stable=True)

    def _live(self, number: int, order: Tensor, device: torch.device) -> Teacher:
        """The teacher, of texts without the padding where that changes nothing."""
        text = self.batches.data.preprocessing
        if not isinstance(text, Text):
            return self.live

        def logits(batch: Batch, inputs: Tensor) -> Tensor:
            return self.live(batch._replace(inputs=inputs, mask=text.attention_mask(inputs))).logits

        first = self.batches.batch(number, order[:TRIED]).to(device)
        if not takes_any_length(partial(logits, first), text, first.inputs, EXACT):
            return self.live
        return lambda batch: Knowledge(without_padding(partial(logits, batch), text, batch.inputs))


def _rows(chunk: Rows) -> int:
    return len(next(iter(chunk.values())))


def _feature(path: str) -> str:
    return f"features.{path}"
