"""From words with tags to a bundle that marks names in raw text, in distiq and without it."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from distiq.bundle.open import Bundle
from distiq.cli.main import app
from distiq.commands.compress import compress
from distiq.data.text import Text
from distiq.models.transformer import TokenTags
from distiq.recipe.read import load_recipe
from distiq.records.run import RunRecord

pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = pytest.mark.slow
OnDevice = Callable[..., subprocess.CompletedProcess[str]]
TRAINING = """
epochs = {}
batch_size = 16
optimizer = "adamw"
learning_rate = 3e-3
precision = "float32"
"""
RECIPE = f"""
name = "names"
[data]
source = "entities"
folder = "."
validation = 40
calibration = 40
[data.text]
vocabulary = 60
length = 16
[teacher]
model = "transformers:bert"
options = {{hidden_size = 32, num_hidden_layers = 2, num_attention_heads = 2, intermediate_size = 32}}
[teacher.training]{TRAINING.format(6)}
[student]
model = "transformers:bert"
weights = "teacher"
options = {{keep_layers = [0]}}
[student.training]{TRAINING.format(4)}
[views]
distinct = 1
[quantize]
mode = "dynamic"
fall_back = false
[budget]
drop = 5.0
recall = {{person = 5.0}}
[measure]
rounds = 1
seconds = 0.01
"""
TEXT = "Ann saw New York the Bob likes Rome."


def sentences(count: int, seed: int) -> str:
    """Names and places between words that stand nowhere else."""
    draw = torch.Generator().manual_seed(seed)
    parts = ("Ann\tB-person\n", "Bob\tB-person\n", "Rome\tB-location\n", "New\tB-location\nYork\tI-location\n")
    words = ("saw\tO\n", "likes\tO\n", "the\tO\n")
    rows = torch.randint(0, 12, (count, 3), generator=draw).tolist()
    return "".join("".join(parts[number % 4] + words[number % 3] for number in row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord]:
    folder = tmp_path_factory.mktemp("names")
    for part, count in (("train", 300), ("test", 60)):
        (folder / f"{part}.conll").write_text(sentences(count, len(part)))
    (folder / "names.toml").write_text(RECIPE)
    return folder, compress(load_recipe(folder / "names.toml"), run=folder / "run")


def test_the_run_is_measured_by_spans(finished: tuple[Path, RunRecord]):
    _, record = finished
    quality = record.student.column("int8 deployed").test
    assert (quality.primary.name, quality.parts) == ("f1", ("location", "person"))
    assert quality.value > 0.95
    assert record.budget == {"drop": 5.0, "recall.person": 5.0}
    assert record.verdict.met and record.verdict.drop.interval[0] <= record.verdict.drop.value
    assert record.trials[0].agreement > 0.999


def test_spans_are_printed_with_their_places(finished: tuple[Path, RunRecord], on_device: OnDevice):
    bundle = finished[0] / "run" / "bundle"
    found = {(span.label, span.text): TEXT[span.begin : span.end] for span in Bundle(bundle).spans(TEXT)}
    names = (("person", "Ann"), ("location", "New York"), ("person", "Bob"), ("location", "Rome"))
    assert found == {(label, text): text for label, text in names}
    printed = CliRunner().invoke(app, ["predict", str(bundle), TEXT]).stdout
    assert 'Rome.: 8 to 16: location "New York"' in printed
    assert on_device(bundle, TEXT).stdout == printed
    assert "pass: 32 vectors, 0 predictions changed" in on_device(bundle).stdout


def test_transformers_loads_the_student(finished: tuple[Path, RunRecord]):
    """Its folder gives the logits of the student's float32 file, with the labels by name."""
    import transformers

    folder, _ = finished
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder / "run" / "transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "run" / "transformers")
    assert list(model.config.id2label.values()) == ["O", "B-location", "I-location", "B-person", "I-person"]
    bundle = Bundle(folder / "run" / "bundle")
    assert isinstance(bundle.preprocessing, Text)
    tokens = tokenizer("Ann saw Rome", return_tensors="pt")["input_ids"]
    logits = TokenTags(model.eval(), bundle.preprocessing.pad)(tokens)
    torch.testing.assert_close(bundle.run(tokens).argmax(1), logits.argmax(1))


def test_a_limit_of_a_kind_that_is_not_there_is_refused(finished: tuple[Path, RunRecord]):
    folder, _ = finished
    file = folder / "other.toml"
    file.write_text(RECIPE.replace("{person = 5.0}", "{persons = 5.0}"))
    result = CliRunner().invoke(app, ["run", str(file), "--run", str(folder / "other")])
    assert result.exit_code != 0
    assert 'nothing is called "persons"; did you mean "person"?' in " ".join(result.output.split())
