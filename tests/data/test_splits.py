import math

import pytest
import torch

from distiq.data.images import Images
from distiq.data.labels import NUMBER, is_labelled
from distiq.data.samples import InMemory, channel_statistics, in_memory
from distiq.data.splits import (
    check,
    from_tensors,
    with_unlabelled,
)
from distiq.errors import UserError
from distiq.tasks.choose import task_of


def numbered(count=60, classes=3, dtype=torch.uint8):
    """Images whose first pixel is their own number."""
    images = torch.zeros(count, 2, 4, 5)
    images[:, 0, 0, 0] = torch.arange(count)
    return images.to(dtype), torch.arange(count) % classes


def make(train=None, test=None, **settings):
    return from_tensors(train or numbered(), test or numbered(20), **{"validation": 10, "calibration": 5, **settings})


def numbers(split) -> list[int]:
    return split.inputs[:, 0, 0, 0].tolist()


def test_splits_are_disjoint_and_whole():
    data = make()
    parts = [numbers(part) for part in (data.train, data.validation, data.calibration)]
    assert [len(part) for part in parts] == [45, 10, 5]
    assert sorted(number for part in parts for number in part) == list(range(60))
    assert numbers(data.test) == list(range(20))
    for part in (data.train, data.validation, data.calibration, data.test):
        assert [number % 3 for number in numbers(part)] == part.labels.tolist()


def test_splits_are_a_function_of_the_seed():
    assert make(seed=1).digest() == make(seed=1).digest()
    assert make(seed=1).digest() != make(seed=2).digest()


def test_digest_sees_every_label_and_pixel():
    first = make().digest()
    for change in (0, 1):
        test = [tensor.clone() for tensor in numbered(20)]
        test[change].flatten()[7] = 1 + test[change].flatten()[7] % 2
        assert make(test=tuple(test)).digest() != first


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_statistics_are_those_of_torch(dtype):
    images = torch.randint(0, 256, (5000, 3, 2, 3), generator=torch.Generator().manual_seed(0)).to(dtype)
    values = images.double() / (255 if dtype == torch.uint8 else 1)
    mean, std = channel_statistics(InMemory(images))
    torch.testing.assert_close(torch.tensor(mean), values.mean((0, 2, 3)).float())
    torch.testing.assert_close(torch.tensor(std), values.std((0, 2, 3), unbiased=False).float())


