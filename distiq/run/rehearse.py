"""What a run does after its training, done before it with the untrained student: what would fail then fails early."""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from distiq.bundle.write import write_parts
from distiq.data.splits import Data
from distiq.errors import UserError
from distiq.models.audio import front_ends
from distiq.models.signature import Tensors
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe.recipe import Recipe
from distiq.run.climb import plain_scheme
from distiq.run.ledger import Ledger
from distiq.run.measure import Conditions, as_fed, conditions_of, export_file, reason_of
from distiq.run.networks import Models, Network
from distiq.run.web import packages
from distiq.runtimes.export import footprint, load, runtime_named
from distiq.runtimes.runtime import Footprint
from distiq.training import processes

SAMPLES = 16  # on which the rehearsal calibrates
T = TypeVar("T")


def rehearse(ledger: Ledger, recipe: Recipe, data: Data, models: Models) -> None:
    """Writes and runs the files of the untrained student, float32 and quantized, in every runtime of the recipe, and
    the parts of its bundle; nothing is kept. Done once for the same student, data and settings.

    Raises:
        UserError: one of them fails; the message says which and why.
    """
    if recipe.export.web:
        processes.on_main(lambda: packages(data, ledger.cache))
    make = partial(
        try_files,
        student=models.student,
        kept=models.kept,
        data=data,
        scheme=replace(plain_scheme(recipe, None), float_modules=_kept_in_float(recipe, models.student)),
        conditions=[conditions_of(recipe, runtime) for runtime in recipe.measure.runtimes],
        board=Footprint(*(None if limit is None else round(1000 * limit) for limit in recipe.budget.of_board)),
    )
    ledger.once("rehearsal", "trying the files of the untrained student", make)


def _kept_in_float(recipe: Recipe, student: Network) -> tuple[str, ...]:
    """The modules kept in float32: the recipe's; by default, for a board, front-ends, whose int8 Fourier basis is too
    large for it."""
    asked, is_board = recipe.quantize.float_modules, any(limit is not None for limit in recipe.budget.of_board)
    return asked if asked is not None else front_ends(student.module) if is_board else ()


def try_files(
    *,
    student: Network,
    kept: tuple[int, ...],
    data: Data,
    scheme: Scheme,
    conditions: list[Conditions],
    board: Footprint,
) -> None:
    """Makes, writes and runs them in a temporary folder.

    Args:
        kept: for a trimmed vocabulary, the tokens that the student knows.
        conditions: those of each runtime.
        board: what a microcontroller has for a quantized file, where that is limited; training does not change what the
            file needs.
    """
    model = copy.deepcopy(student.module).eval()
    samples = data.normalize(data.calibration.inputs[:SAMPLES])
    quantized = _tried("integers", partial(quantize, model, samples, scheme))
    with tempfile.TemporaryDirectory(prefix="distiq-") as folder:
        for own in conditions:
            fed = as_fed(data, own.export)
            for form, network in (("float32", model), ("quantized", quantized)):
                path = Path(folder) / own.runtime / form / own.model_file
                path.parent.mkdir(parents=True)
                what = f"a {form} file of {runtime_named(own.runtime).title}"
                _tried(what, partial(export_file, network, path, data, own.export))
                _tried(what, partial(_run, path, fed.normalize(data.calibration.inputs[:2])))
            check_footprint(path, board)
        first = Path(folder) / conditions[0].runtime / "float32" / conditions[0].model_file
        _tried(
            "a bundle", partial(write_parts, Path(folder) / "bundle", first, as_fed(data, conditions[0].export), kept)
        )


def check_footprint(path: Path, board: Footprint) -> None:
    """Raises UserError where a quantized file takes more of a microcontroller than there is."""
    remedies = {
        "flash_kb": "of flash; lower the student's width",
        "ram_kb": "of RAM; raise the stride of the student's first layers, lower their width",
    }
    for (key, what), most, needed in zip(remedies.items(), board, footprint(path), strict=True):
        if most is not None and needed is not None and needed > most:
            raise UserError(
                f"budget.{key} = {most / 1000:g}: the student's file takes {needed / 1000:.1f} kB {what}, or raise the"
                " limit"
            )


def _run(path: Path, inputs: Tensors) -> Tensors:
    return load(path)(inputs)


def _tried(what: str, work: Callable[[], T]) -> T:
    try:
        return work()
    except UserError:
        raise
    except Exception as error:  # exporters and runtimes raise their own exception types
        raise UserError(
            f"student: cannot be made {what} ({reason_of(error)}); take another network, scheme or runtime"
        ) from error
