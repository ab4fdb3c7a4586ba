"""The recipes that come with distiq: each has a name, and runs wherever distiq is installed."""

import difflib
from pathlib import Path

from distiq.errors import UserError

FOLDER = Path(__file__).parent.parent / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """The file of each shipped recipe, by name."""
    return {file.stem: file for file in sorted(FOLDER.glob("*.toml"))}


def summary(file: Path) -> str:
    """What a recipe says of itself in its first line."""
    return file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def recipe_file(name: str | Path) -> Path:
    """The file of a recipe: `name` is a path, or the name of a shipped recipe.

    Raises:
        UserError: it is neither; the nearest name is given.
    """
    file, recipes = Path(name), shipped_recipes()
    if file.is_file():
        return file
    if str(name) in recipes:
        return recipes[str(name)]
    nearest = difflib.get_close_matches(file.stem, recipes, n=1)
    hint = f'did you mean "{nearest[0]}"? ' if nearest else ""
    raise UserError(
        f"{name}: no such recipe; {hint}`distiq recipes` lists those that come with distiq, `distiq init` writes one"
    )
