import math

import pytest

from distiq.recipe.budget import Budget
from distiq.records.models import Column, ModelRecord
from distiq.records.quality import Metric, Quality
from distiq.records.sensitivity import NoiseRecord, SensitivityRecord
from distiq.records.speed import CostRecord, LatencyRecord, SpeedRecord
from distiq.records.training import TrainingRecord
from distiq.records.trials import Breach, RuntimeRecord
from distiq.records.trials import TrialRecord as Trial
from distiq.run.ladder import (
    Measured,
    as_fast_as_float,
    best,
    estimate,
    fall_back,
    is_slower,
    judge,
    next_rung,
    skipped,
)
from distiq.run.rungs import Rung, rung_named


def named(*names: str) -> tuple[Rung, ...]:
    return tuple(rung_named(name) for name in names)


RUNGS = named("static", "minmax", "percentile", "qat")
BUDGET = Budget(drop=1.0)


def accuracy(share: float, **others: float) -> Quality:
    metrics = tuple(Metric(name=name, title=name.upper(), value=value) for name, value in others.items())
    return Quality(samples=1000, primary=Metric(name="accuracy", title="accuracy", value=share), metrics=metrics)


def column(name: str, share: float, size_bytes: int = 90_000, latency_ms: float = 0.2) -> Column:
    latency = LatencyRecord(
        batch=1, threads=1, runs=9, p50_ms=latency_ms, p95_ms=latency_ms, throughput_per_s=1000 / latency_ms
    )
    cost = CostRecord(
        file="f",
        runtime="r",
        size_bytes=size_bytes,
        parameters=1,
        macs=1,
        peak_memory_bytes=None,
        latency=(latency,),
    )
    return Column(name=name, test=accuracy(share), validation=accuracy(share), cost=cost)


def judged(budget: Budget, teacher: Quality, own: Quality) -> tuple[Breach, ...]:
    return judge(budget, teacher, Measured(own, 1, 1.0))


TITLES = {
    "drop": ("accuracy drop", "points"),
    "size_kb": ("size", "kB"),
    "latency_ms": ("latency", "ms"),
    "bit_operations_m": ("bit operations", "million"),
}


def breach(limit: str = "drop", allowed: float = 1.0, measured: float = 1.5) -> Breach:
    title, unit = TITLES[limit]
    excess = measured - allowed
    return Breach(limit=limit, title=title, allowed=allowed, measured=measured, excess=excess, unit=unit)


def trial(rung: str, *breaches: Breach, test: tuple[Breach, ...] | None = None, share: float = 0.9) -> Trial:
    trained = TrainingRecord(stage="qat", epochs=(), steps=1, kept=1, precision="float32", device="cpu", seconds=1.0)
    return Trial(
        rung=rung,
        reason="",
        scheme="",
        simulated=column("int8 simulated", share),
        deployed=column("int8 deployed", share),
        sqnr_db=20.0,
        breaches=breaches,
        test_breaches=breaches if test is None else test,
        seconds=1.0,
        training=trained if rung == "qat" else None,
    )


def model(role: str, share: float) -> ModelRecord:
    return ModelRecord(
        role=role, model="resnet", origin="given", parameters=1, macs=1, columns=(column("float32", share),)
    )


@pytest.mark.parametrize(
    ("budget", "limit", "measured", "excess", "unit"),
    [
        (Budget(drop=1.0), "drop", 2.0, 1.0, "points"),
        (Budget(size_kb=80), "size_kb", 90.0, 10.0, "kB"),
        (Budget(latency_ms=0.15), "latency_ms", 0.2, 0.05, "ms"),
        (Budget(bit_operations_m=50), "bit_operations_m", 64.0, 14.0, "million"),
    ],
)
def test_each_limit_is_judged_alone(budget, limit, measured, excess, unit):
    (found,) = judge(budget, accuracy(0.92), Measured(accuracy(0.90), 90_000, 0.2, 64_000_000))
    assert (found.limit, found.unit) == (limit, unit)
    assert found.measured == pytest.approx(measured)
    assert found.excess == pytest.approx(excess)


