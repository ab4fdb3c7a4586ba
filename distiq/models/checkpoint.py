"""Weights as people save them: shards, training states, wrappers' prefixes. A note says what was unwrapped."""

import argparse
import datetime
import json
import pathlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.models.signature import type_name
from distiq.progress import Silent, Watch

SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".bin", ".ckpt", ".tar", ".json")
IN_FOLDERS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
"""Names of the weights in folders of transformers and Accelerate."""
INNER_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch's wrappers put into the middle of names, too."""
BOOKKEEPING = ("num_batches_tracked", "n_averaged", "position_ids")
"""Last parts of names whose values a network computes the same without."""
SCALAR: Any = np.float64(0).__reduce__()[0]  # type: ignore[misc]
REBUILD: Any = np.zeros(0).__reduce__()[0]
HARMLESS = [
    argparse.Namespace, pathlib.PosixPath, np.dtype, np.ndarray, SCALAR, REBUILD,
    (SCALAR, "numpy.core.multiarray.scalar"), (REBUILD, "numpy.core.multiarray._reconstruct"),  # names before NumPy 2
    datetime.datetime, datetime.date, datetime.timedelta, defaultdict, Counter, list, dict, set, int, float,
    *(type(np.dtype(name)) for name in ("f4", "f8", "i4", "i8", "bool")),
]  # fmt: skip
"""Types beside weights that training scripts save and that run no code: their options, their best accuracy."""
AVERAGES = {"ema", "swa", "averaged", "average"}
"""Parts of keys and of names under which training scripts keep moving averages."""
LOADED = "loaded_names"
"""The attribute of a network that names the tensors that a file filled."""
DEPTH = 3
MOST_PARTS = 8  # of a list or tuple that is looked into, such as (network, optimizer)
SHOWN = 3


class Fit(NamedTuple):
    """A state dict of a file by the network's names.

    place: the keys that lead to it. prefix, added: what was taken off its names, and put before them. outside: how many
    tensors do not begin with the prefix. matching: how many have a name and the shape of the network's; named: a name.
    wrapper: of torch, whose part of the names was taken out.
    """

    place: str
    prefix: str
    added: str
    tensors: dict[str, Tensor]
    outside: int
    matching: int
    named: int
    wrapper: str

    @property
    def is_averaged(self) -> bool:
        return bool(AVERAGES & set(re.split(r"[._]", f"{self.place}.{self.prefix}".lower())))


def load_weights(
    model: nn.Module, path: Path, trust: bool = False, watch: Watch | None = None, new_head: bool = False
) -> None:
    """Loads the weights of a file, of shards, or of a folder that holds one of them, into the model.

    Of a training's state the state dict is taken that fits the network best; where an averaged one (EMA) fits as well,
    it is taken, as timm does. Prefixes that wrappers put before the names are taken off, and names of a network's
    `published_names()` are made its own.

    Args:
        trust: the file may run code.
        watch: gets a note of what was unwrapped.
        new_head: the model is trained on: a last layer for another number of classes stays as it was drawn.

    Raises:
        UserError: the file is damaged, would run code and is not trusted, holds no state dict, or does not fit.
    """
    own = model.state_dict()
    renamed: dict[str, str] = getattr(model, "published_names", dict)()
    candidates = [
        fit
        for place, tensors in _state_dicts(_read(path, trust))
        for fit in _fits(place, _renamed(tensors, renamed), own)
    ]
    if not candidates:
        raise UserError(f"{path}: holds no plain state dict; save model.state_dict()")
    fit = _best(candidates, path)
    head = _other_head(fit, own) if new_head else ()
    drawn = getattr(model, "new_parts", ()) if new_head else ()
    _check(fit, {name: value for name, value in own.items() if not name.startswith(drawn)}, head, path)
    taken = {name: value for name, value in fit.tensors.items() if name in own and name not in head}
    model.load_state_dict(taken, strict=False)
    setattr(model, LOADED, tuple(taken))
    watch = watch or Silent()
    if drawn and (count := sum(name.startswith(drawn) and name not in taken for name in own)):
        watch.note(f"{path.name}: weights of the encoder alone; {count} tensors behind it are drawn anew and trained")
    if said := _unwrapped(fit):
        watch.note(f"{path.name}: {said}")
    if head:
        before, after = len(fit.tensors[head[0]]), len(own[head[0]])
        watch.note(f"{path.name}: its last layer gives {before:,} outputs; a new one of {after:,} is trained")


