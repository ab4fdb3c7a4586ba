import pytest

from distiq.report import figures


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (figures.percent(0.91234), "91.23 %"),
        (figures.percent(None), "–"),
        (figures.percent_interval((0.9, 0.95)), "90.00 to 95.00 %"),
        (figures.points(-0.0042), "−0.42 points"),
        (figures.points(0.01), "+1.00 points"),
        (figures.points(-0.00001), "0.00 points"),
        (figures.kilobytes(96_400), "96.4 kB"),
        (figures.kilobytes(4_712_000), "4,712 kB"),
        (figures.memory(142_300_000), "142.3 MB"),
        (figures.memory(24_000_000_000), "24.0 GB"),
        (figures.milliseconds(0.12345), "0.123 ms"),
        (figures.milliseconds(12.345), "12.3 ms"),
        (figures.milliseconds(1234.5), "1,234 ms"),
        (figures.amount(0.0123), "0.0123"),
        (figures.amount(0), "0"),
        (figures.times(3.94), "3.9×"),
        (figures.times(48.9), "49×"),
        (figures.duration(33.4), "33.4 s"),
        (figures.duration(93.4), "1 min 33 s"),
        (figures.duration(7300), "2 h 1 min"),
        (figures.quantity(1.0, "points"), "1 point"),
        (figures.quantity(100.0, "kB"), "100 kB"),
        (figures.tally(("Clip", "Softmax", "Clip")), "Clip ×2, Softmax"),
        (figures.operation_names(("add_1 (Add)", "add_2 (Add)")), "add_1 (Add), add_2 (Add)"),
        (figures.operation_names([f"add_{n} (Add)" for n in range(4)] + ["x/m (MatMul)"]), "Add ×4, MatMul"),
    ],
)
def test_a_quantity_is_written_with_its_unit(written: str, expected: str):
    assert written == expected
