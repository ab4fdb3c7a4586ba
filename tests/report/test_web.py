"""Files in a browser: the same figures in the terminal and in the report."""

import io
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from distiq.records.quality import Metric
from distiq.records.run import RunRecord
from distiq.records.speed import LatencyRecord, SpeedRecord
from distiq.records.web import WebFileRecord, WebRecord
from distiq.report.report import write_report
from distiq.report.show import show


def file(form: str, ms: float, size_bytes: int, ratio: float | None = None) -> WebFileRecord:
    speed = None if ratio is None else SpeedRecord(ratio=ratio, interval=(ratio, ratio), verdict="slower")
    latency = LatencyRecord(batch=1, threads=1, runs=9, p50_ms=ms, p95_ms=ms, throughput_per_s=1000 / ms)
    quality = Metric(name="accuracy", title="accuracy", value=0.9104)
    return WebFileRecord(
        form=form, size_bytes=size_bytes, quality=quality, agreement=1.0, latency=latency, speed=speed
    )  # fmt: skip


def test_what_a_browser_measured_is_shown(make_run: Callable[..., RunRecord], tmp_path: Path):
    web = WebRecord(
        package="onnxruntime-web 1.30.0",
        browser="Chromium 150",
        samples=2048,
        of_samples=10_000,
        files=(file("float32", 0.39, 226_936), file("int8", 0.635, 76_601, ratio=0.625)),
        delivered="float32",
        replay="pass: 32 of 32 test vectors",
    )
    run = make_run().model_copy(update={"web": web})
    (tmp_path / "records").mkdir()
    run.save(tmp_path / "records" / "run.json")
    write_report(tmp_path / "records", tmp_path / "report.html")
    html, console = (tmp_path / "report.html").read_text(encoding="utf-8"), Console(file=io.StringIO(), width=200)
    show(tmp_path / "records", console)
    for said in ("There int8 takes 1.60 times float32", "the float32 file is delivered: 0.390 ms, 226.9 kB"):
        assert said in html and said in console.file.getvalue()
    for cell in ("2,048 of 10,000", "pass: 32 of 32 test vectors", "<td>0.635 ms</td>", "<td>76.6 kB</td>"):
        assert cell in html
