"""The program, what several commands take, how they show progress, results and errors."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from distiq.errors import UserError, printable
from distiq.progress import Lines, Live, Silent, Watch, quiet_libraries
from distiq.training import processes

if TYPE_CHECKING:
    from distiq.records.record import Record


BUDGET_MISSED, BAD_INPUT = 3, 2
quiet_libraries()


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Makes a trained model small and fast: distils it into a student, quantizes, exports, and measures the file.",
    epilog="Start with `distiq run fashion_mnist`, or with your own data: `distiq init my.toml --data photos`.",
)
RecipeFile = Annotated[
    str, typer.Argument(help="a TOML file, or the name of a recipe that comes with distiq", show_default=False)
]
RunFolder = Annotated[Path, typer.Argument(help="a run folder, such as runs/fashion_mnist", show_default=False)]
Plain = Annotated[bool, typer.Option("--plain", help="plain lines instead of a live display")]
RunPlace = Annotated[Path | None, typer.Option("--run", help="the run folder; by default runs/NAME")]
AsJson = Annotated[
    bool, typer.Option("--json", help="print the result as one JSON document; all else goes to standard error")
]
BundleFolder = Annotated[Path, typer.Argument(help="a bundle, such as runs/fashion_mnist/bundle", show_default=False)]


@contextlib.contextmanager
def explained(as_json: bool = False) -> Iterator["Callable[[Record], None]"]:
    """Prints what a user can put right as one message, without a traceback.

    It gives a function that takes the command's record: with `as_json` that is all that standard output gets.
    """
    documents: list[str] = []
    try:
        with processes.one_voice(), _all_to_stderr() if as_json else contextlib.nullcontext():
            yield lambda record: documents.append(record.model_dump_json(indent=1) if as_json else "")
    except typer.Exit:
        _print_document(documents)
        raise
    except UserError as error:
        typer.secho(f"distiq: {error}", err=True, fg="red")
        raise typer.Exit(BAD_INPUT) from None
    except OSError as error:
        place = error.filename or "the disk"
        typer.secho(
            f"distiq: {printable(str(place))}: {error.strerror or error}; check that it is there, that it may be"
            " read and written, and that the disk has room",
            err=True,
            fg="red",
        )
        raise typer.Exit(BAD_INPUT) from None
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from here", err=True)
        raise typer.Exit(130) from None

    else:
        _print_document(documents)


def _print_document(documents: list[str]) -> None:
    if any(documents) and processes.is_main():
        typer.echo(documents[-1])


@contextlib.contextmanager
def _all_to_stderr() -> Iterator[None]:
    """What is printed meanwhile goes to standard error, also where a library's C++ or another process prints it."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def watching(console: Console, plain: bool) -> Iterator[Watch]:
    if not processes.is_main():
        yield Silent()
    elif plain or not console.is_terminal:
        yield Lines(console)
    else:
        with Live(console) as live:
            yield live
