import pytest
import torch
from torch import nn

from distiq.errors import UserError
from distiq.models.audio import (
    DSCNN,
    AudioFrames,
    AudioGRU,
    AudioGRUFrames,
    AudioResNet,
    check_rate,
    frame_samples,
    front_ends,
)
from distiq.models.build import build
from distiq.models.conformer import ConformerFrames
from distiq.models.frontend import front_end
from distiq.recipe.training import ModelSettings

EXAMPLE = torch.zeros(1, 4000)


@pytest.mark.parametrize("name", ["ds_cnn", "audio_resnet", "audio_gru", "bc_resnet", "conformer"])
@pytest.mark.parametrize("features", ["log_mel", "mfcc"])
def test_waveforms_in_logits_out(name: str, features: str):
    choice = ModelSettings(model=name, options={"rate": 8000, "features": features})
    model = build(choice, 7, EXAMPLE, "student").eval()
    logits = model(torch.randn(3, 4000))
    assert logits.shape == (3, 7)
    assert torch.isfinite(logits).all()


def test_ds_cnn_has_the_parameters_of_its_layers():
    model = DSCNN(10, front_end(8000), stem=24, kernel=(4, 10), widths=(32, 16), strides=(1, 2))
    stem = 24 * 40 + 2 * 24
    first, second = 24 * 9 + 2 * 24 + 24 * 32 + 2 * 32, 32 * 9 + 2 * 32 + 32 * 16 + 2 * 16
    assert sum(value.numel() for value in model.parameters()) == stem + first + second + 16 * 10 + 10
    assert not list(model.frontend.parameters())


def test_strides_shrink_the_maps():
    model = DSCNN(10, front_end(8000), stride=(2, 2), widths=(8, 8), strides=(1, 2)).eval()
    features = model.frontend(torch.zeros(1, 8000))
    assert features.shape == (1, 40, 1 + (8000 - 256) // 128)
    assert model.blocks(model.stem(features.unsqueeze(1))).shape[2:] == (10, 16)


def test_tokens_of_every_other_frame():
    model = AudioFrames(11, front_end(8000), width=8, blocks=1).eval()
    frames = 1 + (8000 - 256) // 128
    assert model(torch.randn(2, 8000)).shape == (2, 11, (frames + 1) // 2)


def test_the_gru_is_classified_by_its_last_state():
    model = AudioGRU(3, front_end(8000), width=8, hidden=6).eval()
    clip = torch.randn(1, 4000)
    frames = torch.relu(model.stem(model.frontend(clip)))[0].T
    cell = nn.GRUCell(8, 6)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in model.recurrent.state_dict().items()})
    state = torch.zeros(1, 6)
    for frame in frames:
        state = cell(frame.unsqueeze(0), state)
    torch.testing.assert_close(model(clip), model.classifier(state))
    assert len(frames) == (1 + (4000 - 256) // 128 + 1) // 2, "every other frame"


def test_front_ends_are_found_by_path():
    assert front_ends(DSCNN(3, front_end(8000, "mfcc"))) == ("frontend",)
    assert front_ends(nn.Sequential(AudioResNet(3, front_end(8000)), nn.ReLU())) == ("0.frontend",)
    assert front_ends(nn.Linear(2, 2)) == ()


def test_another_rate_than_the_data_s_is_refused():
    check_rate(DSCNN(3, front_end(8000)), 8000, "student")
    with pytest.raises(
        UserError, match=r"made for 8000 Hz, the clips have 16000 Hz; set student\.options\.rate = 16000"
    ):
        check_rate(DSCNN(3, front_end(8000)), 16000, "student")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"features": "chroma"}, 'features = "chroma": give "log_mel" or "mfcc"'),
        ({"widths": [8], "strides": [1, 1]}, "1 widths but 2 strides"),
        ({"window": 3}, 'ds_cnn has no option "window"'),
        ({"channels": 1}, 'ds_cnn has no option "channels"'),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict, said: str):
    with pytest.raises(UserError, match=said):
        build(ModelSettings(model="ds_cnn", options=options), 3, EXAMPLE, "student")


def test_a_clip_shorter_than_a_frame_is_refused():
    with pytest.raises(UserError, match=r"the network fails on an input of shape \(100,\)"):
        build(ModelSettings(model="ds_cnn", options={"rate": 8000}), 3, torch.zeros(1, 100), "student")


@pytest.mark.parametrize(("network", "frame"), [(AudioFrames, 256), (AudioGRUFrames, 256), (ConformerFrames, 256)])
def test_samples_of_a_frame_are_the_hop_by_the_stride(network: type[nn.Module], frame: int):
    assert frame_samples(network(4, front_end(8000)).eval(), 8000) == frame


def test_a_network_of_one_length_has_no_frames_of_its_own():
    assert frame_samples(nn.Sequential(nn.Linear(800, 30), nn.Unflatten(1, (3, 10))), 800) == 0
