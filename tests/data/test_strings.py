import numpy as np
import torch

from distiq.data import strings
from distiq.data.strings import DIGIT_WORDS, digit_strings, mu_law, of_mu_law, synthetic_recordings, synthetic_strings


def test_strings_hold_their_recordings_in_order(monkeypatch):
    """Recording n is the constant n + 1: 3,000 of them, 300 by digit, takes 0 to 4 of each 50 are the test's."""
    clips = [np.full(100, number + 1, np.int16) for number in range(3000)]
    monkeypatch.setattr(strings, "packaged_recordings", lambda: clips)
    for test in (False, True):
        found = digit_strings(20, 3, 1.2, 0, test)
        assert found.inputs.shape == (20, 9600) and found.labels.shape == (20, 3)
        for window, row in zip(found.inputs.numpy(), found.labels.tolist(), strict=True):
            tokens = [token for token in row if token != -1]
            heard = [int(value) - 1 for value in window[np.insert(np.diff(window) != 0, 0, window[0] != 0)] if value]
            assert [1 + number // 300 for number in heard] == tokens and 1 <= len(tokens) <= 3
            assert all((number % 50 < 5) == test for number in heard)


def test_strings_are_the_same_again_and_each_for_itself(monkeypatch):
    monkeypatch.setattr(strings, "packaged_recordings", lambda: [np.full(9, 7, np.int16)] * 3000)
    five, nine = digit_strings(5, 4, 1.5, 3, True), digit_strings(9, 4, 1.5, 3, True)
    assert torch.equal(five.inputs, nine.inputs[:5]) and torch.equal(five.labels, nine.labels[:5])


def test_what_does_not_fit_into_the_window_is_in_no_label(monkeypatch):
    monkeypatch.setattr(strings, "packaged_recordings", lambda: [np.ones(3000, np.int16)] * 3000)
    found = digit_strings(30, 5, 1.0, 0, False)
    assert torch.equal((found.labels > 0).sum(1), (found.inputs != 0).sum(1) // 3000)
    assert int((found.labels > 0).sum(1).max()) == 2


def test_held_out_speakers_are_heard_in_the_test_alone(monkeypatch):
    """Recordings n = 300 digit + 50 speaker + take; the third speaker's are 100 to 149 of each 300."""
    clips = [np.full(100, number + 1, np.int16) for number in range(3000)]
    monkeypatch.setattr(strings, "packaged_recordings", lambda: clips)
    for test in (False, True):
        found = digit_strings(20, 3, 1.2, 0, test, ("lucas",))
        heard = {(int(value) - 1) % 300 // 50 for value in found.inputs.unique() if value}
        assert heard == {2} if test else 2 not in heard


def test_the_mu_law_keeps_signs_and_loses_little():
    samples = np.array([-32768, -3000, -40, -1, 0, 1, 40, 3000, 32767], np.int16)
    back = of_mu_law(mu_law(samples)).astype(float)
    assert np.all(np.abs(back - samples) <= 3 + np.abs(samples.astype(float)) * 0.025)
    codes = np.arange(256, dtype=np.uint8)
    assert np.array_equal(mu_law(of_mu_law(codes)), codes)


def test_synthetic_voices_say_the_ten_digits_each(monkeypatch):
    clips = synthetic_recordings()
    assert len(clips) % len(DIGIT_WORDS) == 0 and all(800 < len(clip) < 12000 for clip in clips)
    monkeypatch.setattr(strings, "synthetic_recordings", lambda: [np.full(9, n + 1, np.int16) for n in range(40)])
    found = synthetic_strings(20, 3, 1.5, 0)
    for window, row in zip(found.inputs.numpy(), found.labels.tolist(), strict=True):
        heard = [int(value) - 1 for value in window[np.insert(np.diff(window) != 0, 0, window[0] != 0)] if value]
        assert [1 + number % 10 for number in heard] == [token for token in row if token != -1]
