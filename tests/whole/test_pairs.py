"""Two texts that are judged together: from two columns to a bundle that answers both, by networks with and without
segments."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from distiq.bundle.open import Bundle
from distiq.cli.main import app
from distiq.commands.compress import compress
from distiq.errors import UserError
from distiq.models.transformer import TokenLogits
from distiq.recipe.read import load_recipe
from distiq.records.run import RunRecord

pytest.importorskip("tokenizers", reason="tokenizers is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = pytest.mark.slow  # a run of three networks
LEVELS = ("dull", "fair", "good", "lovely")
RECIPE = """
name = "better"
[data]
source = "text"
folder = "."
validation = 40
calibration = 20
[data.text]
text = "one"
pair = "other"
target = "better"
vocabulary = 60
length = 12
[teacher]
model = "text_cnn"
options = {width = 16, filters = 16, dropout = 0.0}
[teacher.training]
epochs = 8
batch_size = 16
optimizer = "adamw"
learning_rate = 0.01
precision = "float32"
[student]
model = "transformers:bert"
[student.options]
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 2
intermediate_size = 64
hidden_dropout_prob = 0.0
attention_probs_dropout_prob = 0.0
[student.training]
epochs = 60
batch_size = 16
optimizer = "adamw"
learning_rate = 0.002
precision = "float32"
[quantize]
rungs = ["static"]
[measure]
throughput_batch = 2
rounds = 1
seconds = 0.005
"""


def row(number: int) -> str:
    """Two films, and by how much the first is better."""
    one, other = number % 4, number // 4 % 4
    noun = ("film", "movie")[number // 16 % 2]
    return f"the {noun} is {LEVELS[one]}\tit is {LEVELS[other]}\t{one - other}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("better")
    for part, count in (("train", 240), ("test", 48)):
        (folder / f"{part}.tsv").write_text("\n".join(["one\tother\tbetter", *map(row, range(count)), ""]))
    (folder / "better.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> RunRecord:
    return compress(load_recipe(folder / "better.toml"), run=folder / "run")


def test_which_text_is_which_is_learned(run: RunRecord):
    for column in (run.teacher.column("float32"), *run.student.columns):
        assert column.test.value > 0.9, column.name
    assert run.trials[0].agreement > 0.95 and run.trials[0].runtimes[0].same_integers


def test_the_bundle_answers_two_texts(run: RunRecord, folder: Path):
    opened = Bundle(folder / "run" / "bundle")
    pair = ("the film is lovely", "it is dull")
    found = [opened.numbers(opened.prepare(*texts).inputs).item() for texts in (pair, pair[::-1])]
    assert found[0] > 1 and found[1] < -1
    told = CliRunner().invoke(app, ["predict", str(opened.folder), *pair, *pair[::-1]])
    assert told.output.splitlines() == [
        f"{one} | {other}: better {number:.4g}" for (one, other), number in zip((pair, pair[::-1]), found, strict=True)
    ]
    assert 'distiq predict . "a text" "another text"' in (opened.folder / "README.md").read_text()


def test_half_a_pair_is_refused(run: RunRecord, folder: Path):
    bundle = folder / "run" / "bundle"
    told = CliRunner().invoke(app, ["predict", str(bundle), "the film is dull"])
    assert told.exit_code == 2 and "compares two texts, but 1 are given; give both" in told.output
    with pytest.raises(UserError, match="this model compares two texts; give both"):
        Bundle(bundle).prepare("the film is dull")
    with pytest.raises(UserError, match="the text: second text 1 is empty"):
        Bundle(bundle).prepare("the film is dull", " ")


def test_transformers_reads_two_texts_as_the_student_did(run: RunRecord, folder: Path):
    saved = folder / "run" / "transformers"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(saved).eval()
    encoded = transformers.AutoTokenizer.from_pretrained(saved)("the film is good", "it is lovely", return_tensors="pt")
    shown = Bundle(folder / "run" / "bundle").prepare("the film is good", "it is lovely").inputs
    assert encoded["input_ids"].tolist() == shown.tolist()
    # [CLS] the film is good [SEP] it is lovely [SEP]
    assert encoded["token_type_ids"].tolist() == [[0] * 6 + [1] * 4]
    student = TokenLogits(model, pad=0, separator=int(shown[0, 5]))
    with torch.no_grad():
        answer = model(**encoded).logits
        assert torch.equal(answer, student(shown))
    mean, std = (model.config.target[name] for name in ("mean", "std"))
    assert mean + std * answer.item() == pytest.approx(-1, abs=0.6)
