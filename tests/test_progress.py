import io

import pytest
from rich.console import Console

from distiq.progress import Lines, Live, NotebookWatch


def make_console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=terminal)


def test_lines_prints_stage_step_and_note():
    console = make_console(terminal=False)
    lines = Lines(console, seconds=0)
    lines.stage("training [the] student")
    lines.step(1, 4, {"epoch": "1/2", "task": 0.123456})
    lines.note("accuracy [bold]91 %")
    stage, step, note = console.file.getvalue().splitlines()
    assert stage.endswith(" s] training [the] student")
    assert step.startswith("          1/4  epoch 1/2  task 0.1235  ")
    assert step.endswith(" s left")
    assert note == "          accuracy [bold]91 %"


def test_lines_does_not_print_every_step():
    console = make_console(terminal=False)
    lines = Lines(console, seconds=3600)
    lines.stage("training")
    for step in range(100):
        lines.step(step + 1, 100, {})
    assert len(console.file.getvalue().splitlines()) == 1


def test_time_left_counts_from_where_a_resumed_training_began(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("distiq.progress.time.monotonic", lambda: next(clock))
    console = make_console(terminal=False)
    lines = Lines(console, seconds=0)
    lines.stage("training")
    for done in range(501, 504):  # ten seconds a step
        lines.step(done, 600, {})
    assert console.file.getvalue().splitlines()[-1].endswith("  647 s left")  # 20 s for 3 steps: 97 * 20 / 3


def test_a_long_note_stays_on_one_line():
    console = make_console(terminal=False)
    Lines(console).note("x" * 300)
    assert len(console.file.getvalue().splitlines()) == 1


def test_live_shows_the_stage_and_keeps_its_notes():
    console = make_console(terminal=True)
    with Live(console) as live:
        live.step(1, 2, {})  # before any stage: nothing to show
        live.stage("first")
        live.step(3, 4, {"loss": 0.5})
        live.note("went [well]")
        live.stage("second")
        assert [task.description for task in live.progress.tasks] == ["second"]
        live.step(1, 4, {"loss": 0.25})
        assert live.progress.tasks[0].percentage == pytest.approx(25)
        assert live.progress.tasks[0].fields["values"] == "loss 0.25"
    text = console.file.getvalue()
    assert "first" in text
    assert "went [well]" in text


def test_progress_ends_with_what_was_done():
    pytest.importorskip("IPython")
    with NotebookWatch() as watch:
        watch.stage("training")
        watch.step(3, 10, {"loss": 0.5, "epoch": "1/2"})
        under_way = watch._repr_html_()
        watch.note("3 < 4 steps")
    assert '<b>training</b> <progress value="3" max="10"></progress> loss 0.5  epoch 1/2' in under_way
    html = watch._repr_html_()
    assert "training: 3 &lt; 4 steps" in html and "<progress" not in html
