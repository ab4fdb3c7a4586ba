import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from distiq.errors import UserError
from distiq.records.run import DropRecord, RunRecord
from distiq.report.show import show

SaveRun = Callable[..., Path]


def shown(records: Path, width: int = 80) -> str:
    stream = io.StringIO()
    show(records, Console(file=stream, width=width))
    return stream.getvalue()


def test_prints_verdict_and_chosen_rung(save_run: SaveRun):
    text = shown(save_run(rungs=("static", "minmax")))
    assert text.startswith("Budget met")
    assert "* minmax" in text and "* static" not in text


def test_prints_what_broke_and_what_to_do_next(save_run: SaveRun):
    text = shown(save_run(met=False))
    assert "Budget not met" in text and "96.4 kB measured, 90 kB allowed, 6.40 kB beyond" in text
    assert "Next step: Raise budget.size_kb to 97" in text


@pytest.mark.parametrize(("high", "said"), [(1.4, "Budget met, but not beyond chance"), (0.9, "Budget met  garments")])
def test_a_drop_within_chance_is_in_the_heading_and_its_interval_at_the_top(save_run: SaveRun, high: float, said: str):
    drop = DropRecord(title="accuracy drop", value=0.75, interval=(0.1, high), unit="points", allowed=1.0)
    text = shown(save_run(drop=drop), width=200)
    assert text.startswith(said)
    assert f"(paired 95 % interval −{high:.2f} to −0.10 points)" in text


def test_tables_fit_in_80_columns(save_run: SaveRun):
    lines = shown(save_run()).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("teacher" in line and line.count("student") == 3 for line in lines)
    assert any("* qat" in line and "91.07 %" in line and "none" in line for line in lines)


def test_every_runtime_has_a_line_and_a_slow_one_is_called_slow(save_run: SaveRun):
    lines = shown(save_run()).splitlines()
    assert any("* ONNX Runtime" in line and "2.6× faster" in line and "99.91 %" in line for line in lines)
    assert any("LiteRT" in line and "1.2× slower" in line for line in lines)
    assert "of any two of these files: 99.87 % or more" in " ".join(" ".join(lines).split())


def test_names_are_not_markup(save_run: SaveRun):
    text = shown(save_run(classes=("[red]", ":smile:")))
    assert "[red]" in text and ":smile:" in text


def test_the_command_stays_in_one_line(save_run: SaveRun):
    assert "  distiq run recipes/fashion.toml" in shown(save_run(), width=20).splitlines()


def test_one_trial_and_loaded_weights(save_run: SaveRun):
    assert "* static" in shown(save_run(rungs=("static",), trained=False))


def test_a_missing_record_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="distiq run RECIPE"):
        shown(tmp_path)


def test_a_rung_that_was_not_tried_is_named(save_run: SaveRun):
    records = save_run()
    run = RunRecord.load(records / "run.json")
    run.model_copy(update={"skipped": {"minmax": "ranges are not the cause"}}).save(records / "run.json")
    assert "minmax: not tried: ranges are not the cause" in shown(records)
