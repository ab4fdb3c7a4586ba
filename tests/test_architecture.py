"""Holds the arrows of docs/ARCHITECTURE.md: which room may import which."""

import ast
import functools
import graphlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import distiq

PACKAGE = Path(distiq.__file__).parent
SIDE_BY_SIDE = {"distillation", "quantization", "runtimes", "evaluation"}
UPPER = {"training", "run", "commands", "timing", "bundle", "report", "cli", "__main__", "tasks"} | SIDE_BY_SIDE
HOMES = {
    "onnx": ("runtimes/onnx_", "runtimes/uint8_input", "models/onnx_", "models/from_onnx", "commands/calibrate_graph",
             "commands/quantize_graph"),
    "onnxruntime": ("runtimes/onnx_runtime", "runtimes/onnx_session"),
    "onnxscript": ("runtimes/onnx_export",),
    "openvino": ("runtimes/openvino",),
    **dict.fromkeys(("ai_edge_litert", "litert_torch"), ("runtimes/litert", "runtimes/tflm")),
    "tflite_micro": ("runtimes/tflm",),
    "executorch": ("runtimes/executorch",),
}  # fmt: skip
"""What the paths of the files that may touch a package begin with."""
HEAVY = {"torch", "torchao", "accelerate", "matplotlib", "transformers", "PIL", "datasets", "pyarrow", *HOMES}


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(source: str) -> set[str]:
    """Rooms of distiq that a file imports, at its top or inside a function."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            # `from distiq import progress` names the room after the import.
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("distiq.")}


@functools.cache
def arrows() -> dict[str, set[str]]:
    """Room -> the other rooms that it imports."""
    found: dict[str, set[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        room = room_of(file)
        found.setdefault(room, set()).update(imported_rooms(file.read_text(encoding="utf-8")) - {room})
    return found


def test_the_reader_of_imports_sees_them_all():
    source = (
        "import distiq.data.load\nfrom distiq import progress\ndef f():\n    from distiq.report.show import show\n"
        "import torch\nfrom pathlib import Path"
    )
    assert imported_rooms(source) == {"data", "progress", "report"}


def test_rooms_import_no_one_another_in_a_circle():
    assert "cli" in graphlib.TopologicalSorter(arrows()).static_order()


def test_the_four_rooms_stand_side_by_side():
    graph = arrows()
    assert {room: graph[room] & SIDE_BY_SIDE for room in SIDE_BY_SIDE} == {room: set() for room in SIDE_BY_SIDE}


@pytest.mark.parametrize(
    ("room", "allowed"),
    [
        ("report", {"records", "files", "errors"}),
        ("records", {"files", "errors"}),
        ("files", {"errors"}),
        ("errors", set()),
        ("numerics", set()),
        ("recipe", {"errors"}),
        ("progress", set()),
        ("device", set()),
    ],
)
def test_a_room_imports_only(room, allowed):
    assert arrows()[room] <= allowed


COMMANDS = {"commands", "cli", "__main__"}
STAGES = COMMANDS | {"run"}


@pytest.mark.parametrize(
    ("room", "above"),
    [
        ("run", COMMANDS),
        *((room, STAGES) for room in ("bundle", "timing", "report")),
        *((room, STAGES | {"bundle", "timing", "report"}) for room in sorted(SIDE_BY_SIDE)),
        ("training", STAGES | {"bundle", "timing", "report"} | SIDE_BY_SIDE),
        ("tasks", STAGES | {"bundle", "timing", "report", "training"} | SIDE_BY_SIDE),
    ],
)
def test_a_room_imports_nothing_above_it(room: str, above: set[str]):
    assert not arrows()[room] & above


@pytest.mark.parametrize("room", ["data", "models"])
def test_the_lower_rooms_import_nothing_above(room):
    other = {"data": "models", "models": "data"}[room]
    assert not arrows()[room] & (UPPER | {other})


def test_a_runtime_is_touched_by_its_own_file_alone():
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for homes in (HOMES[top] for top in {module.split(".")[0] for module in modules} & HOMES.keys()):
                assert file.relative_to(PACKAGE).as_posix().startswith(("device/run.py", *homes)), file


def test_records_and_settings_are_built_whole():
    # `model_copy(update=...)` does not check what it writes.
    assert [file for file in PACKAGE.rglob("*.py") if "model_copy" in file.read_text(encoding="utf-8")] == []


OF_LABELS = re.compile(r"multi_label\b|\.regression\b|labels\.ndim|labels\.is_floating_point")


def test_the_form_of_labels_is_asked_by_tasks_alone():
    asking = {file.relative_to(PACKAGE) for file in PACKAGE.rglob("*.py") if OF_LABELS.search(file.read_text("utf-8"))}
    assert {path for path in asking if path.parts[0] != "tasks"} <= {
        Path("data/labels.py"),
        Path("distillation/losses.py"),
    }


NAMED_RUNTIME = re.compile(r"onnxruntime|openvino|litert(?!-torch)|executorch|inductor|c99")
MAY_NAME_RUNTIMES = {"recipe/measure.py": "a default and descriptions", "device/run.py": "it stands alone"}


def test_a_runtime_is_named_in_its_own_file_alone():
    for file in PACKAGE.rglob("*.py"):
        place = file.relative_to(PACKAGE).as_posix()
        if not place.startswith("runtimes/") and place not in MAY_NAME_RUNTIMES:
            assert not NAMED_RUNTIME.findall(file.read_text(encoding="utf-8")), place


def test_folders_have_empty_init_files():
    for init in PACKAGE.glob("*/__init__.py"):
        assert init.read_text() == "", init


@pytest.mark.parametrize("name", distiq.__all__)
def test_every_public_name_is_there(name):
    assert getattr(distiq, name).__name__ == name
    assert name in dir(distiq)


def test_no_public_name_is_that_of_a_file():
    # Python would put the file in the function's place once it is imported.
    files = {path.stem for path in PACKAGE.glob("*.py")} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert not files & set(distiq.__all__)


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'distill'"):
        _ = distiq.distill


def loaded_by(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `code`."""
    tail = "\nimport json, sys\nprint('\\n' + json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    result = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_importing_distiq_is_quick():
    assert not loaded_by("import distiq") & (HEAVY | {"numpy", "pydantic", "typer"})


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["init", "/dev/null"]])
def test_the_command_line_loads_no_runtime_before_it_works(arguments):
    code = f"""
import runpy, sys
sys.argv = ["distiq", *{arguments!r}]
try:
    runpy.run_module("distiq", run_name="__main__")
except SystemExit:
    pass
"""
    loaded = loaded_by(code)
    assert "typer" in loaded
    assert not loaded & HEAVY
