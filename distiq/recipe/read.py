"""Reads a recipe from TOML; every error names the key, what is wrong, and what to do."""

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from distiq.errors import UserError
from distiq.recipe.local import is_local, nearest
from distiq.recipe.part import changed
from distiq.recipe.problems import explain
from distiq.recipe.recipe import RELATIVE, Recipe
from distiq.recipe.shipped import FOLDER, recipe_file
from distiq.recipe.training import FROM_TEACHER, WEIGHT_FILES, ModelSettings, TeacherSettings

LARGEST = 1_000_000  # bytes of a recipe
M = TypeVar("M", bound=ModelSettings)


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe and applies overrides such as ``student.training.epochs=3``.

    Paths in a recipe are relative to the recipe's folder. Data, weights and tokenizers of a shipped recipe are the
    user's: their paths are relative to the current folder.

    Args:
        path: a TOML file, or the name of a recipe that comes with distiq.

    Raises:
        UserError: the file is missing, is not TOML, or says something that distiq does not understand.
    """
    path = recipe_file(path)
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path}: {path.stat().st_size:,} bytes are no recipe; name the TOML file")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the recipe ({error.strerror}); `distiq init` writes one") from error
    tree = _tree(content, str(path), overrides)
    if path.resolve().parent == FOLDER.resolve():
        _locate_here(tree)
    recipe = parse_recipe(tree, str(path))
    _check_files(recipe, path)
    return _with_absolute_paths(recipe, path.parent.resolve())


def read_recipe(content: bytes, name: str, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe of a TOML file's content, its paths as they stand there; `name` stands in the error messages.

    Raises:
        UserError: it is not TOML, or says something that distiq does not understand.
    """
    return parse_recipe(_tree(content, name, overrides), name)


def _tree(content: bytes, name: str, overrides: Iterable[str]) -> dict[str, Any]:
    try:
        tree = tomllib.loads(content.decode("utf-8-sig"))  # editors of Windows write a mark before the first byte
    except RecursionError as error:
        raise UserError(f"{name}: not valid TOML: its brackets are nested too deep") from error
    except ValueError as error:  # numbers of thousands of digits raise no TOMLDecodeError
        raise UserError(f"{name}: not valid TOML: {error}") from error
    for override in overrides:
        _override(tree, override)
    return tree


def parse_recipe(tree: dict[str, Any], name: str = "recipe") -> Recipe:
    """Builds a Recipe from nested dictionaries; `name` stands in the error messages.

    Raises:
        UserError: one line for each thing that is wrong.
    """
    try:
        written = json.dumps(tree, default=str)
    except RecursionError as error:
        raise UserError(f"{name}: its values are nested too deep") from error
    try:
        # JSON mode of the strict parser takes a list for a tuple; nothing else is converted.
        return Recipe.model_validate_json(written)
    except ValidationError as error:
        raise UserError("\n".join(explain(name, error))) from None


def _locate_here(tree: dict[str, Any]) -> None:
    """Takes the paths of a shipped recipe relative to the current folder."""
    here, data = Path.cwd(), _table(tree, "data")
    for key in ("folder", "unlabelled", "further"):
        if isinstance(data.get(key), str) and data[key]:
            data[key] = str(here / data[key])
    networks = [(_table(tree, role), "weights") for role in ("teacher", "student")]
    text, hub = _table(data, "text"), _table(data, "hub")
    for table, key in ((text, "tokenizer"), (text, "hub"), (hub, "name"), *networks):
        name = table.get(key)
        if isinstance(name, str) and name != FROM_TEACHER and is_local(name, here):
            table[key] = str(here / name)


def _table(tree: dict[str, Any], key: str) -> dict[str, Any]:
    """A table of the tree; an empty one where something else stands, which the recipe's parts refuse."""
    table = tree.get(key, {})
    return table if isinstance(table, dict) else {}


def _override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise UserError(f"--set {override}: write it as key=value, for example --set student.training.epochs=3")
    *parents, last = key.strip().split(".")
    for number, parent in enumerate(parents):
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise UserError(f"--set {override}: {'.'.join(parents[: number + 1])} is a value, not a table")
    try:
        tree[last] = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        tree[last] = text


