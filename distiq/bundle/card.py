"""The card of a bundle: what the model is, how good it is, where it was measured."""

from collections.abc import Mapping
from typing import Any

from distiq.bundle.open import EXAMPLES
from distiq.records.quality import Metric
from distiq.records.record import NOUNS
from distiq.records.run import RunRecord
from distiq.records.speed import CostRecord
from distiq.records.trials import TrialRecord


def _card(run: RunRecord, trial: TrialRecord, files: dict[str, str]) -> dict[str, object]:
    cost = trial.deployed.cost
    tuning = run.comparison.tuning.get(cost.file) if cost else None
    setting: dict[str, object] = {"threads": cost.at_batch(1).threads if cost else 1, "options": {}}
    if tuning:
        setting = tuning.setting.model_dump(include={"threads", "options"})
    return {
        "name": run.name,
        "created": run.created,
        "setting": setting,
        "runtime": cost.runtime if cost else "",
        "scheme": trial.scheme,
        "rung": trial.rung,
        "made_from": {
            "student": run.student.model,
            "teacher": f"{run.teacher.model} ({run.teacher.origin})",
            "data": run.data.model_dump(mode="json"),
            "recipe": run.recipe_toml,
            "command": run.command,
            "code_version": run.code_version,
        },
        "measured": trial.deployed.model_dump(mode="json"),
        "agreement_with_simulation": trial.agreement,
        "float_operations": list(trial.float_operations),
        "runtimes": [entry.model_dump(mode="json") for entry in trial.runtimes],
        "web": run.web.model_dump(mode="json") if run.web else None,
        "environment": run.environment.model_dump(mode="json"),
        "sha256": files,
    }


def _card_text(
    run: RunRecord,
    trial: TrialRecord,
    files: dict[str, str],
    pair_sums: str,
    integers: Mapping[str, Mapping[str, Any]],
    is_pair: bool = False,
) -> str:
    test, cost = trial.deployed.test, trial.deployed.cost
    assert cost is not None
    latency = cost.at_batch(1)
    versions = ", ".join(f"{name} {version}" for name, version in run.environment.versions.items())
    teacher = run.teacher.column("float32").test.primary
    by_length = "".join(
        f"\n| latency, {entry.tokens} tokens | {entry.files[cost.file].p50_ms:.3f} ms |"
        for entry in run.comparison.lengths
        if cost.file in entry.files
    )
    facts = [f"Sums of two 8-bit products are {pair_sums}."] if pair_sums else []
    if fixed := run.comparison.fixed_lengths.get(cost.file):
        facts.append(f"The file takes texts of {fixed} tokens alone; shorter ones are padded.")
    noun, example = NOUNS[run.data.modality], EXAMPLES[run.data.modality]
    example += ' "another text"' if is_pair else ""
    names, agrees = ", ".join(run.data.classes), f"{100 * trial.agreement:.2f} % of the test {noun}"
    if run.task.tolerance:
        agrees = f"{run.task.tolerance} on {agrees}"
    board, said = _board(cost), _said_of(integers) + _page(run)
    metrics = "\n".join(_metric_row(metric, test.samples, noun) for metric in (test.primary, *test.metrics))
    return (
        f"""# {run.name}

{run.student.model}, {trial.scheme}, for {cost.runtime}. Predicts {run.task.predicts}: {names}.

| measured on the file | |
|---|---|
{metrics}
| teacher ({run.teacher.model}) | {teacher.in_words} |
| size | {cost.size_bytes:,} bytes |
{board}| latency, batch 1, {latency.threads} thread(s) | {latency.p50_ms:.3f} ms (p95 {latency.p95_ms:.3f}) |{by_length}
| agrees with the simulated graph | {agrees} |

{run.verdict.sentence}
{run.accelerator.sentence if run.accelerator else ""}

Measured on {run.environment.cpu} ({", ".join(run.environment.instruction_sets)}) with {versions}.
{" ".join(facts)}
{said}Trained on {run.data.source}: {run.data.train} {noun}. Made with `{run.command}`, {run.created}.

`distiq check .` replays the test vectors on another machine; `distiq predict . {example}` predicts a sample.
Without distiq, `python run.py` checks, predicts and times; it needs numpy and {cost.runtime} alone.

"""
        + "\n".join(f"- {name}: sha256 {value}" for name, value in files.items())
        + "\n"
    )


def _page(run: RunRecord) -> str:
    """A line about the page for browsers."""
    return f"`web/` is a page for browsers (`python -m http.server -d web`). {run.web.sentence}\n" if run.web else ""


def _board(cost: CostRecord) -> str:
    """Rows of what a file takes of a microcontroller, where that was measured."""
    flash, ram = "flash of a Cortex-M4, code and constants", "RAM, arena with inputs and outputs"
    rows = ((flash, cost.flash_bytes), (ram, cost.ram_bytes))
    return "".join(f"| {what} | {size:,} bytes |\n" for what, size in rows if size is not None)


def _metric_row(metric: Metric, samples: int, noun: str) -> str:
    """One metric of the delivered file, with its interval where it has one."""
    span = ""
    if metric.interval:
        ends = [f"{100 * end:.2f}" if metric.unit == "%" else f"{end:.4g}" for end in metric.interval]
        span = f" (95 % interval {' to '.join(ends)})"
    return f"| {metric.title}, {samples} test {noun} | {metric.figure}{span} |"


def _said_of(integers: Mapping[str, Mapping[str, Any]]) -> str:
    """A line about the inputs and outputs of a file that are of integers."""
    parts = [f"{name} with scale {one['scale']:.9g}, zero point {one['zero_point']}" for name, one in integers.items()]
    return f"Of int8, for (integer - zero point) * scale: {'; '.join(parts)}.\n" if parts else ""
