"""Writes docs/recipes.md from the settings: every key of a recipe, its default and its meaning; and the table of rungs
in docs/quantization.md.

python scripts/write_recipe_page.py
"""

from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from distiq.recipe.distil import KnowledgeLoss
from distiq.recipe.part import Part
from distiq.recipe.recipe import Recipe
from distiq.recipe.shipped import shipped_recipes, summary
from distiq.recipe.toml import written
from distiq.recipe.training import AssistantSettings
from distiq.run.rungs import table

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
RUNGS_PAGE = PAGE.with_name("quantization.md")
RUNGS_BEGIN, RUNGS_END = "<!-- rungs: written by scripts/write_recipe_page.py -->", "<!-- end of rungs -->"
LISTS: dict[str, tuple[str, type[Part]]] = {
    "assistants": ("[assistants]", AssistantSettings),
    "losses": ("[distil.losses]", KnowledgeLoss),
}
HEAD = """# Recipes

A recipe is one TOML file. Every key has a default: write only what differs. An unknown key, a wrong type, an impossible
combination and a missing file are refused before any work, with the nearest key that exists. Paths are relative to the
recipe's folder. `distiq init my.toml --data photos` writes the lines that matter for your data, `distiq init my.toml
--all` all of these.

`python scripts/write_recipe_page.py` makes this page from the settings; a test checks that it is current.

## Recipes that come with distiq

`distiq run NAME` runs one, `distiq recipes NAME` prints it. Their data, weights and tokenizers are looked for in the
current folder.

"""


def page_of_rungs() -> str:
    """The page of quantization with the table of rungs as it is now."""
    before, _, rest = RUNGS_PAGE.read_text(encoding="utf-8").partition(RUNGS_BEGIN)
    return f"{before}{RUNGS_BEGIN}\n\n{table()}\n\n{RUNGS_END}{rest.partition(RUNGS_END)[2]}"


def page() -> str:
    """The whole page."""
    shipped = "\n".join(f"| `{name}` | {summary(file)} |" for name, file in shipped_recipes().items())
    return f"{HEAD}| recipe | |\n|---|---|\n{shipped}\n\n" + "\n".join(_sections(Recipe, ""))


def _sections(part: type[Part], path: str) -> list[str]:
    """A table of the part's own keys, then the tables of the parts within."""
    title = f"`[{path}]`" if path else "Top level"
    doc = "" if part is Recipe else _first_line(part) + "\n\n"
    rows = [_row(name, field) for name, field in part.model_fields.items() if not _is_part(field.annotation)]
    heading = f"## {title}\n\n{doc}| key | type | default | meaning |\n|---|---|---|---|\n"
    out = [heading + "\n".join(rows) + "\n"]
    for name, field in part.model_fields.items():
        inner = f"{path}.{name}" if path else name
        if _is_part(field.annotation):
            out += _sections(field.annotation, inner)
        elif name in LISTS:
            out += _sections(LISTS[name][1], LISTS[name][0])
    return out


def _is_part(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Part)


def _first_line(part: type[Part]) -> str:
    return (part.__doc__ or "").strip().splitlines()[0]


def _row(name: str, field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    shown = "required" if field.is_required() else "" if default is None else f"`{written(default)}`"
    meaning = (field.description or "").replace("|", "\\|").replace("<", "&lt;")
    return f"| `{name}` | {_type(field.annotation)} | {shown} | {meaning} |"


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), [each for each in get_args(annotation) if each not in (NoneType, ...)]
    if origin is Annotated:
        return _type(inner[0])
    if origin is Literal:
        return ", ".join(f"`{written(value)}`" for value in inner)
    if origin is tuple:
        return "list of tables" if _is_part(inner[0]) else f"list of {_type(inner[0])}"
    if origin is dict:
        return "table"
    if origin is None:
        return {str: "text", int: "whole number", float: "number", bool: "true or false"}[annotation]
    return ", or ".join(_type(each) for each in inner)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    RUNGS_PAGE.write_text(page_of_rungs(), encoding="utf-8")