def _check_files(recipe: Recipe, path: Path) -> None:
    folder = path.parent.resolve()
    if recipe.data.source == "fashion_mnist" and recipe.data.download and not recipe.data.folder:
        raise UserError(f"{path}: data.download = true fetches into data.folder; name one, such as data/fashion_mnist")
    if recipe.data.source == "folder" and not (recipe.data.folder or recipe.data.hub.name):
        raise UserError(f'{path}: data.folder: source = "folder" needs a folder that holds train/ and test/')
    if recipe.data.source in ("masks", "boxes") and not recipe.data.folder:
        what = f"images and {recipe.data.source}"
        raise UserError(f'{path}: data.folder: source = "{recipe.data.source}" needs the folder of {what}')
    if recipe.data.source == "audio" and not (recipe.data.folder or recipe.data.hub.name):
        raise UserError(f'{path}: data.folder: source = "audio" needs a folder of clips')
    if recipe.data.source == "pairs" and not recipe.data.folder:
        raise UserError(f'{path}: data.folder: source = "pairs" needs the folder of data.pairs.train and .test')
    if recipe.data.source in ("table", "text") and not (recipe.data.folder or recipe.data.text.hub):
        kind = recipe.data.source
        hub = ", or a data set in data.text.hub" if kind == "text" else ""
        raise UserError(f'{path}: data.folder: source = "{kind}" needs the folder of data.{kind}.train and .test{hub}')
    if recipe.data.folder and not recipe.data.download and not (folder / recipe.data.folder).is_dir():
        raise UserError(f"{path}: data.folder: no such folder: {folder / recipe.data.folder}; {RELATIVE}")
    named = {f"{role}.weights": settings.weights for role, settings in recipe.networks().items()}
    named |= {f"data.text.{key}": getattr(recipe.data.text, key) for key in ("tokenizer", "hub")}
    named |= {"data.hub.name": recipe.data.hub.name}
    for key, name in named.items():
        if name != FROM_TEACHER and is_local(name, folder) and not (folder / name).exists():
            near = nearest(folder / name)
            kind = "file" if name.lower().endswith(WEIGHT_FILES) else "file or folder"
            hint = f'did you mean "{near}"? ' if near else ""
            raise UserError(f"{path}: {key}: no such {kind}: {folder / name}; {hint}{RELATIVE}")
    for role, settings in recipe.networks().items():
        _check_folder_as_model(settings.model, folder, f"{path}: {role}.model")
    sources = {
        "data.source": recipe.data.source,
        **{f"{role}.model": settings.model for role, settings in recipe.networks().items()},
    }
    sources |= {"teacher.predict": recipe.teacher.predict, "task": recipe.task, "search.space": recipe.search.space}
    for key in ("unlabelled", "further"):
        if (place := getattr(recipe.data, key)) and not (folder / place).exists():
            raise UserError(f"{path}: data.{key}: nothing at {folder / place}; {RELATIVE}")
    for key, source in sources.items():
        file = source.partition(":")[0]
        if file.endswith((".py", ".onnx")) and not (folder / file).is_file():
            raise UserError(f"{path}: {key}: no such file: {folder / file}; {RELATIVE}")


def _check_folder_as_model(model: str, folder: Path, where: str) -> None:
    """Refuses a folder of transformers in the place of an architecture's name, with the spelling."""
    name = model.removeprefix("transformers:")
    config = folder / name / "config.json"
    if not name or not config.is_file():
        return
    try:
        kind = json.loads(config.read_bytes()).get("model_type", "NAME")
    except (ValueError, AttributeError, RecursionError, OSError) as error:
        raise UserError(f"{config}: damaged or no config of transformers ({error}); repair or remove it") from error
    if model != f"transformers:{kind}":  # a folder may be called as the architecture is
        raise UserError(
            f'{where}: {folder / name} is a folder of transformers; write model = "transformers:{kind}" and'
            f' weights = "{name}"'
        )


def _with_absolute_paths(recipe: Recipe, folder: Path) -> Recipe:
    def absolute(text: str, is_path: bool) -> str:
        return str(folder / text) if text and is_path else text

    def located(settings: M) -> M:
        is_file = settings.weights != FROM_TEACHER and is_local(settings.weights, folder)
        is_code = ".py:" in settings.model or settings.model.endswith(".onnx")
        named = {"weights": absolute(settings.weights, is_file), "model": absolute(settings.model, is_code)}
        if isinstance(settings, TeacherSettings):
            named["predict"] = absolute(settings.predict, True)
        return changed(settings, named)

    named = {key: getattr(recipe.data.text, key) for key in ("tokenizer", "hub")}  # in a hub, or here
    text = changed(recipe.data.text, {key: absolute(name, is_local(name, folder)) for key, name in named.items()})
    source = absolute(recipe.data.source, ".py:" in recipe.data.source)
    places = {key: absolute(getattr(recipe.data, key), True) for key in ("folder", "unlabelled", "further")}
    data = changed(recipe.data, {"text": text, "source": source, **places})
    search = changed(recipe.search, {"space": absolute(recipe.search.space, True)})
    networks = {
        "teacher": located(recipe.teacher),
        "assistants": tuple(located(assistant) for assistant in recipe.assistants),
        "student": located(recipe.student),
    }
    return changed(
        recipe, {"task": absolute(recipe.task, ".py:" in recipe.task), "data": data, "search": search, **networks}
    )
