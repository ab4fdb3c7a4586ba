"""Texts by the package datasets: the columns of splits, classes by their names; a folder stands in for the hub."""

from pathlib import Path

import pytest

from distiq.data.hub import hub_columns
from distiq.data.load import load
from distiq.errors import UserError
from distiq.recipe.data import DataSettings, TextSettings

datasets = pytest.importorskip("datasets", reason="datasets is not installed")
SENTENCES = ["a fine film", "a dull film", "fine", "dull", "a film", "no film"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set as hubs keep them: Parquet files that know the names of the classes."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    kinds = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    made = tmp_path / "films"
    for split, labels in (("train", [1, 0, 1, 0, 1, 0]), ("validation", [1, 0, 1, 0, 1, 0]), ("test", [-1] * 6)):
        rows = datasets.Dataset.from_dict({"sentence": SENTENCES, "label": labels}, features=kinds)
        made.mkdir(exist_ok=True)
        rows.to_parquet(made / f"{split}.parquet")
    return made


def test_columns_of_a_split(folder: Path):
    found = hub_columns(str(folder), "", "train[:3]", ["label", "sentence"])
    assert found.columns == {"label": ["good", "bad", "good"], "sentence": SENTENCES[:3]}


def test_a_recipe_s_texts(folder: Path):
    text = TextSettings(hub=str(folder), text="sentence", test="validation", vocabulary=30, length=8)
    data = load(DataSettings(source="text", text=text, validation=1, calibration=1), seed=0)
    assert data.classes == ("bad", "good")
    assert data.test.labels.tolist() == [1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("split", "column", "message"),
    [
        ("test", "label", r'films, split "test": the labels of this split are kept back \(label is -1\); name another'),
        ("validatoin", "label", r'cannot be read .*; did you mean "validation"\?'),
        ("train", "sentense", r'films, split "train": no column "sentense"; did you mean "sentence"\?'),
    ],
)
def test_refusals(folder: Path, split: str, column: str, message: str):
    with pytest.raises(UserError, match=message):
        hub_columns(str(folder), "", split, [column])


def test_what_is_nowhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r'data\.text\.hub: "nobody/films" cannot be read .*; without a network name a'):
        hub_columns("nobody/films", "", "train", ["label"])


def test_the_hub_s_order_of_classes_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    names = ["world", "sports", "business", "never"]
    kinds = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    (tmp_path / "news").mkdir()
    for split in ("train", "test"):
        rows = {"text": [f"text {number}" for number in range(12)], "label": [number % 3 for number in range(12)]}
        datasets.Dataset.from_dict(rows, features=kinds).to_parquet(tmp_path / "news" / f"{split}.parquet")
    text = TextSettings(hub=str(tmp_path / "news"), vocabulary=40, length=8)
    data = load(DataSettings(source="text", text=text, validation="test", calibration=3), seed=0)
    assert data.classes == tuple(names), "as a teacher of these classes numbers them"
    assert data.test.labels.tolist() == [0, 1, 2] * 4
    assert (len(data.train), len(data.validation)) == (9, 12)
