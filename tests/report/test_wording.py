"""The sentences of a verdict: what broke, what int8 costs in time, what would mend it."""

import pytest

from distiq.records.models import ModelRecord
from distiq.records.run import DropRecord
from distiq.records.trials import Breach, TrialRecord
from distiq.report.tables import budget_lines
from distiq.report.wording import next_step, verdict_sentence
from tests.run.test_ladder import FLOAT, SLOW, breach, in_runtime, model, timed_trial, trial

LIMITS = {"drop": 1.0}


def test_a_verdict_without_a_budget():
    sentence = verdict_sentence({}, "image", trial("static"), trial("static"))
    assert (
        sentence
        == "No budget was set. The static file: 90.00 % accuracy on the test set, 90.0 kB, 0.200 ms for one image."
    )


def test_a_verdict_of_a_budget_that_holds():
    sentence = verdict_sentence(LIMITS, "image", trial("minmax"), trial("minmax"))
    assert sentence.startswith("The budget holds: the minmax file gives 90.00 %")


def test_a_verdict_of_a_budget_that_is_missed():
    missed = trial("static", breach(measured=1.5), breach("size_kb", 80, 90))
    assert verdict_sentence(LIMITS, "image", missed, missed).startswith(
        "The budget is missed: accuracy drop by 0.5 points and size by 10 kB. The best file found (static)"
    )


def test_a_verdict_says_where_the_validation_split_was_wrong():
    missed = trial("static", test=(breach(),))
    sentence = verdict_sentence(LIMITS, "image", missed, missed)
    assert "On the validation split, which steers the ladder, every limit held." in sentence


@pytest.mark.parametrize(
    ("breaches", "student", "untried", "words"),
    [
        ((breach("size_kb", 80, 100),), 0.915, "qat", "smaller: the file is 1.25 times the limit"),
        ((breach("latency_ms", 0.1, 0.2),), 0.915, "qat", "cheaper: it takes 2.00 times the limit"),
        ((breach(measured=3.0),), 0.9, "qat", "2.00 points worse than the teacher, quantization adds 1.00"),
        ((breach(measured=3.0),), 0.915, "qat", 'Put "qat" first in quantize.rungs'),
        ((breach(measured=3.0),), 0.915, "", "Train the quantized network longer"),
        ((breach("size_kb", 80, 81), breach(measured=3.0)), 0.9, "qat", "Train the student longer"),
        ((breach("bit_operations_m", 50, 60),), 0.915, "qat", "1.20 times the bit operations"),
    ],
    ids=["size", "latency", "float", "no training", "trained", "worst first", "operations"],
)
def test_the_next_step_mends_the_worst_limit(breaches: tuple[Breach, ...], student: float, untried: str, words: str):
    networks: tuple[ModelRecord, ModelRecord] = model("teacher", 0.92), model("student", student)
    assert words in (next_step(breaches, *networks, untried) or "")
    assert next_step((), *networks, untried) is None


def sentence(delivered: TrialRecord | None, *runtimes) -> str:
    best = timed_trial("static", *runtimes)
    return verdict_sentence({}, "image", best, delivered or best)


def test_a_verdict_says_what_int8_costs_in_time():
    said = "In ONNX Runtime the static int8 file measured slower than its own float32 file (medians 0.050 → 0.100 ms;"
    turns = "turn by turn 2.00 times its time, 95 % interval 1.82 to 2.20)"
    assert f"{said} {turns}: it is small, not fast, and delivered for its size alone." in sentence(None, SLOW)
    assert sentence(FLOAT, SLOW).endswith(
        "no other int8 file is faster than float32: the float32 student is delivered."
    )
    assert "The float32 file: 90.00 % accuracy on the test set" in sentence(FLOAT, SLOW)
    other = timed_trial("static", in_runtime(3.0, name="OpenVINO"), SLOW)
    assert sentence(other, SLOW).endswith(
        "delivered is the static file for OpenVINO, 3.00 times faster than float32 there."
    )
    assert "within the noise): it is small, not fast." in sentence(None, in_runtime(0.9, told=False))
    assert "float32" not in sentence(None, in_runtime(2.0))


@pytest.mark.parametrize(
    ("drop", "low", "high", "said"),
    [
        (
            0.8,
            0.1,
            1.5,
            " Met, but not beyond chance: the accuracy drop is 0.80 points, its 95 % interval 0.10 to 1.50",
        ),
        (1.2, 0.6, 1.8, " Missed, but not beyond chance: the accuracy drop is 1.20 points"),
        (0.4, 0.1, 0.7, ""),
        (2.4, 1.9, 2.9, ""),
    ],
)
def test_a_verdict_within_chance_says_so(drop: float, low: float, high: float, said: str):
    tried = trial("static", *([breach(measured=drop)] if drop > 1 else []))
    lost = DropRecord(title="accuracy drop", value=drop, interval=(low, high), unit="points", allowed=1.0)
    words = verdict_sentence(LIMITS, "image", tried, tried, lost)
    assert said in words
    assert ("chance" in words) == bool(said)


def test_a_limit_on_the_recall_of_every_class_is_said(make_run):
    run = make_run().model_copy(update={"budget": {"recall.*": 5.0}})
    assert budget_lines(run) == ("recall drop of each class against the teacher at most 5 points",)
