"""What is wrong in a recipe is said once for each value, whatever types it may have."""

import pytest
from pydantic import ValidationError

from distiq.recipe.problems import explain
from distiq.recipe.recipe import Recipe


def said_of(tree: dict[str, object]) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(tree)
    return explain("r.toml", caught.value)


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        ("loud", 'gain_db: input should be a valid number or a valid tuple, but found "loud"'),
        (float("inf"), "gain_db: input should be a finite number, but found Infinity"),
        (300.0, "gain_db: input should be less than or equal to 200, but found 300.0"),
        ((1.0,), "gain_db: give 2 values at least"),
        ((1.0, "x"), 'gain_db.1: input should be a valid number, but found "x"'),
        (-3.0, "gain_db = -3.0: give a number from 0 on, or the lowest gain and the highest"),
    ],
)
def test_a_value_of_several_types_is_refused_in_one_sentence(gain: object, said: str):
    (line,) = said_of({"views": {"audio": {"gain_db": gain}}})
    assert line.startswith("r.toml: views.audio")
    assert line.endswith(said)


def test_what_a_teacher_s_views_lack_is_said_as_of_any_views():
    assert said_of({"teacher": {"views": {"audio": {"nois": 1}}}}) == [
        'r.toml: teacher.views.audio.nois: unknown key; did you mean "noise"?'
    ]
    assert said_of({"teacher": {"views": {"crop": 2.0}}}) == [
        "r.toml: teacher.views.crop: input should be less than or equal to 1, but found 2.0"
    ]


def test_several_values_are_several_lines():
    lines = said_of({"data": {"validation": [], "image_size": "x"}, "seed": -1})
    assert sorted(line.split(": ")[1] for line in lines) == ["data.image_size", "data.validation", "seed"]
