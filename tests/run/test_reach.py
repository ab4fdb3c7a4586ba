"""What code is reached: what it does counts, what it says does not."""

from pathlib import Path

import pytest

from distiq.run.reach import code_key, reach, whole

FILES = {
    "start.py": '''
"""Says what it is."""
from pkg import inner
from pkg.other import LIMIT, unused  # a comment
import pkg.side

def begin(x):
    """Does it."""
    return helper(x) + inner.used(x)

def helper(x):
    from pkg.late import later
    return later(x, LIMIT)

def apart(x):
    return x
''',
    "pkg/__init__.py": "",
    "pkg/inner.py": "def used(x): return x\n\ndef idle(x): return x\n",
    "pkg/other.py": "LIMIT = 3\n\ndef unused(): return 1\n",
    "pkg/late.py": "from pkg.deep import deeper as later\n",
    "pkg/deep.py": "SCALE: float = 2.0\n\ndef deeper(x, y): return x * y * SCALE\n",
    "pkg/side.py": "VALUE = 1\n",
    "pkg/table.py": "from pkg.inner import used\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def key(folder: Path) -> str:
    return code_key([(folder / "start.py", "begin")], (folder,))


def edit(folder: Path, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("start.py", "# a comment", "# another"),
        ("start.py", '"""Does it."""', '"""Does it well."""'),
        ("start.py", '"""Says what it is."""', ""),
        ("start.py", "def apart(x):\n    return x", "def apart(x):\n    return 2 * x"),
        ("pkg/inner.py", "def idle(x): return x", "def idle(x): return 5"),
        ("pkg/other.py", "def unused(): return 1", "def unused(): return 2"),
        ("pkg/side.py", "VALUE = 1", "VALUE = 2"),
    ],
)
def test_what_decides_nothing_changes_no_key(folder: Path, name: str, old: str, new: str):
    before = key(folder)
    edit(folder, name, old, new)
    assert key(folder) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("start.py", "helper(x) +", "helper(x) -"),
        ("pkg/inner.py", "def used(x): return x", "def used(x): return -x"),
        ("pkg/other.py", "LIMIT = 3", "LIMIT = 4"),
        ("pkg/deep.py", "x * y * SCALE", "x + y * SCALE"),
        ("pkg/deep.py", "SCALE: float = 2.0", "SCALE: float = 3.0"),
        ("pkg/deep.py", "SCALE: float = 2.0", "SCALE: float = 2.0\nprint(SCALE)"),
    ],
)
def test_what_decides_changes_the_key(folder: Path, name: str, old: str, new: str):
    before = key(folder)
    edit(folder, name, old, new)
    assert key(folder) != before


def test_a_module_that_is_handed_on_is_reached_whole(folder: Path):
    (folder / "start.py").write_text("from pkg import table\ndef begin(x): return getattr(table, x)\n")
    names = {name for file, name in reach([(folder / "start.py", "begin")], (folder,)) if file.name == "inner.py"}
    assert "used" in names and "idle" not in names


def test_relative_imports_are_followed(folder: Path):
    (folder / "pkg" / "near.py").write_text("from .deep import SCALE\nfrom . import side\nBOTH = SCALE + side.VALUE\n")
    files = {file.name for file, _ in reach(whole(folder / "pkg" / "near.py"), (folder,))}
    assert files == {"near.py", "deep.py", "side.py"}


def test_what_is_installed_is_not_followed(folder: Path):
    (folder / "start.py").write_text("import torch\ndef begin(x): return torch.relu(x)\n")
    assert {file.name for file, _ in reach([(folder / "start.py", "begin")], (folder,))} == {"start.py"}
