"""What a rung's scheme is made from, and fewer bits of weights in the layers where they cost least."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from distiq.data.splits import Data
from distiq.progress import Watch
from distiq.quantization.graph import export_graph, prepare
from distiq.quantization.mixed import choose_bits, products
from distiq.quantization.scheme import REDUCED_BITS, Scheme
from distiq.recipe.recipe import Recipe
from distiq.records.sensitivity import SensitivityRecord
from distiq.run.measure import MeasuredNetwork, example_of
from distiq.run.trial import QuantizedRecord

WeightBits = Literal[2, 3, 4, 6, 7, 8]
NARROW_BITS: WeightBits = 4
NARROW: tuple[WeightBits, ...] = (6, 4, 3, 2)  # what layers may take where bit operations are limited
NODE_BYTES = 64  # what a packed weight adds to the file: a node and its names


@dataclass(frozen=True)
class Situation:
    """What a rung's scheme is made from.

    Args:
        plain: what every scheme of the run begins with.
        start: the scheme that rungs costlier than a calibration start from: the best found without training, or the
            narrowed weights if the file had to shrink.
        first: the first trial's record, None before it.
        evidence: where the noise of the plain scheme comes from, if that was measured.
        noise: measures where the noise of another scheme comes from.
    """

    recipe: Recipe
    data: Data
    student: MeasuredNetwork
    plain: Scheme
    start: Scheme
    first: QuantizedRecord | None
    evidence: SensitivityRecord | None
    noise: Callable[[Scheme], SensitivityRecord]
    watch: Watch


ByLayer = dict[str, dict[int, float]]
"""A figure of each layer for each number of bits that its weights can have."""


def narrowed(now: Situation) -> Scheme:
    """The scheme with narrow weights in the layers where they add the least noise, so that the limits on size and bit
    operations hold. Only 4 bits make a file smaller, since fewer are stored as 4; any number saves bit operations."""
    budget, wide = now.recipe.budget, now.recipe.quantize.weight_bits
    choices = [bits for bits in (NARROW if budget.bit_operations_m else (NARROW_BITS,)) if bits < wide]
    # Narrower weights do not need a reduced range.
    schemes = {bits: replace(now.plain, weight_bits=bits, reduce_range=False) for bits in choices}
    records = {bits: now.noise(scheme) for bits, scheme in {wide: now.plain, **schemes}.items()}
    noise: dict[int, dict[str, float]] = {bits: record.noise_of_weights() for bits, record in records.items()}
    powers = {layer: {bits: noise[bits][layer] for bits in noise} for layer in noise[wide]}
    chosen = {layer: bits for layer, bits in choose_bits(powers, _limits(now, powers)).items() if bits != wide}
    said = ", ".join(f"{layer} ({bits})" for layer, bits in chosen.items())
    now.watch.note(f"fewer bits of weights in {len(chosen)} of {len(powers)} layers: {said}")
    modules = now.plain.float_modules
    return replace(now.start, layer_bits=tuple(chosen.items()), float_modules=modules, rounding="gptq")


def _limits(now: Situation, powers: ByLayer) -> list[tuple[ByLayer, float]]:
    """What the layers cost, and what they may cost in total: the first trial's cost less its excess over a limit."""
    budget, wide = now.recipe.budget, now.recipe.quantize.weight_bits
    sizes, operations = _costs(now, powers)
    first = now.first
    limits = []
    if budget.size_kb and first:
        too_large = first.cost.size_bytes - 1000 * budget.size_kb
        limits.append((sizes, sum(costs[wide] for costs in sizes.values()) - too_large))
    if budget.bit_operations_m and first and first.bit_operations:
        too_many = first.bit_operations - 1e6 * budget.bit_operations_m
        limits.append((operations, sum(costs[wide] for costs in operations.values()) - too_many))
    return limits


def _costs(now: Situation, powers: ByLayer) -> tuple[ByLayer, ByLayer]:
    """Bytes and bit operations of each layer at each number of bits."""
    model, wide = now.student.module, now.recipe.quantize.weight_bits
    example = example_of(now.data)
    multiplied = products(prepare(export_graph(model, example), now.start), example)
    most_bits = REDUCED_BITS if now.start.reduce_range else wide
    sizes: ByLayer = {}
    operations: ByLayer = {}
    for layer, choices in powers.items():
        own = model.get_submodule(layer).parameters(recurse=False)
        count = sum(parameter.numel() for parameter in own if parameter.ndim > 1)
        packed = count / 2 + NODE_BYTES
        sizes[layer] = {bits: packed if bits <= NARROW_BITS else float(count) for bits in choices}
        step = float(sum(one.macs * one.activation_bits for one in multiplied if one.layer == layer))
        operations[layer] = {bits: step * min(bits, most_bits) for bits in choices}
    return sizes, operations
