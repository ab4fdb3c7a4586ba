"""Every modality's preprocessing: to and from JSON, and the same inputs afterwards."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

from distiq.data.audio import Audio
from distiq.data.images import Images
from distiq.data.preprocessing import Preprocessing, from_json, of_tensors
from distiq.data.samples import InMemory
from distiq.data.tables import Encoding, Table
from distiq.data.text import Text
from distiq.device import run as runner
from distiq.errors import UserError

ENCODING = Encoding({"age": (30.0, (10.0, 20.0, 60.0))}, {"job": ("cook", "smith")})
VALUES: dict[str, Preprocessing] = {
    "colour": Images((3, 4, 6), torch.uint8, (0.5, 0.25, 0.125), (0.5, 0.25, 1.0)),
    "grey floats": Images((1, 4, 6), torch.float32, (0.5,), (2.0,)),
    "sound": Audio((8,), 4000),
    "float sound": Audio((8,), 4000, torch.float32),
    "numbers": Text((5,), 9),
    "texts": Text((5,), 9, 1, 2, 3, (1, 3), True, 4, "{}", "kept", 5),
    "rows": Table((4,), ENCODING),
    "vectors": Table((2,), None, (0.5, 1.0), (2.0, 4.0)),
}


def raw(preprocessing: Preprocessing) -> torch.Tensor:
    values = torch.arange(2 * int(np.prod(preprocessing.shape))).view(2, *preprocessing.shape) % 5
    return values.to(preprocessing.dtype)


@pytest.mark.parametrize("name", VALUES)
def test_json_and_back_is_the_same_value(name: str):
    value = VALUES[name]
    again = from_json(json.loads(json.dumps(value.to_json())))
    assert again == value and type(again) is type(value)
    assert torch.equal(again.normalize(raw(value)), value.normalize(raw(value)))
    assert value.normalize(raw(value)).dtype == value.input_dtype
    assert value.fits(InMemory(raw(value)))


@pytest.mark.parametrize("name", ["colour", "grey floats", "sound", "float sound"])
def test_the_device_s_runner_makes_the_same_inputs(name: str):
    value = VALUES[name]
    found = runner.normalized(raw(value).numpy(), value.to_json())
    assert np.array_equal(found, value.normalize(raw(value)).numpy())


def test_a_file_that_normalizes_itself_is_fed_the_images_as_they_are():
    value = Images((1, 2, 2), torch.uint8, (0.5,), (0.25,), as_uint8=True)
    images = torch.full((1, 1, 2, 2), 7, dtype=torch.uint8)
    again = from_json(value.to_json())
    assert torch.equal(value.normalize(images), images) and torch.equal(again.normalize(images), images)
    assert torch.equal(torch.from_numpy(runner.normalized(images.numpy(), value.to_json())), images)


def test_an_unknown_modality_is_refused():
    with pytest.raises(UserError, match='modality "smell" is none; it is one of image, audio, text, table'):
        from_json({"modality": "smell"})


def test_statistics_are_learned_once_and_only_where_there_are_some():
    images = torch.tensor([0.0, 1.0, 2.0, 3.0]).view(2, 1, 1, 2)
    learned = of_tensors("image", InMemory(images), False, 0).fitted(InMemory(images))
    assert (learned.mean, learned.std) == ((1.5,), (1.25**0.5,))
    assert learned.fitted(InMemory(images + 1)) == learned
    assert of_tensors("image", InMemory(images), True, 0).fitted(InMemory(images)).mean == (0.0,)
    assert VALUES["rows"].fitted(InMemory(torch.rand(3, 4))) == VALUES["rows"]
    assert of_tensors("table", InMemory(torch.tensor([[1.0], [3.0]])), False, 0).fitted(
        InMemory(torch.tensor([[1.0], [3.0]]))
    ).std == (1,)


def test_token_numbers_from_elsewhere_have_room_for_each():
    assert (
        of_tensors("text", InMemory(torch.zeros(1, 5)), False, 0).fitted(InMemory(torch.tensor([[3, 7]]))).vocabulary
        == 8
    )
    assert VALUES["texts"].fitted(InMemory(torch.tensor([[3, 70]]))).vocabulary == 9, (
        "a tokenizer knows how many there are"
    )


def test_files_are_encoded_as_arrays_are(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    found = VALUES["colour"].encode(str(tmp_path / "x.png"), "here")
    expected = VALUES["colour"].normalize(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None])
    assert torch.equal(found.inputs, expected) and found.notes == ()
    wavfile.write(tmp_path / "x.wav", 4000, np.arange(6, dtype=np.int16))
    sound = VALUES["sound"].encode(str(tmp_path / "x.wav"), "here")
    assert (sound.inputs * 32768).tolist() == [[0, 0, 1, 2, 3, 4, 5, 0]]
    assert sound.notes == ("0.00 s long: silence around it fills the window",)
    (tmp_path / "x.csv").write_text("job,age\ncook,15\nsmith,\n")
    rows = VALUES["rows"].encode(str(tmp_path / "x.csv"), "here")
    assert rows.inputs.tolist() == [[0.5, 0, 1, 0], [1, 0.25, 0, 1]]
    assert rows.notes == (f'{tmp_path / "x.csv"}: 1 missing in "age"; taken as its median, 30',)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("grey floats", "here: this model was made from float32 images, which files do not hold"),
        ("float sound", "here: this model was made from float32 clips, which files do not hold"),
        ("numbers", "here: this bundle cannot read raw texts; it predicts prepared inputs"),
        ("vectors", "here: this bundle cannot read raw rows; it predicts prepared inputs"),
    ],
)
def test_what_no_file_holds_is_refused(name: str, message: str):
    with pytest.raises(UserError, match=message):
        VALUES[name].encode("x", "here")
