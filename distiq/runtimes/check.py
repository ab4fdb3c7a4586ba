"""check_runtimes(): refuses, before any work, what the runtimes of a recipe cannot do."""

from collections.abc import Sequence

from distiq.errors import UserError
from distiq.recipe.recipe import Recipe
from distiq.runtimes.export import RUNTIMES, refusal, require, runtime_named
from distiq.runtimes.runtime import Runtime


def check_runtimes(recipe: Recipe) -> None:
    """Checks that each of `measure.runtimes` is known, installed, and supports the recipe's scheme and inputs.

    Raises:
        UserError: with the key, and what to set instead.
    """
    runtimes = [runtime_named(name) for name in recipe.measure.runtimes]
    quantize = recipe.quantize
    for runtime in runtimes:
        bits = 16 if quantize.wide_modules else quantize.activation_bits
        if why := refusal(runtime, quantize.mode, bits, quantize.group_size):
            raise UserError(f"quantize and measure.runtimes: {why}")
        if recipe.export.uint8_input and not runtime.uint8_input:
            able = ", ".join(f'"{one.name}"' for one in RUNTIMES if one.uint8_input)
            raise UserError(
                f"export.uint8_input = true, but files of {runtime.name} take normalized float32; set it to false, or"
                f" measure in {able} alone"
            )
    if recipe.export.integer_io and not any(runtime.integer_io for runtime in runtimes):
        able = " or ".join(f'"{one.name}"' for one in RUNTIMES if one.integer_io)
        raise UserError(
            f"export.integer_io = true, but of all runtimes files of {able} alone take integers; add it to"
            " measure.runtimes, or set integer_io to false"
        )
    _check_board(recipe, runtimes)
    for runtime in runtimes:
        require(runtime, to_write=True)


def _check_board(recipe: Recipe, runtimes: Sequence[Runtime]) -> None:
    """Flash and RAM of a microcontroller can be measured of every file."""
    limits = [f"budget.{name}" for name in ("flash_kb", "ram_kb") if getattr(recipe.budget, name) is not None]
    if not limits:
        return
    if others := [f'"{one.name}"' for one in runtimes if one.footprint is None]:
        able = " or ".join(f'"{one.name}"' for one in RUNTIMES if one.footprint)
        raise UserError(
            f"{limits[0]} limits files for microcontrollers, and measure.runtimes names {', '.join(others)}; measure in"
            f" {able} alone, or leave the limit out"
        )
    for runtime in runtimes:
        if "budget.flash_kb" in limits and runtime.lacks_measure and (why := runtime.lacks_measure()):
            raise UserError(f"budget.flash_kb: {why}")
