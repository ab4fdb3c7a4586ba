"""The table of what quantizing each tensor costs."""

from distiq.records.sensitivity import NoiseRecord, SensitivityRecord
from distiq.report.cells import Cell, Row
from distiq.report.figures import (
    decibels,
    nats,
    percent,
)

NOISE_HEADINGS = (
    Cell("SQNR", "of the logits, this tensor alone quantized"),
    Cell("Loss change", "divergence from float32"),
    Cell("Share", "of the noise"),
)


def noise_shares(record: SensitivityRecord) -> tuple[tuple[NoiseRecord, float], ...]:
    """Every tensor with its share of the noise power that quantizing them one by one makes; the noisiest first."""
    power = [(noise, 10 ** (-noise.sqnr_db / 10)) for noise in record.tensors]
    total = sum(value for _, value in power) or 1.0
    return tuple(sorted(((noise, value / total) for noise, value in power), key=lambda entry: -entry[1]))


def noise_rows(record: SensitivityRecord, most: int) -> tuple[Row, ...]:
    """All weights, all activations, then the noisiest tensors, under NOISE_HEADINGS."""

    def row(name: str, noise: NoiseRecord, share: float, marked: bool = False) -> Row:
        cells = (Cell(decibels(noise.sqnr_db)), Cell(nats(noise.divergence_nat)), Cell(percent(share, 0)))
        return Row(Cell(name, noise.part if noise.place != "all" else ""), cells, marked)

    share = record.weights_share
    return (
        row("all weights", record.weights, share, True),
        row("all activations", record.activations, 1 - share, True),
        *(row(noise.place or "output", noise, part) for noise, part in noise_shares(record)[:most]),
    )
