"""The command line: what it prints, and its exit codes."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from distiq.cli.main import app
from distiq.recipe.read import load_recipe
from distiq.recipe.recipe import Recipe
from distiq.recipe.shipped import shipped_recipes
from distiq.run.ledger import Ledger


def distiq(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_init_looks_at_the_data_and_names_the_next_command(photos: Path, tmp_path: Path):
    path = tmp_path / "my.toml"
    result = distiq("init", path, "--data", photos)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Grey images of 2 classes (bright, dark)")
    assert f"distiq run {path}" in result.stdout
    assert load_recipe(path).data.channels == 1


def test_init_overwrites_by_force_alone(tmp_path: Path):
    path = tmp_path / "my.toml"
    path.write_text("mine")
    refused = distiq("init", path, "--all")
    assert refused.exit_code == 2
    assert "exists already; choose another name or add --force" in refused.stderr
    assert path.read_text() == "mine"
    assert distiq("init", path, "--all", "--force").exit_code == 0
    assert load_recipe(path) == Recipe(name="my")


def test_recipes_are_listed_and_printed():
    lines = distiq("recipes").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_recipes())
    printed = distiq("recipes", "adult").stdout
    assert tomllib.loads(printed)["name"] == "adult"
    assert distiq("recipes", "adul").exit_code == 2


def test_the_schema_is_json():
    assert json.loads(distiq("schema").stdout)["title"] == "Recipe"


def test_a_missed_budget_ends_with_3_and_what_to_do_next(finished):
    assert finished.returncode == 3, finished.stderr
    assert "Traceback" not in finished.stderr
    assert "The budget is missed: accuracy drop by" in " ".join(finished.stdout.split())
    assert f"bundle: {finished.folder / 'bundle'}" in finished.stdout


def test_stages_are_printed_in_their_order(finished):
    stages = ["reading data", "checking the networks", "training the teacher", "measuring the teacher's float32 file",
              "quantizing the teacher", "training the student with its teacher", "measuring the student's float32 file",
              "static:", "qat:", "timing all files side by side", "writing bundle and report"]  # fmt: skip
    places = [finished.stdout.find(f"s] {stage}") for stage in stages]
    assert min(places) >= 0
    assert places == sorted(places)


def test_a_budget_that_holds_ends_with_0(finished, run_copy: Path):
    result = distiq("run", finished.recipe, "--run", run_copy, "--set", "budget.drop=100")
    assert result.exit_code == 0, result.output
    assert "The budget holds: the static file" in " ".join(result.stdout.split())
    stages = re.findall(r"s\] (.*)", result.stdout)
    assert not [stage for stage in stages if stage.startswith(("training", "measuring", "static", "qat"))], "all reused"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("student.training.epochs = 0", "greater than or equal to 1"),
        ('student.model = "resnett"', 'student.model: "resnett" is unknown; built in are resnet'),
        ('data.sorce = "x"', 'data.sorce: unknown key; did you mean "source"?'),
        ("no toml", "not valid TOML"),
    ],
)
def test_a_bad_recipe_ends_with_2_and_one_message(change: str, said: str, tmp_path: Path):
    path = tmp_path / "bad.toml"
    path.write_text(change)
    result = distiq("run", path, "--run", tmp_path / "run")
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.startswith("distiq: ")
    assert "Traceback" not in result.output
    assert len(result.stderr.splitlines()) == 1


def test_show_prints_the_verdict_and_the_three_columns(finished):
    result = distiq("show", finished.folder)
    assert result.exit_code == 0
    for part in ("float32", "int8", "The budget is missed"):
        assert part in result.stdout


def test_report_makes_the_report_again(run_copy: Path):
    (run_copy / "report.html").unlink()
    result = distiq("report", run_copy)
    assert (result.exit_code, result.stdout.strip()) == (0, str(run_copy / "report.html"))
    assert "<html" in (run_copy / "report.html").read_text()


@pytest.mark.parametrize("command", ["show", "report"])
def test_a_folder_without_records_is_refused(command: str, tmp_path: Path):
    result = distiq(command, tmp_path)
    assert result.exit_code == 2
    assert str(tmp_path) in result.stderr


def test_predict_answers_every_image_on_a_line(finished, photos: Path):
    images = [photos / "test" / "dark" / f"{number:03d}.png" for number in range(3)]
    result = distiq("predict", finished.folder / "bundle", *images, "--top", 2)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [str(image) for image in images]
    assert all("dark" in line and "bright" in line and "%" in line for line in lines)


def test_check_replays_the_vectors(finished):
    result = distiq("check", finished.folder / "bundle")
    assert result.exit_code == 0
    preparation, vectors = result.stdout.splitlines()
    assert preparation.startswith("pass: preparation, largest difference 0 ")
    assert vectors.startswith("pass: 32 vectors, 0 predictions changed, largest difference 0 ")


@pytest.mark.parametrize("command", [["check"], ["predict", "image.png"]])
def test_a_damaged_bundle_ends_with_2(command: list[str], run_copy: Path):
    (run_copy / "bundle" / "model.onnx").write_bytes(b"damaged")
    result = distiq(command[0], run_copy / "bundle", *command[1:])
    assert result.exit_code == 2
    assert "model.onnx: damaged or changed" in result.stderr


def test_a_second_run_in_the_folder_at_the_same_time_is_refused(finished, run_copy: Path):
    before = (run_copy / "report.html").stat().st_mtime_ns
    with Ledger(run_copy):
        result = distiq("run", finished.recipe, "--run", run_copy)
    assert result.exit_code == 2
    assert "another distiq run is writing here" in result.stderr
    assert (run_copy / "report.html").stat().st_mtime_ns == before


def test_help_names_every_command():
    result = distiq("--help")
    assert result.exit_code == 0
    for command in ("run", "init", "recipes", "schema", "report", "show", "predict", "check"):
        assert command in result.stdout


# Whose folder it is ---------------------------------------------------------------------------------------------------


def test_a_folder_of_somebody_s_own_is_no_run_folder(finished, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(finished.recipe.read_text() + "# mine\n")
    (tmp_path / "bundle").mkdir()
    for arguments in (["--run", "."], ["--set", 'name=".."'], ["--run", "bundle/.."]):
        result = distiq("run", "recipe.toml", *arguments)
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1, result.output
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bundle", "recipe.toml"]
    assert (tmp_path / "recipe.toml").read_text().endswith("# mine\n")


def test_a_second_recipe_of_the_same_name_is_refused(finished, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text(finished.recipe.read_text())
    with Ledger(tmp_path / "runs" / "tiny", None, tmp_path / "a.toml", chosen=False):
        pass
    result = distiq("run", "b.toml")
    assert result.exit_code == 2 and "a recipe of the same name" in result.stderr


def test_the_given_recipe_is_not_overwritten(run_copy: Path):
    own = run_copy / "recipe.toml"
    own.write_text(own.read_text() + "# mine\n")
    before = own.read_text()
    assert distiq("run", own, "--run", run_copy, "--set", "budget.drop=100").exit_code == 0
    assert own.read_text() == before


# clean ----------------------------------------------------------------------------------------------------------------


def test_clean_removes_what_no_record_names(finished, run_copy: Path):
    size = len("x" * 1000)
    left = ["steps/student-0123456789abcdef", "steps/teacher-0123456789abcdef.partial",
            "steps/teacher-0123456789abcdef.damaged-2", "cache/teacher-0123456789abcdef-012345-seed0"]  # fmt: skip
    mine = ["steps/notes", "cache/mine", "mine"]
    for name in (*left, *mine):
        (run_copy / name).mkdir(parents=True)
        (run_copy / name / "file").write_text("x" * size)
    before = {path for path in run_copy.rglob("*") if path.is_file()}
    dry = distiq("clean", run_copy, "--dry-run")
    assert dry.exit_code == 0 and f"{4 * size:,} bytes in 4 folders would be removed" in dry.stdout
    assert {path for path in run_copy.rglob("*") if path.is_file()} == before
    done = distiq("clean", run_copy)
    assert done.exit_code == 0 and f"{4 * size:,} bytes in 4 folders removed" in done.stdout
    assert all(f"{size:,} bytes  {run_copy / name}" in done.stdout for name in left)
    removed = {run_copy / name / "file" for name in left}
    assert {path for path in run_copy.rglob("*") if path.is_file()} == before - removed
    again = distiq("run", finished.recipe, "--run", run_copy)
    assert "s] training" not in again.stdout, "nothing of the run was lost"
    assert "0 bytes in 0 folders removed" in distiq("clean", run_copy).stdout


def test_clean_keeps_its_hands_off_where_records_are_missing(run_copy: Path):
    before = sorted(path for path in run_copy.rglob("*"))
    (run_copy / "records" / "run.json").rename(run_copy / "records" / "run.txt")
    assert distiq("clean", run_copy).exit_code == 2
    (run_copy / "records" / "run.txt").write_text("{")
    (run_copy / "records" / "run.txt").rename(run_copy / "records" / "run.json")
    assert distiq("clean", run_copy).exit_code == 2
    assert sorted(path for path in run_copy.rglob("*")) == before


# predict, help --------------------------------------------------------------------------------------------------------


def test_arrays_are_no_texts_and_are_sent_to_the_bundle_s_program(tmp_path: Path):
    (tmp_path / "tokens.npy").touch()
    result = distiq("predict", tmp_path, "a text", tmp_path / "tokens.npy")
    assert result.exit_code == 2
    assert f"python {tmp_path / 'run.py'} {tmp_path / 'tokens.npy'}" in " ".join(result.stderr.split())


@pytest.mark.parametrize("text", ["-5", "-5 degrees", "- no, thanks", "-", "--no way"])
def test_texts_may_begin_with_a_dash(text: str, tmp_path: Path):
    assert "is no distiq bundle" in distiq("predict", tmp_path, text, "--top", "2").stderr


@pytest.mark.parametrize("option", ["--tpo", "-great", "--tpo=3"])
def test_what_looks_like_an_option_is_none_of_the_texts(option: str, tmp_path: Path):
    result = distiq("predict", tmp_path, "a text", option)
    assert result.exit_code == 2 and "No such option" in result.stderr
    assert "is no distiq bundle" in distiq("predict", tmp_path, "a text", "--", option).stderr


@pytest.mark.parametrize("command", [command.name or command.callback.__name__ for command in app.registered_commands])
def test_every_command_s_help_has_an_example(command: str):
    result = distiq(command, "--help")
    assert result.exit_code == 0
    assert re.search(r"Examples?: distiq", " ".join(result.stdout.split()))
