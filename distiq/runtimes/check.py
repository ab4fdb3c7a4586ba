"""check_runtimes(): what a recipe asks of runtimes is refused before any work, where they cannot give it."""

from distiq.errors import UserError
from distiq.recipe.recipe import Recipe
from distiq.runtimes.export import RUNTIMES, refusal, require, runtime_named


def check_runtimes(recipe: Recipe) -> None:
    """Each of `measure.runtimes` is known, installed, and holds the scheme and the inputs that the recipe asks for.

    Raises:
        UserError: with the key, and what to set instead.
    """
    runtimes = [runtime_named(name) for name in recipe.measure.runtimes]
    quantize = recipe.quantize
    for runtime in runtimes:
        if why := refusal(runtime, quantize.mode, quantize.activation_bits, quantize.group_size):
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
    for runtime in runtimes:
        require(runtime, to_write=True)
