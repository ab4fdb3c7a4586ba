import unicodedata

import pytest
import torch

from distiq.data.splits import Data, from_tensors
from distiq.distillation.adapt import adapted, columns_of, example_of
from distiq.errors import UserError
from distiq.models.resnet import ResNet
from distiq.progress import Silent
from distiq.recipe.training import TeacherPreprocessing


@pytest.fixture
def colours() -> Data:
    images = torch.randint(0, 256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels = torch.arange(40) % 3
    return from_tensors((images, labels), (images, labels), ("cat", "dog", "owl"), validation=8, calibration=4)


def test_a_teacher_is_fed_and_read_as_it_was_trained(colours: Data):
    own = TeacherPreprocessing(
        mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), channels="bgr", labels=("owl", "cat", "fox", "dog")
    )
    teacher = ResNet(4, 3, (4, 6), 1).eval()
    pixels = colours.test.inputs.float().flip(1) / 255
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (own.mean, own.std))
    expected = teacher((pixels - mean) / std)[:, [1, 3, 0]]
    found = adapted(teacher, colours, own).eval()(colours.normalize(colours.test.inputs))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_teacher_like_the_data_is_left_as_it_is(colours: Data):
    teacher = ResNet(3, 3, (4, 6), 1)
    assert adapted(teacher, colours, TeacherPreprocessing()) is teacher


def test_what_is_not_said_is_the_data_s(colours: Data):
    own = TeacherPreprocessing(size=(16, 12))
    assert example_of(colours, own).shape == (1, 3, 16, 12)
    view = adapted(torch.nn.Identity(), colours, own)
    images = torch.ones(1, 3, 8, 8) * torch.tensor([1.0, -2.0, 0.5]).view(1, -1, 1, 1)
    seen = view(images)
    torch.testing.assert_close(seen, images[:, :, :1, :1].expand(1, 3, 16, 12))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"mean": (0.5,)}, r"preprocessing\.mean: 1 numbers, but the images have 3 channels"),
        ({"std": (0.5, 0.5)}, r"preprocessing\.std: 2 numbers, but the images have 3 channels"),
        (
            {"labels": ("cat", "owl")},
            r"does not know 'dog'\. The teacher's classes: cat, owl\. The data's classes: cat",
        ),
    ],
)
def test_what_does_not_fit_the_images_is_refused(own: dict, message: str, colours: Data):
    with pytest.raises(UserError, match=message):
        adapted(ResNet(3, 3, (4, 6), 1), colours, TeacherPreprocessing(**own))


def test_grey_images_have_no_order_of_channels(tiny_data: Data):
    with pytest.raises(UserError, match='channels = "bgr", but the images have 1 channel'):
        adapted(ResNet(4, 1, (4, 6), 1), tiny_data, TeacherPreprocessing(channels="bgr"))


def test_what_is_of_images_is_refused_for_others_and_labels_for_numbers():
    tokens, stars = torch.randint(1, 9, (40, 6)), torch.arange(40) / 4
    data = from_tensors((tokens, stars), (tokens, stars), ["stars"], 5, 5, modality="text")
    with pytest.raises(UserError, match="are of images, the data are texts"):
        adapted(torch.nn.Identity(), data, TeacherPreprocessing(size=(4, 4)))
    with pytest.raises(UserError, match="is for classes, but the task is regression"):
        columns_of(data, ("stars",))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"size": (224,)}, "give height and width"),
        ({"std": (0.5, 0.0)}, "every channel's is above 0"),
        ({"labels": ("a", "a")}, "names a class twice"),
    ],
)
def test_what_cannot_be_is_refused_in_the_recipe(own: dict, message: str):
    with pytest.raises(ValueError, match=message):
        TeacherPreprocessing(**own)


class Shares(torch.nn.Module):
    """A network that ends in a softmax, four classes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = ResNet(4, 3, (4, 6), 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(images).softmax(1)


def test_of_a_teacher_that_ends_in_a_softmax_the_logarithm_is_taken_and_said(colours: Data):
    said: list[str] = []
    watch = Silent()
    watch.note = said.append  # type: ignore[method-assign]
    network, own = Shares().eval(), TeacherPreprocessing(labels=("owl", "cat", "fox", "dog"))
    images = colours.normalize(colours.test.inputs)
    found = adapted(network, colours, own, watch).eval()(images)
    torch.testing.assert_close(found, network.inner(images).log_softmax(1)[:, [1, 3, 0]], atol=1e-5, rtol=1e-4)
    assert len(said) == 1 and said[0].startswith("teacher: its outputs are probabilities (it ends in a softmax)")
    assert adapted(network.inner, colours, TeacherPreprocessing(labels=own.labels), watch) and len(said) == 1


def test_of_a_teacher_of_several_labels_that_ends_in_a_sigmoid_the_log_odds_are_taken(colours: Data):
    labels = torch.stack([torch.arange(40) % 2, torch.arange(40) % 3 // 2], 1)
    images = (colours.test.inputs, labels)
    data = from_tensors(images, images, ("big", "red"), validation=8, calibration=8)
    torch.manual_seed(0)
    inner = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)).eval()
    inner[1].weight.data *= 4 / inner(data.normalize(data.test.inputs)).std()
    network, inputs = torch.nn.Sequential(inner, torch.nn.Sigmoid()).eval(), data.normalize(data.test.inputs)
    found = adapted(network, data, TeacherPreprocessing())(inputs).clamp(-9, 9)
    torch.testing.assert_close(found, inner(inputs).clamp(-9, 9), atol=1e-2, rtol=1e-2)
    assert adapted(network, data, TeacherPreprocessing(), trained=False) is network
    inner[1].weight.data *= 0
    inner[1].bias.data.fill_(0.3)  # as networks answer that are not trained
    assert adapted(inner, data, TeacherPreprocessing()) is inner


def test_labels_are_the_same_however_their_accents_are_written():
    decomposed, composed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFD", "NFC"))
    images = (torch.rand(40, 3, 8, 8), torch.arange(40) % 2)
    data = from_tensors(images, images, (decomposed, "bar"), validation=8, calibration=4)
    assert data.classes == (composed, "bar") and columns_of(data, ("bar", decomposed)) == (1, 0)
