"""From pairs of texts to a bundle that gives vectors, which sentence-transformers and model2vec give, too."""

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from distiq.bundle.open import Bundle
from distiq.cli.main import app
from distiq.commands.compress import compress
from distiq.data.tokenizer import train_tokenizer
from distiq.recipe.read import load_recipe
from distiq.records.run import RunRecord

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = pytest.mark.slow
WORDS = ("cat", "dog", "house", "tree", "car", "road", "runs", "sleeps", "the", "red", "blue", "old")
RECIPE = """
name = "vectors"
[data]
source = "pairs"
folder = "."
validation = "test.csv"
calibration = 32
[data.text]
tokenizer = "./bert"
length = 12
[teacher]
model = "transformers:bert"
weights = "./bert"
[student]
model = "{model}"
{student}
training = {{epochs = 4, batch_size = 32, optimizer = "adamw", learning_rate = 0.01, precision = "float32"}}
[views]
distinct = 1
[distil]
task_weight = 0.0
kd_weight = 1.0
[quantize]
mode = "dynamic"
fall_back = false
[measure]
runtimes = ["onnxruntime"]
rounds = 1
seconds = 0.01
"""
STUDENTS = {
    "static": ("static", "options = {width = 16}"),
    "cut": ("transformers:bert", 'weights = "teacher"\noptions = {keep_layers = [1]}'),
}
TEXTS = ["the red cat", "a dog"]


@pytest.fixture(scope="module", params=STUDENTS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord, str]:
    folder, draw = tmp_path_factory.mktemp("vectors"), np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, draw.integers(2, 6))) for _ in range(400)]
    for part, rows in (("train", range(0, 300, 2)), ("test", range(300, 400, 2))):
        shared = {row: len({*texts[row].split()} & {*texts[row + 1].split()}) for row in rows}
        lines = [f"{texts[row]},{texts[row + 1]},{shared[row]}" for row in rows]
        (folder / f"{part}.csv").write_text("\n".join(["text,other,score", *lines]))
    torch.manual_seed(0)
    tokenizer = train_tokenizer(texts, 60)
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder / "bert")
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    wrapped.save_pretrained(folder / "bert")
    model, student = STUDENTS[request.param]
    (folder / "vectors.toml").write_text(RECIPE.format(model=model, student=student))
    return folder, compress(load_recipe(folder / "vectors.toml"), run=folder / "run"), request.param


def test_the_run_is_measured_by_pairs(finished: tuple[Path, RunRecord, str]):
    _, record, _ = finished
    quality = record.student.column("int8 deployed").test
    assert quality.primary.name == "spearman"
    assert quality.agreement_with_teacher.name == "neighbours"
    assert record.trials[0].agreement > 0.999


def test_vectors_are_written_and_loaded_elsewhere(finished: tuple[Path, RunRecord, str], tmp_path: Path):
    folder, _, kind = finished
    bundle, out = folder / "run" / "bundle", tmp_path / "vectors.npy"
    result = CliRunner().invoke(app, ["predict", str(bundle), *TEXTS, "--out", str(out)])
    assert result.exit_code == 0, result.output
    vectors = np.load(out)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert Bundle(bundle).vectors_of(Bundle(bundle).run(Bundle(bundle).prepare(TEXTS[0]).inputs))[0] == pytest.approx(
        vectors[0], abs=1e-6
    )
    readers = [("sentence_transformers", "SentenceTransformer")]
    if kind == "static":
        readers.append(("model2vec", "StaticModel"))
    for package, name in readers:
        library = pytest.importorskip(package, reason=f"{package} is not installed")
        reader = getattr(library, name)
        place = str(folder / "run" / "vectors")
        model = reader(place) if name == "SentenceTransformer" else reader.from_pretrained(place)
        assert (model.encode(TEXTS) * vectors).sum(1).min() > 0.999
