"""serve(folder): distiq's commands for an assistant, over the Model Context Protocol on standard input and output."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from distiq.errors import UserError
from distiq.recipe.read import load_recipe
from distiq.recipe.recipe import Recipe
from distiq.recipe.shipped import recipe_file, shipped_recipes
from distiq.records.record import Record

LARGE = {"flips", "scenes"}  # parts of a run's record that hold pictures
HELP = """distiq makes a trained model small and fast and measures the file. Paths are relative to the folder {folder};
nothing outside of it is read or written. `run` trains: minutes to hours."""


class Door:
    """The tools, confined to a folder.

    Args:
        trust: recipes may name code (file.py:function) and pickles of weights.
    """

    def __init__(self, folder: Path, trust: bool = False) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; name the one that the assistant may work in")
        self.folder, self.trust = folder.resolve(), trust

    def inside(self, path: str) -> Path:
        """The path within the folder, links followed.

        Raises:
            UserError: it leads out of the folder.
        """
        place = (self.folder / path).resolve()
        if not place.is_relative_to(self.folder):
            raise UserError(
                f"{path}: lies outside of {self.folder}, to which this server is confined; name a path in it"
            )
        return place

    def recipe(self, name: str, overrides: Sequence[str]) -> tuple[Recipe, Path]:
        """A recipe in the folder, or a shipped one; every path that it names lies in the folder, too."""
        file = recipe_file(name) if name in shipped_recipes() else self.inside(name)
        settings = load_recipe(file, overrides)
        if settings.code() and not self.trust:
            raise UserError(
                f"{name}: runs code ({', '.join(settings.code())}); start the server with --trust to allow it"
            )
        if name not in shipped_recipes() or overrides:
            for value in _texts(settings.model_dump()):
                if value.startswith(("/", "~", "..")):
                    self.inside(value)
        return settings, file

    def run(self, recipe: str, overrides: list[str] | None = None, run: str = "") -> dict[str, Any]:
        """Runs a recipe: teacher, student, int8 file, measurements, bundle and report. Run again, it resumes.

        Args:
            recipe: a TOML file, or the name of a shipped recipe such as fashion_mnist.
            overrides: keys to set, such as "student.training.epochs=3".
            run: the run folder; by default runs/NAME.
        """
        from distiq.commands.compress import compress

        settings, file = self.recipe(recipe, overrides or [])
        place = self.inside(run or f"runs/{settings.name}")
        return _told(compress(settings, run=place, command=f"distiq run {recipe}", recipe_file=file))

    def show(self, run: str) -> dict[str, Any]:
        """The record of a run: verdict, quality, size and latency of teacher, student and every int8 file."""
        from distiq.report.reading import read_run

        return _told(read_run(self.inside(run) / "records"))

    def quantize(self, model: str, data: str, out: str = "") -> dict[str, Any]:
        """Makes an int8 file of a float32 ONNX file and measures both side by side.

        Args:
            data: samples without labels: a folder of images, .npy, or .npz with an array for each input.
            out: by default MODEL.int8.onnx.
        """
        from distiq.commands.quantize_file import quantize_file
        from distiq.data.inputs import Preparation
        from distiq.quantization.scheme import Scheme

        source = self.inside(model)
        target = self.inside(out) if out else source.with_suffix(".int8.onnx")
        return _told(quantize_file(source, self.inside(data), target, Scheme(), Preparation.written("", "0", "1")))

    def bench(self, files: list[str], threads: int | None = None, batch: int = 32) -> dict[str, Any]:
        """Times model files or bundles side by side on this machine."""
        from distiq.commands.bench import bench

        return _told(bench([self.inside(file) for file in files], threads=threads, batch=batch))

    def diagnose(self, run: str) -> dict[str, Any]:
        """Says why a run's int8 file lost quality: the cause, and the recipe's keys that cure it."""
        from distiq.commands.diagnose import diagnose

        return _told(diagnose(self.inside(run), trust=self.trust))

    def predict(self, bundle: str, samples: list[str], top: int = 3) -> dict[str, Any]:
        """Predicts samples with a bundle's model file.

        Args:
            samples: files in the folder; of a model of texts, texts.
        """
        from distiq.commands.predict import predict
        from distiq.records.documents import PredictionsRecord

        place = self.inside(bundle)
        about = (
            json.loads((place / "preprocessing.json").read_bytes()) if (place / "preprocessing.json").is_file() else {}
        )
        given = samples if about.get("modality") == "text" else [str(self.inside(sample)) for sample in samples]
        return _told(PredictionsRecord(bundle=bundle, predictions=tuple(predict(place, given, top=top))))

    @property
    def tools(self) -> tuple[Callable[..., dict[str, Any]], ...]:
        return self.run, self.show, self.quantize, self.bench, self.diagnose, self.predict


def serve(folder: Path, trust: bool = False) -> None:
    """Answers an assistant until it hangs up.

    Raises:
        UserError: the package mcp is missing, or there is no such folder.
    """
    try:
        from mcp.server.fastmcp import FastMCP
    except ImportError as error:
        raise UserError("distiq mcp needs the package mcp: pip install 'distiq[mcp]'") from error
    door = Door(folder, trust)
    server = FastMCP("distiq", instructions=HELP.format(folder=door.folder))
    for tool in door.tools:
        server.add_tool(_in_thread(tool), name=tool.__name__, description=tool.__doc__)
    with _protocol_alone_on_stdout(), contextlib.chdir(door.folder):
        server.run("stdio")


def _in_thread(tool: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    """The tool, run in a thread of its own, so that the server's loop goes on answering."""
    import functools

    import anyio

    @functools.wraps(tool)
    async def called(**given: Any) -> dict[str, Any]:
        return await anyio.to_thread.run_sync(partial(tool, **given))

    return called


def _texts(value: object) -> Iterator[str]:
    """All texts in a recipe's values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _told(record: Record) -> dict[str, Any]:
    """A record without its pictures, as `--json` writes it."""
    return json.loads(record.model_dump_json(exclude=LARGE))


@contextlib.contextmanager
def _protocol_alone_on_stdout() -> Iterator[None]:
    """What libraries print goes to standard error; the protocol keeps standard output for itself."""
    own, before = os.fdopen(os.dup(1), "w"), sys.stdout
    os.dup2(2, 1)
    sys.stdout = own
    try:
        yield
    finally:
        sys.stdout = before
        os.dup2(own.fileno(), 1)
        own.close()
