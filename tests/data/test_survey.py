"""survey(): what it finds in folders as people have them, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from distiq.data.survey import Clips, Images, Rows, Scenes, Texts, survey
from distiq.data.survey_words import Names, Speech
from distiq.errors import UserError
from tests.data.drawn_scenes import draw_masks


def write_images(folder: Path, mode: str, size: tuple[int, int]) -> Path:
    for part, count in (("train", 3), ("test", 2)):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                Image.new(mode, size).save(folder / part / name / f"{number}.png")
    return folder


def write_clips(folder: Path, seconds: list[float], rate: int) -> list[str]:
    """WAV files of silence; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number}.wav" for number in range(len(seconds))]
    for name, length in zip(names, seconds, strict=True):
        wavfile.write(folder / name, rate, np.zeros(round(length * rate), np.int16))
    return names


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_images_in_class_folders(mode: str, channels: int, tmp_path: Path):
    folder = write_images(tmp_path / "photos", mode, (40, 30))
    assert survey(folder) == Images(folder, ("cat", "dog"), 6, 4, (30, 40), channels)


def test_clips_in_class_folders(tmp_path: Path):
    for part in ("train", "test"):
        for name in ("no", "yes"):
            write_clips(tmp_path / part / name, [0.5, 0.72], 8000)
    assert survey(tmp_path) == Clips(tmp_path, ("no", "yes"), 4, 4, 8000, 0.8)


@pytest.mark.parametrize(
    ("column", "values", "held_out"), [("split", "train,train,test", ()), ("speaker", "ann,ann,bob", ("bob",))]
)
def test_a_manifest_of_clips(column: str, values: str, held_out: tuple[str, ...], tmp_path: Path):
    names = write_clips(tmp_path, [0.5, 0.5, 0.5], 8000)
    rows = zip(names, ("no", "yes", "no"), values.split(","), strict=True)
    lines = [f"path,label,{column}", *(",".join(row) for row in rows)]
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    expected = Clips(tmp_path, ("no", "yes"), 2, 1, 8000, 0.5, "clips.csv", held_out)
    assert survey(tmp_path) == survey(tmp_path / "clips.csv") == expected


def write_parts(folder: Path, rows: list[str], suffix: str = ".csv") -> Path:
    for part in ("train", "test"):
        (folder / f"{part}{suffix}").write_text("\n".join(rows))
    return folder


def test_rows_of_numbers_and_categories(tmp_path: Path):
    rows = [f"{number},{number / 2},{'red' if number % 3 else 'blue'},x,{'yes' if number % 2 else 'no'}" for number in
            range(8)]  # fmt: skip
    write_parts(tmp_path, ["id,size,colour,same,class", *rows, "8,?,red,x,no"])
    found = survey(tmp_path)
    assert found == Rows(
        tmp_path, ("no", "yes"), 9, ("train.csv", "test.csv"), (), "class", ("id", "size"), ("colour",), ("same",)
    )
    assert survey(tmp_path / "train.csv") == found


def test_rows_with_a_number_to_learn(tmp_path: Path):
    write_parts(tmp_path, ["rooms,area,price", *(f"{n}.5,{n / 3:.3f},{n * 1.25}" for n in range(9))])
    found = survey(tmp_path)
    assert (found.label, found.classes, found.numeric) == ("price", (), ("rooms", "area"))


def test_a_name_in_every_row_teaches_nothing(tmp_path: Path):
    write_parts(tmp_path, ["name,size,label", *(f"n{number},{number},{number % 2}" for number in range(150))])
    assert survey(tmp_path).left_out == ("name",)


TEXT_ROWS = [f"this film was seen by {number} people\t{number % 2}" for number in range(10)]


@pytest.mark.parametrize(("header", "names"), [(["review\tstars"], ()), ([], ("text", "label"))])
def test_texts_with_a_header_or_without(header: list[str], names: tuple[str, ...], tmp_path: Path):
    write_parts(tmp_path, [*header, *TEXT_ROWS], ".tsv")
    text, label = names or ("review", "stars")
    expected = Texts(tmp_path, ("0", "1"), 10, ("train.tsv", "test.tsv"), names, text, label, 7, "")
    assert survey(tmp_path) == expected


