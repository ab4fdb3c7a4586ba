"""The state of a training on disk."""

import json
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from distiq.errors import UserError
from distiq.files import save_tensors, sha256_of_tensors


class _Checkpoint(NamedTuple):
    tensors: dict[str, Tensor]
    meta: dict[str, object]

    @staticmethod
    def read(path: Path) -> "_Checkpoint":
        try:
            with safe_open(path, "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
                stored = file.metadata()
                found = _Checkpoint(tensors, json.loads(stored["meta"]))
                if stored["sha256"] != sha256_of_tensors(tensors, stored["meta"]):
                    raise ValueError("its SHA-256 is not the one that was written")
                return found
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise UserError(f"{path}: damaged checkpoint ({error}); delete it to train from the start") from error

    def write(self, path: Path) -> None:
        meta = json.dumps(self.meta)
        save_tensors(self.tensors, path, {"meta": meta, "sha256": sha256_of_tensors(self.tensors, meta)})
