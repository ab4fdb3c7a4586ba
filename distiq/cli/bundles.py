"""Commands on bundles."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import typer.core

from distiq.cli.terminal import BUDGET_MISSED, AsJson, BundleFolder, app, explained
from distiq.errors import printable

if TYPE_CHECKING:
    from distiq.records.documents import PredictionRecord


class Samples(typer.core.TyperCommand):
    """A command whose arguments may be texts: "-5" and "- no, thanks" are no options."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        options = {name for parameter in self.params for name in (*parameter.opts, *parameter.secondary_opts)}
        for argument in args[: args.index("--")] if "--" in args else args:
            if re.match(r"-[^\s\d]\S*$", argument) and argument.partition("=")[0] not in {*options, "--help"}:
                ctx.fail(f"No such option: {argument} (a text that begins so stands behind --)")
        ctx.ignore_unknown_options = True
        return super().parse_args(ctx, args)


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
    with explained(as_json) as emit:
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
        emit(PredictionsRecord(bundle=str(bundle), predictions=tuple(made)))


@app.command(epilog="Example: `distiq check runs/fashion_mnist/bundle`")
def check(bundle: BundleFolder, as_json: AsJson = False) -> None:
    """Replays a bundle's test vectors on this machine. Exit code 3 if the file predicts differently here."""
    with explained(as_json) as emit:
        from distiq.bundle.open import Bundle
        from distiq.records.documents import ReplayRecord

        replay = Bundle(bundle).check()
        typer.echo("\n".join(replay.lines))
        emit(ReplayRecord.model_validate(replay._asdict()))
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
    with explained(as_json) as emit:
        from distiq.commands.push import push as push_bundle

        record = push_bundle(bundle, repository, private=private, dry_run=dry_run)
        for file in record.files:
            typer.echo(f"{file.size_bytes:>15,} bytes  {file.name}")
        total = sum(file.size_bytes for file in record.files)
        typer.echo(f"{total:>15,} bytes {f'would go to {repository}' if dry_run else record.url}")
        emit(record)


@app.command(epilog="Example: `distiq mcp work`, as the command of a server in an assistant's settings")
def mcp(
    folder: Annotated[Path, typer.Argument(help="all that the assistant may read and write lies in it")],
    trust: Annotated[bool, typer.Option("--trust", help="recipes may name code, such as file.py:function")] = False,
) -> None:
    """Serves run, show, quantize, bench, diagnose and predict to an assistant (Model Context Protocol, on standard
    input and output)."""
    with explained():
        from distiq.commands.mcp import serve

        serve(folder, trust)


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
