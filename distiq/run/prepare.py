"""The beginning of a run: its data is read, its recipe kept in the run folder."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from distiq import environment
from distiq.data.load import load as load_data
from distiq.data.splits import Data, check_data
from distiq.recipe.idle import idle_keys, no_effect, set_keys
from distiq.recipe.recipe import Recipe, to_toml
from distiq.run.ledger import Ledger
from distiq.run.reach import code_key, whole
from distiq.run.rungs import RUNGS
from distiq.training import processes


def read_data(recipe: Recipe, ledger: Ledger, given: Data | None = None) -> Data:
    """The recipe's data, or what is given in its place, checked.

    Of several processes, the main one packs data that does not fit into memory; the others read the pack.

    Raises:
        UserError: the data cannot be read, or a run cannot use it.
    """
    environment.keep_freed_memory()
    watch = ledger.watch
    watch.stage("reading data")
    data = given or processes.main_first(partial(load_data, recipe.data, recipe.seed, ledger.cache, watch))
    data = with_task(data, recipe.task or data.task)
    check_data(data)
    watch.note(
        f"{data.source}: {len(data.train)} training, {len(data.validation)} validation, {len(data.calibration)}"
        f" calibration, {len(data.test)} test {data.noun}"
    )
    for note in (*data.notes, *idle_keys(recipe, data.modality, given is not None), *_idle_rungs(recipe)):
        watch.note(note)
    return data


def _idle_rungs(recipe: Recipe) -> list[str]:
    """A sentence about each rung that the recipe has settings for and does not climb."""
    quantize, said = recipe.quantize, []
    for rung in RUNGS if quantize.rungs is not None else ():
        own = ("training", "learn_ranges") if rung.trains else ("percentile",) if rung.ranges == "percentile" else ()
        keys = [f"quantize.{key}" for key in set_keys(quantize) if key.partition(".")[0] in own]
        if keys and rung.name not in (quantize.rungs or ()):
            said.append(no_effect(keys, f'quantize.rungs names no "{rung.name}"; add it, or leave them out'))
    return said


def with_task(data: Data, reference: str) -> Data:
    """The data for the task that a recipe names, or where it names none, for the task that the labels imply."""
    file = Path(reference.rpartition(":")[0])
    own = ".py:" in reference and file.is_file()
    return replace(data, task=reference, task_code=code_key(whole(file), (file.parent,)) if own else "")


def keep_recipe(ledger: Ledger, recipe: Recipe) -> None:
    """Writes the resolved recipe into the run folder."""
    ledger.keep_recipe(to_toml(recipe))
