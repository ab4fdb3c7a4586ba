"""README and docs as documents: their size, their links, and what is generated in them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from distiq.cli.main import app
from tests.docs.code_blocks import PAGES, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
sys.path.insert(0, str(ROOT / "scripts"))


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150
    assert len(README.split()) <= 1200


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        place = (page.parent / file).resolve() if file else page
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), target


def test_the_readme_links_every_page_of_a_modality():
    for page in ("images", "audio", "text", "tables", "quickstart", "results", "devices"):
        assert f"(docs/{page}.md" in README


def test_generated_pages_are_current():
    import write_recipe_page as script

    command = "run: python scripts/write_recipe_page.py"
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), command
    assert script.RUNGS_PAGE.read_text(encoding="utf-8") == script.page_of_rungs(), command


def test_every_command_has_a_line():
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    group = typer.main.get_command(app)
    missing = [name for name in group.commands if f"`distiq {name}" not in page]  # type: ignore[attr-defined]
    assert missing == []


def test_the_skill_names_commands_and_options_that_are_there():
    text = (ROOT / "skills/distiq/SKILL.md").read_text(encoding="utf-8")
    group = typer.main.get_command(app)
    named = re.findall(r"`distiq (\w+)([^`]*)`", text)
    assert len(named) > 10
    for name, rest in named:
        options = {option for parameter in group.commands[name].params for option in parameter.opts}  # type: ignore[attr-defined]
        assert set(re.findall(r"--[\w-]+", rest)) <= options | {"--help"}, name


def test_every_room_has_a_line_in_the_architecture():
    page = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    names = {path.name for path in (ROOT / "distiq").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {name for name in names if f"  {name}/" not in page} == set()


def test_the_site_is_built_without_a_warning(tmp_path: Path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "site/recipes.html").is_file()
