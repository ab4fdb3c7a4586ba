"""Writing and hashing files: a file under its final name is always whole, and on the disk."""

import contextlib
import ctypes
import fnmatch
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distiq.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


SUM = "sha256"
PARTIAL = re.compile(r"\..+\.[a-z0-9_]{8}\.partial")
"""The names of files that are being written: those that `replacing` gives, and no others."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; on success it replaces `path` in one step, else it is removed.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        make_folder(path.parent)
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
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path}: writing failed ({error.strerror}); nothing was left under that name") from error
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Makes the folder and those above it, which last as files do."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_folder(place.parent)


def sync_folder(folder: Path) -> None:
    """Puts the folder's entries on the disk: without it a power failure may undo a rename."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems know no such call
            os.fsync(handle)
    finally:
        os.close(handle)


def sync_files(folder: Path) -> None:
    """Puts the folder's files and its entries on the disk."""
    for file in folder.iterdir():
        if file.is_file():
            with file.open("rb") as written:
                os.fsync(written.fileno())
    sync_folder(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def save_tensors(tensors: Mapping[str, "Tensor"], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors as safetensors, whole or not at all; they are taken to the CPU and made contiguous.

    The file holds its own checksum, which `load_tensors` verifies.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    texts = dict(metadata or {})
    with replacing(path) as temporary:
        try:
            save_file(plain, temporary, {**texts, SUM: sha256_of_tensors(plain, json.dumps(texts, sort_keys=True))})
        except SafetensorError as error:  # a full disk, among others
            raise OSError(None, str(error)) from error


def load_tensors(path: Path) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """The tensors and the metadata of a file of `save_tensors`.

    Raises:
        ValueError: the file is missing or damaged, or its checksum is missing or not that of its content.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            texts = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(str(error)) from error
    expected = texts.pop(SUM, "")
    if sha256_of_tensors(tensors, json.dumps(texts, sort_keys=True)) != expected:
        raise ValueError("its SHA-256 is not the one that was written")
    return tensors, texts


def is_intact(path: Path) -> bool:
    """Whether a file of tensors is what `save_tensors` wrote, by the checksum that it holds itself."""
    try:
        return bool(load_tensors(path))
    except ValueError:
        return False


def sha256_of_file(path: Path) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_tensors(tensors: Mapping[str, "Tensor"], beside: str = "") -> str:
    """The SHA-256 of names, shapes and values, in the order of the names, and of a text beside them."""
    import torch

    sha = hashlib.sha256(beside.encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().cpu().reshape(-1)
        if flat.stride(0) != 1:  # a single value keeps any stride
            flat = flat.new_empty(flat.shape).copy_(flat)
        sha.update(flat.view(torch.uint8).numpy().data)
    return sha.hexdigest()


def sha256_of_json(value: Any) -> str:
    """The SHA-256 of a value's canonical JSON: sorted keys, no spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def replace_folder(new: Path, target: Path, own: Sequence[str]) -> None:
    """Puts the finished folder `new` in the place of `target`, which may exist; at no moment is there neither.

    Linux lets the two change places in one step. Elsewhere the old one stands beside `target` for a moment, where
    `standing` finds it.

    Args:
        own: patterns of the names that distiq gives in such a folder; whatever else the old one holds goes into the
            new one.
    """
    bring_back(target)
    if target.exists():
        for entry in target.iterdir():
            if not any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in own) and not (new / entry.name).exists():
                copy = shutil.copytree if entry.is_dir() else shutil.copy2
                copy(entry, new / entry.name)
    sync_files(new)
    old = _aside(target)
    if not target.exists():
        os.replace(new, target)
    elif _exchanged(new, target):
        old = new
    else:
        os.replace(target, old)
        try:
            os.replace(new, target)
        except OSError:
            os.replace(old, target)
            raise
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def standing(folder: Path) -> Path:
    """The folder, or the old one in its place, where a `replace_folder` was cut off between two steps."""
    return _aside(folder) if not folder.exists() and _aside(folder).is_dir() else folder


def bring_back(folder: Path) -> None:
    """Ends a `replace_folder` that was cut off: `folder` is there, and no old one beside it."""
    old = _aside(folder)
    if not folder.exists() and old.is_dir():
        os.replace(old, folder)
    shutil.rmtree(old, ignore_errors=True)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _exchanged(one: Path, other: Path) -> bool:
    """Lets two folders change places in one step, where the system and its file system can; says whether it did."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0
