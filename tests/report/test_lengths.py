"""Texts of several lengths: the same figures in the terminal and in the report, what is fixed is said."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from distiq.records.run import RunRecord
from distiq.records.speed import LatencyRecord, LengthRecord
from distiq.report.lengths import length_headings, length_rows
from distiq.report.report import write_report
from distiq.report.show import show

FILES = {"teacher.onnx": 2.0, "student.onnx": 1.0, "student-ONNX Runtime": 0.5, "student-float32-ONNX Runtime": 1.0}
FIXED = {"student-LiteRT": 64, "student-float32-LiteRT": 64}


def latency(p50_ms: float) -> LatencyRecord:
    return LatencyRecord(batch=1, threads=1, runs=9, p50_ms=p50_ms, p95_ms=2 * p50_ms, throughput_per_s=1000 / p50_ms)


@pytest.fixture
def run(make_run: Callable[..., RunRecord]) -> RunRecord:
    """A run whose files take 1/16 of their milliseconds for each token, but for those of a fixed length."""
    found = make_run()
    lengths = tuple(
        LengthRecord(tokens=tokens, files={name: latency(value * tokens / 16) for name, value in FILES.items()})
        for tokens in (16, 48)
    )
    comparison = found.comparison.model_copy(update={"lengths": lengths, "fixed_lengths": FIXED})
    return found.model_copy(update={"comparison": comparison})


def test_every_file_has_a_row_and_a_column_for_each_length(run: RunRecord):
    assert [heading.text for heading in length_headings(run)] == ["16 tokens", "48 tokens"]
    rows = {(row.head.text, row.head.note): row for row in length_rows(run)}
    names = [
        ("teacher, float32", "ONNX Runtime 1.32.0"),
        ("student, int8", "ONNX Runtime"),
        ("student, int8", "LiteRT"),
    ]
    assert set(names) <= set(rows)
    teacher, int8, fixed = (rows[name] for name in names)
    assert [(cell.text, cell.note) for cell in teacher.cells] == [
        ("2.00 ms", "p95 4.00 ms"),
        ("6.00 ms", "p95 12.0 ms"),
    ]
    assert [cell.text for cell in int8.cells] == ["0.500 ms", "1.50 ms"]
    assert {(cell.text, cell.note) for cell in fixed.cells} == {("not taken", "always 64 tokens")}
    assert [row for row in rows.values() if row.marked] == [int8]


def test_terminal_and_report_show_them(run: RunRecord, tmp_path: Path):
    run.save(tmp_path / "records" / "run.json")
    stream = io.StringIO()
    show(tmp_path / "records", Console(file=stream, width=80))
    lines = stream.getvalue().splitlines()
    assert any(line.startswith("* student, int8, ONNX Runtime") and line.split()[-2] == "1.50" for line in lines)
    assert max(map(len, lines)) <= 80
    write_report(tmp_path / "records", tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    section = html[html.index("By length of text") :]
    for text in ("16 tokens", "1.50 ms", "always 64 tokens"):
        assert text in section, text


def test_a_run_without_lengths_has_no_such_table(make_run: Callable[..., RunRecord], tmp_path: Path):
    found = make_run()
    assert length_rows(found) == ()
    found.save(tmp_path / "records" / "run.json")
    write_report(tmp_path / "records", tmp_path / "report.html")
    assert "By length of text" not in (tmp_path / "report.html").read_text()
