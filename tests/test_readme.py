"""The README's Python runs as it stands, top to bottom."""

import re
from pathlib import Path

import pytest

from distiq.data.load import load
from distiq.models.build import build
from distiq.recipe.read import load_recipe

README = Path(__file__).parent.parent / "README.md"


def test_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    (tmp_path / "mine.py").write_text(blocks[0])
    text = '[data]\nsource = "mine.py:make_data"\n[student]\nmodel = "mine.py:make_network"\noptions = {width = 4}'
    (tmp_path / "mine.toml").write_text(text)
    recipe = load_recipe(tmp_path / "mine.toml")
    data = load(recipe.data, 0)
    assert (len(data.train), len(data.validation), len(data.calibration), len(data.test)) == (200, 50, 50, 100)
    assert build(recipe.student, len(data.classes), data.example, "student")(data.example).shape == (1, 2)
    names: dict = {}
    for block in blocks[1:]:
        exec(compile(block, str(README), "exec"), names)
    sentence, *_, accuracies = capsys.readouterr().out.strip().splitlines()
    assert sentence == names["run"].verdict.sentence
    assert len(accuracies.split()) == 3
    assert (tmp_path / "runs/mine/bundle/model.onnx").is_file()
    assert names["predict"](names["data"].normalize(names["data"].test.inputs)).shape == (100, 2)


def test_commands_are_those_of_the_makefile():
    makefile = README.with_name("Makefile").read_text(encoding="utf-8")
    for word in re.findall(r"make ([a-z-]+)", README.read_text(encoding="utf-8")):
        assert re.search(rf"^{word}:", makefile, re.MULTILINE), word
