"""Rows become vectors: numbers piecewise linear, categories one-hot; what is missing or unseen is counted."""

import json
import unicodedata

import pytest
import torch

from distiq.data.labels import NUMBER
from distiq.data.load import load
from distiq.data.tables import Encoding, fit_encoding
from distiq.errors import UserError
from distiq.recipe.data import DataSettings, TableSettings

ENCODING = Encoding({"age": (30.0, (10.0, 20.0, 60.0))}, {"job": ("?", "cook", "smith")})


def encode(ages, jobs):
    return ENCODING.encode({"age": ages, "job": jobs}, "rows")


def test_numbers_are_piecewise_linear_and_categories_one_hot():
    found, notes = encode(["15", "40", "5", "99"], ["cook", "smith", "", "?"])
    ages = [[0.5, 0], [1, 0.5], [0, 0], [1, 1]]
    jobs = [[0, 1, 0], [0, 0, 1], [1, 0, 0], [1, 0, 0]]
    torch.testing.assert_close(
        found, torch.tensor([a + b for a, b in zip(ages, jobs, strict=True)], dtype=torch.float32)
    )
    assert notes == ()


def test_missing_numbers_and_unseen_categories_are_counted_and_said():
    found, notes = encode(["", "?", "20"], ["cook", "pilot", "nurse"])
    torch.testing.assert_close(
        found[0], found[1] + torch.tensor([0, 0, 0, 1.0, 0])
    )  # 30 is a quarter into the second bin
    torch.testing.assert_close(found[0, :2], torch.tensor([1, 0.25]))
    assert found[1:, 2:].sum() == 0
    assert notes == (
        'rows: 2 missing in "age"; taken as its median, 30',
        'rows: 2 in "job" not seen in training ("nurse", "pilot"); taken as none of its categories',
    )


def test_missing_categories_are_told_from_unseen_ones():
    of_whole_rows = Encoding({}, {"job": ("cook", "smith")})
    found, notes = of_whole_rows.encode({"job": ["?", "cook", "", "nurse"]}, "rows")
    assert found.tolist() == [[0, 0], [1, 0], [0, 0], [0, 0]]
    assert notes == (
        'rows: 2 missing in "job", which no training row lacks; taken as none of its categories',
        'rows: 1 in "job" not seen in training ("nurse"); taken as none of its categories',
    )


@pytest.mark.parametrize(("value", "message"), [("old", '"old" is no number'), ("inf", '"inf" is not finite')])
def test_what_is_no_number_is_refused_with_its_place(value, message):
    with pytest.raises(UserError, match=f'rows: column "age", row 2: {message}'):
        encode(["1", value], ["cook", "cook"])


def test_the_encoding_survives_json():
    assert Encoding.from_json(json.loads(json.dumps(ENCODING.as_json()))) == ENCODING


def test_edges_are_quantiles_of_the_values_and_of_the_distinct_ones():
    gain = ["0"] * 97 + ["", "10", "20", "40"]
    settings = TableSettings(numeric=("gain",), bins=4)
    median, edges = fit_encoding({"gain": gain}, settings, "rows").numeric["gain"]
    # values: 0, 0, 40; distinct (0, 10, 20, 40): 0, 15, 40
    assert (median, edges) == (0.0, (0.0, 15.0, 40.0))


@pytest.mark.parametrize(
    ("numeric", "categorical", "message"),
    [
        (("same",), (), r'"same" holds 1 different number'),
        (("none",), (), r'"none" holds 0 different number'),
        ((), ("same",), r'"same" holds one category only'),
    ],
)
def test_a_column_that_says_nothing_is_refused(numeric, categorical, message):
    with pytest.raises(UserError, match=message):
        fit_encoding(
            {"same": ["1", "1"], "none": ["", "?"]}, TableSettings(numeric=numeric, categorical=categorical), "rows"
        )


def test_adult_comes_with_the_package():
    data = load(DataSettings(source="adult", validation=1000, calibration=100), seed=0)
    assert data.classes == ("<=50K", ">50K")
    assert (len(data.train) + 1100, len(data.test)) == (32_561, 16_281)
    # UCI's adult.names: 7,841 and 3,846 of the rows are above 50K.
    above = sum(int(part.labels.sum()) for part in (data.train, data.validation, data.calibration))
    assert (above, int(data.test.labels.sum())) == (7841, 3846)
    assert float(data.train.inputs.min()) == 0
    assert float(data.train.inputs.max()) == 1
    assert torch.equal(data.normalize(data.test.inputs), data.test.inputs)


@pytest.fixture
def folder(tmp_path):
    for part, count in (("train", 40), ("test", 20)):
        rows = "".join(
            f"{number},{'ab'[number % 2]},{'no' if number < count / 2 else 'yes'}\n" for number in range(count)
        )
        (tmp_path / f"{part}.csv").write_text(f"size,kind,bought\n{rows}")
    return tmp_path


def settings(folder, **table):
    of_table = TableSettings(**{"label": "bought", "numeric": ("size",), "categorical": ("kind",), **table})
    return DataSettings(source="table", folder=str(folder), validation=4, calibration=4, table=of_table)


