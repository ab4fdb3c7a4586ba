"""The command line: one call each, no logic."""

import contextlib
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
import typer.core
from rich.console import Console

from distiq.errors import UserError, printable
from distiq.progress import Lines, Live, Silent, Watch
from distiq.training import processes

if TYPE_CHECKING:
    from distiq.recipe.recipe import Recipe
    from distiq.records.documents import PredictionRecord
    from distiq.records.record import Record
    from distiq.records.search import SearchRecord

BUDGET_MISSED, BAD_INPUT = 3, 2
for noisy in ("torchao", "torch.utils._pytree"):
    logging.getLogger(noisy).setLevel(logging.ERROR)  # what they warn of at import concerns their authors alone


class Samples(typer.core.TyperCommand):
    """A command whose arguments may be texts: "-5" and "- no, thanks" are no options."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        options = {name for parameter in self.params for name in (*parameter.opts, *parameter.secondary_opts)}
        for argument in args[: args.index("--")] if "--" in args else args:
            if re.match(r"-[^\s\d]\S*$", argument) and argument.partition("=")[0] not in {*options, "--help"}:
                ctx.fail(f"No such option: {argument} (a text that begins so stands behind --)")
        ctx.ignore_unknown_options = True
        return super().parse_args(ctx, args)


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
Ranges = Literal["mse", "minmax", "percentile", "entropy"]
Rounding = Literal["nearest", "gptq", "adaround", "brecq"]
Mode = Literal["static", "dynamic", "weight_only", "float16"]
AsJson = Annotated[
    bool, typer.Option("--json", help="print the result as one JSON document; all else goes to standard error")
]
BundleFolder = Annotated[Path, typer.Argument(help="a bundle, such as runs/fashion_mnist/bundle", show_default=False)]


@app.command(epilog="Example: `distiq run fashion_mnist --set student.training.epochs=3`")
def run(
    recipe: RecipeFile,
    set_: Annotated[list[str], typer.Option("--set", help="override a key: `--set distil.temperature=2`")] = [],  # noqa: B006
    folder: Annotated[Path | None, typer.Option("--run", help="the run folder; by default runs/NAME")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="plain lines instead of a live display")] = False,
    as_json: AsJson = False,
) -> None:
    """Runs a recipe: teacher, student, int8 file, measurements, bundle and report. Run again, it goes on where it was.

    Exit codes: 0 the budget holds, 2 the input is refused, 3 the budget is missed (the best file is delivered).
    """
    with _explained(as_json) as answer:
        from distiq.recipe.read import load_recipe
        from distiq.recipe.shipped import recipe_file

        file = recipe_file(recipe)
        settings = load_recipe(file, set_)
        if settings.student.is_searched:
            place = folder or Path("runs") / settings.name
            _search(settings, None, None, folder, "", plain, file)
            settings, folder = _found(place, None), place
        _compress(settings, folder, plain, file, answer)


@app.command(epilog="Example: `distiq search fashion_mnist --trials 40`, then `distiq deliver runs/fashion_mnist`")
def search(
    recipe: RecipeFile,
    trials: Annotated[int | None, typer.Option(min=1, help="how many candidates; by default the recipe's")] = None,
    hours: Annotated[float | None, typer.Option(min=0.001, help="begin no candidate after so many hours")] = None,
    storage: Annotated[
        str, typer.Option(help="an Optuna storage that several searches share: a journal file or a database's URL")
    ] = "",
    set_: Annotated[list[str], typer.Option("--set", help="override a key: `--set budget.size_kb=60`")] = [],  # noqa: B006
    folder: Annotated[Path | None, typer.Option("--run", help="the run folder; by default runs/NAME")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="plain lines instead of a live display")] = False,
    as_json: AsJson = False,
) -> None:
    """Finds the student: each candidate's file is timed untrained, those that hold the budget learn in stages.

    Without budget.size_kb and budget.latency_ms, candidates must be as small and as fast as the recipe's own student.
    Interrupted, the same command goes on.
    """
    with _explained(as_json) as answer:
        from distiq.recipe.read import load_recipe
        from distiq.recipe.shipped import recipe_file

        file = recipe_file(recipe)
        settings = load_recipe(file, set_)
        answer(_search(settings, trials, hours, folder, storage, plain, file))


@app.command(epilog="Example: `distiq deliver runs/fashion_mnist --point 12`")
def deliver(
    folder: RunFolder,
    point: Annotated[
        int | None, typer.Option(help="a candidate of the front; by default the one that was chosen")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="plain lines instead of a live display")] = False,
    as_json: AsJson = False,
) -> None:
    """Makes the bundle of a student that a search found: what the search has trained is not trained again.

    Exit codes as of `distiq run`.
    """
    with _explained(as_json) as answer:
        _compress(_found(folder, point), folder, plain, None, answer)


@app.command(epilog="Example: `distiq ablate fashion_mnist --seeds 5`")
def ablate(
    recipe: RecipeFile,
    seeds: Annotated[int, typer.Option(min=1, help="how many seeds; more give a narrower interval")] = 3,
    set_: Annotated[list[str], typer.Option("--set", help="override a key: `--set distil.temperature=2`")] = [],  # noqa: B006
    folder: Annotated[Path | None, typer.Option("--run", help="the run folder; by default runs/NAME")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="plain lines instead of a live display")] = False,
    as_json: AsJson = False,
) -> None:
    """Says whether the teacher helps: the same student without it, with its outputs, with the recipe's losses.

    Interrupted, the same command goes on. The result also stands in the run's report.
    """
    with _explained(as_json) as answer:
        from distiq.recipe.read import load_recipe
        from distiq.recipe.shipped import recipe_file

        file = recipe_file(recipe)
        settings = load_recipe(file, set_)
        from distiq.commands.ablate import ablate as ablate_recipe
        from distiq.report.report import write_report
        from distiq.report.show import show_ablation

        console = Console(highlight=False)
        place = folder or Path("runs") / settings.name
        with _watching(console, plain) as watch:
            command = shlex.join(["distiq", *sys.argv[1:]])
            record = ablate_recipe(settings, seeds=seeds, run=folder, watch=watch, command=command, recipe_file=file)
        if not processes.is_main():
            return
        show_ablation(record, console)
        answer(record)
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
    plain: Annotated[bool, typer.Option("--plain", help="plain lines instead of a live display")] = False,
    as_json: AsJson = False,
) -> None:
    """Says why a run's int8 file lost accuracy: the checklist, each fake-quantizer alone, the cause, the cure."""
    with _explained(as_json) as answer:
        from distiq.commands.diagnose import diagnose as diagnose_run
        from distiq.commands.diagnose import recipe_of
        from distiq.records.documents import DiagnosedRecord
        from distiq.report.report import write_report
        from distiq.report.show import show, show_diagnosis

        console = Console(highlight=False)
        trust = trust or _trusted(folder)
        with _watching(console, plain) as watch:
            diagnosis = diagnose_run(folder, watch, trust)
        show_diagnosis(diagnosis, console)
        write_report(folder / "records", folder / "report.html")
        record = None
        if cure and diagnosis.cure:
            from distiq.commands.compress import compress

            settings = recipe_of(folder, diagnosis.cure)
            with _watching(console, plain) as watch:
                # The recipe of the run folder holds the cure by then, unless a person edited it.
                again = shlex.join(["distiq", "run", str(folder / "recipe.toml"), "--run", str(folder)])
                record = compress(settings, run=folder, watch=watch, command=again)
            (folder / "records" / "diagnosis.json").unlink()  # it was of the run before
            show(folder / "records", console)
            write_report(folder / "records", folder / "report.html")
        console.print(f"report: {folder / 'report.html'}", markup=False)
        answer(DiagnosedRecord(diagnosis=diagnosis, cured=record))
        if record is not None and not record.verdict.met:
            raise typer.Exit(BUDGET_MISSED)


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
    with _explained(as_json) as answer:
        from distiq.commands.init import SCHEMA_FILE
        from distiq.commands.init import init as write_recipe
        from distiq.records.documents import StarterRecord

        about = write_recipe(path, data, every_key=all_, force=force)
        typer.echo(f"{about}\n{path} written; run it with: distiq run {path}")
        answer(StarterRecord(recipe=str(path), schema_file=str(path.with_name(SCHEMA_FILE)), about=about))


