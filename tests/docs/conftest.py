"""The folder in which the docs' blocks run: small data of every modality under the names that the pages use."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

import distiq

RECIPE = """
name = "fashion_mnist"
[data]
source = "folder"
folder = "photos"
validation = 12
calibration = 8
image_size = 12
[teacher]
model = "resnet"
options = {widths = [4], blocks = 1}
training = {epochs = 1, batch_size = 8}
[student]
model = "resnet"
options = {widths = [4], blocks = 1}
training = {epochs = 1, batch_size = 8}
[quantize]
rungs = ["static"]
[measure]
rounds = 1
seconds = 0.005
"""


def write_photos(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 10)):
        for name, lightest in (("cat", 255), ("dog", 120)):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, lightest, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.jpg")


def write_sounds(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 6)):
        for name, loudness in (("yes", 8000), ("no", 500)):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                samples = generator.uniform(-loudness, loudness, 4000).astype(np.int16)
                wavfile.write(folder / part / name / f"{number}.wav", 8000, samples)


def write_columns(rows: Path, reviews: Path) -> None:
    rows.mkdir()
    reviews.mkdir()
    lines = [f"{n % 7},{n},{'red' if n % 3 else 'blue'},{'yes' if n % 7 > 3 else 'no'}" for n in range(200)]
    texts = [f"a {'fine' if n % 2 else 'dull'} film that {n % 5} of them saw\t{n % 2}" for n in range(200)]
    for part, count in (("train", 200), ("test", 40)):
        (rows / f"{part}.csv").write_text("\n".join(["size,age,colour,class", *lines[:count]]))
        (reviews / f"{part}.tsv").write_text("\n".join(["text\tlabel", *texts[:count]]))


class Masked(torch.nn.Module):
    """A network over tokens and their mask, as ONNX files of texts have them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(40, 8)
        self.first, self.last = torch.nn.Linear(8, 8), torch.nn.Linear(8, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        weights = attention_mask.unsqueeze(2).float()
        return self.last((torch.relu(self.first(self.table(input_ids))) * weights).sum(1) / weights.sum(1))


def write_onnx_files(folder: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3)
    ).eval()
    samples = torch.randn(64, 1, 8, 8)
    distiq.export(model, folder / "model.onnx", samples[:2])
    np.save(folder / "samples.npy", samples.numpy())
    tokens = torch.randint(1, 40, (64, 6))
    free = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=9)},) * 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter about its own insides
        torch.onnx.export(
            Masked().eval(), (tokens[:2], torch.ones_like(tokens[:2])), folder / "text.onnx",
            input_names=["input_ids", "attention_mask"], dynamo=True, dynamic_shapes=free, verbose=False,
        )  # fmt: skip
    np.save(folder / "tokens.npy", tokens.numpy())


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write_photos(folder / "photos")
    write_sounds(folder / "sounds")
    write_columns(folder / "rows", folder / "reviews")
    write_onnx_files(folder)
    shutil.copy(folder / "photos/test/cat/1.jpg", folder / "shoe.png")
    (folder / "tiny.toml").write_text(RECIPE)
    return folder


@pytest.fixture
def folder(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small data, which is the current folder."""
    copied = Path(shutil.copytree(small_data, tmp_path / "page"))
    monkeypatch.chdir(copied)
    return copied
