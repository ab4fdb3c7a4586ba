"""The rungs: one value each, read by ladder, recipe and documentation alike."""

import ast
from pathlib import Path
from typing import get_args

import pytest

import distiq
from distiq.errors import UserError
from distiq.quantization.scheme import RangeMethod
from distiq.recipe.quantize import Mode
from distiq.recipe.read import parse_recipe
from distiq.run.rungs import RUNGS, rung_named, rungs_of, table, training_rung

PACKAGE = Path(distiq.__file__).parent
ORT = ("onnxruntime",)


def climbed(integer_io: bool = False, **settings: object) -> list[str]:
    return [rung.name for rung in rungs_of(parse_recipe({"quantize": settings}).quantize, integer_io, ORT)]


@pytest.mark.parametrize(
    ("mode", "rungs"),
    [
        (
            "static",
            [
                "rounding",
                "minmax",
                "percentile",
                "equalize",
                "float_layers",
                "mixed",
                "qat",
                "float16",
                "integer_weights",
            ],
        ),
        ("dynamic", ["dynamic", "rounding", "qat", "float16", "integer_weights"]),
        ("weight_only", ["weight_only", "rounding", "qat", "float16"]),
        ("float16", ["float16"]),
    ],
)
def test_a_mode_has_rungs_of_its_own(mode: str, rungs: list[str]):
    assert climbed(mode=mode) == rungs


def test_the_recipe_s_own_are_climbed_in_its_order():
    assert climbed(rungs=["qat", "reconstruct", "static"]) == ["qat", "reconstruct", "static"]
    assert climbed(mode="dynamic", rungs=["dynamic", "qat"]) == ["dynamic", "qat"]


def test_what_a_scheme_has_already_is_left_out():
    assert "mixed" not in climbed(weight_bits=4)
    assert "float_layers" not in climbed(integer_io=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rungs": ["static", "minmaks"]}, 'quantize.rungs: "minmaks" is no rung; did you mean "minmax"?'),
        ({"rungs": ["gptq"]}, r'"gptq" is no rung; the rungs: static, dynamic, weight_only, rounding, '),
        ({"mode": "dynamic", "rungs": ["minmax"]}, 'names "minmax", which mode = "dynamic" has not; it has dynamic, '),
        ({"rungs": ["dynamic"]}, 'names "dynamic", which mode = "static" has not'),
    ],
)
def test_a_rung_that_cannot_be_climbed_is_refused(settings: dict, message: str):
    with pytest.raises(UserError) as refused:
        climbed(**settings)
    assert message in str(refused.value)


def test_float32_s_arithmetic_is_climbed_by_default_where_every_runtime_has_it():
    settings = parse_recipe({}).quantize
    climbed_in = {
        name: [rung.name for rung in rungs_of(settings, False, ("onnxruntime", name))] for name in ("litert", "c99")
    }
    assert climbed_in["litert"][-1] == "float16", "LiteRT has no integer weights without integer activations"
    assert climbed_in["c99"][-1] == "qat"
    assert not {"float16", "integer_weights"} & {*climbed(target="qnn"), *climbed(integer_io=True)}


@pytest.mark.parametrize(
    ("rungs", "integer_io", "runtimes", "message"),
    [
        (["float16"], False, ["c99"], "distiq writes no files of c99 with float16 weights; nearest: "),
        (["static", "float16"], True, ["litert"], "whose files compute in float32, but export.integer_io = true"),
        (["float16", "qat"], False, ["onnxruntime"], '"float16" gives nothing that "qat" could start from'),
        (
            ["integer_weights", "float16", "qat"],
            False,
            ["onnxruntime"],
            '"float16" gives nothing that "qat" could start from',
        ),
        (["static", "integer_weights"], True, ["onnxruntime"], '"integer_weights", whose files compute in float32'),
    ],
)
def test_float16_that_cannot_be_is_refused(rungs: list[str], integer_io: bool, runtimes: list[str], message: str):
    with pytest.raises(UserError) as refused:
        rungs_of(parse_recipe({"quantize": {"rungs": rungs}}).quantize, integer_io, runtimes)
    assert message in str(refused.value)


def test_names_differ_and_one_rung_trains():
    assert len({rung.name for rung in RUNGS}) == len(RUNGS)
    assert [rung.name for rung in RUNGS if rung.trains] == [training_rung()]
    assert rung_named("mixed").narrows


# Names of modes, ways to find ranges and settings of a scheme are rungs' names, too.
SHARED = {*get_args(Mode), *get_args(RangeMethod), "rounding"}


def test_no_other_file_names_a_rung():
    names = {rung.name for rung in RUNGS} - SHARED
    naming = {
        f"{file.relative_to(PACKAGE)}: {node.value}"
        for file in PACKAGE.rglob("*.py")
        if file != PACKAGE / "run" / "rungs.py"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert naming == set()


def test_the_page_of_quantization_holds_the_table():
    page = PACKAGE.parent / "docs" / "quantization.md"
    assert table() in page.read_text(encoding="utf-8"), "run: python scripts/write_recipe_page.py"