@app.command(epilog="Examples: `distiq recipes`, `distiq recipes fashion_mnist`")
def recipes(
    name: Annotated[str, typer.Argument(help="print this recipe", show_default=False)] = "",
    as_json: AsJson = False,
) -> None:
    """Lists the recipes that come with distiq; `distiq run NAME` runs one."""
    with _explained(as_json) as answer:
        from distiq.recipe.shipped import recipe_file, shipped_recipes, summary
        from distiq.records.documents import ShippedRecipe, ShippedRecipes

        files = {name: recipe_file(name)} if name else shipped_recipes()
        found = tuple(
            ShippedRecipe(name=shipped, about=summary(file), toml=file.read_text(encoding="utf-8").strip())
            for shipped, file in files.items()
        )
        for one in found:
            typer.echo(one.toml if name else f"{one.name:<20}{one.about}")
        answer(ShippedRecipes(recipes=found))


@app.command(epilog="Examples: `distiq schema > distiq.schema.json`, `distiq schema show`")
def schema(
    command: Annotated[
        str, typer.Argument(help="print the schema of what this command prints with --json", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Prints the JSON schema of a recipe, by which editors complete its keys; or that of a command's JSON document."""
    with _explained():  # what it prints is JSON in any case
        from distiq.recipe.recipe import schema as recipe_schema
        from distiq.records.documents import DOCUMENTS, document_schema

        if command and command not in {*DOCUMENTS, "schema"}:
            raise UserError(f"{command}: prints no JSON document; these do: {', '.join(DOCUMENTS)}")
        typer.echo(document_schema(command) if command else recipe_schema().strip())


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
    with _explained(as_json) as answer:
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
        answer(ReportRecord(report=str(folder / "report.html"), measurements=kept))


@app.command(epilog="Example: `distiq show runs/fashion_mnist`")
def show(folder: RunFolder, as_json: AsJson = False) -> None:
    """Prints a run's result in the terminal."""
    with _explained(as_json) as answer:
        from distiq.report.reading import read_run
        from distiq.report.show import show as show_records

        show_records(folder / "records", Console(highlight=False))
        answer(read_run(folder / "records"))


@app.command(epilog="Example: `distiq compare runs/one runs/two --out compared.html`")
def compare(
    folders: Annotated[list[Path], typer.Argument(help="run folders; each is compared with the first")],
    out: Annotated[Path | None, typer.Option(help="also write the comparison here, as one HTML file")] = None,
    as_json: AsJson = False,
) -> None:
    """Shows several runs side by side: quality with the paired interval, size, time, and what their recipes do
    otherwise."""
    with _explained(as_json) as answer:
        from distiq.commands.compare import compare as compare_runs
        from distiq.report.runs import write_runs
        from distiq.report.show import show_runs

        record = compare_runs(folders)
        show_runs(record, Console(highlight=False))
        answer(record)
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
    with _explained(as_json) as answer:
        from distiq.commands.clean import clean as clean_run
        from distiq.records.documents import CleanRecord, UnnamedFolder

        unnamed = clean_run(folder, dry_run)
        for entry in unnamed:
            typer.echo(f"{entry.size_bytes:>15,} bytes  {entry.path}")
        total = sum(entry.size_bytes for entry in unnamed)
        removed = tuple(UnnamedFolder(path=str(entry.path), size_bytes=entry.size_bytes) for entry in unnamed)
        answer(CleanRecord(dry_run=dry_run, folders=removed, size_bytes=total))
        typer.echo(f"{total:>15,} bytes in {len(unnamed)} folders {'would be ' if dry_run else ''}removed")


@app.command(
    cls=Samples,
    epilog="Examples: `distiq predict runs/fashion_mnist/bundle shoe.png`, `distiq predict BUNDLE long.wav --stream`,"
    " `arecord -t raw -f S16_LE -r 8000 | distiq predict BUNDLE - --stream`",
)
def predict(
    bundle: BundleFolder,
    samples: Annotated[
        list[str],
        typer.Argument(
            help="image or sound files, files of rows (CSV, JSON), or texts; of a model that compares two texts,"
            " both, one behind the other",
            show_default=False,
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="how many classes to name")] = 3,
    every: Annotated[float | None, typer.Option(help="sound: predict a window every so many seconds")] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="sound: chunk after chunk, as a microphone gives it; - reads raw int16")
    ] = False,
    smooth: Annotated[int, typer.Option(min=1, help="stream: probabilities are the mean of so many windows")] = 3,
    draw: Annotated[
        Path | None, typer.Option(help="boxes, masks: a folder for the images with what is found drawn into them")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="embeddings: write the vectors of all samples here, as .npy")] = None,
    beam: Annotated[int, typer.Option(help="texts of sound: follow so many texts at once; 0: frame by frame")] = 0,
    word_list: Annotated[
        Path | None, typer.Option("--words", help="with --beam: a file of the words that a text may have")
    ] = None,
    ngram: Annotated[
        Path | None, typer.Option(help="with --beam: an n-gram model of words, in the ARPA format")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predicts samples with a bundle's model file."""
    with _explained(as_json) as answer:
        from distiq.commands.predict import predict as predictions
        from distiq.records.documents import PredictionsRecord

        made = []
        for one in predictions(
            bundle, samples, top=top, every=every, stream=stream, smooth=smooth, draw=draw, out=out, beam=beam,
            words=word_list, ngram=ngram,
        ):  # fmt: skip
            for note in one.notes:
                typer.secho(printable(note), err=True, fg="yellow")
            if out is None:
                _say_prediction(one)
            made += [one] if as_json or out is not None else []  # a microphone's windows never end
        if out is not None:
            typer.echo(f"{out}: {len(made)} vectors of {len(made[0].vector)}")
        answer(PredictionsRecord(bundle=str(bundle), predictions=tuple(made)))


@app.command(epilog="Example: `distiq check runs/fashion_mnist/bundle`")
def check(bundle: BundleFolder, as_json: AsJson = False) -> None:
    """Replays a bundle's test vectors on this machine. Exit code 3 if the file predicts differently here."""
    with _explained(as_json) as answer:
        from distiq.bundle.open import Bundle
        from distiq.records.documents import ReplayRecord

        replay = Bundle(bundle).check()
        typer.echo("\n".join(replay.lines))
        answer(ReplayRecord.model_validate(replay._asdict()))
        if not replay.passed:
            raise typer.Exit(BUDGET_MISSED)


@app.command(epilog="Example: `distiq push runs/fashion_mnist/bundle me/shoes --dry-run`")
def push(
    bundle: BundleFolder,
    repository: Annotated[str, typer.Argument(help="on the Hugging Face hub: user/name", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="of a repository that is not there yet")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be sent, send nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Sends a bundle to the Hugging Face hub, with its README.md as the model's card."""
    with _explained(as_json) as answer:
        from distiq.commands.push import push as push_bundle

        record = push_bundle(bundle, repository, private=private, dry_run=dry_run)
        for file in record.files:
            typer.echo(f"{file.size_bytes:>15,} bytes  {file.name}")
        total = sum(file.size_bytes for file in record.files)
        typer.echo(f"{total:>15,} bytes {f'would go to {repository}' if dry_run else record.url}")
        answer(record)


@app.command(epilog="Example: `distiq mcp work`, as the command of a server in an assistant's settings")
def mcp(
    folder: Annotated[Path, typer.Argument(help="all that the assistant may read and write lies in it")],
    trust: Annotated[bool, typer.Option("--trust", help="recipes may name code, such as file.py:function")] = False,
) -> None:
    """Serves run, show, quantize, bench, diagnose and predict to an assistant (Model Context Protocol, on standard
    input and output)."""
    with _explained():
        from distiq.commands.mcp import serve

        serve(folder, trust)


@app.command(
    epilog="Examples: `distiq bench model.onnx`, `distiq bench float.xml int8.xml int8.tflite --threads 2 --batch 64`,"
    " `distiq bench model.onnx --shape 3,224,224 --json > times.json`,"
    " `distiq bench runs/fashion_mnist/bundle --json > device.json`, `distiq bench sound.onnx sound.xml --rate 8000`"
)
def bench(
    files: Annotated[
        list[Path], typer.Argument(help=".onnx, .xml, .tflite, .pte, .pt2 or .c files, or bundles", show_default=False)
    ],
    threads: Annotated[
        int | None, typer.Option(min=1, help="threads of each runtime  [default: 1, of a bundle those of its card]")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="samples per call where throughput is measured")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="turns of every file; they are interleaved")] = 10,
    seconds: Annotated[float, typer.Option(min=0.001, help="length of a turn")] = 0.2,
    shape: Annotated[
        str,
        typer.Option(
            help="of one sample, such as 3,224,224, where the file does not say it; of several inputs"
            ' "image=3,224,224 depth=1,224,224"'
        ),
    ] = "",
    rate: Annotated[
        int, typer.Option(min=0, help="of files that take sound: samples per second; bundles say their own")
    ] = 0,
    tune: Annotated[bool, typer.Option("--tune", help="also time the settings of each file's runtime")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="plain lines instead of a live display")] = False,
    as_json: AsJson = False,
) -> None:
    """Times model files side by side on this machine: latency of one sample, throughput of a batch."""
    with _explained(as_json) as answer:
        shapes = dict(_named_shape(part) for part in shape.split(" ") if part)
        from distiq.commands.bench import bench as bench_files
        from distiq.report.show import show_bench

        console = Console(highlight=False)
        with _watching(console, plain) as watch:
            record = bench_files(
                files,
                threads=threads,
                batch=batch,
                rounds=rounds,
                seconds=seconds,
                shape=shapes.get("", ()) or shapes,
                rate=rate,
                tune=tune,
                watch=watch,
            )
        show_bench(record, console)
        answer(record)


@app.command(
    epilog="Examples: `distiq quantize model.onnx --data samples.npy`, `distiq quantize model.onnx --data photos"
    " --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --ranges minmax --out small.xml`"
)
def quantize(
    model: Annotated[Path, typer.Argument(help="a float32 .onnx file", show_default=False)],
    data: Annotated[
        Path,
        typer.Option(
            help="samples without labels: a folder of images, or .npy; .npz: an array for each input by its name"
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="the file to write; .onnx, .xml, .tflite, .pte, .pt2 or .c  [default: MODEL.int8.onnx, .float16.onnx]"
        ),
    ] = None,
    ranges: Annotated[Ranges, typer.Option(help="how the range of an activation is found")] = "mse",
    rounding: Annotated[
        Rounding, typer.Option(help="of weights; gptq: in closed form; brecq: learned, which takes minutes")
    ] = "gptq",
    iterations: Annotated[int, typer.Option(min=1, help="steps of adaround for a layer, of brecq for a block")] = 300,
    equalize: Annotated[bool, typer.Option("--equalize", help="move scales between layers, correct biases")] = False,
    weight_bits: Annotated[int, typer.Option(help="8, 7, 6, 4, 3 or 2")] = 8,
    mode: Annotated[
        Mode,
        typer.Option(help="static int8; dynamic: linear layers in int8; weight_only, float16: computed in float32"),
    ] = "static",
    group_size: Annotated[
        int, typer.Option(help="weight_only, 4 bits: inputs of a linear layer that share a scale")
    ] = 0,
    reduce_range: Annotated[
        bool, typer.Option("--reduce-range", help="7-bit weights: the same predictions on x86 CPUs without VNNI")
    ] = False,
    samples: Annotated[int, typer.Option(min=1, help="how many to calibrate on, at most half of them")] = 512,
    min_sqnr: Annotated[
        float, typer.Option(help="in dB, of every output beside float32; below, the noisiest layers stay in float32")
    ] = 20.0,
    size: Annotated[str, typer.Option(help="of the images, such as 224,224, where the file does not say it")] = "",
    mean: Annotated[str, typer.Option(help="of pixels from 0 to 1, by channel: images become (x - mean) / std")] = "0",
    std: Annotated[str, typer.Option(help="of pixels from 0 to 1, by channel")] = "1",
    uint8_input: Annotated[
        bool, typer.Option("--uint8-input", help="the int8 file takes uint8 images and prepares them itself (not .pte)")
    ] = False,
    pad: Annotated[
        int, typer.Option(help="of texts, the padding token's number, where the file takes a mask beside token numbers")
    ] = 0,
    integer_io: Annotated[
        bool, typer.Option("--integer-io", help="a .tflite file that takes and gives int8 (with --uint8-input: gives)")
    ] = False,
    attention: Annotated[
        bool, typer.Option("--attention", help="products within attention in int8, too (static; slower in .pt2)")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="threads of each runtime")] = 1,
    plain: Annotated[bool, typer.Option("--plain", help="plain lines instead of a live display")] = False,
    as_json: AsJson = False,
) -> None:
    """Makes an int8 file from your own float32 ONNX file and measures both side by side; without labels or PyTorch."""
    with _explained(as_json) as answer:
        from distiq.commands.quantize_file import quantize_file, scheme_of
        from distiq.data.inputs import Preparation
        from distiq.report.show import show_own_file

        console = Console(highlight=False)
        with _watching(console, plain) as watch:
            record = quantize_file(
                model,
                data,
                out or model.with_suffix(".float16.onnx" if mode == "float16" else ".int8.onnx"),
                scheme_of(
                    ranges,
                    rounding,
                    equalize,
                    weight_bits,
                    reduce_range,
                    iterations,
                    mode,
                    group_size,
                    integer_io,
                    attention,
                ),
                Preparation.written(size, mean, std),
                samples=samples,
                min_sqnr=min_sqnr,
                uint8_input=uint8_input,
                pad=pad,
                threads=threads,
                watch=watch,
            )
        show_own_file(record, console)
        answer(record)


