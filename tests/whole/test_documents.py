"""`--json`: every command prints one document on standard output, which its schema describes."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from distiq.cli.main import app
from distiq.records.documents import DOCUMENTS, DRAFT, document_schema
from distiq.records.record import Record
from distiq.records.run import RunRecord
from distiq.runtimes.export import export

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]
QUICK = {
    "init": "init {tmp}/my.toml --data {photos}", "recipes": "recipes adult", "schema": "schema",
    "report": "report {run}", "show": "show {run}", "compare": "compare {run} {run}",
    "clean": "clean {run} --dry-run", "predict": "predict {run}/bundle {photos}/test/dark/000.png",
    "check": "check {run}/bundle",
    "push": "push {run}/bundle me/tiny --dry-run",
    "bench": "bench {run}/bundle --rounds 1 --seconds 0.002 --batch 2 --plain",
}  # fmt: skip
LONG = {
    "run": "run {recipe} --run {run}", "ablate": "ablate {recipe} --run {run} --seeds 1", "diagnose": "diagnose {run}",
    "search": "search {recipe} --run {run} --trials 1 {small}", "deliver": "deliver {run}",
    "quantize": "quantize {tmp}/own.onnx --data {tmp}/samples.npy --rounding nearest",
}  # fmt: skip
SMALL = "--set search.space=space.py:space --set budget.size_kb=1000 --set budget.latency_ms=1000"
NO_DOCUMENT = {"mcp"}  # a server: it speaks the protocol on standard output


def distiq(line: str) -> Result:
    return CliRunner().invoke(app, [*line.split(), "--json"])


def checked(command: str, result: Result) -> dict:
    """The one document on standard output, after it was held against the command's schema."""
    assert result.exit_code in (0, 3), result.output + repr(result.exception)
    document = json.loads(result.stdout)
    jsonschema.validate(document, json.loads(document_schema(command)), jsonschema.Draft202012Validator)
    return document


def test_every_command_has_a_document_and_a_test():
    assert set(QUICK) | set(LONG) == set(COMMANDS) - NO_DOCUMENT == set(DOCUMENTS) | {"schema"}


@pytest.mark.parametrize("command", QUICK)
def test_the_document_is_that_of_the_schema(command: str, finished, run_copy: Path, photos: Path, tmp_path: Path):
    checked(command, distiq(QUICK[command].format(run=run_copy, photos=photos, tmp=tmp_path)))


@pytest.mark.slow
def test_the_documents_of_what_trains(finished, run_copy: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(finished.recipe.parent)
    (finished.recipe.parent / "space.py").write_text("def space(trial):\n    return 'resnet', {'widths': [4, 8]}\n")
    export(torch.nn.Sequential(torch.nn.Linear(6, 4)).eval(), tmp_path / "own.onnx", torch.zeros(2, 6))
    np.save(tmp_path / "samples.npy", np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32))
    found = {}
    for command, line in LONG.items():
        found[command] = checked(
            command, distiq(line.format(recipe=finished.recipe, run=run_copy, tmp=tmp_path, small=SMALL))
        )
    assert found["deliver"]["student"]["model"] == "resnet"


def test_what_is_for_people_goes_to_standard_error(finished):
    command = [sys.executable, "-m", "distiq", "show", str(finished.folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert RunRecord.model_validate_json(done.stdout).verdict.met is False
    assert "The budget is missed" in done.stderr


def test_a_refusal_has_no_document(tmp_path: Path):
    result = distiq(f"show {tmp_path}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("distiq: ")


def test_a_predicted_image_has_classes_and_words(finished, photos: Path):
    image = photos / "test" / "dark" / "001.png"
    (one,) = checked("predict", distiq(f"predict {finished.folder}/bundle {image} --top 2"))["predictions"]
    assert sum(share["probability"] for share in one["classes"]) == pytest.approx(1)
    assert one["sample"] == str(image) and one["text"].startswith(one["classes"][0]["label"])


class Decibels(Record):
    sqnr_db: float


def test_what_is_not_finite_is_json_and_comes_back():
    text = Decibels(sqnr_db=float("inf")).model_dump_json()
    assert json.loads(text, parse_constant=lambda _: pytest.fail("no JSON")) == {"sqnr_db": "Infinity"}
    assert Decibels.model_validate_json(text).sqnr_db == float("inf")
    assert Decibels.model_validate_json('{"sqnr_db": Infinity}').sqnr_db == float("inf"), "as it was written before"


@pytest.mark.parametrize("command", COMMANDS)
def test_schemas_are_schemas(command: str):
    if command in NO_DOCUMENT:
        assert CliRunner().invoke(app, ["schema", command]).exit_code == 2
        return
    schema = json.loads(CliRunner().invoke(app, ["schema", command]).stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == DRAFT
