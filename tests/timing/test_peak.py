"""The peak is measured on the real kernels; a share is a ratio by hand."""

import pytest
import torch

from distiq.records.speed import PeakRecord, gmac_per_s
from distiq.runtimes.onnx_session import matrix_product
from distiq.timing.peak import measure_peak


def test_both_rates_are_measured_and_the_threads_of_torch_stay():
    before = torch.get_num_threads()
    torch.set_num_threads(3)  # another number than the one that the peak is measured with
    try:
        peak = measure_peak(0.0)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert peak.int8_gmac_per_s > 0 and peak.float32_gmac_per_s > 0
    assert {peak.int8_by, peak.float32_by} <= {"ONNX Runtime", "torch"}


@pytest.mark.parametrize("of_integers", [True, False])
def test_what_is_timed_is_a_whole_product(of_integers: bool):
    (result,) = matrix_product(8, of_integers)()
    assert result.shape == (8, 8) and result.dtype == ("int32" if of_integers else "float32")


def test_a_rate_and_its_share_by_hand():
    rate = gmac_per_s(3_000_000, 0.1)
    assert rate == pytest.approx(30)  # 3e6 / 1e-4 s
    peak = PeakRecord(int8_gmac_per_s=200.0, int8_by="torch", float32_gmac_per_s=60.0, float32_by="torch")
    assert peak.share(rate, is_int8=True, threads=1) == pytest.approx(0.15)
    assert peak.share(rate, is_int8=False, threads=2) == pytest.approx(0.25)