@pytest.mark.parametrize(
    "budget",
    [Budget(), Budget(drop=2.5, size_kb=91, latency_ms=0.3), Budget(size_kb=90, latency_ms=0.2)],
)
def test_limits_that_hold(budget):
    assert judge(budget, accuracy(0.92), Measured(accuracy(0.90), 90_000, 0.2)) == ()


def error(value: float) -> Quality:
    """Of a primary metric in a unit of its own, of which less is better."""
    metric = Metric(name="mae", title="mean error", value=value, unit="levels", higher_is_better=False)
    return Quality(samples=9, primary=metric)


def test_a_rise_of_an_error_is_judged_in_its_own_unit():
    assert judged(Budget(drop=0.25), error(0.5), error(0.75)) == ()
    assert judged(Budget(drop=0.25), error(0.5), error(0.4)) == ()
    (found,) = judged(Budget(drop=0.25), error(0.5), error(1.0))
    assert (found.title, found.measured, found.excess, found.unit) == ("mean error rise", 0.5, 0.25, "levels")


def by_class(*shares: float | None) -> Quality:
    return accuracy(0.9).model_copy(update={"per_class": shares, "parts": ("cat", "dog")})


def test_the_recall_of_a_class_is_limited_alone():
    budget = Budget(recall={"dog": 2.0})
    assert judged(budget, by_class(0.9, 0.9), by_class(0.5, 0.88)) == ()
    (found,) = judged(budget, by_class(0.9, 0.9), by_class(0.9, 0.85))
    assert (found.limit, found.title, found.unit) == ("recall.dog", "recall of dog drop", "points")
    assert (found.measured, found.excess, found.of_quality) == (pytest.approx(5.0), pytest.approx(3.0), True)


def test_figures_by_class_that_are_no_recalls_are_not_judged_as_such():
    """Of boxes they are average precisions, of masks intersections over unions; both name no parts."""
    boxes = accuracy(0.9).model_copy(update={"per_class": (0.8, None, 0.7)})
    assert judged(Budget(drop=1.0, recall={"*": 5.0}), boxes, boxes) == ()
    assert boxes.recall("cat") is None


@pytest.mark.parametrize("own", [by_class(0.9, None), accuracy(0.9)])
def test_a_recall_that_is_not_measured_breaks_its_limit(own: Quality):
    (found,) = judged(Budget(recall={"dog": 2.0}), by_class(0.9, 0.9), own)
    assert (found.limit, found.measured) == ("recall.dog", 100.0)


def test_a_large_loss_of_the_float_student_steers():
    budget = Budget(drop=1.0)
    assert judged(budget, accuracy(0.9), accuracy(0.89)) == ()
    (found,) = judged(budget, accuracy(0.9), accuracy(0.87))
    assert (found.limit, found.measured, found.excess) == ("drop", 3.0, 2.0)
    following = next_rung(named("static", "minmax", "qat"), [trial("static", found)], budget, 2.5)
    assert following.rung.name == "qat" and "float32 itself loses 2.50" in following.reason


def test_a_loss_of_auc_is_judged_in_hundredths_and_climbs_on():
    budget = Budget(metrics={"auc": 0.5})
    assert judged(budget, accuracy(0.9, auc=0.8), accuracy(0.1, auc=0.795)) == ()
    (found,) = judged(budget, accuracy(0.9, auc=0.8), accuracy(0.9, auc=0.7925))
    assert (found.limit, found.title, found.measured, found.excess) == ("metrics.auc", "AUC drop", 0.75, 0.25)
    assert found.of_quality
    assert next_rung(RUNGS, [trial("static", found)], budget, 0.0).reason.startswith("static lost 0.25 points too many")


