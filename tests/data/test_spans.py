"""Spans and words with tags by the keys that tools write: all forms give the same words and tags."""

import json
from pathlib import Path

import pytest

from distiq.data.spans import Read, read_spans
from distiq.errors import UserError
from distiq.recipe.data import EntitySettings

TEXT, WORDS, TAGS = "Ann saw New York", ["Ann", "saw", "New", "York"], ["B-PER", "O", "B-LOC", "I-LOC"]
NUMBERED = {"tokens": WORDS, "ner_tags": [3, 0, 1, 2]}
NAMES = ["O", "B-LOC", "I-LOC", "B-PER"]


@pytest.mark.parametrize(
    "row",
    [
        {"text": TEXT, "spans": [[0, 3, "PER"], [8, 16, "LOC"]]},
        {"id": 1, "text": TEXT, "label": [[0, 3, "PER"], [8, 16, "LOC"]]},
        {"text": TEXT, "entities": [{"start": 0, "end": 3, "label": "PER"}, {"start": 8, "end": 16, "type": "LOC"}]},
        {"text": TEXT, "entities": [{"id": 4, "start_offset": 0, "end_offset": 3, "label": "PER"}, [8, 16, "LOC"]]},
        {"sentence": TEXT, "labels": [["PER", 0, 3], {"start": 8, "end": 16, "labels": ["LOC"]}]},
        [TEXT, {"entities": [[0, 3, "PER"], [8, 16, "LOC"]]}],
        {"text": TEXT, "tokens": [{"text": "Ann"}], "spans": [[0, 3, "PER"], [8, 16, "LOC"]]},
        {"tokens": WORDS, "ner_tags": TAGS},
        {"words": WORDS, "labels": TAGS},
        {"tokens": WORDS, "ner_tags": TAGS, "langs": ["en"] * 4, "spans": ["PER: Ann", "LOC: New York"]},
        NUMBERED,
    ],
)
@pytest.mark.parametrize("form", ["lines", "list", "lines called .json"])
def test_forms_of_json(tmp_path: Path, row: dict, form: str):
    file = tmp_path / ("train.jsonl" if form == "lines" else "train.json")
    file.write_text(json.dumps([row, row]) if form == "list" else f"{json.dumps(row)}\n{json.dumps(row)}\n")
    assert read_spans(file, EntitySettings(names=tuple(NAMES))) == [Read(WORDS, TAGS)] * 2


@pytest.mark.parametrize("feature", [{"feature": {"names": NAMES}}, [{"names": NAMES, "_type": "ClassLabel"}]])
def test_parquet_of_datasets_names_its_tags(tmp_path: Path, feature):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    about = json.dumps({"info": {"features": {"ner_tags": feature}}})
    table = pyarrow.table({key: [value] for key, value in NUMBERED.items()})
    parquet.write_table(table.replace_schema_metadata({"huggingface": about}), tmp_path / "train.parquet")
    assert read_spans(tmp_path / "train.parquet", EntitySettings()) == [Read(WORDS, TAGS)]


def test_a_small_file_of_many_bytes_is_refused(tmp_path: Path):
    """Dictionaries write a text of 100 kB once, and 2,000 rows of it as their numbers: 200 MB."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    parquet.write_table(pyarrow.table({"text": ["a" * 100_000] * 2000}), tmp_path / "train.parquet")
    with pytest.raises(UserError, match="far more than the file; write it anew"):
        read_spans(tmp_path / "train.parquet", EntitySettings())
