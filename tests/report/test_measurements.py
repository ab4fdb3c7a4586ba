"""Times of the delivered file on other machines: which are taken in, how they are judged, where they are shown."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from distiq.errors import UserError
from distiq.records.record import Environment
from distiq.records.run import RunRecord
from distiq.records.speed import BenchFile, BenchRecord, LatencyRecord
from distiq.report.measurements import keep_measurement, read_measurements
from distiq.report.report import write_report
from distiq.report.show import show
from distiq.report.timings import machine_rows

SaveRun = Callable[..., Path]
DELIVERED = {"model.onnx": "d0" * 32}


def latency(batch: int, p50_ms: float, threads: int = 1) -> LatencyRecord:
    return LatencyRecord(
        batch=batch, threads=threads, runs=9, p50_ms=p50_ms, p95_ms=2 * p50_ms, throughput_per_s=1000 * batch / p50_ms
    )


def measured(p50_ms: float, cpu: str = "Tiny Board", created: str = "2026-03-02T12:00:00+00:00") -> BenchRecord:
    """The delivered file, the same under another name, and another one, on another machine."""
    times = (latency(1, p50_ms), latency(32, 16 * p50_ms))
    files = [
        BenchFile(file=f"/home/me/{name}", runtime="ONNX Runtime", size_bytes=96_400, sha256=hashes, latency=times)
        for name, hashes in (("b", DELIVERED), ("b/model.onnx", DELIVERED), ("other.onnx", {"other.onnx": "0f" * 32}))
    ]
    machine = Environment(
        cpu=cpu, cores=4, instruction_sets=("asimddp", "i8mm"), memory_bytes=8_000_000_000, system="Linux aarch64",
        device="cpu", versions={"python": "3.9.2", "onnxruntime": "1.30.0"},
    )  # fmt: skip
    return BenchRecord(created=created, environment=machine, files=tuple(files))


def kept(records: Path, tmp_path: Path, *found: BenchRecord) -> RunRecord:
    """Takes measurements into the run's records; returns the run."""
    for number, record in enumerate(found):
        record.save(tmp_path / f"{number}.json")
        keep_measurement(records, tmp_path / f"{number}.json")
    return RunRecord.load(records / "run.json")


def test_the_delivered_file_alone_is_taken_in_and_once(save_run: SaveRun, tmp_path: Path):
    records = save_run()
    run = kept(records, tmp_path, measured(0.3), measured(0.3))
    (found,) = read_measurements(records, run)
    (file,) = found.files
    assert (file.file, file.sha256) == ("model.onnx", DELIVERED)
    assert file.latency == measured(0.3).files[0].latency


@pytest.mark.parametrize(("p50_ms", "said"), [(0.15, "holds"), (0.2, "holds"), (0.5, "missed by 0.300 ms")])
def test_the_limit_of_latency_is_judged_by_the_median_there(
    p50_ms: float, said: str, save_run: SaveRun, tmp_path: Path
):
    records = save_run()
    run = kept(records, tmp_path, measured(p50_ms))
    (row,) = machine_rows(run, read_measurements(records, run))
    assert (row.cells[1].text, row.cells[1].note) == (said, "at most 0.2 ms")


def test_without_a_limit_nothing_is_judged(make_run: Callable[..., RunRecord]):
    found = measured(0.3)
    alone = found.model_copy(update={"files": found.files[:1]})
    (row,) = machine_rows(make_run().model_copy(update={"budget": {}}), (alone,))
    assert row.cells[1].text == "none set"


def test_other_threads_than_the_run_s_are_said(make_run: Callable[..., RunRecord]):
    file = measured(0.3).files[0].model_copy(update={"latency": (latency(1, 0.3, threads=4),)})
    (row,) = machine_rows(make_run(), (measured(0.3).model_copy(update={"files": (file,)}),))
    assert (row.cells[3].text, row.cells[3].note) == ("4", "the run was timed with 1")


def test_report_and_show_name_every_machine_the_oldest_first(save_run: SaveRun, tmp_path: Path):
    records = save_run()
    later = measured(0.1, "A <newer> one", "2026-04-01T12:00:00+00:00")
    kept(records, tmp_path, later, measured(0.5))
    write_report(records, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    section = page[page.index("Measured on other machines") :]
    for text in ("asimddp, i8mm", "python 3.9.2, onnxruntime 1.30.0", "p95 1.00 ms", "missed by 0.300 ms", "4,000 /s"):
        assert text in section, text
    assert section.index("Tiny Board") < section.index("A &lt;newer&gt; one")

    stream = io.StringIO()
    show(records, Console(file=stream, width=80))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("Tiny Board" in line and "0.500 ms" in line and "missed by 0.300 ms" in line for line in lines)
    assert any("A <newer> one" in line and "holds" in line for line in lines)


def test_nothing_is_said_without_measurements(save_run: SaveRun, tmp_path: Path):
    write_report(save_run(), tmp_path / "report.html")
    assert "other machines" not in (tmp_path / "report.html").read_text()


def test_measurements_of_what_was_delivered_before_are_left_out(save_run: SaveRun, tmp_path: Path):
    records = save_run()
    run = kept(records, tmp_path, measured(0.3))
    assert read_measurements(records, run.model_copy(update={"delivered": {"model.onnx": "ab" * 32}})) == ()
    assert read_measurements(records, run.model_copy(update={"delivered": {}})) == ()


def test_a_measurement_of_another_file_is_refused_and_not_kept(save_run: SaveRun, tmp_path: Path):
    records, found = save_run(), measured(0.3)
    found.model_copy(update={"files": found.files[2:]}).save(tmp_path / "device.json")
    with pytest.raises(UserError, match=r"device\.json: measures .*other\.onnx \(SHA-256 0f0f0f0f0f0f\), not the file"):
        keep_measurement(records, tmp_path / "device.json")
    assert not (records / "measurements").exists()


UNTIMED = re.sub(r'"latency":\[.*?\]', '"latency":[]', measured(0.3).model_dump_json())


@pytest.mark.parametrize("content", [None, "{", "[]", '{"files": []}', UNTIMED])
def test_what_is_no_measurement_is_refused(content: str | None, save_run: SaveRun, tmp_path: Path):
    if content is not None:
        (tmp_path / "device.json").write_text(content)
    with pytest.raises(UserError, match=r"device\.json: .*distiq bench BUNDLE --json > FILE"):
        keep_measurement(save_run(), tmp_path / "device.json")


def test_a_run_that_does_not_name_its_file_is_refused(save_run: SaveRun, tmp_path: Path):
    records = save_run()
    RunRecord.load(records / "run.json").model_copy(update={"delivered": {}}).save(records / "run.json")
    measured(0.3).save(tmp_path / "device.json")
    with pytest.raises(UserError, match="does not say which file was delivered; `distiq run RECIPE` again"):
        keep_measurement(records, tmp_path / "device.json")


def test_a_damaged_measurement_in_the_records_is_named(save_run: SaveRun, tmp_path: Path):
    records = save_run()
    (records / "measurements").mkdir()
    (records / "measurements" / "x.json").write_text("{")
    with pytest.raises(UserError, match=r"x\.json: damaged.*remove it"):
        write_report(records, tmp_path / "report.html")
