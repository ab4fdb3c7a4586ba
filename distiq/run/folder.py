"""Ownership of a run folder: distiq writes into folders that it made, and replaces what it made there.

.distiq       the mark: the recipe file that the folder belongs to, the hash of the recipe.toml that distiq wrote, and
              which one-time checks have passed
recipe.toml   the recipe as it was understood, for reading
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distiq.errors import UserError
from distiq.files import PARTIAL, bring_back, sha256_of_file, write_atomically

MARK, LOCK, RECIPE = ".distiq", ".lock", "recipe.toml"
REMEMBERED = 50
REPLACED = ("bundle", "transformers")  # folders that are replaced whole
WRITTEN = (MARK, RECIPE, "report.html")
ROOMS = ("records/", "records/measurements/", "cache/*/", "steps/", "steps/*/")


def check_folder(folder: Path, recipe_file: Path | None, chosen: bool) -> None:
    """Refuses a folder that is not distiq's, or is the run folder of another recipe of the same name.

    Args:
        recipe_file: the file that the recipe was read from, if any.
        chosen: the folder was named by the user, so it may serve several recipes.

    Raises:
        UserError: it is no folder, holds files but no mark, or was made for another recipe that still exists.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file, no folder; choose another with --run")
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in (MARK, LOCK))
    if others and not (folder / MARK).is_file():
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise UserError(
            f"{folder}: holds files that are not of a distiq run ({shown}); name an empty or a new folder with --run"
            f" (if it is a run of distiq that lost its mark, add an empty file {MARK})"
        )
    first = Path(_mark(folder).get("recipe") or folder / RECIPE)
    if recipe_file is None or chosen or not first.is_file() or recipe_file.parent.resolve() == folder.resolve():
        return
    if not recipe_file.samefile(first) and first.parent.resolve() != folder.resolve():
        raise UserError(
            f"{folder}: is the run folder of {first}, a recipe of the same name; give this one another name, or a"
            f" folder of its own: --run {folder}-2"
        )


def mark_folder(folder: Path, recipe_file: Path | None) -> None:
    """Marks the folder as distiq's, and as this recipe's if it belongs to none yet or to one that no longer exists."""
    mark = _mark(folder)
    first = mark.get("recipe", "")
    if recipe_file is not None and not (first and Path(first).is_file()):
        first = str(recipe_file.resolve())
    if not (folder / MARK).is_file() or first != mark.get("recipe", ""):
        _write_mark(folder, mark | {"recipe": first})


def keep_recipe(folder: Path, text: str, recipe_file: Path | None) -> str:
    """Writes recipe.toml unless it is the given recipe, or was edited since distiq wrote it; returns a note of the
    latter, else an empty string."""
    file, mark = folder / RECIPE, _mark(folder)
    if file.exists():
        if recipe_file is not None and recipe_file.exists() and recipe_file.samefile(file):
            return ""
        if sha256_of_file(file) != mark.get("written"):
            return f"{file} was edited: it stays, and this run's recipe stands in records/run.json"
    write_atomically(file, text.encode())
    _write_mark(folder, mark | {"written": sha256_of_file(file)})
    return ""


def is_done(folder: Path, key: str) -> bool:
    """Whether the mark remembers that something was done."""
    return key in _mark(folder).get("done", [])


def mark_done(folder: Path, key: str) -> None:
    """Records in the mark that something was done; only the last few entries are kept."""
    mark = _mark(folder)
    _write_mark(folder, mark | {"done": [*mark.get("done", []), key][-REMEMBERED:]})


def sweep(folder: Path) -> None:
    """Completes or removes what was being written when a run was killed, where nobody but this run writes."""
    for name in REPLACED:
        bring_back(folder / name)
        shutil.rmtree(folder / f".{name}.partial", ignore_errors=True)
    for left in list(_left(folder)):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def _left(folder: Path) -> Iterator[Path]:
    for name in WRITTEN:
        yield from (entry for entry in folder.glob(f".{name}.*.partial") if PARTIAL.fullmatch(entry.name))
    for room in ROOMS:
        yield from (entry for entry in folder.glob(f"{room}.*.partial") if PARTIAL.fullmatch(entry.name))


def _mark(folder: Path) -> dict[str, Any]:
    try:
        mark = json.loads((folder / MARK).read_bytes())
    except (OSError, ValueError, RecursionError):  # an empty file is a mark, too
        return {}
    return mark if isinstance(mark, dict) else {}


def _write_mark(folder: Path, mark: dict[str, Any]) -> None:
    write_atomically(folder / MARK, (json.dumps(mark, indent=1) + "\n").encode())
