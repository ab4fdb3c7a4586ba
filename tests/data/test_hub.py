"""Data sets by the package datasets: columns, images, clips, classes by their names; a folder stands in for the hub."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from distiq.data.hub import hub_columns, revision_note
from distiq.data.load import load
from distiq.errors import UserError
from distiq.recipe.data import AudioSettings, DataSettings, HubSettings, TextSettings

pyarrow = pytest.importorskip("pyarrow", reason="datasets is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="datasets is not installed")
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


@pytest.mark.parametrize("several", [True, False])
def test_splits_that_were_saved_to_disk(tmp_path: Path, several: bool):
    rows = datasets.Dataset.from_dict({"sentence": SENTENCES})
    (datasets.DatasetDict({"train": rows, "test": rows}) if several else rows).save_to_disk(tmp_path / "films")
    assert hub_columns(str(tmp_path / "films"), "", "train[1:3]", ["sentence"]).columns == {"sentence": SENTENCES[1:3]}
    with pytest.raises(UserError, match=r"it has the splits train.*, saved by save_to_disk"):
        hub_columns(str(tmp_path / "films"), "", "dev", ["sentence"])


def test_a_recipe_s_texts(folder: Path):
    text = TextSettings(hub=str(folder), text="sentence", test="validation", vocabulary=30, length=8)
    data = load(DataSettings(source="text", text=text, validation=1, calibration=1), seed=0)
    assert data.classes == ("bad", "good")
    assert data.test.labels.tolist() == [1, 0, 1, 0, 1, 0]


def test_the_revision_that_was_read_is_noted():
    commit = "0b2714987fa478483af9968de7c934580d0bb9a2"
    rows = SimpleNamespace(info=SimpleNamespace(download_checksums={f"hf://datasets/a/b@{commit}/x/train.parquet": {}}))
    assert revision_note("a/b", rows) == (f"a/b: revision {commit}",)
    assert revision_note("films", SimpleNamespace(info=SimpleNamespace(download_checksums=None))) == ()


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


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images and clips as hubs keep them: bytes in Parquet files. Class 0 is bright and loud, class 1 is not."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    names = datasets.ClassLabel(names=["strong", "faint"])  # not in the order of their letters
    for split, count in (("train", 8), ("test", 4)):
        labels, images, clips = [number % 2 for number in range(count)], [], []
        for number in range(count):
            level = 200 - 150 * labels[number] + number
            image, clip = io.BytesIO(), io.BytesIO()
            Image.fromarray(np.full((5, 4, 3), level, np.uint8)).save(image, "PNG")
            wavfile.write(clip, 8000, np.full(4000, 100 * level, np.int16))
            images.append({"bytes": image.getvalue(), "path": None})
            clips.append({"bytes": clip.getvalue(), "path": None})
        for kind, column in (("Image", images), ("Audio", clips)):
            kinds = datasets.Features({"sample": getattr(datasets, kind)(), "label": names})
            rows = pyarrow.table({"sample": column, "label": labels}, schema=kinds.arrow_schema)
            (tmp_path / kind).mkdir(exist_ok=True)
            parquet.write_table(rows, tmp_path / kind / f"{split}.parquet")
    return tmp_path


def test_images_of_a_hub(made: Path, tmp_path: Path):
    settings = DataSettings(
        source="folder", hub=HubSettings(name=str(made / "Image")), image_size=4, validation=2, calibration=2
    )
    data = load(settings, 0, tmp_path / "run")
    assert data.classes == ("strong", "faint")
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.test.inputs[:, 0, 0, 0].tolist() == [200, 202, 51, 53]
    again = load(settings, 0, tmp_path / "run")
    assert again.digest() == data.digest() and len(list((tmp_path / "run").glob("hub-*"))) == 1
    own = settings.model_copy(update={"validation": "test"})
    assert load(own, 0, tmp_path / "run").validation.labels.tolist() == [0, 0, 1, 1]


def test_clips_of_a_hub(made: Path, tmp_path: Path):
    audio = AudioSettings(rate=8000, seconds=0.5)
    hub = HubSettings(name=str(made / "Audio"), sample="sample", test="test[:2]")
    data = load(DataSettings(source="audio", hub=hub, audio=audio, validation=2, calibration=2), 0, tmp_path / "run")
    assert data.classes == ("strong", "faint") and data.test.labels.tolist() == [0, 1]
    assert data.test.inputs[:, 0].tolist() == [20000, 5100]


def test_a_column_of_another_kind_is_no_image(made: Path, tmp_path: Path):
    settings = DataSettings(source="folder", hub=HubSettings(name=str(made / "Audio")), validation=2, calibration=2)
    with pytest.raises(
        UserError, match=r"the columns that hold images are none, of sample, label; name one in data\.hub\.s"
    ):
        load(settings, 0, tmp_path / "run")


@pytest.mark.parametrize(("key", "value"), [("folder", "photos"), ("source", "text")])
def test_a_hub_stands_alone(key: str, value: str):
    with pytest.raises(ValueError, match=r'hub\.name = "x"'):
        DataSettings.model_validate({"source": "folder", "hub": {"name": "x"}, key: value})
