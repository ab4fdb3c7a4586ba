"""The accelerator of `quantize.target`: what it lacks is refused, what its compiler says about the file is recorded."""

from collections import Counter
from pathlib import Path

import torch
from torch import fx

from distiq.errors import UserError
from distiq.quantization.annotate import is_within
from distiq.quantization.operations import MOVING, WEIGHTED
from distiq.recipe.recipe import Recipe
from distiq.recipe.target import Target, target
from distiq.records.accelerator import AcceleratorRecord
from distiq.records.trials import FLOAT32, TrialRecord
from distiq.runtimes.vela import estimate, lacks_vela

VIEWS = {one.overloadpacket.__name__ for one in MOVING} - {"max_pool2d", "max_pool1d", "amax", "pad", "constant_pad_nd",
         "slice", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "flip", "upsample_nearest2d"}  # fmt: skip
FREE = VIEWS | {"dropout", "detach", "alias", "expand", "sym_size", "unflatten", "clone", "_assert_tensor_metadata"}
"""Views of a tensor, and operators that inference does not need."""
MOST_NAMED = 5


def check_target(recipe: Recipe) -> None:
    """Raises UserError where the accelerator does not support the settings."""
    quantize, profile = recipe.quantize, target(recipe.quantize.target)
    if profile is None:
        return
    where = f'quantize.target = "{quantize.target}"'
    if quantize.mode != "static":
        raise UserError(f'{where} computes integers alone, but mode = "{quantize.mode}"; take mode = "static"')
    for key, able in (("weight_bits", profile.weight_bits), ("activation_bits", profile.activation_bits)):
        if getattr(quantize, key) not in able:
            takes = " or ".join(map(str, able))
            raise UserError(f"{where} takes {key} = {takes}, not {getattr(quantize, key)}")
    if profile.runtimes and (others := [one for one in recipe.measure.runtimes if one not in profile.runtimes]):
        files = ", ".join(f'"{one}"' for one in profile.runtimes)
        raise UserError(f'{where} takes files of {files}; measure.runtimes names "{others[0]}": leave it out')
    if profile.integer_io and not recipe.export.integer_io:
        raise UserError(f"{where} takes integers from input to output; set export.integer_io = true")
    if recipe.data.calibration < profile.calibration:
        raise UserError(
            f"{where} wants {profile.calibration} calibration samples or more, data.calibration ="
            f" {recipe.data.calibration}; raise it"
        )
    if profile.compiler == "vela" and (why := lacks_vela()):
        raise UserError(why)


def check_target_operators(recipe: Recipe, graph: fx.GraphModule) -> None:
    """Raises UserError where a network uses an operator that the accelerator lacks.

    Args:
        graph: of the student, as `export_graph` gives it.
    """
    profile = target(recipe.quantize.target)
    if profile is None:
        return
    kept = recipe.quantize.float_modules or ()
    lacking = Counter(
        name for node in graph.graph.nodes if (name := _lacks(profile, node)) and not is_within(node, kept)
    )
    if lacking:
        named = ", ".join(f"{name} ({count})" for name, count in lacking.most_common(MOST_NAMED))
        raise UserError(
            f'quantize.target = "{recipe.quantize.target}": {profile.title} lacks {named}, which the student uses;'
            " replace that, keep its module on the processor with quantize.float_modules, or leave target out"
        )


def _lacks(profile: Target, node: fx.Node) -> str:
    """The operator of a node where the accelerator lacks it; empty where it has it, or the node computes nothing."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return ""
    name = node.target.overloadpacket.__name__
    if name in FREE or name in profile.operators:
        in_scales = node.target not in WEIGHTED or name in profile.per_channel
        return "" if in_scales else f"scales for each channel of {name}"
    return name


def estimate_of(recipe: Recipe, delivered: TrialRecord, path: Path) -> AcceleratorRecord | None:
    """What the accelerator's compiler predicts for the delivered file; None without such a compiler, or for float32."""
    profile = target(recipe.quantize.target)
    if profile is None or profile.compiler != "vela" or delivered.rung == FLOAT32:
        return None
    return estimate(path)
