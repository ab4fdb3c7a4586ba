"""The noise of a run's quantized tensors as a table and as a plot."""

import pytest

from distiq.records.sensitivity import NoiseRecord, SensitivityRecord
from distiq.records.trials import Breach
from distiq.report.plots import noise_by_tensor
from distiq.report.sensitivity import noise_rows, noise_shares
from distiq.report.tables import broken_limits


def noise(place: str, part: str, sqnr_db: float) -> NoiseRecord:
    return NoiseRecord(place=place, part=part, sqnr_db=sqnr_db, divergence_nat=1e-3)


FOUND = SensitivityRecord(
    rung="static",
    samples=128,
    weights=noise("all", "weights", 20.0),
    activations=noise("all", "activations", 30.0),
    tensors=(noise("input", "activations", 30.0), noise("stem.0", "weights", 20.0), noise("", "activations", 30.0)),
)


def test_shares_are_of_the_noise_power():
    shares = {noise.place: share for noise, share in noise_shares(FOUND)}
    assert shares == pytest.approx({"stem.0": 10 / 12, "input": 1 / 12, "": 1 / 12})
    assert FOUND.weights_share == pytest.approx(10 / 11)


def test_the_noisiest_come_first_after_the_sums():
    rows = noise_rows(FOUND, most=2)
    assert [row.head.text for row in rows] == ["all weights", "all activations", "stem.0", "input"]
    assert [row.cells[2].text for row in rows] == ["91 %", "9 %", "83 %", "8 %"]


def test_a_broken_limit_is_named_in_a_word():
    def broken(title: str) -> Breach:
        return Breach(limit="", title=title, allowed=1, measured=2, excess=1, unit="")

    assert broken_limits(tuple(map(broken, ("size", "accuracy drop")))) == "size, accuracy drop"


def test_the_plot_names_places_and_decibels():
    plot = noise_by_tensor(FOUND, most=3)
    assert all(text in plot for text in ("stem.0", "input", "output", "20.0 dB"))
    assert noise_by_tensor(FOUND, most=3) == plot
