"""The README's Python runs as it stands, top to bottom."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def test_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
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
