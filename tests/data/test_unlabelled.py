"""Samples without labels: those of a folder or a file, and those whose labels are left out."""

import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distiq.data.labels import is_labelled
from distiq.data.load import load
from distiq.data.splits import from_tensors
from distiq.data.unlabelled import with_fewer_labels, with_files
from distiq.errors import UserError
from distiq.recipe.data import AudioSettings, DataSettings, TextSettings


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)


def clip(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.full(800, value, np.int16).tobytes())


@pytest.mark.parametrize("kind", ["folder", "audio"])
def test_files_of_a_folder_join_the_training_samples(tmp_path: Path, kind: str):
    write, ending = (picture, "png") if kind == "folder" else (clip, "wav")
    for part, start in (("train", 0), ("test", 100)):
        for number in range(12):
            write(tmp_path / "own" / part / "ab"[number % 2] / f"{number}.{ending}", start + number)
    for number in range(5):
        write(tmp_path / "more" / "deeper" / f"{number}.{ending}", 200 + number)
    write(tmp_path / "more" / f"twice.{ending}", 100)
    settings = DataSettings(
        source=kind, folder=str(tmp_path / "own"), unlabelled=str(tmp_path / "more"), validation=2, calibration=2,
        image_size=8, channels=1, audio=AudioSettings(rate=8000, seconds=0.1),
    )  # fmt: skip
    data = load(settings, 0)
    assert len(data.train) == 8 + 6
    assert is_labelled(data.train.labels).tolist() == [True] * 8 + [False] * 6
    assert data.train.inputs[8:].flatten(1)[:, 0].tolist() == [200, 201, 202, 203, 204, 100]
    assert any("6 training" in note and "without labels" in note for note in data.notes)
    assert any("1 of 12 test" in note for note in data.notes)
    with pytest.raises(UserError, match="holds no"):
        with_files(data, empty(tmp_path), None)
    with pytest.raises(UserError, match="no such folder"):
        with_files(data, tmp_path / "nowhere", None)


def empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def test_lines_of_a_file_join_the_training_texts(tmp_path: Path):
    words = ("good film", "bad film", "fine day", "sad day")
    rows = "".join(f"{words[number % 4]} {number},{number % 2}\n" for number in range(40))
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text("text,label\n" + rows)
    (tmp_path / "more.txt").write_text("good day\n\nbad day\n")
    settings = DataSettings(
        source="text", folder=str(tmp_path), unlabelled=str(tmp_path / "more.txt"), validation=4, calibration=4,
        text=TextSettings(train="train.csv", test="test.csv", length=8, vocabulary=60),
    )  # fmt: skip
    data = load(settings, 0)
    assert is_labelled(data.train.labels).tolist() == [True] * 32 + [False] * 2
    assert data.train.inputs.shape == (34, 8)


def test_fewer_labels_are_of_every_class_the_same_share():
    labels = torch.arange(200) % 4
    images = torch.zeros(200, 1, 4, 4, dtype=torch.uint8)
    images[:, 0, 0, 0] = labels.byte()
    data = from_tensors((images, labels), (images, labels), None, 20, 20)
    fewer = with_fewer_labels(data, 16)
    assert torch.bincount(fewer.train.labels[is_labelled(fewer.train.labels)]).tolist() == [4, 4, 4, 4]
    assert len(fewer.train) == len(data.train)
    assert fewer.digest() != data.digest()
    for count, said in ((4, "fewer than two labels each"), (10_000, "160 training images are left")):
        with pytest.raises(UserError, match=said):
            with_fewer_labels(data, count)
