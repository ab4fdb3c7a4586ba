import numpy as np
import torch

from distiq.data import strings
from distiq.data.strings import digit_strings


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
