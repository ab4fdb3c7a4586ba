"""The state of a training on disk."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from distiq.errors import UserError
from distiq.files import load_tensors, save_tensors


class Checkpoint(NamedTuple):
    """Tensors of a training, and as JSON values where it stands and which training it is of."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    @staticmethod
    def read(path: Path) -> "Checkpoint":
        """Reads a checkpoint.

        Raises:
            UserError: the file is damaged or no checkpoint.
        """
        try:
            tensors, texts = load_tensors(path)
            meta = json.loads(texts["meta"])
        except (KeyError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: damaged checkpoint ({error}); delete it to train from the start") from error
        return Checkpoint(tensors, meta)

    def write(self, path: Path) -> None:
        save_tensors(self.tensors, path, {"meta": json.dumps(self.meta)})
