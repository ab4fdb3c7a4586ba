"""bench(): any file is timed, whoever made it; what cannot be timed is refused or left out."""

import io
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from rich.console import Console
from typer.testing import CliRunner

from distiq.cli.main import app
from distiq.commands.bench import bench
from distiq.errors import UserError
from distiq.files import sha256_of_file
from distiq.records.speed import BenchRecord
from distiq.report.figures import milliseconds
from distiq.report.show import show_bench
from distiq.runtimes.export import export

QUICK = {"rounds": 1, "seconds": 0.002}


def foreign(path: Path, shape: list[int | str], inputs: int = 1) -> Path:
    """An ONNX file with names that are not distiq's."""
    names = [f"pixels{number}" for number in range(inputs)]
    entries = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names]
    result = helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Sum", names, ["scores"])], "foreign", entries, [result])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), str(path))
    return path


def test_two_files_at_two_sizes_of_batch(tmp_path: Path):
    own = export(torch.nn.Linear(3, 2).eval(), tmp_path / "own.onnx", torch.randn(2, 3))
    found = bench([own, foreign(tmp_path / "foreign.onnx", ["n", 5])], batch=8, threads=2, **QUICK)
    for file in found.files:
        assert [(entry.batch, entry.threads) for entry in file.latency] == [(1, 2), (8, 2)]
        for entry in file.latency:
            assert 0 < entry.p50_ms <= entry.p95_ms <= entry.p99_ms
    assert found.files[0].size_bytes == own.stat().st_size
    assert found.files[0].sha256 == {"own.onnx": sha256_of_file(own)}
    assert found.environment.cores >= 1


def test_a_batch_that_the_file_does_not_take_is_left_out(tmp_path: Path):
    fixed = foreign(tmp_path / "fixed.onnx", [1, 4])
    (file,) = bench([fixed], batch=8, **QUICK).files
    assert [entry.batch for entry in file.latency] == [1]


def test_an_open_shape_is_asked_for_and_can_be_given(tmp_path: Path):
    path = foreign(tmp_path / "open.onnx", ["n", 3, "height", "width"])
    with pytest.raises(
        UserError, match=r"open\.onnx: the file leaves the shape of a sample of \"pixels0\" open; give it"
    ):
        bench([path], **QUICK)
    assert bench([path], shape=(3, 6, 6), **QUICK).files[0].latency


@pytest.mark.parametrize("shape", [(6, 6), (4, 6, 6), (3, 6, 6, 1)])
def test_a_shape_that_the_file_does_not_take_is_refused(shape: tuple[int, ...], tmp_path: Path):
    path = foreign(tmp_path / "open.onnx", ["n", 3, "height", "width"])
    given = ",".join(map(str, shape))
    with pytest.raises(UserError, match=rf"takes samples of shape 3,any,any, not {given}; leave --shape out"):
        bench([path], shape=shape, **QUICK)


def test_two_inputs_are_timed_and_their_shapes_given_by_name(tmp_path: Path):
    stated = foreign(tmp_path / "stated.onnx", ["n", 4], inputs=2)
    free = foreign(tmp_path / "free.onnx", ["n", "length"], inputs=2)
    assert bench([stated], batch=2, **QUICK).files[0].latency[1].batch == 2
    with pytest.raises(UserError, match="takes 2 inputs; give the shape of each by its name: --shape 'pixels0=3,224,2"):
        bench([free], shape=(4,), **QUICK)
    given = ["bench", str(free), "--shape", "pixels0=5 pixels1=5", "--rounds", "1", "--seconds", "0.002"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output


def test_the_command_prints_a_table_and_the_record(tmp_path: Path):
    path = foreign(tmp_path / "small.onnx", ["n", 4])
    result = CliRunner().invoke(app, ["bench", str(path), "--rounds", "1", "--seconds", "0.002", "--json"])
    assert result.exit_code == 0, result.output
    assert "p99" in result.stderr and "batch 32" in result.stderr
    assert BenchRecord.model_validate_json(result.stdout).files[0].runtime == "ONNX Runtime"


def test_the_table_of_settings_stands_below(tmp_path: Path):
    path = foreign(tmp_path / "small.onnx", ["n", 4])
    quick = ["--rounds", "2", "--seconds", "0.002", "--tune", "--threads", "2", "--json"]
    result = CliRunner().invoke(app, ["bench", str(path), *quick])
    assert result.exit_code == 0, result.output
    assert "extended" in result.stderr and "the default" in result.stderr
    assert len(BenchRecord.model_validate_json(result.stdout).files[0].tuning.tried) == 4


def test_long_paths_leave_the_figures_whole(tmp_path: Path):
    path = foreign(tmp_path / f"{'long' * 20}.onnx", ["n", 4])
    console = Console(file=io.StringIO(), width=80)
    show_bench(bench([path], **QUICK), console)
    assert "…" not in console.file.getvalue()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.h5"], "distiq writes and runs .onnx"),
        (["no.onnx"], "no such file"),
        (["."], "card.json: missing; . is no distiq bundle"),
        (["a.onnx", "--shape", "3x4"], "3x4"),
    ],
)
def test_bad_arguments_end_with_2(arguments: list[str], message: str):
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


def test_milliseconds_per_second_of_sound(tmp_path: Path):
    """A quarter of a second of sound: four times the time of a sample."""
    own = export(torch.nn.Linear(1000, 2).eval(), tmp_path / "own.onnx", torch.randn(2, 1000))
    found = bench([own], batch=2, rate=4000, **QUICK)
    (file,) = found.files
    assert file.sound_s == 0.25
    out = io.StringIO()
    show_bench(found, Console(file=out, width=150))
    assert "ms per s of sound" in out.getvalue()
    assert milliseconds(4 * file.latency[0].p50_ms) in out.getvalue()
    assert bench([own], batch=2, **QUICK).files[0].sound_s == 0
