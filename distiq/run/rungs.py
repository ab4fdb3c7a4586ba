"""The rungs of the ladder: each is one way to make an int8 file, held by one value.

`RUNGS` is all of them, in the order of their cost. Ladder, recipe, documentation and diagnosis read it; nothing else
names a rung. A new one is a value and a line in `RUNGS`.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from distiq.data.splits import Data
from distiq.errors import UserError
from distiq.quantization.reconstruction import CHUNK
from distiq.quantization.scheme import RangeMethod, Scheme
from distiq.recipe.quantize import Mode, QuantizeSettings
from distiq.recipe.recipe import Recipe
from distiq.records.sensitivity import SensitivityRecord
from distiq.records.trials import FLOAT16
from distiq.run.narrow import Situation, narrowed
from distiq.run.widen import widened
from distiq.runtimes.export import refusal, runtime_named

FLOAT_LAYERS = 2
LITTLE, MOST = 0.2, 0.5
"""Shares of the noise: below `LITTLE` a cure is not worth trying, `MOST` is enough to blame a few layers."""
Cause = Literal["outliers", "single layers", "weights", "activations"]


def _no_samples(_recipe: Recipe, _data: Data) -> int:
    return 0


def _may_help(_evidence: SensitivityRecord, _biases_corrected: bool) -> str:
    return ""


@dataclass(frozen=True)
class Rung:
    """One way to make an int8 file.

    Args:
        name: in recipes and records. what: what it is. helps: when it helps. cost: what it costs, in words.
        scheme: what it changes in the scheme.
        useless: why it cannot help here, empty where it may; depends on where the noise of plain quantization comes
            from, and on whether biases were corrected already.
        modes: those of `quantize.mode` that have it. is_default: climbed where a recipe names no rungs.
        takes_longer: than a plain file, by an amount that is not known in advance.
        samples: how many training samples it learns from; with the student's pace they give its duration.
        needs_evidence: its scheme depends on where the noise comes from.
        trains: it trains with the teacher. narrows: it uses fewer bits where the file is too large or takes too many
            bit operations.
        corrects_biases: it leaves no error in the mean. leaves_float: some layers stay in float32.
        ranges: how activation ranges are found, for rungs that differ in that alone; `because`: when they fit.
        cures: the causes that it is tried against in a diagnosis.
        widens: uses 16-bit activations, which few runtimes compute in integers.
        in_float: its file computes in float32, from smaller weights; tried where int8 breaks a limit or is slower.
    """

    name: str
    what: str
    helps: str
    cost: str
    scheme: Callable[[Situation], Scheme]
    useless: Callable[[SensitivityRecord, bool], str] = _may_help
    modes: tuple[Mode, ...] = ("static",)
    is_default: bool = True
    takes_longer: bool = False
    samples: Callable[[Recipe, Data], int] = _no_samples
    needs_evidence: bool = False
    trains: bool = False
    narrows: bool = False
    corrects_biases: bool = False
    leaves_float: bool = False
    ranges: RangeMethod | None = None
    because: str = ""
    cures: frozenset[Cause] = frozenset()
    in_float: bool = False
    widens: bool = False


# Why a rung would be useless ------------------------------------------------------------------------------------------


def _ranges_are_no_cause(evidence: SensitivityRecord, _biases_corrected: bool) -> str:
    activations = 1 - evidence.weights_share
    if activations >= LITTLE:
        return ""
    return f"ranges are not the cause, since activations make {100 * activations:.0f} % of the noise"


def _activations_are_no_cause(evidence: SensitivityRecord, _biases_corrected: bool) -> str:
    activations = 1 - evidence.weights_share
    if activations >= LITTLE:
        return ""
    return f"activations are not the cause, since they make {100 * activations:.0f} % of the noise"


def _weights_are_no_cause(evidence: SensitivityRecord, _biases_corrected: bool) -> str:
    if evidence.weights_share >= LITTLE:
        return ""
    return f"weights are not the cause, since they make {100 * evidence.weights_share:.0f} % of the noise"


def _nothing_to_balance(evidence: SensitivityRecord, biases_corrected: bool) -> str:
    mendable = 0.0 if biases_corrected else evidence.mean_share
    if (evidence.balanced_share or 0.0) >= LITTLE or mendable >= LITTLE:
        return ""
    where = (
        "there are no neighbours that scales could be moved between"
        if evidence.balanced_share is None
        else f"values whose scales would move make {100 * evidence.balanced_share:.0f} % of the noise"
    )
    if biases_corrected:
        return f"{where}, and rounding has corrected the biases already"
    return f"{where}, and {100 * evidence.mean_share:.0f} % of it is an error of the mean, which biases could mend"


def _no_layer_stands_out(evidence: SensitivityRecord, biases_corrected: bool) -> str:
    if why := _weights_are_no_cause(evidence, biases_corrected):
        return why
    layers, share = evidence.worst_layers(FLOAT_LAYERS)
    if share >= MOST:
        return ""
    return f"the noise is spread over the layers: the worst {len(layers)} make {100 * share:.0f} % of it"


# What it changes in the scheme ----------------------------------------------------------------------------------------


def _plain(now: Situation) -> Scheme:
    return now.plain


def _minmax(now: Situation) -> Scheme:
    return replace(now.plain, ranges="minmax", rounding="gptq")


def _percentile(now: Situation) -> Scheme:
    share = now.recipe.quantize.percentile
    return replace(now.plain, ranges="percentile", percentile=share, rounding="gptq")


def _equalize(now: Situation) -> Scheme:
    assert now.evidence is not None
    return replace(now.start, equalize=now.evidence.balanced_share is not None, correct_biases=True)


def _round(now: Situation) -> Scheme:
    return replace(now.start, rounding="gptq")


def _reconstruct(now: Situation) -> Scheme:
    return replace(now.start, rounding="brecq")


def _float_layers(now: Situation) -> Scheme:
    assert now.evidence is not None
    layers, _ = now.evidence.worst_layers(FLOAT_LAYERS)
    return replace(now.start, float_modules=(*now.plain.float_modules, *layers))


def _start(now: Situation) -> Scheme:
    return now.start


def _half(now: Situation) -> Scheme:
    return Scheme(mode="float16", float_modules=now.recipe.quantize.float_modules or ())


def _weights(now: Situation) -> Scheme:
    bits, kept = now.recipe.quantize.weight_bits, now.plain.float_modules
    return Scheme(weight_bits=bits, mode="weight_only", rounding="gptq", float_modules=kept)


def _learned_blocks(_recipe: Recipe, _data: Data) -> int:
    return Scheme.iterations * CHUNK  # in each step, one block after another learns from that many


def _epochs(recipe: Recipe, data: Data) -> int:
    return recipe.quantize.training.epochs * len(data.train)


# The rungs ------------------------------------------------------------------------------------------------------------

STATIC = Rung(
    name="static",
    what="post-training quantization, ranges of least squared error, weights rounded to the nearest",
    helps="you want a plain baseline",
    cost="a pass over the calibration samples",
    scheme=_plain,
    is_default=False,
    ranges="mse",
    because="they weigh clipping and rounding together",
)
DYNAMIC = Rung(
    name="dynamic",
    what="linear layers in int8, with ranges that each batch makes anew",
    helps="the first rung of its mode",
    cost="no pass at all",
    scheme=_plain,
    modes=("dynamic",),
)
WEIGHT_ONLY = Rung(
    name="weight_only",
    what="weights as integers, computed in float32",
    helps="the first rung of its mode",
    cost="no pass at all",
    scheme=_plain,
    modes=("weight_only",),
)
ROUNDING = Rung(
    name="rounding",
    what="closed-form rounding of the weights, layer by layer, with corrected biases",
    helps="always; the first rung of a static scheme",
    cost="every layer solved on at most 256 calibration samples",
    scheme=_round,
    useless=_weights_are_no_cause,
    modes=("static", "dynamic", "weight_only"),
    takes_longer=True,
    corrects_biases=True,
    cures=frozenset({"single layers", "weights"}),
)
MINMAX = Rung(
    name="minmax",
    what="closed-form rounding, ranges as wide as all values, for outliers that carry information",
    helps="outliers carry information, as in some transformers",
    cost="the same with other ranges",
    scheme=_minmax,
    useless=_ranges_are_no_cause,
    ranges="minmax",
    because="the outliers carry information",
)
PERCENTILE = Rung(
    name="percentile",
    what="closed-form rounding, ranges without outliers",
    helps="a few outliers stretch a range",
    cost="the same with other ranges",
    scheme=_percentile,
    useless=_ranges_are_no_cause,
    ranges="percentile",
    because="a few outliers stretch the others",
)
EQUALIZE = Rung(
    name="equalize",
    what="scales moved between neighbouring layers, with corrected biases",
    helps="a few channels stretch a range that all share",
    cost="a few more passes",
    scheme=_equalize,
    useless=_nothing_to_balance,
    needs_evidence=True,
    cures=frozenset({"outliers", "weights", "activations"}),
)
RECONSTRUCT = Rung(
    name="reconstruct",
    what="rounding learned block by block from the closed form (BRECQ with QDrop)",
    helps="weights make the noise, and training with labels or a teacher is not wanted",
    cost="300 steps for every block",
    scheme=_reconstruct,
    useless=_weights_are_no_cause,
    is_default=False,
    samples=_learned_blocks,
)
LAYERS_IN_FLOAT = Rung(
    name="float_layers",
    what="the layers whose weights make the most noise left in float32",
    helps="the noise sits in few layers; these are no faster than float32 then",
    cost="the noise of every layer, if it is not known yet",
    scheme=_float_layers,
    useless=_no_layer_stands_out,
    takes_longer=True,
    needs_evidence=True,
    leaves_float=True,
    cures=frozenset({"single layers"}),
)
WIDE_LAYERS = Rung(
    name="wide_layers",
    what="16-bit activations in the layers around the tensors whose 8 bits make nine tenths of the activations' noise",
    helps="values of unlike range stand in one tensor, as in regressions (LiteRT, TFLM, C99)",
    cost="the noise of every layer, if it is not known yet",
    scheme=widened,
    useless=_activations_are_no_cause,
    takes_longer=True,
    needs_evidence=True,
    widens=True,
    cures=frozenset({"activations"}),
)
MIXED = Rung(
    name="mixed",
    what="narrow weights in the layers where they cost least, until the limit holds",
    helps="the file is too large (4 bits), or there are too many bit operations (6 to 2)",
    cost="the noise of every layer with wide and narrow weights, then rounding",
    scheme=narrowed,
    takes_longer=True,
    narrows=True,
)
QAT = Rung(
    name="qat",
    what="quantization-aware training with the teacher",
    helps="nothing else is enough",
    cost="epochs of training",
    scheme=_start,
    modes=("static", "dynamic", "weight_only"),
    samples=_epochs,
    trains=True,
    cures=frozenset({"outliers", "weights", "activations"}),
)
HALF = Rung(
    name=FLOAT16,
    what="float16 weights, computed in float32: half of float32's size, and its speed",
    helps="int8 breaks a limit, or measured slower than float32",
    cost="no more than a file",
    scheme=_half,
    modes=("static", "dynamic", "weight_only", "float16"),
    leaves_float=True,
    in_float=True,
)
STORED = Rung(
    name="integer_weights",
    what="integer weights, computed in float32: int8's size, and float32's speed",
    helps="int8 breaks a limit, or measured slower than float32, and float16 is too large",
    cost="no more than a file",
    scheme=_weights,
    useless=_activations_are_no_cause,
    modes=("static", "dynamic"),
    leaves_float=True,
    in_float=True,
)
RUNGS: tuple[Rung, ...] = (
    STATIC, DYNAMIC, WEIGHT_ONLY, ROUNDING, MINMAX, PERCENTILE, EQUALIZE, RECONSTRUCT, WIDE_LAYERS, LAYERS_IN_FLOAT,
    MIXED, QAT, HALF, STORED,
)  # fmt: skip


# Reading them ---------------------------------------------------------------------------------------------------------


def rung_named(name: str) -> Rung:
    """The rung that a recipe or a record names.

    Raises:
        UserError: there is no such rung.
    """
    rungs = {rung.name: rung for rung in RUNGS}
    if name not in rungs:
        nearest = difflib.get_close_matches(name, rungs, n=1, cutoff=0.6)
        advice = f'did you mean "{nearest[0]}"?' if nearest else f"the rungs: {', '.join(rungs)}"
        raise UserError(f'quantize.rungs: "{name}" is no rung; {advice}')
    return rungs[name]


def rungs_of(settings: QuantizeSettings, integer_io: bool, runtimes: Sequence[str]) -> tuple[Rung, ...]:
    """The rungs that a recipe climbs, in its order; where it names none, the mode's, in the order of their cost.

    Args:
        integer_io: the file is for devices without float32.
        runtimes: those that files are written for. By default, float16 is climbed where all of them support it and no
            accelerator is to compute integers; 16-bit activations where all of them compute those in integers.

    Raises:
        UserError: one is unknown, or the mode or a runtime has no such rung.
    """
    refused = {rung.name: _refused(rung, settings, runtimes) for rung in (HALF, STORED)}
    of_mode = tuple(rung for rung in RUNGS if settings.mode in rung.modes)
    rungs = tuple(rung for rung in of_mode if rung.is_default and is_worth(rung, runtimes))
    if settings.rungs is not None:
        rungs = tuple(rung_named(name) for name in settings.rungs)
    if strange := [rung.name for rung in rungs if rung not in of_mode]:
        raise UserError(
            f'quantize.rungs names "{strange[0]}", which mode = "{settings.mode}" has not; it has {_names(of_mode)}'
        )
    if settings.rungs is not None and any(rung.widens for rung in rungs):
        _check_wide(settings, integer_io, runtimes)
    if settings.rungs is not None and any(rung.in_float for rung in rungs):
        _check_in_float(rungs, integer_io, refused)
    narrow_already = settings.weight_bits <= 4
    return tuple(
        rung
        for rung in rungs
        if not (rung.narrows and narrow_already)
        and not (rung.leaves_float and integer_io)
        and not refused.get(rung.name)
        and not (rung.widens and (integer_io or settings.activation_bits == 16))
    )


def is_worth(rung: Rung, runtimes: Sequence[str]) -> bool:
    """Whether every runtime computes in integers what the rung makes."""
    return not rung.widens or all(runtime_named(name).wide for name in runtimes)


def _check_wide(settings: QuantizeSettings, integer_io: bool, runtimes: Sequence[str]) -> None:
    """Raises UserError where a recipe names the rung of 16-bit activations but its other settings rule it out."""
    key = f'quantize.rungs names "{WIDE_LAYERS.name}"'
    if why := next(filter(None, (refusal(runtime_named(name), "static", 16, 0) for name in runtimes)), ""):
        raise UserError(f"{key} and measure.runtimes: {why}")
    if integer_io:
        raise UserError(f"{key}, but export.integer_io = true takes and gives 8 bits; leave one of the two out")
    if settings.activation_bits == 16:
        raise UserError(f"{key}, but activation_bits = 16 widens every layer already; leave one of the two out")


def _refused(rung: Rung, settings: QuantizeSettings, runtimes: Sequence[str]) -> str:
    """Why the recipe's devices cannot use files that compute in float32; empty where they can."""
    if settings.target:
        return f'target = "{settings.target}" computes integers alone, and "{rung.name}" has none; leave one out'
    mode: Mode = "float16" if rung is HALF else "weight_only"
    return next(filter(None, (refusal(runtime_named(name), mode, 8, 0) for name in runtimes)), "")


