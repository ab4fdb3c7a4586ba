"""Accelerators: what their compilers take, a data file each; names of operators are those of ATen."""

import functools
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import Field

from distiq.recipe.part import Part

FOLDER = Path(__file__).parent.parent / "targets"
TargetName = Literal["", "ethos-u", "qnn", "coreml", "rknn"]


class Target(Part):
    """What an accelerator computes in integers.

    Attributes:
        runtimes: whose files its compiler takes; empty: none of distiq's, whose files are stand-ins.
        symmetric_activations: values on both sides of zero have a zero point of 0.
        per_channel: layers whose weights may have a scale for each output channel.
        calibration: samples that ranges should be read from, at least.
        compiler: what distiq runs on the delivered file; empty: nothing.
        operators: that it computes; views of a tensor and constants are left out of them.
    """

    title: str
    runtimes: list[str]
    weight_bits: list[int]
    activation_bits: list[int]
    integer_io: bool
    symmetric_activations: bool
    per_channel: list[str]
    calibration: int = Field(ge=1)
    compiler: Literal["", "vela"]
    operators: list[str]


@functools.cache
def target(name: TargetName) -> Target | None:
    """The profile of an accelerator; None where a recipe names none."""
    if not name:
        return None
    return Target.model_validate(tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8")))