def _trusted(run: Path) -> bool:
    """Asks before a run's code is run, where somebody can answer."""
    from distiq.commands.diagnose import recipe_of

    if not sys.stdin.isatty() or not (run / "records" / "run.json").is_file():
        return False
    code = recipe_of(run).code()
    return bool(code) and typer.confirm(printable(f"The recipe of {run} runs code: {', '.join(code)}. Run it?"))


def _named_shape(text: str) -> tuple[str, list[int]]:
    """The name of an input, empty for the only one, and the sizes of a sample: "depth=1,224,224"."""
    name, _, sizes = text.rpartition("=")
    if not all(size.strip().isdigit() for size in sizes.split(",")):
        raise UserError(f"--shape {text}: write the sizes of one sample with commas, such as 3,224,224")
    return name, [int(size) for size in sizes.split(",")]


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
    with _watching(console, plain) as watch:
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
    settings: "Recipe", folder: Path | None, plain: bool, file: Path | None, answer: "Callable[[Record], None]"
) -> None:
    from distiq.commands.compress import compress
    from distiq.report.show import show

    console = Console(highlight=False)
    place = folder or Path("runs") / settings.name
    with _watching(console, plain) as watch:
        command = shlex.join(["distiq", *sys.argv[1:]])
        record = compress(settings, run=folder, watch=watch, command=command, recipe_file=file)
    if not processes.is_main():
        return
    show(place / "records", console)
    console.print(f"report: {place / 'report.html'}\nbundle: {place / 'bundle'}", markup=False)
    answer(record)
    if not record.verdict.met:
        raise typer.Exit(BUDGET_MISSED)


def _say_prediction(one: "PredictionRecord") -> None:
    """A prediction in words, with what it is of."""
    place = printable(f"{one.sample} | {one.second}" if one.second else one.sample)
    if one.start_s is not None:
        place += f", {one.start_s:.2f} to {one.end_s:.2f} s"
    if one.row is not None:
        place += f", row {one.row}"
    if one.spans:
        typer.echo("\n".join(f"{place}: {line}" for line in one.text.splitlines()))
    else:
        typer.echo(f"{place}: {one.text}")


@contextlib.contextmanager
def _explained(as_json: bool = False) -> Iterator["Callable[[Record], None]"]:
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
def _watching(console: Console, plain: bool) -> Iterator[Watch]:
    if not processes.is_main():
        yield Silent()
    elif plain or not console.is_terminal:
        yield Lines(console)
    else:
        with Live(console) as live:
            yield live
