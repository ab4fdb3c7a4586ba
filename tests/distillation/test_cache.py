"""Stored outputs are the live ones, computed once, and made anew whenever they do not fit."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distiq.data.samples import in_memory
from distiq.data.splits import Data, from_tensors
from distiq.data.text import Text
from distiq.data.views import Views
from distiq.distillation.cache import CachedTeacher
from distiq.distillation.teacher import LiveTeacher
from distiq.progress import Silent
from distiq.recipe.data import ViewSettings
from distiq.recipe.distil import CacheSettings
from distiq.training.batches import Batch, Batches

VIEWS = Views(ViewSettings(shift=1), seed=3)


class Counting(nn.Module):
    """Counts the samples that pass through a network."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.samples = inner, 0

    def forward(self, images: Tensor) -> Tensor:
        self.samples += len(images)
        return self.inner(images)


class Forbidden(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError("the stored outputs were not used")


@pytest.fixture
def cached(teacher: nn.Module, data: Data, tmp_path: Path) -> Callable[..., CachedTeacher]:
    def make(model: nn.Module = teacher, key: str = "key") -> CachedTeacher:
        return CachedTeacher(LiveTeacher(model), data, VIEWS, tmp_path, key)

    return make


@pytest.fixture
def batches(data: Data) -> Batches:
    return Batches(data, VIEWS, 32, seed=0)


def test_equals_the_live_teacher_to_the_stored_precision(cached, batches: Batches, teacher: nn.Module):
    live, stored = LiveTeacher(teacher), cached()
    for epoch in range(2):
        for batch in batches.epoch(epoch):
            # Other batches add up in another order: one unit in the last place of float16 is 2^-11 of the value.
            torch.testing.assert_close(stored(batch).logits, live(batch).logits, rtol=2**-11 + 1e-5, atol=1e-6)


def test_is_the_live_output_rounded_to_half(cached, data: Data, teacher: nn.Module):
    indices = torch.arange(len(data.train))
    images = data.normalize(VIEWS.view(data.train.inputs, 0, indices))
    whole = Batch(images, data.train.labels, indices, 0)
    assert torch.equal(cached()(whole).logits, LiveTeacher(teacher)(whole).logits.half().float())


def test_each_view_is_computed_once(cached, batches: Batches, data: Data, teacher: nn.Module):
    counting = Counting(teacher)
    stored = cached(counting)
    for epoch in (0, 0, 1):
        for batch in batches.epoch(epoch):
            stored(batch)
    assert counting.samples == 2 * len(data.train)


def test_a_second_run_reads_and_never_computes(cached, batches: Batches):
    batch = next(batches.epoch(0))
    first = cached()(batch)
    again = cached(Forbidden())(batch)
    assert torch.equal(first.logits, again.logits)


def test_views_differ(cached, data: Data):
    stored = cached()
    whole = Batch(data.normalize(data.train.inputs), data.train.labels, torch.arange(len(data.train)), 0)
    assert not torch.equal(stored(whole).logits, stored(whole._replace(view=1)).logits)


def another_key(path: Path) -> None:
    save_file(load_file(path), path, {"key": "another teacher"})


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def wrong_length(path: Path) -> None:
    save_file({"logits": load_file(path)["logits"][:-1].clone()}, path, {"key": "key"})


def other_content(path: Path) -> None:
    save_file({"something": torch.zeros(3)}, path, {"key": "key"})


@pytest.mark.parametrize("spoil", [another_key, cut_short, empty, wrong_length, other_content])
def test_a_file_that_does_not_fit_is_made_anew(spoil: Callable[[Path], None], cached, batches: Batches, tmp_path: Path):
    batch = next(batches.epoch(0))
    expected = cached()(batch).logits
    (file,) = tmp_path.glob("*.safetensors")
    spoil(file)
    assert torch.equal(cached()(batch).logits, expected)
    assert torch.equal(cached(Forbidden())(batch).logits, expected), "the file was written again"


def test_size_per_sample_and_nothing_partial(tmp_path: Path):
    classes, count = 10, 2000
    labels = torch.arange(count + 20) % classes
    images = torch.zeros(count + 20, 1, 4, 4)
    data = from_tensors((images, labels), (images[:20], labels[:20]), validation=10, calibration=10)
    teacher = LiveTeacher(nn.Sequential(nn.Flatten(), nn.Linear(16, classes)))
    CachedTeacher(teacher, data, VIEWS, tmp_path, "k" * 200)(next(Batches(data, VIEWS, 8, 0).epoch(0)))
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size <= 24 * count
    assert math.isclose(file.stat().st_size / count, 2 * classes, rel_tol=0.05), "float16"


def test_a_view_is_stored_under_autocast_too(cached, batches: Batches):
    batch = next(batches.epoch(0))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = cached(key="mixed")(batch).logits
    assert torch.equal(mixed, cached()(batch).logits)


def bit_flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 64
    path.write_bytes(bytes(content))


def test_a_flipped_bit_is_found(cached, batches: Batches, tmp_path: Path):
    batch = next(batches.epoch(0))
    expected = cached()(batch).logits
    (file,) = tmp_path.glob("*.safetensors")
    bit_flipped(file)
    assert torch.equal(cached()(batch).logits, expected)


def test_another_form_or_other_layers_are_made_anew(teacher, data: Data, batches: Batches, tmp_path: Path):
    batch = next(batches.epoch(0))

    def made(settings: CacheSettings, paths: tuple[str, ...] = ()) -> CachedTeacher:
        return CachedTeacher(LiveTeacher(teacher, paths), data, VIEWS, tmp_path, "key", None, settings, paths)

    exact = made(CacheSettings())(batch)
    rough = made(CacheSettings(storage="quantized"))(batch)
    assert not torch.equal(exact.logits, rough.logits)
    torch.testing.assert_close(exact.logits.softmax(1), rough.logits.softmax(1), atol=0.02, rtol=0)
    layers = made(CacheSettings(features=True), ("stages.1",))(batch)
    live = LiveTeacher(teacher, ["stages.1"])(batch)
    torch.testing.assert_close(layers.features["stages.1"], live.features["stages.1"], rtol=2e-3, atol=1e-4)


def test_a_full_store_answers_anew_and_writes_no_more(teacher, data: Data, batches: Batches, tmp_path: Path):
    counting = Counting(teacher)
    one_view = 2 * 2 * len(data.train) / 1e6
    settings = CacheSettings(limit_mb=1.01 * one_view)
    stored = CachedTeacher(LiveTeacher(counting), data, VIEWS, tmp_path, "key", None, settings)
    for epoch in (0, 1, 0, 1):
        for batch in batches.epoch(epoch):
            stored(batch)
    assert len(list(tmp_path.iterdir())) == 1
    assert counting.samples == 3 * len(data.train), "view 0 once, view 1 in both epochs"


def test_a_view_larger_than_the_store_is_answered_live(teacher, data: Data, batches: Batches, tmp_path: Path):
    settings = CacheSettings(features=True, limit_mb=1e-3)
    live = LiveTeacher(teacher, ["stem"])
    stored = CachedTeacher(live, data, VIEWS, tmp_path, "key", None, settings, ("stem",))
    for batch in batches.epoch(0):
        assert torch.equal(stored(batch).features["stem"], live(batch).features["stem"])
    assert not list(tmp_path.iterdir())


def test_mixed_images_are_answered_as_they_are_shown(teacher, data: Data, tmp_path: Path):
    views = Views(ViewSettings(shift=1, mixup=0.5, cutmix=0.5), seed=3)
    batch = next(Batches(data, views, 32, 0).epoch(0))
    stored = CachedTeacher(LiveTeacher(teacher), data, views, tmp_path, "key")(batch)
    torch.testing.assert_close(stored.logits, LiveTeacher(teacher)(batch).logits, rtol=2**-11 + 1e-5, atol=1e-5)


def test_the_largest_size_is_that_of_all_stores_of_a_run(
    teacher: nn.Module, data: Data, batches: Batches, tmp_path: Path
):
    """Two stores of one view each fill it; the third view is answered anew, which is said once."""
    one = CachedTeacher(LiveTeacher(teacher), data, VIEWS, tmp_path / "one", "key", Notes(), CacheSettings())
    one(next(batches.epoch(0)))
    view_mb = sum(file.stat().st_size for file in (tmp_path / "one").glob("*.safetensors")) / 1e6
    (tmp_path / "run").mkdir()
    settings, watch = CacheSettings(limit_mb=2.5 * view_mb), Notes()
    for name in "abc":
        stored = CachedTeacher(
            LiveTeacher(teacher), data, VIEWS, tmp_path / "run" / name, "key", watch, settings, beside=tmp_path / "run"
        )
        for epoch in (0, 0):
            stored(next(batches.epoch(epoch)))
    assert sorted(file.parent.name for file in (tmp_path / "run").glob("*/*.safetensors")) == ["a", "b"]
    assert [note for note in watch.notes if "is full" in note] == watch.notes[-1:]


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_texts_are_computed_without_their_padding_and_stored_as_with_it(data: Data, tmp_path: Path):
    made = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 3, (len(data.train), 20), generator=made)
    tokens[torch.arange(20) >= torch.randint(2, 8, (len(tokens), 1), generator=made)] = 0
    texts = replace(data, preprocessing=Text((20,), 3), train=in_memory(tokens, data.train.labels))
    seen = []

    class Tagger(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            seen.append(rows.shape[1])
            return torch.stack([rows, -rows], 1).float()

    stored = CachedTeacher(LiveTeacher(Tagger()), texts, VIEWS, tmp_path, "key")
    indices = torch.tensor([7, 3, 5])
    batch = Batches(texts, VIEWS, 3, seed=0).batch(0, indices)
    assert torch.equal(stored(batch).logits, torch.stack([tokens[indices], -tokens[indices]], 1).float())
    assert seen[-1] == 7
