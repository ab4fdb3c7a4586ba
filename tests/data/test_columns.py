"""Named columns from files of every kind; what is broken is refused with its place."""

import csv
import io
import json
import unicodedata

import pytest

from distiq.data.columns import (
    label_flags,
    label_numbers,
    label_sets,
    read_columns,
    set_flags,
    sorted_classes,
    target_numbers,
)
from distiq.errors import UserError

FILES = {
    "rows.csv": 'age,name\n39,"Smith, J"\n,?\n',
    "rows.tsv": "name\tage\nSmith, J\t39\n?\t\n",
    "rows.json": '[{"age": 39, "name": "Smith, J"}, {"age": null, "name": "?"}]',
    "rows.jsonl": '{"age": 39, "name": "Smith, J"}\n{"name": "?"}\n',
}


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_columns(tmp_path, name):
    path = write(tmp_path, name, FILES[name])
    assert read_columns(path, ("age", "name")) == {"age": ["39", ""], "name": ["Smith, J", "?"]}


def test_parquet_gives_the_same_columns(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"age": [39, None], "name": ["Smith, J", "?"]}), tmp_path / "rows.parquet")
    assert read_columns(tmp_path / "rows.parquet", ("age", "name")) == {"age": ["39", ""], "name": ["Smith, J", "?"]}


def test_one_json_object_is_one_row(tmp_path):
    assert read_columns(write(tmp_path, "row.json", '{"age": 1.5}'), ("age",)) == {"age": ["1.5"]}


def test_what_ends_a_line_elsewhere_does_not_end_an_object(tmp_path):
    path = write(tmp_path, "rows.jsonl", '{"name": "a\u2028b\x85c"}\r\n{"name": "d"}\r\n')
    assert read_columns(path, ("name",)) == {"name": ["a\u2028b\x85c", "d"]}


def test_a_header_may_be_given(tmp_path):
    path = write(tmp_path, "rows.tsv", 'an "odd film\t1\nfine\t0\n')
    assert read_columns(path, ("label", "text"), ("text", "label")) == {
        "label": ["1", "0"],
        "text": ['an "odd film', "fine"],
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", "age,nane\n1,2\n", r'no column "name"; did you mean "nane"\?'),
        ("rows.csv", "a,b\n1,2\n", r'no column "name"; its columns: a, b'),
        ("rows.csv", "name,name\n1,2\n", r"names a column twice"),
        ("rows.csv", "name,age\n1,2\n3\n", r"line 3 has 1 values, but there are 2 columns"),
        ("rows.csv", b"name\nok\ncaf\xe9\n", r"line 3 is not UTF-8 \(byte 0xe9\)"),
        ("rows.json", "[1]", r'every row must be an object such as \{"name": "..."\}'),
        ("rows.jsonl", "{", r"not valid JSON"),
        ("rows.txt", "name", r'"\.txt" is no known kind of file; take \.csv, \.tsv'),
        ("rows.csv", "", r"this file is empty; give it rows"),
        ("rows.jsonl", "\n\n", r"this file is empty; give it rows"),
        ("rows.json", "[]", r"holds no row"),
    ],
)
def test_what_is_broken_is_refused_with_its_place(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message) as error:
        read_columns(write(tmp_path, name, content), ("name",))
    assert name in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: cannot be read"):
        read_columns(tmp_path / "none.csv", ("name",))


def test_a_header_in_the_file_beside_one_in_the_recipe_is_refused(tmp_path):
    path = write(tmp_path, "rows.tsv", "sentence\tlabel\nfine\t0\n")
    with pytest.raises(UserError, match=r'line 1 is a header itself \("label" in the column "label"\); leave `header`'):
        read_columns(path, ("label", "text"), ("text", "label"))


@pytest.mark.parametrize("missing", ["", "nan", "None"])
def test_several_labels_from_columns_or_from_one(missing):
    wanted = [[1, 0], [1, 1], [0, 0]]
    assert label_flags([["1", "1", "0"], ["0", "1", "0"]], ("a", "b"), "rows").tolist() == wanted
    assert set_flags(label_sets(["a", "b; a ", missing], ";"), ("a", "b"), "rows").tolist() == wanted


def test_flags_that_are_none_and_unknown_labels_are_refused():
    with pytest.raises(UserError, match=r'rows: row 2 has "yes" in the column "b"; a label is 0 or 1'):
        label_flags([["1", "1"], ["0", "yes"]], ("a", "b"), "rows")
    with pytest.raises(UserError, match=r'rows: row 2: row 1 has the label "c", which no training row has: a, b'):
        set_flags([["a"], ["c"]], ("a", "b"), "rows")


