"""Every source file has a test of its name, or a line in tests/README.md that names the suite that holds it."""

import re
from fnmatch import fnmatch
from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "distiq"
LINES = dict(re.findall(r"^\| `([\w/.*]+\.py|[\w/]+/\*)` \| `(.*?)` \|$", (TESTS / "README.md").read_text(), re.M))
SOURCES = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]


def has_its_test(source: Path) -> bool:
    return (TESTS / source.parent / f"test_{source.name}").is_file()


def test_every_source_file_has_a_suite():
    held = [source for source in SOURCES if any(fnmatch(source.as_posix(), line) for line in LINES)]
    without = [source.as_posix() for source in SOURCES if not has_its_test(source) and source not in held]
    assert not without, f"write a test of that name, or a line in tests/README.md: {', '.join(sorted(without))}"


def test_the_lines_name_what_there_is():
    assert len(LINES) > 20
    assert {suite for suite in LINES.values() if not (TESTS / suite).is_file()} == set()
    names = [source.as_posix() for source in SOURCES]
    assert {line for line in LINES if not any(fnmatch(name, line) for name in names)} == set()
