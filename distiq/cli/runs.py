"""Commands on runs, from a recipe on."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from distiq.cli.terminal import BUDGET_MISSED, AsJson, Plain, RecipeFile, RunFolder, RunPlace, app, explained, watching
from distiq.errors import printable
from distiq.training import processes

if TYPE_CHECKING:
    from distiq.recipe.recipe import Recipe
    from distiq.records.record import Record
    from distiq.records.search import SearchRecord

Overrides = Annotated[list[str], typer.Option("--set", help="override a key: `--set distil.temperature=2`")]


@app.command(epilog="Example: `distiq run fashion_mnist --set student.training.epochs=3`")
def run(
    recipe: RecipeFile,
    set_: Overrides = [],  # noqa: B006
    folder: RunPlace = None,
    plain: Plain = False,
    as_json: AsJson = False,
) -> None:
    """Runs a recipe: teacher, student, int8 file, measurements, bundle and report. Run again, it resumes.

    Exit codes: 0 the budget holds, 2 the input is refused, 3 the budget is missed (the best file is delivered).
    """
    with explained(as_json) as emit:
        from distiq.recipe.read import load_recipe
        from distiq.recipe.shipped import recipe_file

        file = recipe_file(recipe)
        settings = load_recipe(file, set_)
        if settings.student.is_searched:
            place = folder or Path("runs") / settings.name
            _search(settings, None, None, folder, "", plain, file)
            settings, folder = _found(place, None), place
        _compress(settings, folder, plain, file, emit)


@app.command(epilog="Example: `distiq search fashion_mnist --trials 40`, then `distiq deliver runs/fashion_mnist`")
def search(
    recipe: RecipeFile,
    trials: Annotated[int | None, typer.Option(min=1, help="how many candidates; by default the recipe's")] = None,
    hours: Annotated[float | None, typer.Option(min=0.001, help="begin no candidate after so many hours")] = None,
    storage: Annotated[
        str, typer.Option(help="an Optuna storage that several searches share: a journal file or a database's URL")
    ] = "",
    set_: Overrides = [],  # noqa: B006
    folder: RunPlace = None,
    plain: Plain = False,
    as_json: AsJson = False,
) -> None:
    """Finds the student: each candidate's file is timed untrained, those that hold the budget learn in stages.

    Without budget.size_kb and budget.latency_ms, candidates must be as small and as fast as the recipe's own student.
    Interrupted, the same command goes on.
    """
    with explained(as_json) as emit:
        from distiq.recipe.read import load_recipe
        from distiq.recipe.shipped import recipe_file

        file = recipe_file(recipe)
        settings = load_recipe(file, set_)
        emit(_search(settings, trials, hours, folder, storage, plain, file))


@app.command(epilog="Example: `distiq deliver runs/fashion_mnist --point 12`")
def deliver(
    folder: RunFolder,
    point: Annotated[
        int | None, typer.Option(help="a candidate of the front; by default the one that was chosen")
    ] = None,
    plain: Plain = False,
    as_json: AsJson = False,
) -> None:
    """Makes the bundle of a student that a search found: what the search has trained is not trained again.

    Exit codes as of `distiq run`.
    """
    with explained(as_json) as emit:
        _compress(_found(folder, point), folder, plain, None, emit)


@app.command(epilog="Example: `distiq ablate fashion_mnist --seeds 5`")
def ablate(
    recipe: RecipeFile,
    seeds: Annotated[int, typer.Option(min=1, help="how many seeds; more give a narrower interval")] = 3,
    set_: Overrides = [],  # noqa: B006
    folder: RunPlace = None,
    plain: Plain = False,
    as_json: AsJson = False,
) -> None:
    """Says whether the teacher helps: the same student without it, with its outputs, with the recipe's losses.

    Interrupted, the same command goes on. The result also stands in the run's report.
    """
    with explained(as_json) as emit:
        from distiq.recipe.read import load_recipe
        from distiq.recipe.shipped import recipe_file

        file = recipe_file(recipe)
        settings = load_recipe(file, set_)
        from distiq.commands.ablate import ablate as ablate_recipe
        from distiq.report.report import write_report
        from distiq.report.show import show_ablation

        console = Console(highlight=False)
        place = folder or Path("runs") / settings.name
        with watching(console, plain) as watch:
            command = shlex.join(["distiq", *sys.argv[1:]])
            record = ablate_recipe(settings, seeds=seeds, run=folder, watch=watch, command=command, recipe_file=file)
        if not processes.is_main():
            return
        show_ablation(record, console)
        emit(record)
        if (place / "records" / "run.json").exists():
            write_report(place / "records", place / "report.html")
            console.print(f"report: {place / 'report.html'}", markup=False)


@app.command(epilog="Example: `distiq diagnose runs/fashion_mnist`, then `distiq diagnose runs/fashion_mnist --cure`")
def diagnose(
    folder: RunFolder,
    cure: Annotated[bool, typer.Option("--cure", help="run the recipe again with what the diagnosis advises")] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="run the code that the run's recipe names, such as file.py:function")
    ] = False,
    plain: Plain = False,
    as_json: AsJson = False,
) -> None:
    """Says why a run's int8 file lost accuracy: the checklist, each fake-quantizer alone, the cause, the cure."""
    with explained(as_json) as emit:
        from distiq.commands.diagnose import diagnose as diagnose_run
        from distiq.commands.diagnose import recipe_of
        from distiq.records.documents import DiagnosedRecord
        from distiq.report.report import write_report
        from distiq.report.show import show, show_diagnosis

        console = Console(highlight=False)
        trust = trust or _trusted(folder)
        with watching(console, plain) as watch:
            diagnosis = diagnose_run(folder, watch, trust)
        show_diagnosis(diagnosis, console)
        write_report(folder / "records", folder / "report.html")
        record = None
        if cure and diagnosis.cure:
            from distiq.commands.compress import compress

            settings = recipe_of(folder, diagnosis.cure)
            with watching(console, plain) as watch:
                # The recipe of the run folder holds the cure by then, unless a person edited it.
                again = shlex.join(["distiq", "run", str(folder / "recipe.toml"), "--run", str(folder)])
                record = compress(settings, run=folder, watch=watch, command=again)
            (folder / "records" / "diagnosis.json").unlink()  # it was of the run before
            show(folder / "records", console)
            write_report(folder / "records", folder / "report.html")
        console.print(f"report: {folder / 'report.html'}", markup=False)
        emit(DiagnosedRecord(diagnosis=diagnosis, cured=record))
        if record is not None and not record.verdict.met:
            raise typer.Exit(BUDGET_MISSED)


