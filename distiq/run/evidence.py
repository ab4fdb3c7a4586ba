"""What is measured on a network before rungs are chosen: what int8 does to a front-end, where the noise comes from."""

import math
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from distiq.data.splits import Data
from distiq.models.audio import front_ends
from distiq.progress import Watch
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme
from distiq.quantization.sensitivity import enough, sensitivity
from distiq.records.record import Record
from distiq.records.sensitivity import SensitivityRecord
from distiq.records.trials import FloatModulesRecord
from distiq.run.ledger import Ledger, Place
from distiq.run.measure import MeasuredNetwork
from distiq.run.train import TrainedNetwork
from distiq.tasks.choose import task_of

HARMFUL_DB = 3.0  # what int8 in a front-end may cost: beyond it, more than half of the noise's power comes from there


class Decided(Record):
    """The record of the step that decides which modules stay in float32; None where there is nothing to decide."""

    modules: FloatModulesRecord | None


def float_modules(
    ledger: Ledger, data: Data, network: MeasuredNetwork, asked: tuple[str, ...] | None, scheme: Scheme
) -> FloatModulesRecord | None:
    """Decides which modules stay in float32: those that the recipe names, else front-ends that int8 harms too much.

    Args:
        asked: module paths, or None to look for front-ends.
        scheme: how everything else is quantized.

    Returns:
        None if there is nothing to decide.
    """
    if asked is None and (scheme.mode == "float16" or not front_ends(network.module)):
        return None
    make = partial(decide, network=network.trained, data=data, asked=asked, scheme=scheme)
    title = f"what int8 does to the {network.role}'s front-end"
    modules = ledger.step(f"{network.role}-float-modules", title, Decided, make).record.modules
    if modules is not None:
        says = "stays in float32" if modules.kept else "goes to int8"
        ledger.watch.note(
            f"{', '.join(modules.paths)} {says}: SQNR of the logits {modules.sqnr_db_float:.1f} dB with it in float32,"
            f" {modules.sqnr_db_int8:.1f} dB in int8"
        )
    return modules


def decide(
    _place: Place, *, network: TrainedNetwork, data: Data, asked: tuple[str, ...] | None, scheme: Scheme
) -> Decided:
    """The step that measures the logits with modules in int8 and in float32."""
    paths = front_ends(network.module) if asked is None else asked
    if not paths:
        return Decided(modules=None)
    model, samples, task = network.module, data.normalize(data.calibration.inputs), task_of(data)

    def sqnr(tried: Scheme) -> float:
        with torch.no_grad():
            outputs = task.read(quantize(model, samples, tried)(samples))
            return min(task.sqnr_db(task.read(model(samples)), outputs).values())

    everywhere, without = sqnr(scheme), sqnr(replace(scheme, float_modules=paths))
    kept = asked is not None or without - everywhere > HARMFUL_DB
    return Decided(modules=FloatModulesRecord(paths=paths, sqnr_db_int8=everywhere, sqnr_db_float=without, kept=kept))


def noise_of(ledger: Ledger, data: Data, network: MeasuredNetwork, scheme: Scheme, seed: int) -> SensitivityRecord:
    """Where the noise comes from when a scheme quantizes a network."""
    make = partial(look, network=network.trained, data=data, scheme=scheme, seed=seed)
    title = f"looking where the noise comes from ({scheme})"
    record = ledger.step(f"sensitivity-w{scheme.weight_bits}", title, SensitivityRecord, make).record
    share = 100 * record.weights_share
    ledger.watch.note(f"{share:.0f} % of the noise comes from weights, the rest from activations")
    return record


def look(place: Place, *, network: TrainedNetwork, data: Data, scheme: Scheme, seed: int) -> SensitivityRecord:
    """The step that measures the noise of each tensor when it alone is quantized."""
    count = enough(math.prod(data.calibration.samples.shape))
    samples = data.normalize(data.calibration.drawn(count).inputs)
    quantized = calibrated(network.module, data, scheme, seed, place.watch)
    return sensitivity(quantized, samples, scheme.mode, place.watch, task_of(data))


def calibrated(model: nn.Module, data: Data, scheme: Scheme, seed: int, watch: Watch) -> QuantizedModel:
    """The model quantized by the scheme, with ranges from the calibration split."""
    return quantize(model, data.normalize(data.calibration.inputs), scheme, seed=seed, watch=watch)
