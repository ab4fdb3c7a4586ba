"""A run inside a notebook."""

from pathlib import Path

import pytest

import distiq
from distiq.errors import UserError
from distiq.report.reading import read_run
from distiq.report.tables import verdict_heading


def test_a_notebook_gets_verdict_tables_and_plots(save_run):
    records = save_run(rungs=("static",))
    run = read_run(records)
    shown = distiq.show(records.parent)
    html = shown._repr_html_()
    words = verdict_heading(run)
    assert words in html and words in repr(shown)
    assert html.count("<svg") == 4, "size, latency, the two trainings"
    assert "float32" in html and "<script" not in html
    assert "var(--" not in html, "a cell has no style sheet: such lines would not be drawn"
    assert "stroke: #23272e" in html, "the page's ink"


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"run\.json"):
        distiq.show(tmp_path)


def test_in_jupyter_a_run_is_one_output(save_run, monkeypatch):
    shown = distiq.show(save_run(rungs=("static",)).parent)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("rich.jupyter.display", lambda *_: pytest.fail("rich shows the lines by itself"))
    assert shown._repr_html_().count("<pre") == 1