def _renamed(tensors: dict[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors by the network's names; what it has no use for, which is called "", is left out."""
    return {own: value for name, value in tensors.items() if (own := names.get(name, name))}


# Files ----------------------------------------------------------------------------------------------------------------


def _read(path: Path, trust: bool) -> Any:
    if path.is_dir():
        return _read(_in_folder(path), trust)
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; weights are a .safetensors, .pt, .pth, .ckpt or .bin file, or a hub name"
        )
    if path.suffix == ".json":
        return _read_shards(path, trust)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: damaged or no safetensors file ({error}); save or copy it again") from error
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:  # pickle raises whatever the file makes it raise
        raise UserError(
            f"{path}: cannot be loaded as weights alone ({_reason(error)}); save model.state_dict(), or, if you trust"
            " its origin, set trust = true: such a file can run code"
        ) from error


def _reason(error: Exception) -> str:
    """What stands in the file beside weights, where torch says it."""
    if found := re.search(
        r"Unsupported (?:global|class|operand)[^\n]*?(?:GLOBAL )?([A-Za-z_]\w*(?:\.\w+)+)", str(error)
    ):
        return f"it holds a {found[1]}"
    return "it is a TorchScript archive" if "TorchScript" in str(error) else type(error).__name__


def _in_folder(folder: Path) -> Path:
    usual = [folder / name for name in IN_FOLDERS if (folder / name).is_file()]
    files = usual or sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES[:-1])
    if not usual and len(files) != 1:
        names = ", ".join(file.name for file in files[:SHOWN]) or "none"
        raise UserError(f"{folder}: this folder holds {len(files)} files of weights ({names}); name the one to load")
    return files[0]


