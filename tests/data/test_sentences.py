"""Texts for embeddings: texts without labels to learn from, pairs with scores to measure on."""

from pathlib import Path

import pytest
import torch

from distiq.data.load import load
from distiq.data.splits import Data, check_data
from distiq.errors import UserError
from distiq.recipe.data import DataSettings, PairSettings, TextSettings

pytest.importorskip("tokenizers", reason="tokenizers is not installed")
TRAIN = "text,other,score\n" + "".join(f"a film {word},the {word},{number}\n" for number, word in enumerate("bcdefghi"))
TEST = "text,other,score\nfilm,the,1\nthe film,film the,3\nfilm,film,5\n"


def made(folder: Path, validation: int | str = 3, train: str = TRAIN, test: str = TEST, **pairs) -> Data:
    (folder / "train.csv").write_text(train)
    (folder / "test.csv").write_text(test)
    return load(
        DataSettings(
            source="pairs", folder=str(folder), validation=validation, calibration=2, pairs=PairSettings(**pairs),
            text=TextSettings(length=8),
        ),
        0,
    )  # fmt: skip


def words(data: Data, numbers: torch.Tensor) -> list[str]:
    import tokenizers

    return tokenizers.Tokenizer.from_str(data.preprocessing.tokenizer).decode_batch(numbers.tolist())


def test_pairs_stand_one_text_behind_the_other(tmp_path: Path):
    data = made(tmp_path, train=TRAIN + "film b,film c,1\n")
    check_data(data)
    assert data.task == "embedding"
    assert words(data, data.test.inputs) == ["film", "the", "the film", "film the", "film", "film"]
    assert data.test.labels.tolist() == [1, 1, 3, 3, 5, 5]
    assert data.validation.labels.tolist()[0::2] == data.validation.labels.tolist()[1::2]
    assert (len(data.validation), len(data.calibration), len(data.train)) == (6, 2, 18 - 6 - 2)
    assert data.train.labels.isnan().all()
    held = set(words(data, data.validation.inputs))
    assert not held & {*words(data, data.train.inputs), *words(data, data.calibration.inputs)}


def test_texts_to_learn_from_may_stand_alone(tmp_path: Path):
    data = made(tmp_path, "test.csv", train="text\n" + "".join(f"film {word}\n" for word in "abcdef"))
    assert len(data.train) == 4


@pytest.mark.parametrize(
    ("validation", "test", "message"),
    [
        ("test.csv", "text,other\nred,blue\n", r"test\.csv: 1 of 1 pairs have no score, row 1 the first"),
        ("test.csv", "text,other,score\nred,blue,1\nold,new,\na,b,2\n", "1 of 3 pairs have no score .* row 2"),
        ("test.csv", "text,other,score\nred,blue,high\n", 'row 1 has the score "high", which is no number'),
        ("test.csv", "text,score\nred,1\n", "row 1 has no text beside it: the file has one column of texts alone"),
        ("test.csv", "text,other,score\na,b,1\nc,d,1\ne,f,1\n", "3 pairs with 1 scores rank nothing"),
        ("test.csv", "text,other,score\na,b,1\n,c,2\ne,f,3\n", 'row 2 has no text in the column "text"'),
        (20, TEST, "8 pairs have a score, but 20 are to be held out"),
        (2, TEST, "2 of 8 pairs with scores, held out to steer by, rank nothing; hold out more"),
    ],
)
def test_pairs_without_scores_are_refused_where_scores_are_asked(tmp_path: Path, validation, test: str, message: str):
    with pytest.raises(UserError, match=message):
        made(tmp_path, validation, test=test)


def test_columns_that_are_found_and_texts_that_repeat_are_said(tmp_path: Path):
    data = made(tmp_path, train=TRAIN + "film,the film,\n")
    assert data.notes[0].startswith('test.csv: texts are read from "text" and "other", scores from "score"')
    assert data.notes[1].startswith("2 of the test texts are training texts, too")
    assert not made(tmp_path, first="text", second="other", score="score").notes


def test_without_a_validation_file_a_tenth_of_the_scored_pairs_steers(tmp_path: Path):
    rows = "".join(f"a film {number},the {number},{number}\n" for number in range(30))
    data = made(tmp_path, "dev", train="text,other,score\n" + rows)
    assert len(data.validation) == 2 * 3
    assert "one in 10 training samples is held out to steer by" in data.notes[0]
    with pytest.raises(UserError, match="0 pairs have a score, but 3 are to be held out"):
        made(tmp_path, "dev", train="text\n" + "".join(f"film {number}\n" for number in range(30)))
