"""Commands on recipes."""

from pathlib import Path
from typing import Annotated

import typer

from distiq.cli.terminal import AsJson, app, explained
from distiq.errors import UserError


@app.command(epilog="Examples: `distiq init my.toml --data photos`, `distiq init my.toml --data rows/train.csv`")
def init(
    path: Annotated[Path, typer.Argument(help="the file to write")] = Path("recipe.toml"),
    data: Annotated[
        Path | None, typer.Option(help="your data: a folder of images, clips, rows or texts, or its training file")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="write every key, its default and its meaning")] = False,
    force: Annotated[bool, typer.Option("--force", help="overwrite an existing file")] = False,
    as_json: AsJson = False,
) -> None:
    """Looks at your data and writes a recipe for it: the lines that matter, explained.

    Beside it stands the recipe's JSON schema, by which editors complete keys.
    """
    with explained(as_json) as emit:
        from distiq.commands.init import SCHEMA_FILE
        from distiq.commands.init import init as write_recipe
        from distiq.records.documents import StarterRecord

        about = write_recipe(path, data, every_key=all_, force=force)
        typer.echo(f"{about}\n{path} written; run it with: distiq run {path}")
        emit(StarterRecord(recipe=str(path), schema_file=str(path.with_name(SCHEMA_FILE)), about=about))


@app.command(epilog="Examples: `distiq recipes`, `distiq recipes fashion_mnist`")
def recipes(
    name: Annotated[str, typer.Argument(help="print this recipe", show_default=False)] = "",
    as_json: AsJson = False,
) -> None:
    """Lists the recipes that come with distiq; `distiq run NAME` runs one."""
    with explained(as_json) as emit:
        from distiq.recipe.shipped import recipe_file, shipped_recipes, summary
        from distiq.records.documents import ShippedRecipe, ShippedRecipes

        files = {name: recipe_file(name)} if name else shipped_recipes()
        found = tuple(
            ShippedRecipe(name=shipped, about=summary(file), toml=file.read_text(encoding="utf-8").strip())
            for shipped, file in files.items()
        )
        for one in found:
            typer.echo(one.toml if name else f"{one.name:<20}{one.about}")
        emit(ShippedRecipes(recipes=found))


@app.command(epilog="Examples: `distiq schema > distiq.schema.json`, `distiq schema show`")
def schema(
    command: Annotated[
        str, typer.Argument(help="print the schema of what this command prints with --json", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Prints the JSON schema of a recipe, by which editors complete its keys; or that of a command's JSON document."""
    with explained():  # what it prints is JSON in any case
        from distiq.recipe.recipe import schema as recipe_schema
        from distiq.records.documents import DOCUMENTS, document_schema

        if command and command not in {*DOCUMENTS, "schema"}:
            raise UserError(f"{command}: prints no JSON document; these do: {', '.join(DOCUMENTS)}")
        typer.echo(document_schema(command) if command else recipe_schema().strip())
