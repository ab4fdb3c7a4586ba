import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from distiq.errors import UserError
from distiq.report.report import write_report

SaveRun = Callable[..., Path]


def report_of(records: Path) -> str:
    target = records.parent / "report.html"
    write_report(records, target)
    return target.read_text(encoding="utf-8")


def tags_of(html: str) -> list[tuple[str, dict[str, str | None]]]:
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.handle_startendtag = parser.handle_starttag
    parser.feed(html)
    return tags


def test_needs_nothing_but_itself(save_run: SaveRun):
    html = report_of(save_run())
    for tag, attributes in tags_of(html):
        assert tag not in ("script", "iframe", "object", "embed")
        for name in ("src", "href", "xlink:href", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert "http://" not in html and "https://" not in html and "@import" not in html


def test_same_records_give_same_bytes(save_run: SaveRun):
    records = save_run()
    assert report_of(records) == report_of(records)


def test_runtimes_stand_with_what_is_not_as_it_should_be(save_run: SaveRun):
    html = report_of(save_run())
    section = html[html.index("In each runtime") :]
    alike = "least with another runtime: 99.87 % (LiteRT)"
    for text in ("LiteRT", "NOT the same", "99.90 %", "1 logits beyond four", "fully_connected", alike):
        assert text in section, text


def test_the_rate_stands_beside_the_peak(save_run: SaveRun):
    html = report_of(save_run())
    # 40,551,680 multiply-adds in 0.115 ms against a peak of 400 for int8.
    for text in ("353 GMAC/s", "88 % of the peak", "int8 400 (torch), float32 100 GMAC/s (ONNX Runtime)"):
        assert text in html, text


def test_verdict_stands_before_the_first_table(save_run: SaveRun):
    html = report_of(save_run(met=False))
    positions = [
        html.index(text) for text in ("Budget not met", "6.4 kB too large", "6.40 kB beyond", "<svg", "<table")
    ]
    assert positions == sorted(positions)


def test_names_are_escaped_in_text_and_plots(save_run: SaveRun):
    html = report_of(save_run(classes=("<b>bold</b>", "plain")))
    assert "<b>bold" not in html
    assert html.count("&lt;b&gt;bold") >= 2  # the flips and the plot of the classes


def test_a_name_with_dollar_signs_is_no_formula(save_run: SaveRun):
    assert "$x^2$" in report_of(save_run(classes=("$x^2$", "$\\frac$")))


def test_names_in_any_script_are_written_without_warnings(save_run: SaveRun):
    assert "鞄" in report_of(save_run(classes=("鞄", "🥾")))


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_draws_at_most_twenty_classes(save_run: SaveRun, classes: int):
    html = report_of(save_run(classes=tuple(f"kind{number:03}" for number in range(classes))))
    plot = next(svg for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if "accuracy by class" in svg)
    assert len(set(re.findall(r"kind\d{3}", plot))) == min(classes, 20)
    assert (f"The {classes - 20} classes" in html) == (classes > 20)


def test_one_trial_and_loaded_weights(save_run: SaveRun):
    html = report_of(save_run(rungs=("static",), trained=False))
    assert "<h2>Training</h2>" not in html
    assert html.count(">delivered</span>") == 2, "the rung, and the runtime of its file"


def test_every_training_has_its_curves(save_run: SaveRun):
    html = report_of(save_run(rungs=("static", "qat")))
    for name in ("teacher", "student", "rung &#34;qat&#34;"):
        assert f"Training of the {name}: loss" in html.replace("&quot;", "&#34;")


def test_plots_have_names_and_distinct_ids(save_run: SaveRun):
    html = report_of(save_run())
    assert html.count("<svg") == len(re.findall(r'<svg [^>]*role="img"[^>]*><title>[^<]+</title>', html)) > 0
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))


def test_wide_tables_scroll_in_their_own_box(save_run: SaveRun):
    html = report_of(save_run())
    assert html.count("<table") == len(re.findall(r'<div class="scroll"[^>]*>\s*<table', html)) == 3


def test_drawn_images_stand_with_the_colours_of_the_classes(save_run: SaveRun):
    records = save_run()
    content = json.loads((path := records / "run.json").read_text(encoding="utf-8"))
    assert "A class has about" in report_of(records)
    scene = {"index": 7, "said": "12.0 % mIoU", "truth_png": "AAAA", "found_png": "BBBB"}
    table = {"rows": ["sky", "road"], "columns": ["sky", "road"], "confusion": [[3, 1], [0, 2]]}
    content["scenes"] = {"worst": [scene], **table, "colours": {"sky": "#e6194b", "road": "#3cb44b"}}
    path.write_text(json.dumps(content), encoding="utf-8")
    html = report_of(records)
    assert '--tone: #e6194b">sky</span>' in html and '--tone: #3cb44b">road</span>' in html
    assert "A class has about" not in html, "an image of a scene shows several"


def test_a_missing_record_says_what_to_do(tmp_path: Path):
    with pytest.raises(UserError, match=r"run\.json: cannot read.*distiq run RECIPE"):
        write_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("damage", ["", "{", '{"name": "half"}', "\ud800 not UTF-8"])
def test_a_damaged_record_says_what_to_do(tmp_path: Path, damage: str):
    (tmp_path / "run.json").write_bytes(damage.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=r"run\.json: damaged.*distiq run RECIPE"):
        write_report(tmp_path, tmp_path / "report.html")


def test_a_verdict_on_an_unknown_trial_is_refused(save_run: SaveRun):
    path = save_run(rungs=("static", "qat")) / "run.json"
    path.write_text(
        path.read_text().replace('"chosen":"qat"', '"chosen":"gone"').replace('"chosen": "qat"', '"chosen": "gone"')
    )
    with pytest.raises(UserError, match='no trial "gone"'):
        report_of(path.parent)