def _check_in_float(rungs: Sequence[Rung], integer_io: bool, refused: Mapping[str, str]) -> None:
    """Raises UserError where a recipe names a rung that computes in float32 but its other settings rule it out."""
    for rung, following in zip(rungs, (*rungs[1:], None), strict=True):
        if not rung.in_float:
            continue
        if refused[rung.name]:
            raise UserError(f"quantize.rungs and measure.runtimes: {refused[rung.name]}")
        if integer_io:
            raise UserError(
                f'quantize.rungs names "{rung.name}", whose files compute in float32, but export.integer_io = true;'
                " leave one of the two out"
            )
        if following is not None and not following.in_float:
            raise UserError(
                f'quantize.rungs: "{rung.name}" gives nothing that "{following.name}" could start from; name it last'
            )


def training_rung() -> str:
    """The name of the rung that trains."""
    return next(rung.name for rung in RUNGS if rung.trains)


def table() -> str:
    """All rungs as a table of the documentation, in Markdown."""
    rows = [f"| `{rung.name}` | {rung.what} | {rung.helps} | {rung.cost} | {_default(rung)} |" for rung in RUNGS]
    head = "| rung | what it is | helps when | cost | climbed by default |\n|---|---|---|---|---|"
    return "\n".join([head, *rows])


def _default(rung: Rung) -> str:
    return f"yes ({', '.join(rung.modes)})" if rung.is_default else "no"


def _names(rungs: Iterable[Rung]) -> str:
    return ", ".join(rung.name for rung in rungs)
