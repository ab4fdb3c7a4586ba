"""compress(recipe): the whole pipeline, top to bottom."""

from pathlib import Path

from torch import nn

from distiq.data.splits import Data
from distiq.progress import Silent, Watch
from distiq.recipe.recipe import Recipe
from distiq.records.run import RunRecord
from distiq.run.advise import advise
from distiq.run.check import check_models, check_recipe
from distiq.run.climb import climb
from distiq.run.compare import files_of, time_together
from distiq.run.deliver import write_run
from distiq.run.ledger import Ledger
from distiq.run.measure import measure_float
from distiq.run.networks import build_models
from distiq.run.prepare import keep_recipe, read_data
from distiq.run.rehearse import rehearse
from distiq.run.select import select
from distiq.run.tracking import Tracking
from distiq.run.train import train_assistants, train_student, train_teacher
from distiq.run.trial import quantize_teacher
from distiq.run.web import make_web


def compress(
    recipe: Recipe,
    *,
    run: Path | None = None,
    teacher: nn.Module | None = None,
    student: nn.Module | None = None,
    data: Data | None = None,
    watch: Watch | None = None,
    command: str = "distiq.compress(recipe)",
    recipe_file: Path | None = None,
) -> RunRecord:
    """Teacher, student, quantization, export, measurement, budget; leaves a run folder with bundle and report.

    Args:
        run: the run folder; by default runs/<name>. What it already holds for these inputs is reused.
        teacher: a trained network in place of the recipe's.
        student: an untrained network in place of the recipe's.
        data: in place of the recipe's.
        command: how to repeat this, for the report.
        recipe_file: the file that the recipe was read from, if any: a run folder of another recipe file of the same
            name is refused, unless `run` names it.

    Returns:
        The run's record; `verdict.met` says whether the budget holds.

    Raises:
        UserError: something in the recipe or the data is refused, or the folder cannot be used.
    """
    folder = run or Path("runs") / recipe.name
    tracking = Tracking(recipe, folder, command, watch or Silent())
    with Ledger(folder, tracking, recipe_file, chosen=run is not None, follower=tracking) as ledger, tracking:
        data = read_data(recipe, ledger, data)
        tracking.read(data)
        check_recipe(recipe, data)
        models = build_models(recipe, data, ledger.watch, teacher, student)
        check_models(recipe, data, models, ledger.watch)
        rehearse(ledger, recipe, data, models)
        keep_recipe(ledger, recipe)
        taught = train_teacher(ledger, recipe, data, models.teacher)
        reference = measure_float(ledger, recipe, data, taught)
        quantized = quantize_teacher(ledger, recipe, data, reference)
        advice = advise(ledger, recipe, data, reference, models.student)
        source = train_assistants(ledger, recipe, data, models.assistants, taught)
        learned = train_student(ledger, recipe, data, models.student, source, taught)
        baseline = measure_float(ledger, recipe, data, learned, reference)
        climbed = climb(ledger, recipe, data, source, reference, baseline)
        files = files_of(reference, quantized, baseline, climbed.trials)
        timings = time_together(ledger, recipe, data, files)
        chosen = select(recipe, data, reference, baseline, climbed.trials, timings, ledger.watch)
        web = make_web(ledger, recipe, data, models, reference, baseline, climbed, chosen)
        record = write_run(
            ledger, recipe, data, models, command, reference, quantized, advice, baseline, climbed, files, timings,
            chosen, web,
        )  # fmt: skip
        tracking.finished(record)
        return record