def test_normalized_training_images_have_mean_0_and_variance_1():
    images = torch.randint(0, 256, (60, 2, 4, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    data = make(train=(images, torch.arange(60) % 3))
    normalized = data.normalize(data.train.inputs)
    assert normalized.dtype == torch.float32
    torch.testing.assert_close(normalized.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalized.std((0, 2, 3), unbiased=False), torch.ones(2))


def test_a_constant_channel_does_not_divide_by_zero():
    data = make()  # the second channel is black everywhere
    assert torch.isfinite(data.normalize(data.test.inputs)).all()


def test_statistics_are_of_the_training_split_alone():
    data = make()
    assert data.preprocessing.mean == channel_statistics(data.train.samples)[0]


def test_ready_images_are_left_alone():
    data = make(train=numbered(dtype=torch.float32), test=numbered(20, dtype=torch.float32), normalized=True)
    assert torch.equal(data.normalize(data.train.inputs), data.train.inputs)


def test_names_of_the_classes():
    assert make().classes == ("0", "1", "2")
    assert make(classes=["a", "b", "c", "d"]).classes == ("a", "b", "c", "d")


def test_the_record_counts():
    record = make().record()
    assert (record.train, record.validation, record.calibration, record.test) == (45, 10, 5, 20)
    assert record.sample_shape == (2, 4, 5)
    assert record.digest == make().digest()


def spoiled(value: float):
    images, labels = numbered(dtype=torch.float32)
    images[7, 0, 0, 0] = images[9, 1, 1, 1] = value
    return images, labels


@pytest.mark.parametrize(
    ("train", "settings", "message"),
    [
        (spoiled(float("nan")), {}, r"image 7 holds NaN or infinite values \(2 images do\)"),
        (spoiled(float("inf")), {}, "image 7 holds NaN or infinite"),
        ((numbered()[0], numbered()[1] - 1), {}, "labels run from -1 to 1, but there are 2 classes"),
        (numbered(), {"classes": ["a", "b"]}, r"labels run from 0 to 2, but there are 2 classes \(0 to 1\)"),
        (numbered(classes=1), {}, "only one class"),
        (numbered(classes=1), {"classes": ["a", "b"]}, "every sample has the label 0; at least two"),
        ((numbered()[0][:0], numbered()[1][:0]), {}, "no images"),
        (numbered(dtype=torch.float64), {}, r"images are float64 \(60, 2, 4, 5\); give \(N, C, H, W\)"),
        ((numbered()[0][:, 0], numbered()[1]), {}, r"images are uint8 \(60, 4, 5\)"),
        ((numbered()[0], numbered()[1][:50]), {}, r"60 images but labels of shape \(50,\)"),
        ((numbered()[0], numbered()[1].unsqueeze(1)), {}, r"labels of shape \(60, 1\)"),
        ((numbered()[0], numbered()[1].float()), {}, "labels are float32; give whole numbers as int64"),
        ((numbered()[0], numbered()[1].int()), {}, "labels are int32; give whole numbers as int64"),
    ],
    ids=[
        "nan", "inf", "negative label", "label too large", "one class", "one label", "empty", "float64", "three axes",
        "fewer labels", "two axes", "float labels", "int32 labels",
    ],
)  # fmt: skip
def test_samples_that_cannot_be_learned_from_are_refused(train, settings, message):
    with pytest.raises(UserError, match=f"^tensors: training set: .*{message}"):
        make(train=train, **settings)


def test_the_test_set_is_checked_too():
    with pytest.raises(UserError, match=r"^tensors: test set: no images"):
        make(test=tuple(part[:0] for part in numbered()))


@pytest.mark.parametrize(
    "test", [numbered(dtype=torch.float32), (numbered()[0][:, :1], numbered()[1])], ids=["type", "shape"]
)
def test_training_and_test_images_must_be_alike(test):
    with pytest.raises(
        UserError, match=r"training images are uint8 \(60, 2, 4, 5\), test images are .*make them alike"
    ):
        make(test=test)


@pytest.mark.parametrize(("validation", "calibration"), [(60, 1), (30, 29), (500, 5)])
def test_too_few_images_are_refused(validation, calibration):
    with pytest.raises(
        UserError, match=f"60 training images cannot give {validation} for validation and {calibration}"
    ):
        make(validation=validation, calibration=calibration)


@pytest.mark.parametrize(
    ("part", "number", "least"),
    [
        ("validation", 0, 1),
        ("calibration", -3, 0),
        ("validation", 0.25, 1),
        ("calibration", 2.5, 0),
        ("validation", math.nan, 1),
    ],
)
def test_parts_are_whole_numbers_of_samples(part, number, least):
    with pytest.raises(UserError, match=f"{part} = {number} counts training samples; give a whole number from {least}"):
        make(**{part: number})


def test_check_names_the_place():
    with pytest.raises(UserError, match=r"^here: no images"):
        check(in_memory(*(part[:0] for part in numbered())), Images((2, 4, 5)), ("a", "b"), "here")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.zeros(40, 3, dtype=torch.int64), r"labels of shape \(40, 3\); give one label each, or of several"),
        (torch.full((40, 2), 2), "labels run from 2 to 2; of several labels each is 0 or 1"),
        (torch.ones(40, 2, dtype=torch.int64), "every sample has the same labels"),
    ],
)
def test_several_labels_that_cannot_be_are_refused(labels, said):
    images = torch.rand(40, 1, 4, 4)
    with pytest.raises(UserError, match=said):
        from_tensors((images, labels), (images, labels), ["a", "b"], 5, 5)


def test_unlabelled_samples_beside_several_labels():
    images, labels = torch.rand(40, 1, 4, 4), torch.eye(2, dtype=torch.int64).repeat(20, 1)
    data = with_unlabelled(from_tensors((images, labels), (images, labels), None, 5, 5), images[:3])
    assert data.train.labels[-3:].tolist() == [[-1, -1]] * 3
    assert data.classes == ("0", "1")


