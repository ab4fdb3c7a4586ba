import pytest
from PIL import Image

from distiq.data.images import FASHION_MNIST_CLASSES
from distiq.data.load import load
from distiq.errors import UserError
from distiq.recipe.data import DataSettings

FACTORY = """
import torch
from distiq import from_tensors

def data():
    images = torch.zeros(20, 1, 4, 4, dtype=torch.uint8)
    return from_tensors((images, torch.arange(20) % 2), (images, torch.arange(20) % 2), validation=4, calibration=2)

def nothing():
    return None
"""


@pytest.fixture
def folder(tmp_path):
    for part in ("train", "test"):
        for label, name in enumerate(("a", "b", "c")):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(10):
                Image.new("L", (6, 6), 80 * label + number).save(tmp_path / part / name / f"{number}.png")
    return tmp_path


def settings(folder, **more):
    return DataSettings(
        source="folder", folder=str(folder), image_size=6, channels=1, validation=4, calibration=2, **more
    )


def test_fashion_mnist_is_there_without_a_network():
    data = load(DataSettings(train=1000, validation=300, calibration=100), seed=0)
    assert data.classes == FASHION_MNIST_CLASSES
    assert [len(part) for part in (data.train, data.validation, data.calibration)] == [600, 300, 100]
    assert len(data.test) == 10_000


def test_a_folder_of_images(folder):
    data = load(settings(folder), seed=0)
    assert data.classes == ("a", "b", "c")
    assert data.sample_shape == (1, 6, 6)
    assert [len(part) for part in (data.train, data.validation, data.calibration, data.test)] == [24, 4, 2, 30]


def test_fewer_training_images_are_still_of_every_class(folder):
    data = load(settings(folder, train=15), seed=0)
    labels = sorted(label for part in (data.train, data.validation, data.calibration) for label in part.labels.tolist())
    assert labels == [0] * 5 + [1] * 5 + [2] * 5


def test_more_training_images_than_there_are_is_refused(folder):
    with pytest.raises(UserError, match=r"data.train = 31, but there are only 30 training images; lower it or use 0"):
        load(settings(folder, train=31), seed=0)


def test_the_seed_decides_the_splits(folder):
    assert load(settings(folder), seed=1).digest() == load(settings(folder), seed=1).digest()
    assert load(settings(folder), seed=1).digest() != load(settings(folder), seed=2).digest()


def test_data_from_a_function(tmp_path):
    (tmp_path / "mine.py").write_text(FACTORY)
    assert len(load(DataSettings(source=f"{tmp_path}/mine.py:data"), seed=0).train) == 14


def test_a_function_that_returns_something_else_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text(FACTORY)
    with pytest.raises(UserError, match=r"^data.source: .*:nothing returned NoneType; return a distiq.Data"):
        load(DataSettings(source=f"{tmp_path}/mine.py:nothing"), seed=0)


def test_an_unknown_source_is_refused():
    with pytest.raises(UserError, match=r'^data.source: "mnist" is unknown; take "fashion_mnist", "folder"'):
        load(DataSettings(source="mnist"), seed=0)