def test_pairs_of_texts_with_a_number(tmp_path: Path):
    rows = [f"a man walks his dog {number},a dog walks with man {number},{number / 7:.3f}" for number in range(10)]
    write_parts(tmp_path, ["sentence1,sentence2,score", *rows])
    found = survey(tmp_path)
    assert (found.text, found.pair, found.label, found.classes, found.words) == (
        "sentence1", "sentence2", "score", (), 12
    )  # fmt: skip


def test_texts_in_json_lines(tmp_path: Path):
    write_parts(
        tmp_path, [f'{{"body": "one two three four {n}", "label": "{"ab"[n % 2]}"}}' for n in range(6)], ".jsonl"
    )
    found = survey(tmp_path)
    assert (found.text, found.label, found.classes) == ("body", "label", ("a", "b"))


def test_what_cannot_be_read_is_refused_with_the_remedy(tmp_path: Path):
    with pytest.raises(UserError, match=r"no such folder; name the folder of your data"):
        survey(tmp_path / "absent")
    with pytest.raises(UserError, match=r"holds nothing that distiq reads; it takes train/<class>/"):
        survey(tmp_path)
    (tmp_path / "train.csv").write_text("a,label\n1,x\n2,y\n")
    with pytest.raises(UserError, match=r"no test\.csv beside train\.csv"):
        survey(tmp_path)


def test_class_folders_without_a_test_part_are_refused(tmp_path: Path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "1.png")
    with pytest.raises(UserError, match=r"holds the folders cat, dog, but no train and test; move them"):
        survey(tmp_path)


def test_words_with_tags(tmp_path):
    for part, count in (("train", 20), ("test", 5)):
        (tmp_path / f"{part}.conll").write_text("Ann B-person\nsaw O\nRome B-place\n\n" * count)
    surveyed = survey(tmp_path)
    assert surveyed == Names(tmp_path, ("person", "place"), 20, ("train.conll", "test.conll"), 3, "")
    assert survey(tmp_path / "train.conll") == surveyed


def test_tagged_texts_are_told_by_what_they_hold(tmp_path: Path):
    for part in ("train", "testa", "testb"):
        (tmp_path / f"eng.{part}").write_text("-DOCSTART- O\n\nAnn B-person\nsaw O\n\nRome B-place\n\n")
    assert survey(tmp_path) == Names(tmp_path, ("person", "place"), 2, ("eng.train", "eng.testb"), 2, "eng.testa")


def test_clips_with_texts(tmp_path: Path):
    for part, count in (("train", 3), ("dev", 1), ("test", 2)):
        (tmp_path / f"{part}.tsv").write_text(
            "path\tsentence\n" + "".join(f"{part}{n}.wav\tYes\n" for n in range(count))
        )
        (tmp_path / "clips").mkdir(exist_ok=True)
        for number in range(count):
            wavfile.write(tmp_path / "clips" / f"{part}{number}.wav", 8000, np.zeros(1900 + number, np.int16))
    assert survey(tmp_path) == Speech(tmp_path, 3, 3, 2, 8000, 0.3, "dev")


def test_parts_of_scenes_are_told(tmp_path: Path):
    draw_masks(tmp_path / "drawn")
    for part in ("test", "test_masks"):
        (tmp_path / "drawn" / part).rename(tmp_path / "drawn" / part.replace("test", "val"))
    surveyed = survey(tmp_path / "drawn")
    assert surveyed == Scenes(tmp_path / "drawn", "masks", ("ground", "disc", "square"), 12, 6, (48, 64))
    with pytest.raises(UserError, match=r"holds no data itself; .*drawn does: name that folder"):
        survey(tmp_path)


def test_a_clip_without_its_text_is_said_and_rows_of_lists_are_no_clips(tmp_path: Path):
    for part in ("train", "test"):
        (tmp_path / f"{part}.jsonl").write_text('{"audio_filepath": "a.wav", "text": ""}')
    with pytest.raises(UserError, match="line 1 leaves text empty"):
        survey(tmp_path)
    for part in ("train", "test"):
        (tmp_path / f"{part}.jsonl").unlink()
        (tmp_path / f"{part}.json").write_text('[["Ann saw", {"entities": [[0, 3, "PER"]]}]]')
    assert isinstance(survey(tmp_path), Names)