def test_a_table_of_one_s_own(folder):
    data = load(settings(folder), seed=0)
    assert (data.modality, data.classes, len(data.train), len(data.test)) == ("table", ("no", "yes"), 32, 20)
    assert data.preprocessing.encoding.categorical == {"kind": ("a", "b")}
    assert data.preprocessing.mean == (), "what is encoded lies in 0..1 already"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"numeric": ("sise",)}, r'train\.csv: no column "sise"; did you mean "size"\?'),
        ({"label": "sold"}, r'no column "sold"'),
        ({"numeric": ("kind",), "categorical": ()}, r'column "kind", row 1: "a" is no number'),
        ({"numeric": (), "categorical": ()}, r"name the columns to learn from"),
        ({"test": "none.csv"}, r"none\.csv: cannot be read"),
    ],
)
def test_wrong_columns_are_refused(folder, table, message):
    with pytest.raises(UserError, match=message):
        load(settings(folder, **table), seed=0)


@pytest.mark.parametrize(("label", "message"), [("", "row 20 has no label"), ("maybe", 'row 20 has the label "maybe"')])
def test_a_test_label_that_no_training_row_has_is_refused(folder, label, message):
    path = folder / "test.csv"
    path.write_text(path.read_text().removesuffix("yes\n") + f"{label}\n")
    with pytest.raises(UserError, match=message):
        load(settings(folder), seed=0)


def test_a_column_of_numbers_is_learned_as_such(folder):
    data = load(settings(folder, target="size", numeric=(), label="label"), seed=0)
    assert (data.labels.form, data.classes) == (NUMBER, ("size",))
    torch.testing.assert_close(data.test.labels * data.target.std + data.target.mean, torch.arange(20.0))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"target": "kind", "categorical": ()},
            'training rows: row 1 has "a" in the column "kind"; regression needs a',
        ),
        ({"target": "size"}, 'numeric names "size", which is the label'),
        ({"target": "price"}, r'no column "price"'),
    ],
)
def test_a_target_that_cannot_be_learned_is_refused(folder, table, message):
    with pytest.raises((UserError, ValueError), match=message):
        load(settings(folder, **table), seed=0)


def write_table(folder, part, rows, header="size,kind,patient,bought"):
    (folder / f"{part}.csv").write_text("\n".join([header, *rows]) + "\n")


def rows_of(patients, count=60, kinds="ab", labels=("1", "2")):
    return [f"{n},{kinds[n % 2]},{patients[n % len(patients)]},{labels[n * 7 % 3 > 1]}" for n in range(count)]


def test_rows_of_a_group_stay_together(tmp_path):
    write_table(tmp_path, "train", rows_of("abcdefgh"))
    write_table(tmp_path, "test", rows_of("xyz"))
    data = load(settings(tmp_path, group="patient"), seed=0)
    assert [len(part) for part in (data.train, data.validation, data.calibration)] == [45, 7, 8], (
        "whole patients of 7 or 8 rows"
    )


def test_a_group_in_training_and_test_is_refused(tmp_path):
    write_table(tmp_path, "train", rows_of("abcdefgh"))
    write_table(tmp_path, "test", rows_of("hxy"))
    with pytest.raises(UserError, match=r'test\.csv: the patient "h" is among the training rows, too \(1 are\)'):
        load(settings(tmp_path, group="patient"), seed=0)


def test_validation_rows_may_have_a_file_of_their_own(tmp_path):
    for part, count in (("train", 60), ("test", 20), ("dev", 30)):
        write_table(tmp_path, part, rows_of("x", count))
    chosen = settings(tmp_path)
    data = load(DataSettings(**(dict(chosen) | {"validation": "dev.csv"})), seed=0)
    assert [len(part) for part in (data.train, data.validation, data.calibration, data.test)] == [56, 30, 4, 20]


def test_labels_that_are_numbers_sort_as_numbers(tmp_path):
    for part in ("train", "test"):
        write_table(tmp_path, part, rows_of("x", labels=("9", "10")))
    assert load(settings(tmp_path), seed=0).classes == ("9", "10")


def test_numbers_written_as_text_are_said(tmp_path):
    rows = [f'{n},"{1 + n % 3},000",x,{n % 2}' for n in range(40)]
    for part in ("train", "test"):
        write_table(tmp_path, part, rows)
    with pytest.raises(UserError, match=r'column "kind", row 1: "1,000" is a number written as text; write it as'):
        load(settings(tmp_path, numeric=("kind",), categorical=()), seed=0)
    (note,) = load(settings(tmp_path), seed=0).notes
    assert note.startswith('column "kind": its 3 categories are numbers written as text ("3,000")')


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"numeric": ("size", "bought")}, 'numeric names "bought", which is the label'),
        ({"categorical": ("bought",)}, 'categorical names "bought", which is the label'),
        ({"numeric": ("size", "size")}, "numeric names a column twice"),
    ],
)
def test_features_that_give_the_answer_away_are_refused(folder, table, message):
    with pytest.raises(ValueError, match=message):
        settings(folder, **table)


def test_the_label_of_adult_is_no_feature():
    chosen = TableSettings(numeric=("age",), categorical=("income",))
    with pytest.raises(UserError, match='"income" is the label of adult; a network would learn nothing else'):
        load(DataSettings(source="adult", table=chosen), seed=0)


def test_adult_has_no_number_to_learn():
    with pytest.raises(UserError, match=r'data\.table\.target: adult has classes, those of "income"'):
        load(DataSettings(source="adult", table=TableSettings(target="age")), seed=0)


def test_names_of_columns_are_composed():
    decomposed, composed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFD", "NFC"))
    assert TableSettings(label=decomposed, numeric=(decomposed + "s",)).numeric == (composed + "s",)
    with pytest.raises(ValueError, match="which is the label"):
        TableSettings(label=decomposed, numeric=(composed,))