def _read_shards(index: Path, trust: bool) -> dict[str, Tensor]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted({str(name) for name in names.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{index}: no index of shards ({type(error).__name__}); name the file of weights itself"
        ) from error
    if strange := [file for file in files if Path(file).name != file or Path(file).suffix not in SUFFIXES[:-1]]:
        raise UserError(f"{index}: names {strange[0]!r}, which is no file of weights beside it; copy it again")
    tensors: dict[str, Tensor] = {}
    for file in files:
        shard = _read(index.parent / file, trust)
        tensors |= {name: value for name, value in dict(shard).items() if isinstance(value, Tensor)}
    if missing := [name for name in names if name not in tensors]:
        raise UserError(f"{index}: {missing[0]} is not in {names[missing[0]]}; copy the shards again")
    return tensors


# What fits ------------------------------------------------------------------------------------------------------------


def _state_dicts(tree: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping of names to tensors, with the keys that lead to it."""
    if isinstance(tree, nn.Module):
        tree = tree.state_dict()
    if isinstance(tree, list | tuple) and len(tree) <= MOST_PARTS:
        tree = {str(number): part for number, part in enumerate(tree) if isinstance(part, Mapping | nn.Module)}
    if not isinstance(tree, Mapping) or depth > DEPTH:
        return
    tensors = {name: _tensor(value) for name, value in tree.items() if isinstance(name, str) and _is_tensor(value)}
    if tensors:
        yield place, tensors
    for name, value in tree.items():
        if isinstance(name, str):
            yield from _state_dicts(value, f"{place}.{name}" if place else name, depth + 1)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiub")


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(value)


def _fits(place: str, tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> list[Fit]:
    """The state dict under each prefix that makes names of it the network's, and as it is."""
    wrapper = next((part for part in INNER_WRAPPERS if any(part in name for name in tensors)), "")
    plain = {_without_wrappers(name): value for name, value in tensors.items()}
    ways = Counter({("", ""): 0})
    for name, value in plain.items():
        parts = name.split(".")
        for start in range(len(parts)):
            prefix, rest = "".join(f"{part}." for part in parts[:start]), ".".join(parts[start:])
            for added in ("", "model."):  # networks of libraries stand in a module of that name here
                if added + rest in own:
                    ways[prefix, added] += own[added + rest].shape == value.shape
    fits = []
    for (prefix, added), matching in ways.items():
        inside = {added + name[len(prefix) :]: value for name, value in plain.items() if name.startswith(prefix)}
        named = sum(name in own for name in inside)
        fits.append(Fit(place, prefix, added, inside, len(plain) - len(inside), matching, named, wrapper))
    return fits


def _without_wrappers(name: str) -> str:
    for wrapper in INNER_WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _best(candidates: Sequence[Fit], path: Path) -> Fit:
    """The candidate with the most tensors of the network: averaged weights before others, then plain names.

    Raises:
        UserError: others that fit as well hold other values, and are no averages.
    """
    best = sorted(
        candidates,
        key=lambda fit: (
            -fit.matching,
            not fit.is_averaged,
            -fit.named,
            len(fit.prefix + fit.added),
            -len(fit.tensors),
        ),
    )
    chosen, *others = best
    rivals = [fit for fit in others if fit.matching == chosen.matching and fit.is_averaged == chosen.is_averaged]
    for rival in rivals if chosen.matching and (chosen.place or chosen.prefix) else ():
        if any(not torch.equal(value, chosen.tensors.get(name, value)) for name, value in rival.tensors.items()):
            one, other = (f'"{fit.place}{"." * bool(fit.place and fit.prefix)}{fit.prefix}"' for fit in (chosen, rival))
            raise UserError(
                f"{path}: two networks in it fit, {one} and {other}; save the state dict of the one you mean"
            )
    return chosen


def _other_head(fit: Fit, own: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The tensors of the only layer that has another number of outputs in the file."""
    other = tuple(name for name, value in fit.tensors.items() if name in own and value.shape != own[name].shape)
    same_inputs = all(fit.tensors[name].shape[1:] == own[name].shape[1:] for name in other)
    return other if same_inputs and len({name.rpartition(".")[0] for name in other}) == 1 else ()


def _check(fit: Fit, own: Mapping[str, Tensor], head: Sequence[str], path: Path) -> None:
    shared = {value.data_ptr() for name, value in own.items() if name in fit.tensors}  # tied weights are saved once
    missing = [name for name in own if name not in fit.tensors and own[name].data_ptr() not in shared]
    unexpected = [name for name in fit.tensors if name not in own]
    other = [
        f"{name}: {tuple(value.shape)} in the file, {tuple(own[name].shape)} in the network"
        for name, value in fit.tensors.items()
        if name in own and value.shape != own[name].shape and name not in head
    ]
    lists = [("missing", missing), ("unexpected", unexpected), ("of another shape", other)]
    wrong = [
        f"{len(names)} {what} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
        for what, all_names in lists
        if (names := [name for name in all_names if name.rpartition(".")[2] not in BOOKKEEPING])
    ]
    if wrong:
        raise UserError(
            f"{path}: these weights do not fit the network: {'; '.join(wrong)}. Name the model and the options that"
            " they were trained with"
        )


def _unwrapped(fit: Fit) -> str:
    """What was taken, in words; nothing of a plain state dict."""
    types = sorted(
        {type_name(value.dtype) for value in fit.tensors.values() if value.is_floating_point()} - {"float32"}
    )
    said = [
        (fit.place, f'took "{fit.place}"'),
        (fit.is_averaged, "the moving average of the weights"),
        (fit.prefix or fit.wrapper, f'took "{fit.prefix}{fit.wrapper}" off the names'),
        (fit.outside, f"left out {fit.outside} tensors that are not of this network"),
        (types, f"brought {' and '.join(types)} to float32"),
    ]
    return ", ".join(words for applies, words in said if applies)