@pytest.mark.parametrize("points", [0.1, 0.3, 0.5, 1.0, 1.1, 2.0])
@pytest.mark.parametrize("teacher", [0.9, 0.91, 0.92, 0.93, 0.947])
def test_a_drop_of_exactly_the_limit_is_allowed(points, teacher):
    student = round(teacher - points / 100, 6)
    assert judged(Budget(drop=points), accuracy(teacher), accuracy(student)) == ()
    assert judged(Budget(drop=points), accuracy(teacher), accuracy(student - 1e-5))


def test_a_student_may_be_asked_to_beat_its_teacher():
    budget = Budget(drop=-0.5)
    assert judged(budget, accuracy(0.90), accuracy(0.906)) == ()
    assert judged(budget, accuracy(0.90), accuracy(0.904))[0].excess == pytest.approx(0.1)


def test_the_first_rung_comes_first():
    assert next_rung(RUNGS, [], BUDGET, 0.0) == (
        rung_named("static"),
        "the first rung: post-training quantization, ranges of least squared error, weights rounded to the nearest",
    )
    assert next_rung(named("qat"), [], Budget(), 0.0).rung.name == "qat"


@pytest.mark.parametrize("budget", [BUDGET, Budget()])
def test_nothing_more_is_tried_when_nothing_is_broken(budget):
    assert next_rung(RUNGS, [trial("static")], budget, 0.0) is None


def test_rungs_are_climbed_in_their_order():
    trials = []
    for rung in RUNGS:
        assert next_rung(RUNGS, trials, BUDGET, 0.0).rung == rung
        trials.append(trial(rung.name, breach()))
    assert next_rung(RUNGS, trials, BUDGET, 0.0) is None


def test_the_reason_says_what_broke():
    reason = next_rung(RUNGS, [trial("static", breach(measured=1.5))], BUDGET, 0.0).reason
    assert reason.startswith("static lost 0.50 points too many: closed-form rounding, ranges as wide as all values")


def test_better_ranges_are_skipped_when_float_itself_is_too_low():
    following = next_rung(RUNGS, [trial("static", breach())], BUDGET, 1.2)
    assert following.rung.name == "qat"
    assert "nothing without training can help, since float32 itself loses 1.20" in following.reason
    assert next_rung(named("static", "minmax"), [trial("static", breach())], BUDGET, 1.2) is None


def noise(place: str, part: str, sqnr_db: float) -> NoiseRecord:
    return NoiseRecord(place=place, part=part, sqnr_db=sqnr_db, divergence_nat=0.0)


def evidence(
    weights_db: float, activations_db: float, *layers_db: float, balanced: float | None = 0.5, mean: float = 0.0
) -> SensitivityRecord:
    return SensitivityRecord(
        rung="static",
        samples=8,
        weights=noise("all", "weights", weights_db),
        activations=noise("all", "activations", activations_db),
        tensors=tuple(noise(f"layer{number}", "weights", db) for number, db in enumerate(layers_db)),
        balanced_share=balanced,
        mean_share=mean,
    )


EVERY = named("static", "minmax", "percentile", "equalize", "rounding", "reconstruct", "float_layers", "mixed", "qat")


