"""The bundle of a real run on a device: its own files, numpy and the runtime; and what was measured comes back."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner, Result

from distiq.bundle.open import Bundle
from distiq.cli.main import app
from distiq.files import sha256_of_file
from distiq.records.run import RunRecord
from distiq.records.speed import BenchRecord

QUICK = ["--seconds", "0.005", "--batch", "2"]
OnDevice = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def bundle(finished, tmp_path: Path) -> Path:
    """A copy of the bundle alone, as it lies on the device."""
    return Path(shutil.copytree(finished.folder / "bundle", tmp_path / "device"))


def distiq(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_it_checks_itself(bundle: Path, on_device: OnDevice):
    done = on_device(bundle)
    assert done.returncode == 0, done.stderr
    preparation, vectors = done.stdout.splitlines()
    assert preparation.startswith("pass: preparation, largest difference 0 ")
    assert vectors.startswith("pass: 32 vectors, 0 predictions changed, largest difference 0 ")


def test_a_plain_call_from_another_folder_works(bundle: Path, tmp_path: Path):
    done = subprocess.run([sys.executable, bundle / "run.py"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def with_outputs(bundle: Path, share: float) -> None:
    """Moves the expected logits of vector 5 by a share of their span; the card knows of it."""
    vectors = load_file(bundle / "vectors.safetensors")
    outputs = vectors["outputs"].copy()
    outputs[5] += share * (outputs.max() - outputs.min())
    with_vectors(bundle, vectors | {"outputs": outputs})


def with_vectors(bundle: Path, vectors: dict[str, np.ndarray]) -> None:
    """Other test vectors, of which the card knows."""
    save_file({name: np.ascontiguousarray(value) for name, value in vectors.items()}, bundle / "vectors.safetensors")
    card = json.loads((bundle / "card.json").read_text())
    card["sha256"]["vectors.safetensors"] = sha256_of_file(bundle / "vectors.safetensors")
    (bundle / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize(("share", "code"), [(0.005, 0), (0.05, 3)])
def test_it_ends_with_3_where_a_vector_diverges_just_as_distiq_does(
    share: float, code: int, bundle: Path, on_device: OnDevice
):
    with_outputs(bundle, share)
    done = on_device(bundle)
    here = distiq("check", bundle)
    assert (done.returncode, done.stdout) == (code, here.stdout) and here.exit_code == code
    assert ("vector 5: predicts" in done.stdout) == (code == 3)
    assert "vector 4" not in done.stdout and "vector 6" not in done.stdout


@pytest.mark.parametrize("name", ["model.onnx", "preprocessing.json", "vectors.safetensors", "run.py"])
def test_a_changed_file_is_named(name: str, bundle: Path, on_device: OnDevice):
    with (bundle / name).open("ab") as stream:
        stream.write(b"\n")
    done = on_device(bundle)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{name}: damaged or changed" in done.stderr and "Traceback" not in done.stderr


def test_a_missing_runtime_is_named_with_what_installs_it(bundle: Path, on_device: OnDevice):
    done = on_device(bundle, absent=["onnxruntime", "distiq"])
    assert (done.returncode, done.stdout) == (2, "")
    assert "ONNX Runtime is not installed here" in done.stderr and "pip install onnxruntime" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "spoil",
    [lambda vectors: vectors.pop("outputs"), lambda vectors: vectors.update(inputs=vectors["inputs"][:, :, :5])],
)
def test_vectors_that_are_none_of_this_model_are_refused_by_both(spoil: Callable, bundle: Path, on_device: OnDevice):
    vectors = {name: value.copy() for name, value in load_file(bundle / "vectors.safetensors").items()}
    spoil(vectors)
    vectors.pop("pixels")
    with_vectors(bundle, vectors)
    done, here = on_device(bundle), distiq("check", bundle)
    assert done.returncode == here.exit_code == 2
    for said in (done.stderr, here.stderr):
        assert (
            "lacks inputs or outputs" in said or "does not run on (32, 1, 5, 12)" in said
        ) and "Traceback" not in said


def test_a_missing_model_is_named(bundle: Path, on_device: OnDevice):
    (bundle / "model.onnx").unlink()
    done = on_device(bundle)
    assert done.returncode == 2 and "model.onnx: missing; copy the whole bundle again" in done.stderr


def test_it_answers_images_and_arrays_as_distiq_does(bundle: Path, photos: Path, tmp_path: Path, on_device: OnDevice):
    image = photos / "test" / "dark" / "000.png"
    vectors = load_file(bundle / "vectors.safetensors")
    np.save(tmp_path / "raw.npy", vectors["pixels"][3])
    np.save(tmp_path / "prepared.npy", vectors["inputs"][3:5])
    done = on_device(bundle, image, tmp_path / "raw.npy", tmp_path / "prepared.npy")
    assert done.returncode == 0, done.stderr
    of_image, of_raw, *of_prepared = [line.partition(": ")[2] for line in done.stdout.splitlines()]
    assert f"{image}: {of_image}" == distiq("predict", bundle, image).stdout.strip()
    assert len(of_prepared) == 2 and of_raw == of_prepared[0]
    (expected,) = Bundle(bundle).classify(Bundle(bundle).vectors()["inputs"][3:4])
    assert of_raw == "  ".join(f"{name} {100 * share:.1f} %" for name, share in expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.png"], "no.png: no such file"),
        (["card.json"], "card.json: this image does not decode"),
        (["--json", "x"], "add --time"),
        (["--threads", "0"], "at least 1"),
        (["--time", *QUICK, "--json", "no/folder/x.json"], "no/folder"),
    ],
)
def test_what_it_cannot_do_ends_with_2(arguments: list[str], message: str, bundle: Path, on_device: OnDevice):
    done = on_device(bundle, *arguments)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


# What was measured comes back -----------------------------------------------------------------------------------------


def test_the_device_s_times_stand_in_the_run_s_report_from_then_on(
    bundle: Path, run_copy: Path, tmp_path: Path, on_device: OnDevice
):
    device = tmp_path / "device.json"
    done = on_device(bundle, "--time", *QUICK, "--json", device)
    assert done.returncode == 0, done.stderr
    assert [line.partition(",")[0] for line in done.stdout.splitlines()] == ["batch 1", "batch 2"]
    renamed = device.read_text().replace(BenchRecord.load(device).environment.cpu, "Tiny Board")
    device.write_text(renamed)

    for _ in range(2):
        merged = distiq("report", run_copy, "--measurement", device)
        assert merged.exit_code == 0, merged.output
        assert "Tiny Board" in merged.stdout, "the limit is judged there"
    (kept,) = (run_copy / "records" / "measurements").iterdir()
    assert BenchRecord.load(kept).environment.cpu == "Tiny Board"

    (run_copy / "report.html").unlink()
    assert distiq("report", run_copy).exit_code == 0
    page = (run_copy / "report.html").read_text()
    assert page.count("Tiny Board") == 1 and "Measured on other machines" in page
    assert "Tiny Board" in distiq("show", run_copy).stdout


def test_bench_times_a_bundle_and_its_record_is_taken_in(bundle: Path, run_copy: Path, tmp_path: Path):
    device = tmp_path / "device.json"
    timed = distiq("bench", bundle, "--rounds", 1, "--seconds", 0.002, "--batch", 2, "--json", "--plain")
    assert timed.exit_code == 0, timed.output
    device.write_text(timed.stdout)
    (file,) = BenchRecord.load(device).files
    assert file.sha256 == RunRecord.load(run_copy / "records" / "run.json").delivered
    assert [entry.batch for entry in file.latency] == [1, 2]
    assert distiq("report", run_copy, "--measurement", device).exit_code == 0
    (kept,) = (run_copy / "records" / "measurements").iterdir()
    assert str(tmp_path) not in kept.read_text(), "a record holds no path"


def test_bench_takes_the_threads_of_the_card(bundle: Path):
    card = json.loads((bundle / "card.json").read_text())
    assert card["setting"] == {"threads": 1, "options": {}}, "those that it was measured with"
    card["setting"]["threads"] = 2
    (bundle / "card.json").write_text(json.dumps(card))
    for given, threads in (((), 2), (("--threads", 1), 1)):
        timed = distiq("bench", bundle, "--rounds", 1, "--seconds", 0.002, "--json", "--plain", *given)
        assert timed.exit_code == 0, timed.output
        assert {entry.threads for entry in BenchRecord.model_validate_json(timed.stdout).files[0].latency} == {threads}
        assert f"one sample, {threads} thread" in " ".join(timed.stderr.split())


def test_a_measurement_of_another_file_is_refused(bundle: Path, run_copy: Path, tmp_path: Path):
    other = next(run_copy.glob("steps/teacher-float32-*")) / "model.onnx"
    device = tmp_path / "device.json"
    device.write_text(distiq("bench", other, "--rounds", 1, "--seconds", 0.002, "--json", "--plain").stdout)
    refused = distiq("report", run_copy, "--measurement", device)
    assert refused.exit_code == 2
    assert "not the file that tiny delivered" in refused.stderr and sha256_of_file(other)[:12] in refused.stderr
    assert not (run_copy / "records" / "measurements").exists()
