import tomllib
from pathlib import Path
from typing import Any

import pytest

from distiq.recipe.idle import SOURCES, idle_keys, set_keys
from distiq.recipe.read import parse_recipe
from distiq.recipe.recipe import Recipe
from distiq.recipe.shipped import FOLDER

MODALITIES = {
    "adult": "table", "ag_news": "text", "digit_strings": "audio", "keyword_board": "audio", "spoken_digits": "audio",
    "sst2": "text", "stsb": "text", "wnut17": "text",
}  # fmt: skip


def said(tree: dict[str, Any], modality: str = "image") -> list[str]:
    return idle_keys(parse_recipe(tree), modality)


@pytest.mark.parametrize(
    ("tree", "key", "why"),
    [
        ({"data": {"source": "transcripts", "folder": "x", "transcripts": {"synthetic": 9}}},
         "data.transcripts.synthetic", '"digit_strings"'),
        ({"data": {"source": "boxes", "folder": "x", "void": 11}}, "data.void", '"masks"'),
        ({"data": {"source": "spoken_digits", "audio": {"manifest": "a.csv"}}}, "data.audio.manifest", '"audio"'),
        ({"data": {"source": "pairs", "folder": "x", "unlabelled": "y"}}, "data.unlabelled", "does not read it"),
        ({"data": {"source": "own.py:f", "calibration": 9}}, "data.calibration", "own.py:f"),
        ({"data": {"hub": {"subset": "x"}}}, "data.hub.subset", "data.hub.name"),
        ({"views": {"audio": {"noise": 0.5}}}, "views.audio.noise", "kind audio"),
        ({"teacher": {"views": {"text": {"mask": 0.5}}}}, "teacher.views.text", "kind text"),
        ({"distil": {"teacher": "none", "temperature": 2.0}}, "distil.temperature", 'distil.teacher = "none"'),
        ({"data": {"unlabelled": "x"}, "distil": {"kd_weight": 0.0}}, "data.unlabelled", "from a teacher"),
        ({"data": {"unlabelled": "x"}, "distil": {"teacher": "none"}}, "data.unlabelled", "from a teacher"),
        ({"distil": {"cache": {"top_k": 3}}}, "distil.cache.top_k", "top_k"),
        ({"distil": {"teacher": "live", "cache": {"storage": "quantized"}}}, "distil.cache.storage", "stores nothing"),
        ({"student": {"training": {"optimizer": "adamw", "momentum": 0.5}}}, "student.training.momentum", "sgd"),
        ({"teacher": {"weights": "a.pth", "training": {"epochs": 3}}}, "teacher.training.epochs", "taken as it is"),
        ({"evaluation": {"false_accepts": 0.5}}, "evaluation.false_accepts", "evaluation.keyword"),
    ],
)  # fmt: skip
def test_a_key_without_effect_is_said_with_its_reason(tree, key, why):
    (sentence,) = said(tree)
    assert sentence.startswith(f"warning: {key} has no effect: ") and why in sentence


def test_keys_of_one_reason_are_one_sentence():
    tree = {"distil": {"teacher": "none", "kd_weight": 0.5, "cache": {"top_k": 3}}}
    assert [one.partition(" have")[0] for one in said(tree)] == ["warning: distil.kd_weight, distil.cache.top_k"]


def test_keys_with_an_effect_and_defaults_are_not_said():
    assert said({}) == [] == said({"data": {"void": 255, "audio": {"rate": 16000}}})
    assert said({"data": {"source": "digit_strings", "transcripts": {"synthetic": 9}}}, "audio") == []
    assert said({"data": {"source": "masks", "folder": "x", "void": 11}, "views": {"crop": 0.5}}) == []
    assert said({"teacher": {"weights": "a.pth", "finetune": True, "training": {"epochs": 3}}}) == []


def test_data_that_are_handed_in_are_not_the_recipes():
    (sentence,) = idle_keys(parse_recipe({"data": {"void": 3}}), "image", given=True)
    assert "handed in" in sentence


def test_every_listed_key_is_one_of_a_recipe():
    for key in SOURCES:
        part: Any = Recipe().data
        for step in key.split("."):
            part = getattr(part, step)


def test_set_keys_are_those_that_differ_from_their_defaults():
    assert list(set_keys(parse_recipe({"seed": 0, "data": {"train": 5, "audio": {"rate": 16000}}}))) == ["data.train"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_set_no_key_without_effect(path: Path):
    tree = tomllib.loads(path.read_text(encoding="utf-8"))
    assert said(tree, MODALITIES.get(path.stem, "image")) == []
