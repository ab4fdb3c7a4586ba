"""A run writes into folders that distiq made, and replaces and sweeps the names that it gives there, no others."""

from pathlib import Path

import pytest

from distiq.errors import UserError
from distiq.progress import Silent
from distiq.run.ledger import CHECKPOINT, Ledger


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Somebody's own folder."""
    folder = tmp_path / "mine"
    for name in ("recipe.toml", "report.html", ".notes.abcdefgh.partial", "bundle/card.json", ".bundle.partial/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    return folder


def test_somebody_s_folder_is_refused_and_left_as_it_is(mine: Path, monkeypatch):
    before = everything(mine)
    monkeypatch.chdir(mine)
    for place in (Path("."), mine, Path("bundle/..")):
        with pytest.raises(UserError, match=r"holds files that are not of a distiq run .*with --run"), Ledger(place):
            pass
    assert everything(mine) == before


def test_a_file_is_no_run_folder(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(UserError, match="file: is a file, no folder; choose another with --run"),
        Ledger(tmp_path / "file"),
    ):
        pass
    assert (tmp_path / "file").read_text() == "mine"


def test_empty_and_own_folders_are_taken(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for _ in range(2):
        with Ledger(tmp_path / "empty") as ledger:
            ledger.records.mkdir(exist_ok=True)


def test_an_empty_mark_is_a_mark(mine: Path):
    (mine / ".distiq").write_text("")
    with Ledger(mine):
        pass


def test_what_a_killed_run_was_writing_is_swept(tmp_path: Path):
    with Ledger(tmp_path / "run") as ledger:
        partial = ledger.folder / "steps" / "student-0.partial"
    partial.mkdir(parents=True)
    (partial / CHECKPOINT).write_bytes(b"half")
    left = [".report.html.a1b2c3d4.partial", "records/.run.json.a1b2c3d4.partial", "cache/t/.view-0.a1b2c3_4.partial",
            f"steps/student-0.partial/.{CHECKPOINT}.a1b2c3d4.partial", ".bundle.partial/model.onnx"]  # fmt: skip
    others = [".mine.a1b2c3d4.partial", ".report.html.partial", "records/notes.partial", "mine/.x.a1b2c3d4.partial"]
    for name in (*left, *others):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_bytes(b"ha")
    with Ledger(tmp_path / "run"):
        assert (partial / CHECKPOINT).exists()
        assert [name for name in left if (tmp_path / "run" / name).exists()] == []
        assert [name for name in others if not (tmp_path / "run" / name).exists()] == []


def test_a_bundle_whose_replacement_was_cut_off_stands_again(tmp_path: Path):
    with Ledger(tmp_path / "run"):
        pass
    (tmp_path / "run" / ".bundle.old").mkdir()
    (tmp_path / "run" / ".bundle.old" / "card.json").write_text("old")
    with Ledger(tmp_path / "run"):
        assert (tmp_path / "run" / "bundle" / "card.json").read_text() == "old"


# Recipes --------------------------------------------------------------------------------------------------------------


def entered(folder: Path, recipe: Path | None, chosen: bool = False) -> None:
    with Ledger(folder, Silent(), recipe, chosen):
        pass


def recipe(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "r.toml").write_text("")
    return folder / "r.toml"


def test_another_recipe_of_the_same_name_is_refused(tmp_path: Path):
    first, second = recipe(tmp_path / "a"), recipe(tmp_path / "b")
    entered(tmp_path / "run", first)
    entered(tmp_path / "run", first)
    with pytest.raises(
        UserError, match=r"is the run folder of .*a/r\.toml, a recipe of the same name; .*--run .*run-2"
    ):
        entered(tmp_path / "run", second)
    entered(tmp_path / "run", second, chosen=True)
    entered(tmp_path / "run", first)


def test_a_recipe_that_was_moved_goes_on(tmp_path: Path):
    first = recipe(tmp_path / "a")
    entered(tmp_path / "run", first)
    second = first.rename(tmp_path / "moved.toml")
    entered(tmp_path / "run", second)
    with pytest.raises(UserError, match="moved"):
        entered(tmp_path / "run", recipe(tmp_path / "a"))


def test_the_run_s_own_copy_may_be_run(tmp_path: Path):
    entered(tmp_path / "run", recipe(tmp_path / "a"))
    entered(tmp_path / "run", recipe(tmp_path / "run"))


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_the_recipe_is_kept_and_renewed(tmp_path: Path):
    for text in ("a = 1", "a = 2"):
        with Ledger(tmp_path / "run") as ledger:
            ledger.keep_recipe(text)
        assert (tmp_path / "run" / "recipe.toml").read_text() == text


def test_the_given_recipe_is_never_overwritten(tmp_path: Path):
    with Ledger(tmp_path / "run") as ledger:
        ledger.keep_recipe("a = 1")
    own = tmp_path / "run" / "recipe.toml"
    with Ledger(tmp_path / "run", Silent(), own) as ledger:
        ledger.keep_recipe("a = 2")
    assert own.read_text() == "a = 1"


def test_an_edited_recipe_stays_and_that_is_said(tmp_path: Path):
    watch = Notes()
    with Ledger(tmp_path / "run", watch) as ledger:
        ledger.keep_recipe("a = 1")
        own = ledger.folder / "recipe.toml"
        own.write_text("a = 1  # mine")
        ledger.keep_recipe("a = 2")
    assert own.read_text() == "a = 1  # mine"
    assert "was edited: it stays" in watch.notes[0]
