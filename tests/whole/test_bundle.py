"""The bundle of a real run: it answers, it checks itself, and a changed file is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from distiq.bundle.open import Bundle
from distiq.errors import UserError
from distiq.files import sha256_of_file

PARTS = ("model.onnx", "preprocessing.json", "vectors.safetensors", "run.py")


@pytest.fixture
def bundle(run_copy: Path) -> Path:
    return run_copy / "bundle"


def test_card_says_what_it_is_and_hashes_every_file(bundle: Path):
    card = json.loads((bundle / "card.json").read_text())
    assert card["sha256"] == {name: sha256_of_file(bundle / name) for name in PARTS}
    assert card["made_from"]["student"] == "resnet"
    assert "drop = -200.0" in card["made_from"]["recipe"]
    assert card["float_operations"] == []
    assert card["measured"]["cost"]["size_bytes"] == (bundle / "model.onnx").stat().st_size
    assert {file.name for file in bundle.iterdir()} == {*PARTS, "card.json", "README.md"}


def test_card_s_text_has_the_measured_accuracy(bundle: Path):
    measured = json.loads((bundle / "card.json").read_text())["measured"]["test"]
    text = (bundle / "README.md").read_text()
    assert f"accuracy, {measured['samples']} test images | {100 * measured['primary']['value']:.2f} %" in text


def test_predict_answers_an_image_file_as_the_model_does(bundle: Path, photos: Path):
    opened = Bundle(bundle)
    right = 0
    for name in ("bright", "dark"):
        for number in range(10):
            answers = opened.predict(photos / "test" / name / f"{number:03d}.png")
            assert sorted(answer.label for answer in answers) == ["bright", "dark"]
            assert sum(answer.probability for answer in answers) == pytest.approx(1)
            assert answers[0].probability >= answers[1].probability
            right += answers[0].label == name
    measured = opened.card["measured"]["test"]["primary"]["value"]
    assert right / 20 == pytest.approx(measured, abs=0.2)


def test_top_limits_the_answers(bundle: Path, photos: Path):
    assert len(Bundle(bundle).predict(photos / "test" / "dark" / "000.png", top=1)) == 1


def test_normalize_is_the_training_s(bundle: Path):
    vectors = load_file(bundle / "vectors.safetensors")
    torch.testing.assert_close(Bundle(bundle).normalize(vectors["pixels"]), vectors["inputs"])


def test_check_passes_where_it_was_made(bundle: Path):
    found = Bundle(bundle).check()
    assert found.passed
    assert (found.vectors, found.changed, found.largest_difference) == (32, 0, 0.0)


def with_vectors(bundle: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Bundle:
    """The bundle with other expected outputs, and a card that knows of it: as if this machine answered otherwise."""
    path = bundle / "vectors.safetensors"
    vectors = load_file(path)
    save_file(vectors | {"outputs": change(vectors["outputs"]).contiguous()}, path)
    card = json.loads((bundle / "card.json").read_text())
    card["sha256"][path.name] = sha256_of_file(path)
    (bundle / "card.json").write_text(json.dumps(card))
    return Bundle(bundle)


def test_check_fails_when_answers_change(bundle: Path):
    found = with_vectors(bundle, lambda outputs: outputs.flip(1)).check()
    assert not found.passed
    assert found.changed == found.vectors


@pytest.mark.parametrize(("share", "passed"), [(0.01, True), (0.05, False)])
def test_check_allows_rounding_alone(share: float, passed: bool, bundle: Path):
    found = with_vectors(bundle, lambda outputs: outputs + share * (outputs.max() - outputs.min())).check()
    assert found.changed == 0
    assert found.passed == passed


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def turned_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def removed(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("spoil", [cut, turned_bit, removed])
@pytest.mark.parametrize("name", PARTS)
def test_a_damaged_file_is_named(name: str, spoil: Callable[[Path], None], bundle: Path):
    spoil(bundle / name)
    with pytest.raises(UserError, match=name) as error:
        Bundle(bundle)
    assert "again" in str(error.value), "the message says what to do"


def test_a_changed_mean_is_noticed(bundle: Path):
    path = bundle / "preprocessing.json"
    path.write_text(path.read_text().replace('"mean"', '"means"'))
    with pytest.raises(UserError, match=r"preprocessing\.json: damaged or changed"):
        Bundle(bundle)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"card\.json: missing; .* is no distiq bundle"):
        Bundle(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"sha256": 3}'])
def test_a_card_that_cannot_be_read_is_refused(content: str, bundle: Path):
    (bundle / "card.json").write_text(content)
    with pytest.raises(UserError, match=r"card\.json"):
        Bundle(bundle)


@pytest.mark.parametrize("content", [None, b"no image"])
def test_predict_refuses_what_is_no_image(content: bytes | None, bundle: Path, tmp_path: Path):
    path = tmp_path / "image.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"image\.png"):
        Bundle(bundle).predict(path)
