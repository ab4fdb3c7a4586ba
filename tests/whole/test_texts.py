"""From sentences in files to a bundle that answers raw text."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from distiq.bundle.open import Bundle
from distiq.cli.main import app
from distiq.commands.compress import compress
from distiq.commands.diagnose import diagnose
from distiq.device import run as runner
from distiq.errors import UserError
from distiq.models.text import EmbeddingBag
from distiq.recipe.read import load_recipe
from distiq.records.run import RunRecord

pytest.importorskip("tokenizers", reason="tokenizers is not installed")
OnDevice = Callable[..., subprocess.CompletedProcess[str]]
WORDS = {"0": ("bad", "dull", "awful"), "1": ("good", "fine", "lovely")}
RECIPE = """
name = "films"
[data]
source = "text"
folder = "."
validation = 40
calibration = 20
[data.text]
names = ["negative", "positive"]
vocabulary = 100
length = 12
[teacher]
model = "text_cnn"
options = {width = 16, filters = 16}
[teacher.training]
epochs = 6
batch_size = 16
optimizer = "adamw"
learning_rate = 0.01
precision = "float32"
[student]
model = "embedding_bag"
options = {width = 8, hidden = 0, trim_vocabulary = true}
[student.training]
epochs = 10
batch_size = 16
optimizer = "adamw"
learning_rate = 0.03
precision = "float32"
[quantize]
rungs = ["static"]
[measure]
throughput_batch = 2
rounds = 1
seconds = 0.005
lengths = [4, 12, 16]
"""


def sentence(number: int) -> str:
    """A film that is called good or bad, a little differently each time; the label is in the number."""
    words = ["the", "film", "is", *("very",) * (number // 2 % 4), WORDS[str(number % 2)][number // 8 % 3]]
    return " ".join(words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for part, count in (("train", 240), ("test", 60)):
        rows = [f"{sentence(number)}\t{number % 2}" for number in range(count)]
        (folder / f"{part}.tsv").write_text("\n".join(["text\tlabel", *rows, ""]))
    (folder / "films.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> RunRecord:
    return compress(load_recipe(folder / "films.toml"), run=folder / "run")


def test_the_student_learns_and_its_file_agrees_with_its_simulation(run: RunRecord):
    assert run.student.column("int8 deployed").test.value > 0.95
    assert run.trials[-1].agreement == 1.0


def test_the_bundle_answers_raw_text(run: RunRecord, folder: Path):
    bundle = folder / "run" / "bundle"
    assert (bundle / "tokenizer.json").is_file()
    answered = CliRunner().invoke(app, ["predict", str(bundle), "a lovely film", "awful , the film is dull"])
    assert answered.exit_code == 0, answered.output
    first, second = [line for line in answered.output.splitlines() if "%" in line]
    assert first.startswith("a lovely film: positive")
    assert second.startswith("awful , the film is dull: negative")
    assert Bundle(bundle).check().passed
    assert runner.main([], bundle) == 0


def test_the_runner_reads_texts_where_distiq_is_not(run: RunRecord, folder: Path, tmp_path: Path, on_device: OnDevice):
    bundle, texts = folder / "run" / "bundle", ["a lovely film", "awful , the film is dull", "film " * 20]
    done = on_device(bundle, *texts)
    assert done.returncode == 0, done.stderr
    answered = CliRunner().invoke(app, ["predict", str(bundle), *texts])
    assert done.stdout.splitlines() == [line for line in answered.stdout.splitlines() if "%" in line]
    assert "longer than 12 tokens (it has 22); cut there" in done.stderr
    assert on_device(bundle).returncode == 0
    lacking = on_device(bundle, "a film", absent=["tokenizers", "distiq"])
    assert lacking.returncode == 2 and "pip install tokenizers" in lacking.stderr
    np.save(tmp_path / "strange.npy", np.full((1, 4), 10**6))
    strange = on_device(bundle, tmp_path / "strange.npy")
    assert strange.returncode == 2 and "does not run on (1, 4) of int64" in strange.stderr


def test_texts_of_every_length_that_there_is_are_timed(run: RunRecord, folder: Path):
    lengths = run.comparison.lengths
    assert [entry.tokens for entry in lengths] == [4, 12], "texts have up to 12 tokens"
    assert all(entry.files.keys() == run.comparison.files.keys() for entry in lengths)
    assert run.comparison.fixed_lengths == {}
    card = (folder / "run" / "bundle" / "README.md").read_text()
    assert "latency, 4 tokens" in card and "tokens alone" not in card
    assert "4 tokens" in CliRunner().invoke(app, ["show", str(folder / "run")]).output


def test_a_file_of_a_fixed_length_is_said_to_be_one_and_is_fed_padded_texts(
    run: RunRecord, folder: Path, tmp_path: Path
):
    copied = Path(shutil.copytree(folder / "run", tmp_path / "run"))  # with the trained teacher, which is reused
    recipe = load_recipe(folder / "films.toml", ["student.training.epochs=1"])
    student = EmbeddingBag(2, 100, 0, 8, 0)
    student.fixed_length = True
    found = compress(recipe, student=student, run=copied)
    fixed = found.comparison.fixed_lengths
    assert set(fixed.values()) == {12} and fixed.keys() == {
        name for name in found.comparison.files if "student" in name
    }
    short, whole = found.comparison.lengths
    assert short.files.keys() == found.comparison.files.keys() - fixed.keys() and fixed.keys() < whole.files.keys()
    assert "takes texts of 12 tokens alone" in (copied / "bundle" / "README.md").read_text()
    assert "not taken" in CliRunner().invoke(app, ["show", str(copied)]).output
    opened = Bundle(copied / "bundle")
    assert opened.prepare("a film").inputs.shape == (1, 12)
    assert {answer.label for answer in opened.predict("a film")} == {"negative", "positive"}


def test_what_the_bundle_cuts_or_does_not_know_is_said(run: RunRecord, folder: Path):
    opened = Bundle(folder / "run" / "bundle")
    assert "1 of 1 are longer than 12 tokens (the longest has 22); cut there" in opened.prepare("film " * 20).notes[0]
    assert "1 tokens are none of the model's vocabulary and count as unknown: b" in opened.prepare("b film").notes[0]
    assert "hold no token that the tokenizer knows" in opened.prepare("映画").notes[0]
    with pytest.raises(UserError, match="is empty"):
        opened.predict(" ")
    file = folder / "train.tsv"
    assert "its name is what was read" in opened.prepare(str(file)).notes[0]
    assert opened.prepare("film " * 9000).inputs.shape == (1, 12), "longer than any name of a file"


@pytest.mark.parametrize(
    ("mode", "rungs"),
    [("dynamic", ["dynamic"]), pytest.param("weight_only", ["weight_only", "qat"], marks=pytest.mark.slow)],
)
def test_another_mode_makes_its_own_files(mode: str, rungs: list[str], run: RunRecord, folder: Path, tmp_path: Path):
    copied = Path(shutil.copytree(folder / "run", tmp_path / "run"))  # with the trained networks, which are reused
    overrides = [f"quantize.mode={mode}", f"quantize.rungs={rungs}", "quantize.training.epochs=1"]
    found = compress(load_recipe(folder / "films.toml", [*overrides, "budget.drop=-100"]), run=copied)
    assert [trial.rung for trial in found.trials] == rungs
    assert all(trial.agreement == 1.0 and trial.runtimes[0].same_integers for trial in found.trials)
    assert not found.trials[0].runtimes[0].float_operations or mode == "dynamic"
    assert Bundle(copied / "bundle").check().passed
    with pytest.raises(UserError, match=r"nearest: the same recipe with quantize\.mode = \"static\""):
        diagnose(copied)


def test_a_student_of_transformers_is_left_with_its_delivered_file(run: RunRecord, folder: Path, tmp_path: Path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    import onnxruntime

    copied = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    options = "hidden_size = 8, num_hidden_layers = 1, num_attention_heads = 2, intermediate_size = 8"
    changes = ["student.model=transformers:bert", f"student.options={{{options}}}", "student.training.epochs=1"]
    compress(load_recipe(folder / "films.toml", changes), run=copied)
    left, opened = copied / "transformers", Bundle(copied / "bundle")
    names = {file.name for file in left.iterdir()}
    assert {"config.json", "tokenizer.json", "model.safetensors", "model.onnx"} <= names
    tokens = opened.prepare("a lovely film").inputs
    session = onnxruntime.InferenceSession(str(left / "model.onnx"), providers=["CPUExecutionProvider"])
    fed = {"input_ids": tokens.numpy(), "attention_mask": (tokens != 0).long().numpy()}
    torch.testing.assert_close(torch.from_numpy(session.run(None, fed)[0]), opened.run(tokens))


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("{}")])
def test_a_damaged_tokenizer_is_named(run: RunRecord, folder: Path, tmp_path: Path, spoil: Callable[[Path], object]):
    bundle = Path(shutil.copytree(folder / "run" / "bundle", tmp_path / "bundle"))
    spoil(bundle / "tokenizer.json")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Bundle(bundle)
