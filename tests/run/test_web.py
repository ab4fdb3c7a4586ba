"""Which file is delivered for browsers, and what is said of it."""

from dataclasses import replace

import pytest
import torch

from distiq.data.splits import from_tensors
from distiq.evaluation.statistics import paired_speed
from distiq.records.quality import Metric
from distiq.records.speed import LatencyRecord
from distiq.records.trials import Breach
from distiq.records.web import WebFileRecord, WebRecord
from distiq.run import web
from distiq.run.web import fastest
from distiq.tasks.choose import task_of

SIZES = {"float32": 300_000, "float16": 150_000, "int8": 80_000}
BREACH = Breach(limit="drop", title="accuracy drop", allowed=1.0, measured=2.0, excess=1.0, unit="points")


def file(form: str, ms: float, *breaches: Breach) -> WebFileRecord:
    """Four turns that differ by a hundredth."""
    turns = tuple(ms * share for share in (1.0, 1.01, 0.99, 1.0))
    latency = LatencyRecord(batch=1, threads=1, runs=4, p50_ms=ms, p95_ms=ms, throughput_per_s=1 / ms, turns_ms=turns)
    plain = tuple(0.2 * share for share in (1.01, 1.0, 1.0, 0.99))
    quality = Metric(name="accuracy", title="accuracy", value=0.9)
    return WebFileRecord(
        form=form,
        size_bytes=SIZES[form],
        quality=quality,
        agreement=1.0,
        latency=latency,
        speed=None if form == "float32" else paired_speed(plain, turns),
        breaches=breaches,
    )


@pytest.mark.parametrize(
    ("files", "delivered"),
    [
        ([file("float32", 0.2), file("float16", 0.2), file("int8", 0.1)], "int8"),
        ([file("float32", 0.2), file("float16", 0.2), file("int8", 0.32)], "float16"),
        ([file("float32", 0.2), file("float16", 0.3), file("int8", 0.32)], "float32"),
        ([file("float32", 0.2), file("float16", 0.2), file("int8", 0.1, BREACH)], "float16"),
        ([file("float32", 0.2, BREACH), file("float16", 0.2, BREACH), file("int8", 0.3)], "int8"),
        ([file("float32", 0.2, BREACH), file("float16", 0.2, BREACH), file("int8", 0.1, BREACH)], "int8"),
    ],
)
def test_the_fastest_that_breaks_the_fewest_limits_is_delivered(files: list[WebFileRecord], delivered: str):
    assert fastest(files).form == delivered


def record(int8: WebFileRecord, delivered: str) -> WebRecord:
    files = (file("float32", 0.2), file("float16", 0.2), int8)
    return WebRecord(package="onnxruntime-web 1", browser="Chromium 9", samples=10, of_samples=10, files=files,
                     delivered=delivered)  # fmt: skip


def test_why_int8_is_not_delivered_is_said():
    slower = record(file("int8", 0.32), "float16").sentence
    assert "the float16 file is delivered: 0.200 ms, 150.0 kB, 90.00 % accuracy. There int8 takes 1.60 times" in slower
    assert record(file("int8", 0.1, BREACH), "float16").sentence.endswith("breaks the budget's accuracy drop.")
    assert record(file("int8", 0.1), "int8").sentence.endswith("accuracy.")


def test_why_a_faster_file_is_not_delivered_is_said():
    plain, int8 = file("float32", 0.2, BREACH), file("int8", 0.32)
    own = WebRecord(package="onnxruntime-web 1", browser="Chromium 9", samples=10, of_samples=10, files=(plain, int8),
                    delivered="int8")  # fmt: skip
    assert own.sentence.endswith("takes 1.60 times float32's time. The float32 file breaks the budget's accuracy drop.")


def test_samples_that_are_judged_in_pairs_stay_together(monkeypatch: pytest.MonkeyPatch):
    """Of 12 samples, numbered from 100, two whole pairs are the most that five hold."""
    numbers = torch.arange(100, 112).float().view(12, 1, 1, 1)
    data = from_tensors((numbers, torch.arange(12) % 2), (numbers, torch.arange(12) % 2), validation=2, calibration=2)
    pairs = replace(task_of(data), together=2)
    monkeypatch.setattr(web, "task_of", lambda _: pairs)
    monkeypatch.setattr(web, "MOST", 5)
    first, second = web._part(data).inputs.flatten().view(2, 2).T
    assert torch.equal(second, first + 1) and (first % 2 == 0).all()