@pytest.mark.parametrize(
    ("found", "without", "why"),
    [
        (evidence(20, 30, 20), ["minmax", "percentile"], "ranges are not the cause, since activations make 9 %"),
        (
            evidence(30, 20, 30),
            ["rounding", "reconstruct", "float_layers"],
            "weights are not the cause, since they make 9 %",
        ),
        (evidence(20, 20, 26, 26, 26, 26, 26), ["float_layers"], "the worst 2 make 40 % of it"),
        (evidence(20, 20, 20, 26, 26), [], ""),
        (evidence(20, 20, 20, balanced=None), ["equalize"], "no neighbours that scales could be moved between"),
        (
            evidence(20, 20, 20, balanced=0.1, mean=0.05),
            ["equalize"],
            "would move make 10 % of the noise, and 5 %",
        ),
        (evidence(20, 20, 20, balanced=None, mean=0.3), [], ""),
        (evidence(math.inf, 20), ["rounding", "reconstruct", "float_layers"], "they make 0 %"),
        (evidence(math.inf, math.inf), ["rounding", "reconstruct", "float_layers"], "they make 0 %"),
    ],
)
def test_a_rung_that_cannot_help_is_skipped(found, without, why):
    reasons = skipped(EVERY, [trial("static", breach())], BUDGET, 0.0, found)
    assert reasons.pop("mixed") == "the file is small enough"
    assert list(reasons) == without
    assert all(why in reason for reason in reasons.values())


def test_means_that_the_closed_form_has_mended_are_no_reason_to_equalize():
    found = evidence(20, 20, 20, balanced=0.1, mean=0.3)
    assert "equalize" not in skipped(EVERY, [trial("static", breach())], BUDGET, 0.0, found)
    why = skipped(EVERY, [trial("rounding", breach())], BUDGET, 0.0, found)["equalize"]
    assert why.endswith("10 % of the noise, and rounding has corrected the biases already")


@pytest.mark.parametrize(
    ("rung", "trials", "seconds", "words"),
    [
        ("static", [], 0.0, "a pass over the calibration samples"),
        ("minmax", [trial("static")], 0.0, "the same with other ranges: about 1 s"),
        ("rounding", [trial("static")], 0.0, "every layer solved on at most 256 calibration samples: more than 1 s"),
        ("reconstruct", [trial("static")], 40.4, "300 steps for every block: about 41 s"),
        ("qat", [trial("qat")], 40.4, "epochs of training: about 40 s and its measurements"),
        ("qat", [trial("static")], None, "epochs of training"),
    ],
)
def test_a_rung_costs_what_was_measured_before_it(rung, trials, seconds, words):
    assert estimate(rung_named(rung), trials, seconds) == words


def test_the_reason_names_the_evidence():
    following = next_rung(EVERY, [trial("static", breach())], BUDGET, 0.0, evidence(20, 30, 20))
    assert following.rung.name == "equalize"
    assert following.reason.count("ranges are not the cause") == 1


def test_narrow_weights_come_first_when_the_file_is_too_large():
    budget = Budget(drop=1.0, size_kb=80)
    too_large = breach("size_kb", 80, 95)
    following = next_rung(EVERY, [trial("static", breach(), too_large)], budget, 0.0)
    assert following.rung.name == "mixed" and "15.0 kB too large" in following.reason
    # From there on only training can bring the accuracy back: other rungs have wide weights again.
    trials = [trial("static", breach(), too_large), trial("mixed", breach())]
    assert next_rung(EVERY, trials, budget, 0.0).rung.name == "qat"
    assert next_rung(EVERY, [trials[0], trial("mixed")], budget, 0.0) is None
    assert next_rung(EVERY, [trial("static", too_large), trial("mixed", too_large)], budget, 0.0) is None


def test_narrow_weights_are_fewer_bit_operations():
    budget = Budget(drop=1.0, bit_operations_m=50)
    too_many = breach("bit_operations_m", 50, 64)
    following = next_rung(EVERY, [trial("static", too_many)], budget, 0.0)
    assert following.rung.name == "mixed" and "14 million bit operations too many" in following.reason
    trials = [trial("static", too_many), trial("mixed", breach())]
    assert next_rung(EVERY, trials, budget, 0.0).rung.name == "qat"
    assert "too many bit operations again" in skipped(EVERY, trials, budget, 0.0, None)["minmax"]
    assert next_rung(EVERY, [trial("static", too_many), trial("mixed", too_many)], budget, 0.0) is None


