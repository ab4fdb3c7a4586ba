"""Clips with texts lie where LibriSpeech, Common Voice, NeMo, Kaldi and others have them."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distiq.data.spoken import spoken_lines
from distiq.errors import UserError
from distiq.recipe.data import AudioSettings

TEXTS = {"train": ["Yes no", "NO yes"], "dev": ["no"], "test": ["yes"]}


def write(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def clip(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, np.zeros(800), 8000)


def common_voice(folder: Path, part: str, texts: list[str]) -> None:
    rows = "".join(f"s{n}\t{part}{n}.mp3\t{text}\t\n" for n, text in enumerate(texts))
    write(folder / f"{part}.tsv", "client_id\tpath\tsentence\tage\n" + rows)
    write(folder / "validated.tsv", "client_id\tpath\tsentence\tage\n")
    for number in range(len(texts)):
        clip(folder / "clips" / f"{part}{number}.mp3")


def nemo(folder: Path, part: str, texts: list[str]) -> None:
    rows = [{"audio_filepath": f"wav/{part}{n}.wav", "duration": 0.1, "text": text, "speaker": f"s{n}"} for n, text in
            enumerate(texts)]  # fmt: skip
    write(folder / f"{part}_manifest.json", "\n".join(map(json.dumps, rows)))
    for row in rows:
        clip(folder / row["audio_filepath"])


def librispeech(folder: Path, part: str, texts: list[str]) -> None:
    place = folder / f"{part}-clean" / "s0" / "7"
    write(place / "s0-7.trans.txt", "".join(f"s{n}-7-{n:04d} {text}\n" for n, text in enumerate(texts)))
    for number in range(len(texts)):
        clip(place / f"s{number}-7-{number:04d}.flac")


def kaldi(folder: Path, part: str, texts: list[str]) -> None:
    for name, value in (("text", "{1}"), ("wav.scp", f"wavs/{part}{{0}}.wav"), ("utt2spk", "s{0}")):
        write(folder / part / name, "".join(f"u{n} {value.format(n, text)}\n" for n, text in enumerate(texts)))
    for number in range(len(texts)):
        clip(folder / "wavs" / f"{part}{number}.wav")


def audiofolder(folder: Path, part: str, texts: list[str]) -> None:
    rows = "".join(f"{n}.wav,{text},s{n}\n" for n, text in enumerate(texts))
    write(folder / part / "metadata.csv", "file_name,transcription,speaker_id\n" + rows)
    for number in range(len(texts)):
        clip(folder / part / f"{number}.wav")


@pytest.mark.parametrize("form", [common_voice, nemo, librispeech, kaldi, audiofolder])
def test_forms_of_clips_with_texts(tmp_path: Path, form):
    for part, texts in TEXTS.items():
        form(tmp_path, part, texts)
    lines = spoken_lines(tmp_path, AudioSettings(), ("train", "test", "dev"))
    assert [(line.part, line.text, line.speaker) for line in lines] == [
        ("train", "Yes no", "s0"), ("train", "NO yes", "s1"), ("test", "yes", "s0"), ("dev", "no", "s0")
    ]  # fmt: skip
    assert all(line.path.is_file() for line in lines)


def test_a_text_beside_each_clip(tmp_path: Path):
    for part in ("train", "test"):
        clip(tmp_path / part / "a.wav")
        write(tmp_path / part / "a.txt", "yes\n")
    assert [line.text for line in spoken_lines(tmp_path, AudioSettings(), ("train", "test"))] == ["yes", "yes"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.tsv", "path\tlabel\na.wav\tyes\n", "no column text; it has path, label"),
        ("train.jsonl", '{"audio_filepath": "a.wav", "text": "yes", "offset": 1.5}', "line 1 begins within its clip"),
        ("manifest.csv", "path,text\na.wav,yes\n", "line 2 has no split; manifest.csv needs a column split"),
        ("train/wav.scp", "u1 sph2pipe a.sph |\n", "of u1 it is a command, and distiq runs none"),
        ("train/x.txt", "yes", "no clips with texts of the train part; it takes manifest.csv with path, text, and"),
    ],
)
def test_what_lists_no_clips_is_refused(tmp_path: Path, name: str, content: str, message: str):
    write(tmp_path / "train" / "text", "u1 yes\n")
    write(tmp_path / name, content)
    with pytest.raises(UserError, match=message):
        spoken_lines(tmp_path, AudioSettings(), ("train", "test"))
