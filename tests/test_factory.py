import pytest

from distiq.errors import UserError
from distiq.factory import call_factory

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Size:
    width: int

def sized(width, height=2):
    return Size(width).width * height

def _hidden(): ...
number = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def test_calls_the_function_with_the_options(file):
    assert call_factory(f"{file}:sized", {"width": 5}, "student.model") == 10
    assert call_factory(f"{file}:sized", {"width": 5, "height": 3}, "student.model") == 15


@pytest.mark.parametrize("name", ["size", "number", ""])
def test_an_unknown_function_names_those_that_are_there(file, name):
    with pytest.raises(UserError, match=rf'^student.model: .*mine.py has no function "{name}"; it has: sized$'):
        call_factory(f"{file}:{name}", {}, "student.model")


@pytest.mark.parametrize("options", [{}, {"width": 1, "depth": 2}])
def test_options_that_do_not_fit_are_refused(file, options):
    with pytest.raises(UserError, match=r"^student.model: .*:sized cannot be called with \["):
        call_factory(f"{file}:sized", options, "student.model")


def test_a_file_may_import_its_neighbour(tmp_path):
    (tmp_path / "beside_it_there.py").write_text("number = 3")
    (tmp_path / "imports.py").write_text("import beside_it_there\ndef f(): return beside_it_there.number")
    assert call_factory(f"{tmp_path}/imports.py:f", {}, "data.source") == 3


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"^data.source: no such file: .*none.py; correct the path"):
        call_factory(f"{tmp_path}/none.py:f", {}, "data.source")


@pytest.mark.parametrize("source", ["def broken(:", "import no_such_module_anywhere"])
def test_a_file_that_does_not_import_is_explained(tmp_path, source):
    (tmp_path / "bad.py").write_text(source)
    with pytest.raises(UserError, match=r"bad.py does not import: "):
        call_factory(f"{tmp_path}/bad.py:f", {}, "data.source")


def test_an_error_inside_the_function_is_not_hidden(tmp_path):
    (tmp_path / "f.py").write_text("def f(): raise ZeroDivisionError('mine')")
    with pytest.raises(ZeroDivisionError, match="mine"):
        call_factory(f"{tmp_path}/f.py:f", {}, "data.source")


def test_a_file_that_is_no_python_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="is not a Python file"):
        call_factory(f"{tmp_path}/notes.txt:f", {}, "data.source")