@pytest.mark.parametrize("limit", ["size_kb", "latency_ms"])
def test_no_rung_mends_size_or_speed(limit):
    budget = Budget(drop=1.0, size_kb=80, latency_ms=0.1)
    assert next_rung(RUNGS, [trial("static", breach(limit))], budget, 0.0) is None
    assert next_rung(RUNGS, [trial("static", breach(limit), breach())], budget, 0.0).rung.name == "minmax"


def test_best_is_the_first_that_breaks_nothing():
    trials = [trial("static", breach()), trial("minmax", share=0.8), trial("qat", share=0.9)]
    assert best(trials).rung == "minmax"


def test_best_breaks_its_limits_by_the_least_share():
    accuracy_over, size_over = breach(allowed=1.0, measured=1.5), breach("size_kb", 100, 140)
    assert best([trial("static", accuracy_over), trial("minmax", size_over)]).rung == "minmax"  # 50 % against 40 %
    assert best([trial("static", size_over, breach(measured=1.2)), trial("minmax", accuracy_over)]).rung == "minmax"
    assert best([trial("static", size_over, share=0.8), trial("minmax", size_over, share=0.9)]).rung == "minmax"


def in_runtime(ratio: float, told: bool = True, latency_ms: float = 0.1, name: str = "ONNX Runtime") -> RuntimeRecord:
    """An int8 file that is `ratio` times faster than its float32 file; the interval is of 10 %, or holds 1."""

    def timed(p50_ms: float) -> tuple[LatencyRecord, ...]:
        return (LatencyRecord(batch=1, threads=1, runs=1, p50_ms=p50_ms, p95_ms=p50_ms, throughput_per_s=1),)

    verdict = "cannot tell" if not told else "slower" if ratio < 1 else "faster"
    return RuntimeRecord(
        runtime=name,
        file=f"student-{name}",
        float_file=f"student-float32-{name}",
        size_bytes=1,
        quality=accuracy(0.9).primary,
        simulated_sqnr_db=80.0,
        agreement=1.0,
        steps=(1, 0, 0, 0, 0),
        same_integers=True,
        float_operations=(),
        latency=timed(latency_ms),
        float_latency=timed(latency_ms * ratio),
        speed=SpeedRecord(ratio=ratio, interval=(ratio / 1.1, ratio * 1.1) if told else (0.5, 2), verdict=verdict),
    )


def timed_trial(rung: str, *runtimes: RuntimeRecord, breaches: tuple[Breach, ...] = ()) -> Trial:
    return trial(rung, *breaches).model_copy(update={"runtimes": runtimes})


FLOAT = trial("float32").model_copy(update={"scheme": "float32, not quantized"})
SLOW = in_runtime(0.5)


def test_only_what_is_slower_beyond_the_noise_is_called_slower():
    assert is_slower(timed_trial("static", SLOW))
    assert not is_slower(timed_trial("static", in_runtime(0.9, told=False)))
    assert not is_slower(timed_trial("static", in_runtime(2.0)))
    assert not is_slower(trial("static")), "not timed"


def test_the_fastest_other_file_that_beats_every_float_file_is_delivered():
    slow = timed_trial("static", SLOW, in_runtime(3.0, latency_ms=0.02, name="OpenVINO"))
    elsewhere = slow.model_copy(update={"runtimes": slow.runtimes[::-1]})
    also = timed_trial("minmax", in_runtime(1.1, latency_ms=0.04))
    assert fall_back(slow, [slow, also, elsewhere], FLOAT) is elsewhere
    # Twice as fast as its own float32, which is much slower than that of the first runtime.
    beaten = elsewhere.model_copy(update={"runtimes": (in_runtime(2.0, latency_ms=0.07, name="LiteRT"), SLOW)})
    assert fall_back(slow, [slow, beaten], FLOAT) is FLOAT