def test_numbers_of_a_column():
    assert target_numbers(["3.5", "-1e2", "0"], "stars", "rows").tolist() == [3.5, -100.0, 0.0]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("", r'rows: row 2 has "" in the column "stars"; regression needs a number'),
        ("good", r'rows: row 2 has "good" in the column "stars"; regression needs a number'),
        ("3,5", r'rows: row 2 has "3,5" in the column "stars"'),
        ("nan", r'rows: row 2 has "nan" in the column "stars"; take the row out'),
        ("inf", r'rows: row 2 has "inf" in the column "stars"; take the row out'),
    ],
)
def test_what_is_no_number_is_refused(cell: str, said: str):
    with pytest.raises(UserError, match=said):
        target_numbers(["1", cell], "stars", "rows")


def test_quotes_of_a_tsv_are_those_of_the_module_csv(tmp_path):
    content = 'name\tage\n"a ""fine"" film"\t1\n"two\nlines"\t2\nthe "odd" one\t3\n'
    rows = list(csv.reader(io.StringIO(content), delimiter="\t"))
    found = read_columns(write(tmp_path, "rows.tsv", content), ("name", "age"))
    assert [list(pair) for pair in zip(found["name"], found["age"], strict=True)] == rows[1:]


def test_unpaired_quotes_of_a_tsv_mean_nothing(tmp_path):
    content = 'name\tage\n"why\t1\nhe said "no"\t2\nno"\t3\n'
    found = read_columns(write(tmp_path, "rows.tsv", content), ("name", "age"))
    assert found == {"name": ['"why', 'he said "no"', 'no"'], "age": ["1", "2", "3"]}


def test_text_is_composed_everywhere(tmp_path):
    decomposed, composed = (unicodedata.normalize(form, "é") for form in ("NFD", "NFC"))
    for name, content in (
        ("rows.csv", f"{decomposed}\n{decomposed}\n"),
        ("rows.json", json.dumps([{decomposed: decomposed}])),
    ):
        assert read_columns(write(tmp_path, name, content), (decomposed,)) == {decomposed: [composed]}


def parquet(tmp_path, columns):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet as files

    table = pyarrow.Table.from_arrays([pyarrow.array(values) for _, values in columns], [name for name, _ in columns])
    files.write_table(table, tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def test_bytes_are_decoded_and_nan_is_missing(tmp_path):
    path = parquet(tmp_path, [("name", ["ä".encode(), None]), ("size", [1.5, float("nan")])])
    assert read_columns(path, ("name", "size")) == {"name": ["ä", ""], "size": ["1.5", ""]}
    assert read_columns(write(tmp_path, "a.json", '[{"x": NaN}, {"x": 2}]'), ("x",)) == {"x": ["", "2"]}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([("x", [b"\xff\xfe"])], r'column "x" holds bytes that are no UTF-8'),
        ([("x", [[1, 2]])], r'column "x" holds lists or structs \(\[1, 2\]\); give one value a row'),
        ([("x", [{"a": 1}])], r'column "x" holds lists or structs'),
        ([("x", [1]), ("x", [2])], r'two columns are called "x"'),
    ],
)
def test_parquet_that_holds_no_cells_is_refused(columns, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_columns(parquet(tmp_path, columns), ("x",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"x": 1, "x": 2}]', "an object has a key twice: x, x"),
        ('{"x": [1]}', "holds lists or structs"),
        ('[{"x": {"y": 1}}]', "holds lists or structs"),
    ],
)
def test_json_that_holds_no_cells_is_refused(content, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_columns(write(tmp_path, "rows.json", content), ("x",))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "9", "-1", "2"], ("-1", "2", "9", "10")),
        (["2.0", "10.0", "1"], ("1", "2.0", "10.0")),
        (["b", "10", "9"], ("10", "9", "b")),
        (["good", "nan", "", "NaN", "None", "bad"], ("bad", "good")),
    ],
)
def test_classes_in_their_order_without_what_is_missing(names, expected):
    assert sorted_classes(names) == expected


@pytest.mark.parametrize("missing", ["", "nan", "NaN", "None"])
def test_a_missing_label_is_no_class(missing):
    with pytest.raises(UserError, match=r"here: row 2 has no label \(2 rows lack one\)"):
        label_numbers(["a", missing, missing], sorted_classes(["a", "b", missing]), "here")


def test_columns_parted_by_semicolons_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text;label\na, b;1\nc;2\n")
    with pytest.raises(UserError, match=r"a\.csv: its columns are parted by semicolons; save it with commas"):
        read_columns(tmp_path / "a.csv", ["text"])
