"""Samples for the three networks of the PyPI package rapidocr-onnxruntime: lines of text, and photographs with words.

    python benchmarks/ocr_samples.py FOLDER [--photos ../shared/data/imagenet_sample/images] [--words README.md]

Writes cls.npy (lines of 192 x 48, every other one upside down), rec.npy (lines of 320 x 48) and det.npy (photographs of
320 x 320 with words drawn into them), float32, normalized as the package does, for `benchmarks/real_models.py`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LINES, PHOTOS, SIDE, HEIGHT = 128, 125, 320, 48
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NOISE = 6.0  # standard deviation, of 255


def line(generator: np.random.Generator, words: Sequence[str], width: int) -> np.ndarray:
    """(HEIGHT, width, 3): four words in dark letters on a bright ground, with noise."""
    ground, letters = (tuple(map(int, generator.integers(*ends, 3))) for ends in ((120, 256), (0, 90)))
    image = Image.new("RGB", (width, HEIGHT), ground)
    size = int(generator.integers(HEIGHT // 2, int(HEIGHT * 0.85)))
    place, text = (4, (HEIGHT - size) // 3), " ".join(generator.choice(words, 4))
    ImageDraw.Draw(image).text(place, text, fill=letters, font=ImageFont.load_default(size))
    return (np.asarray(image) + generator.normal(0, NOISE, (HEIGHT, width, 3))).clip(0, 255)


def photograph(generator: np.random.Generator, words: Sequence[str], file: Path) -> np.ndarray:
    """(SIDE, SIDE, 3) with four pairs of words anywhere."""
    image = Image.open(file).convert("RGB").resize((SIDE, SIDE))
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        font, place = ImageFont.load_default(int(generator.integers(14, 36))), generator.integers(0, SIDE - 60, 2)
        letters = tuple(map(int, generator.integers(0, 256, 3)))
        draw.text(tuple(map(int, place)), " ".join(generator.choice(words, 2)), fill=letters, font=font)
    return np.asarray(image, np.float64)


def normalized(images: Sequence[np.ndarray], mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(N, H, W, 3) of 0..255 as (N, 3, H, W)."""
    return ((np.stack(images) / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=Path, default=Path("../shared/data/imagenet_sample/images"))
    parser.add_argument("--words", type=Path, default=Path("README.md"), help="a text file")
    given = parser.parse_args()
    generator, half = np.random.default_rng(0), (0.5, 0.5, 0.5)
    words = [word for word in given.words.read_text(encoding="utf-8").split() if word.isalnum() and len(word) > 2]
    turned = [np.rot90(line(generator, words, 192), 2 * (number % 2)) for number in range(LINES)]
    lines = [line(generator, words, SIDE) for _ in range(LINES)]
    files = sorted(given.photos.glob("*.jpg"))
    scenes = [photograph(generator, words, file) for file in files[:: max(1, len(files) // PHOTOS)][:PHOTOS]]
    given.folder.mkdir(parents=True, exist_ok=True)
    np.save(given.folder / "cls.npy", normalized(turned, half, half))
    np.save(given.folder / "rec.npy", normalized(lines, half, half))
    np.save(given.folder / "det.npy", normalized(scenes, MEAN, STD))


if __name__ == "__main__":
    main()
