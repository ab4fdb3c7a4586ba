"""What a search found: a sentence, rows and a picture, from its record alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from distiq.records.quality import Metric, Quality
from distiq.records.run import RunRecord
from distiq.records.search import Candidate, CandidateCost, ComparedRecord, SearchRecord
from distiq.report.report import write_report
from distiq.report.searches import front_rows, search_plot, search_sentence
from distiq.report.show import show_search


def accuracy(share: float) -> Metric:
    return Metric(name="accuracy", title="accuracy", value=share)


@pytest.fixture
def record(make_run: Callable[..., RunRecord]) -> SearchRecord:
    run = make_run()
    costs = [
        CandidateCost(latency_ms=ms, size_kb=kb, parameters=60_000, macs=10**6) for ms, kb in ((0.04, 70), (0.02, 30))
    ]
    trained = [
        Candidate(
            number=number, model="plain", options={"layers": [[8, 2]]}, outcome="trained", cost=cost, epochs=10,
            validation=accuracy(share),
        )
        for number, cost, share in zip((3, 5), costs, (0.915, 0.9), strict=True)
    ]  # fmt: skip
    large = Candidate(number=4, model="resnet", options={}, outcome="over the limits", why="size_kb 200", cost=costs[0])
    return SearchRecord(
        name="garments",
        command="distiq search garments.toml",
        recipe_toml=run.recipe_toml,
        environment=run.environment,
        storage="search.journal",
        limits={"latency_ms": 0.05, "size_kb": 80},
        candidates=(trained[0], large, trained[1]),
        front=(3, 5),
        chosen=3,
        student_toml='[student]\nmodel = "plain"\n',
        test=Quality(samples=10_000, primary=accuracy(0.9127), metrics=(), per_class=()),
        compared=ComparedRecord(
            own=Quality(samples=10_000, primary=accuracy(0.91), metrics=(), per_class=()),
            own_cost=CandidateCost(latency_ms=0.05, size_kb=76.6, parameters=65_000, macs=10**6),
            difference=0.27,
            interval=(-0.1, 0.61),
        ),
        seconds=900.0,
    )


def test_the_sentence_names_both_students(record: SearchRecord):
    said = search_sentence(record)
    assert "Of 3 candidates 2 were trained to their end." in said
    assert "number 3 (plain), has 91.27 % accuracy on 10,000 test samples, 0.04 ms and 70.0 kB" in said
    assert "91.00 % accuracy, 0.05 ms and 76.6 kB: +0.27 points" in said
    assert said.endswith("(95 % interval -0.10 to +0.61, one seed).")
    alone = record.model_copy(update={"compared": None})
    assert search_sentence(alone).endswith("70.0 kB as a quantized file.")


def test_the_front_is_shown_on_a_terminal_and_in_the_report(
    record: SearchRecord, save_run: Callable[..., Path], tmp_path: Path
):
    assert [(row.head.text, row.marked) for row in front_rows(record)] == [
        ("candidate 3", True),
        ("candidate 5", False),
    ]
    console = Console(width=100, record=True, highlight=False)
    show_search(record, Path("runs/garments"), console)
    shown = console.export_text()
    assert "91.50 %" in shown
    assert 'model = "plain"' in shown
    assert "distiq deliver runs/garments" in shown
    folder = save_run()
    write_report(folder, tmp_path / "without.html")
    record.save(folder / "search.json")
    write_report(folder, tmp_path / "report.html")
    assert "How the student was found" not in (tmp_path / "without.html").read_text()
    assert "How the student was found" in (tmp_path / "report.html").read_text()
    assert search_plot(record).startswith("<svg")
