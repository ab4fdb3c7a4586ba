"""The code blocks of README and docs, and how each kind of them is run."""

import contextlib
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import typer
from typer.testing import CliRunner

from distiq.cli.main import app
from distiq.recipe.read import parse_recipe
from distiq.recipe.shipped import shipped_recipes

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
SHOWN_ONLY = {"text", "json", "yaml", "cpp", "kotlin", "swift", "js"}  # C++ and JavaScript have tests of their own
SMALL = {  # what `distiq run` and `distiq quantize` of a page are given on top, so that they take seconds
    "run": (
        "--plain", "--set", "teacher.training.epochs=1", "--set", "student.training.epochs=1",
        "--set", "teacher.training.precision=float32", "--set", "student.training.precision=float32",
        "--set", "measure.rounds=1", "--set", "measure.seconds=0.005", "--set", 'quantize.rungs=["static"]',
    ),
    "bench": ("--plain", "--rounds", "1", "--seconds", "0.01"),
}  # fmt: skip
FOREIGN = {"scp", "cd", "cp", "apt-get", "jq"}  # words of a shell that are no command of this project


class Block(NamedTuple):
    """A fenced block: its language, the file that its title names, and its text."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    fences = re.findall(r'^```(\w*)(?: title="(.*?)")?\n(.*?)^```', page.read_text(encoding="utf-8"), re.M | re.S)
    return [Block(*fence) for fence in fences]


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a shell block; a pipe is kept as the word |."""
    lines = block.text.replace("\\\n", "").splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    return [words for words in split if words]


def check_command(words: list[str]) -> None:
    """Refuses a command that distiq, the Makefile, pyproject.toml or a script does not know."""
    if {"|", ">"} & set(words):
        check_command(part_of_distiq(words))
    elif words[:4] == ["accelerate", "launch", "-m", "distiq"]:
        check_command(words[3:])
    elif words[0] == "distiq":
        group: Any = typer.main.get_command(app)
        group.commands[words[1]].make_context(words[1], words[2:])
    elif words[0] == "make":
        places = ROOT / "Makefile", ROOT / "distiq/runtimes/c99_board/Makefile"  # the project's, and that of a bundle
        assert any(re.search(rf"^{words[1]}:", place.read_text(), re.M) for place in places), words
    elif words[0] == "pip":
        _check_pip(words)
    elif words[:2] == ["python", "run.py"]:
        runner = (ROOT / "distiq/device/run.py").read_text()
        assert all(f'"{word}"' in runner for word in words if word.startswith("--")), words
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]), words
    elif words[0] == "python":
        script = (ROOT / words[1]).read_text()
        assert all(f'"{word}"' in script for word in words if word.startswith("--")), words
    else:
        assert words[0] in FOREIGN, f"{words[0]}: a block of the docs calls what no test knows"


def part_of_distiq(words: list[str]) -> list[str]:
    """The command of a line with a pipe or a redirection, such as "arecord ... | distiq ..." or "distiq ... > FILE"."""
    line = words[: words.index(">")] if ">" in words else words
    if "|" not in line:
        return line
    left, right = line[: line.index("|")], line[line.index("|") + 1 :]
    return left if left[0] == "distiq" else right


def _check_pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words[2:]:
        for extra in re.findall(r"\[(.*)\]", word):
            assert set(extra.split(",")) <= set(extras), words
    assert words[1] in ("install", "wheel")


class Sandbox:
    """A folder in which a page's blocks are run, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = self.place = folder
        self.names: dict[str, Any] = {}

    def run(self, block: Block) -> None:
        if block.title:
            (self.folder / block.title).write_text(block.text)
        elif block.language == "toml":
            parse_recipe(tomllib.loads(block.text))
        elif block.language == "python":
            exec(compile(block.text, "a block of the docs", "exec"), self.names)
        elif block.language == "bash":
            for words in commands(block):
                self.command(words)

    def command(self, words: list[str]) -> None:
        check_command(words)
        sound = b""
        target = words[words.index(">") + 1] if ">" in words else ""
        if "|" in words and words[0] != "distiq":
            sound = bytes(2 * 8000)
        words = part_of_distiq(words)
        if words[0] == "cd":
            self.place = self.folder / "runs/fashion_mnist" / words[1]
        elif words[:2] == ["python", "run.py"]:
            arguments = [
                sys.executable,
                *(word.replace("shoe.png", str(self.folder / "shoe.png")) for word in words[1:]),
            ]
            subprocess.run(arguments, cwd=self.place, check=True, capture_output=True, timeout=120)
        elif words[0] == "distiq" and not self._is_long(words):
            with contextlib.chdir(self.folder):
                result = CliRunner().invoke(app, [*words[1:], *SMALL.get(words[1], ())], input=sound or None)
            allowed = (0, 3) if words[1] == "run" else (0,)  # one epoch need not meet a budget
            assert result.exit_code in allowed, f"{shlex.join(words)}\n{result.output}\n{result.exception!r}"
            if target:
                (self.folder / target).write_text(result.stdout)

    def _is_long(self, words: list[str]) -> bool:
        """A shipped recipe on its own data, or what reads its run: tests/test_installed.py runs one."""
        if words[1] in ("run", "ablate"):
            return not (self.folder / words[2]).is_file()
        runs = [Path(word).parts[1] for word in words if word.startswith("runs/")]
        return any(name in shipped_recipes() and not (self.folder / "runs" / name).is_dir() for name in runs)
