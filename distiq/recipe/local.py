"""Whether a name in a recipe means a file or folder here, or one of a hub."""

import difflib
import re
from pathlib import Path

from distiq.recipe.training import WEIGHT_FILES

SUFFIXES = (*WEIGHT_FILES, ".json", ".onnx", ".txt", ".zip", ".gz", ".py", ".h5", ".msgpack")
ON_A_HUB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
ALIKE = 0.8


def is_local(name: str, folder: Path) -> bool:
    """Whether the name is a path, there or mistyped, taken relative to `folder`; else it can be a hub's.

    A path is what exists, what begins or ends as paths do, what ends as files do, what lies in a folder that exists,
    what no hub can have, and what is nearly the name of a folder here.
    """
    if not name:
        return False
    place = folder / name
    if place.exists() or name.startswith((".", "~", "/")) or name.endswith("/") or name.lower().endswith(SUFFIXES):
        return True
    if not ON_A_HUB.fullmatch(name) or (place.parent != folder and place.parent.is_dir()):
        return True
    first = folder / name.split("/")[0]  # of "wieghts/bert" the folder that is meant may be here
    meant = nearest(first, ALIKE)
    return bool(meant) and not first.exists() and (folder / meant).is_dir()


def nearest(place: Path, alike: float = 0.6) -> str:
    """The name beside a missing file or folder that is most like its own; empty where none is. Where its folder is
    missing, too, the name beside that."""
    while not place.parent.is_dir() and place.parent != place:
        place = place.parent
    names = [entry.name for entry in place.parent.iterdir()] if place.parent.is_dir() else []
    matches = difflib.get_close_matches(place.name, names, n=1, cutoff=alike)
    return matches[0] if matches else ""
