"""The door for assistants: its folder is a wall; a real client of the package mcp goes through it."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from distiq.commands.mcp import Door
from distiq.errors import UserError
from distiq.records.run import RunRecord

from ..report.conftest import run_record

RECIPE = '[data]\nsource = "folder"\nfolder = "{folder}"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a run's records and recipes; a secret lies beside it."""
    place = tmp_path / "work"
    run_record(rungs=("static",)).save(place / "runs" / "one" / "records" / "run.json")
    (tmp_path / "secret" / "train").mkdir(parents=True)
    (tmp_path / "secret" / "w.safetensors").write_bytes(b"")
    (place / "out.toml").write_text(RECIPE.format(folder=tmp_path / "secret"))
    (place / "code.toml").write_text('[data]\nsource = "own.py:data"\n')
    (place / "own.py").write_text("def data():\n    raise SystemExit('it was run')\n")
    (place / "link").symlink_to(tmp_path / "secret")
    return place


@pytest.mark.parametrize("path", ["..", "../secret", "/etc", "link/train", "runs/../../secret"])
def test_no_path_leads_out(path: str, folder: Path):
    door = Door(folder)
    calls = [lambda: door.show(path), lambda: door.diagnose(path), lambda: door.bench([path]),
             lambda: door.quantize("model.onnx", path), lambda: door.quantize(path, "data"),
             lambda: door.predict(path, ["x"]), lambda: door.run("fashion_mnist", run=path),
             lambda: door.run(path)]  # fmt: skip
    for call in calls:
        with pytest.raises(UserError, match="lies outside of"):
            call()


def test_a_recipe_names_nothing_outside_and_no_code(folder: Path):
    with pytest.raises(UserError, match="lies outside of"):
        Door(folder).run("out.toml")
    with pytest.raises(UserError, match="lies outside of"):
        Door(folder).run("fashion_mnist", [f'student.weights="{folder.parent}/secret/w.safetensors"'])
    with pytest.raises(UserError, match=r"runs code .*--trust"):
        Door(folder).run("code.toml")


def test_what_is_shown_is_the_record_without_pictures(folder: Path):
    shown = Door(folder).show("runs/one")
    run = RunRecord.load(folder / "runs" / "one" / "records" / "run.json")
    assert shown["verdict"]["sentence"] == run.verdict.sentence and "flips" not in shown


def call_all(folder: Path) -> dict[str, Any]:
    """What a client sees: the tools, a run's record, a refusal."""
    import anyio
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    async def talk() -> dict[str, Any]:
        server = StdioServerParameters(
            command=sys.executable,
            args=["-m", "distiq", "mcp", str(folder)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        async with stdio_client(server) as streams, ClientSession(*streams) as session:
            await session.initialize()
            return {
                "tools": await session.list_tools(),
                "shown": await session.call_tool("show", {"run": "runs/one"}),
                "refused": await session.call_tool("show", {"run": "../secret"}),
            }

    return anyio.run(talk)


@pytest.mark.slow
def test_a_client_of_the_package_goes_through_the_door(folder: Path):
    pytest.importorskip("mcp")
    seen = call_all(folder)
    tools = {tool.name: tool for tool in seen["tools"].tools}
    assert set(tools) == {"run", "show", "quantize", "bench", "diagnose", "predict"}
    assert set(tools["predict"].inputSchema["required"]) == {"bundle", "samples"}
    assert seen["shown"].structuredContent["verdict"]["met"] in (True, False)
    assert seen["refused"].isError and "lies outside of" in seen["refused"].content[0].text


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no such folder"):
        Door(tmp_path / "none")
