"""The keyword's part of a report: absent without a keyword; the rows of the table say what was measured."""

from distiq.records.quality import KeywordRecord
from distiq.records.run import RunRecord
from distiq.report.plots import keyword_errors
from distiq.report.report import render
from distiq.report.tables import measurement_columns, measurement_rows

WORD = KeywordRecord(
    keyword="Bag", samples=4, others=8, false_accepts=(0, 0, 0.25, 1), false_rejects=(1, 0.25, 0, 0),
    equal_error_rate=0.125, allowed_false_accepts=0.1, missed=0.25, threshold=0.625,
)  # fmt: skip


def with_keyword(run: RunRecord, word: KeywordRecord) -> RunRecord:
    column = run.teacher.columns[0]
    column = column.model_copy(update={"test": column.test.model_copy(update={"keyword": word})})
    return run.model_copy(update={"teacher": run.teacher.model_copy(update={"columns": (column,)})})


def test_a_run_without_a_keyword_does_not_speak_of_one(make_run):
    run = make_run()
    assert keyword_errors(run) == ""
    assert "false accepts" not in render(run)


def test_the_page_and_the_table(make_run):
    run = with_keyword(make_run(), WORD)
    page = render(run)
    assert "missed" in page and "10.0 % false accepts" in page and "False rejects against false accepts" in page
    rows = {row.head.text: row for row in measurement_rows(run, measurement_columns(run))}
    assert rows["Equal error rate"].cells[0].text == "12.50 %"
    assert (rows["Missed"].cells[0].text, rows["Missed"].cells[0].note) == ("25.00 %", "from a probability of 0.625 on")
    assert rows["Missed"].cells[1].text == "–"


def test_no_threshold_is_strict_enough(make_run):
    run = with_keyword(make_run(), WORD.model_copy(update={"missed": 1.0, "threshold": None}))
    assert "nothing is accepted" in render(run)
