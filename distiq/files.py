"""Writing and hashing files: a file under its final name is always whole."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distiq.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


PARTIAL = ".*.partial"
"""The names of files that are being written."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; on success it replaces `path` in one step, else it is removed.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        os.close(handle)
    except OSError as error:
        raise UserError(
            f"{path}: cannot write here ({error.strerror}); free the disk or choose another folder"
        ) from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: writing failed ({error.strerror}); nothing was left under that name") from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def save_tensors(tensors: Mapping[str, "Tensor"], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes tensors as safetensors, whole or not at all; they are taken to the CPU and made contiguous."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(plain, temporary, metadata)
        except SafetensorError as error:  # a full disk, among others
            raise OSError(None, str(error)) from error


def sha256_of_file(path: Path) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_tensors(tensors: Mapping[str, "Tensor"], beside: str = "") -> str:
    """The SHA-256 of names, shapes and values, in the order of the names, and of a text beside them."""
    import torch

    sha = hashlib.sha256(beside.encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def sha256_of_json(value: Any) -> str:
    """The SHA-256 of a value's canonical JSON: sorted keys, no spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def replace_folder(new: Path, target: Path) -> None:
    """Puts the finished folder `new` in the place of `target`, which may exist."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)
