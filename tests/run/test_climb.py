"""Where a costly rung starts."""

from types import SimpleNamespace
from typing import cast

import pytest

from distiq.quantization.scheme import Scheme
from distiq.run.climb import start_of
from distiq.run.trial import Trial

PLAIN, ROUNDED, NARROW = Scheme(), Scheme(rounding="gptq"), Scheme(weight_bits=4)


def trial(rung: str, sqnr_db: float, scheme: Scheme, training: object = None) -> Trial:
    return cast(Trial, SimpleNamespace(rung=rung, sqnr_db=sqnr_db, scheme=scheme, training=training))


@pytest.mark.parametrize(
    ("trials", "start"),
    [
        ([], PLAIN),
        ([trial("minmax", 30, PLAIN), trial("rounding", 40, ROUNDED)], ROUNDED),
        ([trial("rounding", 40, ROUNDED), trial("float16", 69, Scheme(mode="float16"))], ROUNDED),
        ([trial("float16", 69, Scheme(mode="float16"))], PLAIN),
        ([trial("rounding", 40, ROUNDED), trial("mixed", 25, NARROW)], NARROW),
        ([trial("rounding", 40, ROUNDED), trial("qat", 50, NARROW, training=object())], ROUNDED),
    ],
)
def test_training_starts_from_the_best_scheme_of_integers(trials, start):
    assert start_of(PLAIN, trials) is start