@pytest.mark.parametrize("limit", [(breach(),), (breach("latency_ms", 0.1, 0.2),)])
def test_nothing_is_delivered_that_breaks_more_limits(limit: tuple[Breach, ...]):
    slow = timed_trial("static", SLOW)
    fast = timed_trial("minmax", in_runtime(3.0, latency_ms=0.02), breaches=limit)
    assert fall_back(slow, [slow, fast], FLOAT) is FLOAT


def test_a_float_student_that_is_too_large_leaves_int8_for_its_size():
    slow = timed_trial("static", SLOW, breaches=(breach(measured=9.0),))
    large = trial("float32", breach("size_kb", 80, 81))
    assert fall_back(slow, [slow], large) is slow


def half_trial(**rest: object) -> Trial:
    """As fast as float32, beyond which nothing can be told."""
    return timed_trial("float16", in_runtime(1.0, told=False), **rest)


def test_float16_is_delivered_before_float32_where_int8_is_slower():
    slow = timed_trial("static", SLOW)
    assert fall_back(slow, [slow, half_trial()], FLOAT).rung == "float16"
    fast = timed_trial("minmax", in_runtime(3.0, latency_ms=0.02))
    assert fall_back(slow, [slow, half_trial(), fast], FLOAT) is fast
    assert fall_back(slow, [slow, half_trial(breaches=(breach(),))], FLOAT) is FLOAT
    assert fall_back(slow, [slow, timed_trial("float16", SLOW)], FLOAT) is FLOAT
    weights = timed_trial("integer_weights", in_runtime(1.0, told=False))
    too_large = half_trial(breaches=(breach("size_kb", 80, 95),))
    assert fall_back(slow, [slow, too_large, weights], FLOAT) is weights


@pytest.mark.parametrize(
    ("rungs", "trials", "tried"),
    [
        (("static", "float16"), [trial("static")], "float16"),
        (("static",), [trial("static")], None),
        (("static", "float16"), [trial("static"), trial("float16")], None),
        (("static", "float16"), [trial("static", breach("size_kb", 80, 81))], None),
        (("static", "float16", "integer_weights"), [trial("static"), trial("float16")], None),
        (
            ("static", "float16", "integer_weights"),
            [trial("static"), trial("float16", breach("size_kb", 80, 95))],
            "integer_weights",
        ),
        (("static", "integer_weights"), [trial("static")], "integer_weights"),
        (("static", "integer_weights"), [trial("static"), trial("integer_weights")], None),
    ],
)
def test_what_is_as_fast_as_float32_is_tried_once(rungs: tuple[str, ...], trials: list[Trial], tried: str | None):
    following = as_fast_as_float(named(*rungs), trials)
    assert (following and following.rung.name) == tried


def test_a_float16_file_that_is_too_large_is_no_reason_for_narrower_integers():
    rungs, budget = named("static", "mixed", "float16"), Budget(size_kb=80)
    tried = [trial("static"), trial("float16", breach("size_kb", 80, 95))]
    assert next_rung(rungs, tried, budget, 0.0) is None
    assert next_rung(rungs, [trial("static", breach("size_kb", 80, 95))], budget, 0.0).rung.name == "mixed"


def test_float16_is_what_is_left_where_int8_breaks_the_budget():
    tried = [trial("static", breach()), trial("qat", breach())]
    assert next_rung(named("static", "qat", "float16"), tried, BUDGET, 0.1).rung.name == "float16"
    assert next_rung(named("static", "qat", "float16"), tried, BUDGET, 1.1) is None, "float32 itself loses too much"


def test_a_limit_on_every_kind_is_one_on_each_that_is_measured():
    def kinds(*recalls: float | None) -> Quality:
        return accuracy(0.9).model_copy(update={"per_class": recalls, "parts": ("PER", "LOC", "ORG")})

    own, teacher = kinds(0.5, 0.8, None), kinds(0.6, 0.9, None)
    limits = [one.limit for one in judged(Budget(recall={"*": 5.0, "LOC": 12.0}), teacher, own)]
    assert limits == ["recall.PER"]
