"""The report of a run: one HTML file that needs nothing but itself, made from the records alone."""

from importlib import resources
from pathlib import Path

from distiq.files import write_atomically
from distiq.records.ablation import AblationRecord
from distiq.records.diagnosis import DiagnosisRecord
from distiq.records.record import NOUNS
from distiq.records.run import RunRecord
from distiq.records.search import SearchRecord
from distiq.records.speed import BenchRecord
from distiq.records.training import TrainingRecord
from distiq.report import effect, figures, measurements, reading, sensitivity, tables, timings, trials
from distiq.report.lengths import length_headings, length_rows

MOST_CLASSES = 20
MOST_TENSORS = 12


def write_report(records: Path, target: Path) -> None:
    """Reads the run in the folder `records` and writes its report to the file `target`, whole or not at all.

    The same records give the same bytes.

    Raises:
        UserError: the records are missing or damaged, or `target` cannot be written.
    """
    run = reading.read_run(records)
    elsewhere = measurements.read_measurements(records, run)
    page = render(
        run,
        reading.read_ablation(records, run),
        reading.read_diagnosis(records, run),
        elsewhere,
        reading.read_search(records),
    )
    write_atomically(target, page.encode())


def render(
    run: RunRecord,
    ablation: AblationRecord | None = None,
    diagnosis: DiagnosisRecord | None = None,
    elsewhere: tuple[BenchRecord, ...] = (),
    search: SearchRecord | None = None,
) -> str:
    """The report of a run, of its ablation, diagnosis and search if there are any, and of other machines, as HTML."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    from distiq.report import plots, searches  # load matplotlib
    from distiq.report.scenes import confusion_rows, precision_recall

    folder = resources.files("distiq.report")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    columns, teacher = tables.measurement_columns(run), run.teacher.column("float32").test
    noise = diagnosis.sensitivity if diagnosis else run.sensitivity
    return environment.get_template("report.html.jinja").render(
        run=run,
        metric=teacher.primary,
        noun=NOUNS[run.data.modality],
        float_modules=trials.float_modules_sentence(run),
        figures=figures,
        effect=effect,
        sensitivity=sensitivity,
        timings=timings,
        trials=trials,
        search=search,
        searches=searches,
        search_plot=Markup(searches.search_plot(search)) if search else "",
        ablation=ablation,
        ablation_plot=Markup(plots.teacher_effect(ablation)) if ablation else "",
        diagnosis=diagnosis,
        noise=noise,
        noise_rows=sensitivity.noise_rows(noise, MOST_TENSORS) if noise else (),
        noise_plot=Markup(plots.noise_by_tensor(noise, MOST_TENSORS)) if noise else "",
        form=reading.delivered_form(run),
        heading=tables.verdict_heading(run),
        limits=tables.budget_lines(run),
        breaches=[tables.breach_sentence(breach) for breach in run.verdict.breaches],
        headlines=tables.headlines(run),
        trade_offs=[Markup(plots.quality_against_size(run)), Markup(plots.quality_against_latency(run))],
        columns=columns,
        measurements=tables.measurement_rows(run, columns),
        ladder_headings=trials.LADDER_HEADINGS,
        ladder=trials.ladder_rows(run),
        runtimes=trials.runtime_rows(run),
        lengths=length_rows(run),
        length_headings=length_headings(run),
        machines=timings.machine_rows(run, elsewhere),
        trainings=[
            (name, training, Markup(plots.training_curves(training, name))) for name, training in _trainings(run)
        ],
        keyword=teacher.keyword,
        keyword_plot=Markup(plots.keyword_errors(run)),
        class_plot=Markup(plots.class_accuracy(run, MOST_CLASSES)) if teacher.per_class else "",
        scene_rows=confusion_rows(run.scenes) if run.scenes else (),
        precision_plot=Markup(precision_recall(run.scenes)) if run.scenes and run.scenes.precision else "",
        classes_left_out=max(0, len(teacher.per_class) - MOST_CLASSES),
    )


def _trainings(run: RunRecord) -> list[tuple[str, TrainingRecord]]:
    candidates = [
        ("teacher", run.teacher.training),
        ("student", run.student.training),
        *((f'rung "{trial.rung}"', trial.training) for trial in run.trials),
    ]
    return [(name, training) for name, training in candidates if training is not None and training.epochs]
