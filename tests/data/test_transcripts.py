"""Clips with texts from a manifest; what no text can be learned from is refused, by its line."""

import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from distiq.data.labels import SYMBOLS
from distiq.data.load import load
from distiq.data.splits import Data
from distiq.errors import UserError
from distiq.recipe.data import AudioSettings, DataSettings, TranscriptSettings

LINES = [f"{number}.wav,{text},{part}" for number, (text, part) in enumerate(
    [("Yes no", "train"), ("no", "train"), ("yes", "train"), ("no no", "train"), ("no yes", "test"), ("yes", "test")]
)]  # fmt: skip


def written(folder: Path, lines: list[str], seconds: float, header: str, value: int = 7, rate: int = 4000) -> None:
    (folder / "manifest.csv").write_text("\n".join([header, *lines]))
    for line in lines:
        with wave.open(str(folder / line.partition(",")[0]), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(np.full(round(seconds * rate), value, np.int16).tobytes())


def made(
    folder: Path, lines: list[str], seconds: float = 0.5, header: str = "path,text,split", further: str = "", **own
) -> Data:
    written(folder, lines, seconds, header)
    audio = AudioSettings(rate=4000, seconds=1.0, held_out=("ann",) if "split" not in header else ())
    settings = DataSettings(
        source="transcripts", folder=str(folder), validation=1, calibration=1, audio=audio,
        transcripts=TranscriptSettings(**own), further=further,
    )  # fmt: skip
    return load(settings, 0)


def test_texts_in_words(tmp_path: Path):
    data = made(tmp_path, LINES, symbols="words")
    assert (data.classes, data.labels.form) == (("<blank>", "no", "yes"), SYMBOLS)
    assert data.test.labels.tolist() == [[1, 2], [2, -1]]
    assert (len(data.train), len(data.validation), len(data.calibration)) == (2, 1, 1)
    assert data.test.inputs[0, :2000].unique().tolist() == [7], "a clip begins its window"
    assert not data.test.inputs[0, 2000:].any()


def test_texts_in_characters(tmp_path: Path):
    data = made(tmp_path, LINES)
    assert data.classes == ("<blank>", "e", "n", "o", "s", "y", "|")
    assert data.test.labels[0].tolist() == [2, 3, 6, 5, 1, 4]


def test_speakers_may_be_held_out(tmp_path: Path):
    lines = [line.replace("train", "bob").replace("test", "ann") for line in LINES]
    lines += [f"{number}.wav,no yes,cid" for number in (8, 9)] + ["7.wav,yes,dan"]
    data = made(tmp_path, lines, header="path,text,speaker", symbols="words")
    assert len(data.test) == 2


@pytest.mark.parametrize(
    ("line", "own", "seconds", "message"),
    [
        ("9.wav,,train", {}, 0.5, "line 8 leaves text empty; a clip needs its text"),
        ("9.wav,maybe,test", {}, 0.5, 'line 8 holds "m", which the vocabulary of the training texts lacks'),
        ("9.wav,no,train", {"vocabulary": ("n", "e", "y", "s")}, 0.5, 'line 2 holds "|", which data.transcripts'),
        ("9.wav,no,train", {}, 1.5, "line 2: 0.wav has 1.50 s, the window 1 s; what is cut would still stand in"),
        ("9.wav,no,train", {}, 0.05, "line 2: 0.wav has 0.05 s, too short for a text of 6 symbols"),
    ],
)
def test_what_no_text_can_be_learned_from_is_refused(tmp_path: Path, line: str, own: dict, seconds: float, message):
    with pytest.raises(UserError, match=message.replace("|", r"[|]?.")):
        made(tmp_path, [*LINES, line], seconds, **own)


def test_columns_and_parts_are_needed(tmp_path: Path):
    with pytest.raises(UserError, match="no column text; it has path, words, split"):
        made(tmp_path, LINES, header="path,words,split")
    with pytest.raises(UserError, match="no clip is in the test part; it is needed"):
        made(tmp_path, LINES[:4])


def test_what_is_left_out_and_too_few_voices_are_said(tmp_path: Path):
    lines = [f"{line},ann" for line in [*LINES, "9.wav,no,dev"]]
    data = made(tmp_path, lines, header="path,text,split,speaker")
    assert data.notes[:2] == (
        "clips of other parts are left out: 1 of dev; data.validation names a part to steer by",
        "1 voices to train on: validation and calibration hear the same ones",
    )


def test_without_a_test_part_the_validation_part_is_measured_on(tmp_path: Path):
    lines = [line.replace("test", "dev").replace("dev", "val") for line in LINES]
    data = made(tmp_path, lines)
    assert len(data.test) == 2 and "the validation part is measured on" in data.notes[0]


def test_further_clips_are_trained_on_alone(tmp_path: Path):
    further = tmp_path / "voices"
    further.mkdir()
    written(further, ["a.wav,no yes no,", "b.wav,yes,"], 0.5, "path,text,split", value=9, rate=8000)
    data = made(tmp_path, LINES, symbols="words", further=str(further))
    assert (len(data.train), len(data.validation), len(data.calibration), len(data.test)) == (2 + 2, 1, 1, 2)
    assert data.train.labels[-2:].tolist() == [[1, 2, 1], [2, -1, -1]] and data.train.labels.shape == (4, 3)
    assert [int(clip[1000]) for clip in data.train.fetch(torch.arange(4))] == [7, 7, 9, 9]
    assert "2 clips resampled from 8000 to 4000 Hz" in data.notes
    assert f"{further}: 2 further clips are trained on alone" in data.notes
    written(further, ["a.wav,maybe,"], 0.5, "path,text,split")
    with pytest.raises(UserError, match=r'manifest\.csv: line 2 holds "maybe", which the vocabulary of the training'):
        made(tmp_path, LINES, symbols="words", further=str(further))
    with pytest.raises(UserError, match=r"data\.further: .* holds no clips with texts"):
        made(tmp_path, LINES, further=str(tmp_path / "nowhere"))
