"""Profiles of accelerators: each is read whole, and names runtimes and operators that there are."""

from typing import get_args

import pytest
import torch

from distiq.errors import UserError
from distiq.recipe.read import parse_recipe
from distiq.recipe.target import TargetName, target
from distiq.runtimes.export import runtime_named

NAMES = [name for name in get_args(TargetName) if name]


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_names_what_there_is(name: TargetName):
    profile = target(name)
    assert profile is not None
    assert all(runtime_named(one).name == one for one in profile.runtimes)
    assert profile.operators == sorted(set(profile.operators))
    assert all(hasattr(torch.ops.aten, one) for one in profile.operators)
    assert set(profile.per_channel) <= set(profile.operators)


def test_a_recipe_names_no_accelerator_by_default():
    assert target(parse_recipe({}).quantize.target) is None


def test_an_unknown_accelerator_is_refused():
    with pytest.raises(UserError, match=r"quantize\.target.*ethos-u"):
        parse_recipe({"quantize": {"target": "tpu"}})
