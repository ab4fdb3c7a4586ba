"""Views of clips: each change alone is what its name says, and any view can be drawn again."""

import math

import pytest
import torch
from torch import Tensor

from distiq.data.audio import Audio
from distiq.data.samples import in_memory
from distiq.data.views import Views, uniform, white_noise
from distiq.data.waveforms import hushed, louder, moved, sounding, with_noise
from distiq.errors import UserError
from distiq.recipe.data import AudioViewSettings, ViewSettings
from distiq.recipe.read import parse_recipe

LENGTH = 800
RATE = 8000
EVERYTHING = {
    "shift": 0.2, "speed": 0.1, "gain_db": 6.0, "noise": 0.5, "mask": 0.2, "stretch": 0.2, "voice": 0.2,
    "curve_db": 9.0,
}  # fmt: skip
STILL = dict.fromkeys(EVERYTHING, 0.0)


def views(**settings: float | tuple[float, float]) -> Views:
    return Views(ViewSettings(audio=AudioViewSettings(**settings)), seed=3)


def clips(count: int = 12, dtype: torch.dtype = torch.int16) -> Tensor:
    noise = torch.randn(count, LENGTH, generator=torch.Generator().manual_seed(0))
    return (noise * 3000).to(dtype)


@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
def test_a_view_is_the_same_in_any_order_and_any_batch(dtype: torch.dtype):
    """To the bit: more clips than a vector register holds numbers, so that some fall into its remainder."""
    sounds, everyone, made = clips(75, dtype), torch.arange(75), views(**EVERYTHING | {"noise": 1.0})
    whole = made.heard(sounds, 5, everyone, RATE)
    assert whole.dtype == dtype
    order = torch.randperm(75, generator=torch.Generator().manual_seed(1))
    assert torch.equal(made.heard(sounds[order], 5, order, RATE), whole[order])
    parts = everyone.split([1, 4, 7, 1, 40, 22])
    assert torch.equal(torch.cat([made.heard(sounds[part], 5, part, RATE) for part in parts]), whole)


def test_views_differ_by_number_seed_and_index():
    one = clips(1).expand(3, -1)
    made = views(**EVERYTHING)
    first = made.heard(one, 0, torch.arange(3), RATE)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, made.heard(one, 1, torch.arange(3), RATE))
    assert not torch.equal(first, Views(made.settings, 4).heard(one, 0, torch.arange(3), RATE))


def test_without_any_change_a_view_is_the_clip():
    assert torch.equal(views(**STILL).heard(clips(), 0, torch.arange(12), RATE), clips())


def test_a_split_of_clips_is_shown_through_its_views():
    split = in_memory(clips(), torch.arange(12))
    shown = views(**EVERYTHING).shown(split, Audio(split.samples.shape, 8000), 2, torch.tensor([4, 1]))
    assert torch.equal(shown.inputs, views(**EVERYTHING).heard(clips()[[4, 1]], 2, torch.tensor([4, 1]), RATE))
    assert shown.labels.tolist() == [4, 1]


@pytest.mark.parametrize("shift", [0, 7, -13])
def test_a_moved_clip_comes_later_and_silence_comes_in(shift: int):
    sounds = clips(2, torch.float32)
    expected = torch.zeros_like(sounds)
    if shift >= 0:
        expected[:, shift:] = sounds[:, : LENGTH - shift]
    else:
        expected[:, :shift] = sounds[:, -shift:]
    torch.testing.assert_close(moved(sounds, torch.full((2,), float(shift)), torch.ones(2), torch.zeros(2)), expected)