def stars(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Token numbers, and a number for each text."""
    return torch.randint(1, 9, (count, 6), generator=torch.Generator().manual_seed(0)), torch.arange(count) / 4 + 7


def test_numbers_are_standardized_by_the_training_rows():
    train, test = stars(), stars(12)
    data = from_tensors(train, test, ["stars"], 5, 5, modality="text")
    assert data.labels.form is NUMBER and data.labels.classes == ("stars",) and data.labels.target.std > 1
    labels = data.train.labels.double()
    assert float(labels.mean()) == pytest.approx(0, abs=1e-6) and float(labels.std(correction=0)) == pytest.approx(1)
    mean, std = data.target
    torch.testing.assert_close(data.test.labels * std + mean, test[1])
    parts = torch.cat([part.labels for part in (data.train, data.validation, data.calibration)]) * std + mean
    torch.testing.assert_close(parts.sort().values, train[1])


def test_another_unit_gives_the_same_labels_and_another_digest():
    tokens, labels = stars()
    units = [(tokens, labels), (tokens, 9 * labels)]
    one, other = (from_tensors(unit, unit, ["stars"], 5, 5, modality="text") for unit in units)
    torch.testing.assert_close(one.train.labels, other.train.labels)
    assert one.digest() != other.digest() and other.target.std == pytest.approx(9 * one.target.std)


def test_unlabelled_texts_beside_numbers():
    tokens, labels = stars()
    labelled = from_tensors((tokens, labels), (tokens, labels), ["stars"], 5, 5, modality="text")
    data = with_unlabelled(labelled, tokens[:3])
    assert data.train.labels[-3:].isnan().all() and is_labelled(data.train.labels).sum() == len(data.train) - 3


@pytest.mark.parametrize(
    ("labels", "settings", "said"),
    [
        (torch.rand(40), {"classes": ["a", "b"]}, "labels are float32; .* a float32 number each, with one"),
        (torch.rand(40).double(), {}, "labels are float64; give whole numbers"),
        (torch.arange(40), {}, "only one class"),
        (torch.full((40,), 2.0), {}, "every stars is the same; there is nothing to learn"),
        (torch.arange(40).float().masked_fill(torch.arange(40) == 7, float("nan")), {}, "the stars of text 7 is nan"),
        (torch.arange(40).float().masked_fill(torch.arange(40) == 7, float("inf")), {}, "the stars of text 7 is inf"),
    ],
)
def test_numbers_that_cannot_be_are_refused(labels, settings, said):
    tokens, _ = stars()
    with pytest.raises(UserError, match=said):
        from_tensors((tokens, labels), (tokens, labels), settings.get("classes", ["stars"]), 5, 5, modality="text")


@pytest.mark.parametrize(
    ("inputs", "settings"),
    [
        (torch.rand(40, 1, 4, 4), {}),
        (torch.rand(40, 3), {"modality": "table"}),
        (torch.rand(40, 800), {"modality": "audio", "rate": 8000}),
    ],
    ids=["image", "table", "audio"],
)
def test_samples_of_every_kind_may_have_numbers(inputs, settings):
    labels = torch.arange(40.0)
    data = from_tensors((inputs, labels), (inputs, labels), ["stars"], 5, 5, **settings)
    assert task_of(data).name == "regression"
    raw = (data.test.labels.double() * data.target.std + data.target.mean).float()
    torch.testing.assert_close(raw, labels)


@pytest.mark.parametrize(("height", "width", "channels"), [(8, 6, 3), (8, 8, 1), (9, 8, 4)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_channels_behind_height_and_width_are_refused(dtype, height: int, width: int, channels: int):
    images = torch.zeros(20, height, width, channels, dtype=dtype)
    with pytest.raises(UserError, match=r"have their channels last; give \(N, C, H, W\): images.permute\(0, 3, 1, 2\)"):
        make((images, torch.arange(20) % 2), (images, torch.arange(20) % 2))