@app.command(
    epilog="Examples: `distiq report runs/fashion_mnist`,"
    " `distiq report runs/fashion_mnist --measurement pi.json --measurement phone.json`"
)
def report(
    folder: RunFolder,
    measurement: Annotated[
        list[Path],
        typer.Option(
            help="take in what `distiq bench BUNDLE --json > FILE` or `run.py --time --json FILE` wrote elsewhere"
        ),
    ] = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Makes a run's report.html again, from its records alone. Measurements taken in stay in the records."""
    with explained(as_json) as emit:
        from distiq.records.documents import ReportRecord
        from distiq.report.measurements import keep_measurement, read_measurements
        from distiq.report.reading import read_run
        from distiq.report.report import write_report
        from distiq.report.show import show_machines

        for file in measurement:
            keep_measurement(folder / "records", file)
        write_report(folder / "records", folder / "report.html")
        if measurement:
            show_machines(folder / "records", Console(highlight=False))
        typer.echo(str(folder / "report.html"))
        kept = read_measurements(folder / "records", read_run(folder / "records"))
        emit(ReportRecord(report=str(folder / "report.html"), measurements=kept))


@app.command(epilog="Example: `distiq show runs/fashion_mnist`")
def show(folder: RunFolder, as_json: AsJson = False) -> None:
    """Prints a run's result in the terminal."""
    with explained(as_json) as emit:
        from distiq.report.reading import read_run
        from distiq.report.show import show as show_records

        show_records(folder / "records", Console(highlight=False))
        emit(read_run(folder / "records"))


@app.command(epilog="Example: `distiq compare runs/one runs/two --out compared.html`")
def compare(
    folders: Annotated[list[Path], typer.Argument(help="run folders; each is compared with the first")],
    out: Annotated[Path | None, typer.Option(help="also write the comparison here, as one HTML file")] = None,
    as_json: AsJson = False,
) -> None:
    """Shows several runs side by side: quality with the paired interval, size, time, and what their recipes do
    otherwise."""
    with explained(as_json) as emit:
        from distiq.commands.compare import compare as compare_runs
        from distiq.report.runs import write_runs
        from distiq.report.show import show_runs

        record = compare_runs(folders)
        show_runs(record, Console(highlight=False))
        emit(record)
        if out is not None:
            write_runs(record, out)
            typer.echo(str(out))


@app.command(epilog="Example: `distiq clean runs/fashion_mnist --dry-run`, then `distiq clean runs/fashion_mnist`")
def clean(
    folder: RunFolder,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be removed, remove nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Removes from a finished run what its records do not name: steps of earlier settings, unfinished or damaged ones,
    stored outputs of earlier teachers."""
    with explained(as_json) as emit:
        from distiq.commands.clean import clean as clean_run
        from distiq.records.documents import CleanRecord, UnnamedFolder

        unnamed = clean_run(folder, dry_run)
        for entry in unnamed:
            typer.echo(f"{entry.size_bytes:>15,} bytes  {entry.path}")
        total = sum(entry.size_bytes for entry in unnamed)
        removed = tuple(UnnamedFolder(path=str(entry.path), size_bytes=entry.size_bytes) for entry in unnamed)
        emit(CleanRecord(dry_run=dry_run, folders=removed, size_bytes=total))
        typer.echo(f"{total:>15,} bytes in {len(unnamed)} folders {'would be ' if dry_run else ''}removed")


def _trusted(run: Path) -> bool:
    """Asks before a run's code is run, where somebody can answer."""
    from distiq.commands.diagnose import recipe_of

    if not sys.stdin.isatty() or not (run / "records" / "run.json").is_file():
        return False
    code = recipe_of(run).code()
    return bool(code) and typer.confirm(printable(f"The recipe of {run} runs code: {', '.join(code)}. Run it?"))


def _search(
    settings: "Recipe",
    trials: int | None,
    hours: float | None,
    folder: Path | None,
    storage: str,
    plain: bool,
    file: Path,
) -> "SearchRecord":
    from distiq.commands.search import search as find
    from distiq.report.show import show_search

    console, command = Console(highlight=False), shlex.join(["distiq", *sys.argv[1:]])
    with watching(console, plain) as watch:
        record = find(
            settings, trials=trials, hours=hours, run=folder, storage=storage, watch=watch, command=command,
            recipe_file=file,
        )  # fmt: skip
    show_search(record, folder or Path("runs") / settings.name, console)
    return record


def _found(folder: Path, point: int | None) -> "Recipe":
    """The recipe of a search with the student that it found."""
    from distiq.commands.search import chosen_recipe

    return chosen_recipe(folder, point)


def _compress(
    settings: "Recipe", folder: Path | None, plain: bool, file: Path | None, emit: "Callable[[Record], None]"
) -> None:
    from distiq.commands.compress import compress
    from distiq.report.show import show

    console = Console(highlight=False)
    place = folder or Path("runs") / settings.name
    with watching(console, plain) as watch:
        command = shlex.join(["distiq", *sys.argv[1:]])
        record = compress(settings, run=folder, watch=watch, command=command, recipe_file=file)
    if not processes.is_main():
        return
    show(place / "records", console)
    console.print(f"report: {place / 'report.html'}\nbundle: {place / 'bundle'}", markup=False)
    emit(record)
    if not record.verdict.met:
        raise typer.Exit(BUDGET_MISSED)