def test_a_faster_clip_is_higher_by_the_same_factor():
    time = torch.arange(LENGTH, dtype=torch.float32)
    tone = torch.sin(2 * math.pi * time / 40).unsqueeze(0)
    centre = (LENGTH - 1) / 2
    fast = moved(tone, torch.zeros(1), torch.tensor([1.25]), torch.tensor([centre]))
    middle = slice(LENGTH // 4, 3 * LENGTH // 4)
    expected = torch.sin(2 * math.pi * (centre + (time - centre) * 1.25) / 40)
    # The straight line between samples of a sine of 40 samples is off by at most (2 pi / 40)^2 / 8.
    torch.testing.assert_close(fast[0, middle], expected[middle], atol=(2 * math.pi / 40) ** 2 / 8 + 1e-4, rtol=0)


def test_decibels_are_decibels():
    sounds = clips(3, torch.float32)
    ratio = louder(sounds, torch.tensor([20.0, 0.0, -6.0206])) / sounds
    torch.testing.assert_close(ratio[:, 0], torch.tensor([10.0, 1.0, 0.5]), rtol=1e-4, atol=0)


def test_noise_has_the_wanted_ratio_and_meets_the_chosen_alone():
    sounds = clips(3, torch.float32)
    noise = white_noise(1, 2, torch.arange(3), LENGTH)
    noisy = with_noise(sounds, noise, torch.tensor([10.0, 20.0, 10.0]), torch.tensor([True, True, False]))
    added = (noisy - sounds).square().mean(1)
    ratios = 10 * torch.log10(sounds.square().mean(1) / added)
    torch.testing.assert_close(ratios[:2], torch.tensor([10.0, 20.0]), atol=0.3, rtol=0)
    assert torch.equal(noisy[2], sounds[2])
    silent = with_noise(torch.zeros(1, LENGTH), noise[:1], torch.zeros(1), torch.ones(1, dtype=torch.bool))
    assert not silent.any()


def test_white_noise_is_white():
    noise = white_noise(7, 0, torch.arange(50), 4003)
    assert noise.shape == (50, 4003)
    # Standard errors: 1 / sqrt(200150) = 0.0022 of the mean and of each correlation.
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.square().mean()) - 1) < 0.01
    for distance in (1, 2, 1000):
        assert abs(float((noise[:, distance:] * noise[:, :-distance]).mean())) < 0.012
    assert not torch.equal(noise[0], white_noise(7, 1, torch.arange(1), 4003)[0])


def test_noise_and_draws_share_no_numbers():
    drawn = uniform(7, 0, torch.arange(4), 8)
    noise = white_noise(7, 0, torch.arange(4), 64)
    assert not (drawn.unsqueeze(2) - (noise / 12**0.5 + 0.5).unsqueeze(1)).abs().min() < 1e-6


def test_a_hushed_stretch_is_silent_and_the_rest_is_not():
    sounds = torch.ones(2, 10)
    found = hushed(sounds, torch.tensor([2.0, 0.0]), torch.tensor([3.0, 0.0]))
    assert found.tolist() == [[1, 1, 0, 0, 0, 1, 1, 1, 1, 1], [1] * 10]


def test_loud_clips_are_held_at_full_scale():
    loud = torch.full((4, LENGTH), 30000, dtype=torch.int16)
    found = views(**STILL | {"gain_db": 20.0}).heard(loud, 0, torch.arange(4), RATE)
    assert int(found.min()) > 0, "a sample that wrapped would be negative"
    assert int(found.max()) == 32767


def test_sound_that_a_text_says_never_leaves_the_window():
    """Slower, and later: the first and the last sample are still there, in a window that it fills."""
    sounds = torch.zeros(40, LENGTH)
    sounds[:, 100:700] = 1000.0
    made = views(**STILL | {"speed": 0.5, "shift": 0.5})
    whole, cut = (made.heard(sounds, 0, torch.arange(40), RATE, whole) for whole in (True, False))
    speed = 1 + 0.5 * (2 * uniform(3, 0, torch.arange(40), 2)[:, 1] - 1)
    length = 600 / speed.clamp(min=600 / LENGTH)
    assert ((whole > 0).sum(1) - length).abs().max() <= 2
    assert (((cut > 0).sum(1) - 600 / speed).abs() > 2).any()


def test_what_sounds_is_found():
    sounds = torch.zeros(3, 10)
    sounds[0, 2:5], sounds[1, 9] = 1, -1
    begin, end = sounding(sounds)
    assert (begin.tolist(), end.tolist()) == ([2, 9, 0], [5, 10, 1])


def test_a_range_that_begins_above_its_end_is_refused():
    with pytest.raises(UserError, match=r"views\.audio: snr_db = \[30\.0, 10\.0\] begins above its end"):
        parse_recipe({"views": {"audio": {"snr_db": [30.0, 10.0]}}})


def test_gains_may_lie_between_two():
    sounds, indices = torch.full((200, LENGTH), 1000.0), torch.arange(200)
    heard = views(**STILL | {"gain_db": (-20.0, 6.0)}).heard(sounds, 0, indices, RATE)
    gains = 20 * torch.log10(heard[:, 0] / 1000)
    assert -20.001 <= float(gains.min()) < -18 and 4 < float(gains.max()) <= 6.001
    one, two = (views(**STILL | {"gain_db": gain}).heard(sounds, 0, indices, RATE) for gain in (6.0, (-6.0, 6.0)))
    assert torch.equal(one, two)


@pytest.mark.parametrize("gain", [-3.0, (6.0, -20.0)])
def test_gains_that_are_no_range_are_refused(gain):
    with pytest.raises(ValueError, match="give a number from 0 on, or the lowest gain and the highest"):
        AudioViewSettings(gain_db=gain)
