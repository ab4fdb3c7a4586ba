"""The folder `web` of a bundle: a page that predicts samples in a browser, from any static server.

index.html, page.js      the page; page.json: what it shows, and how samples are prepared
model.onnx               the file that is fastest there
vectors.safetensors      its inputs and outputs here, and samples as they come with what preparation makes of them
ort*.mjs, ort*.wasm      the runtime; of texts also tokenizers.min.mjs
SHA256SUMS               of all of them: `sha256sum -c SHA256SUMS`
"""

import json
import tempfile
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from distiq.bundle.open import PREPROCESSING, RUNNER, TOKENIZER, VECTORS
from distiq.bundle.write import write_parts
from distiq.data.splits import Data
from distiq.data.tokenizer import PROBES
from distiq.device import run as runner
from distiq.files import save_tensors, sha256_of_file, write_atomically
from distiq.records.web import WebRecord
from distiq.runtimes.export import runtime_of
from distiq.runtimes.web import page_files

SUMS = "SHA256SUMS"
ROWS, CLIPS, TEXTS = 12, 2, 12  # samples whose preparation is replayed
IMAGE_SIZES = ((1.7, 2.3), (0.6, 0.8), (0.5, 3.1))  # of those to resize, in sizes of the model's own


def write_web(
    folder: Path, name: str, model: Path, data: Data, record: WebRecord, packages: Sequence[Path], kept: Sequence[int]
) -> None:
    """Writes the folder.

    Args:
        data: as the file takes it. packages: files of the runtime, of texts also the tokenizer's.
        kept: of a model with a trimmed vocabulary, the tokens that it knows.
    """
    write_parts(folder, model, data, kept)
    about = json.loads((folder / PREPROCESSING).read_text(encoding="utf-8"))
    for surplus in (PREPROCESSING, RUNNER):
        (folder / surplus).unlink()
    given, tensors = _samples(data, about, folder)
    save_tensors(load_file(folder / VECTORS) | tensors, folder / VECTORS)
    facts = {
        "name": name,
        "sentence": record.sentence,
        "model": model.name,
        "input": runtime_of(model).signature(model).inputs[0].name,
        "measured": [{"cells": _cells(record, one.form), "delivered": one.form == record.delivered}
                     for one in record.files],
        "preprocessing": about,
        "given": given,
    }  # fmt: skip
    write_atomically(folder / "page.json", (json.dumps(facts, indent=1) + "\n").encode())
    for file, content in page_files().items():
        write_atomically(folder / file, content)
    for package in packages:
        write_atomically(folder / package.name, package.read_bytes())
    files = sorted(file.name for file in folder.iterdir() if file.name != SUMS)
    sums = "".join(f"{sha256_of_file(folder / file)}  {file}\n" for file in files)
    write_atomically(folder / SUMS, sums.encode())


def _cells(record: WebRecord, form: str) -> list[str]:
    own = record.file(form)
    assert own is not None
    return [
        form,
        f"{own.size_bytes / 1000:.1f} kB",
        f"{own.latency.p50_ms:.3f} ms",
        own.quality.in_words,
        f"{100 * own.agreement:.2f} % of {record.samples}",
    ]


# Samples as they come, and what run.py makes of them ------------------------------------------------------------------


def _samples(data: Data, about: dict[str, Any], folder: Path) -> tuple[list[Any], dict[str, torch.Tensor]]:
    """Samples that are written as text, and tensors: "given.N" of others, "prepared.N" the inputs of sample N."""
    modality, raw = about["modality"], about.get("raw")
    if "numeric" in about:
        rows = _rows(about)
        columns = [runner.encoded({name: [value] for name, value in row.items()}, about, "row")[0] for row in rows]
        return list(rows), _prepared(columns)
    if about.get("tokenizer"):
        texts = _texts(data, about, folder / TOKENIZER)
        return texts, _prepared(
            [runner.tokens(text[0], about, folder / TOKENIZER, text[-1])[0] for text in texts]
        )  # fmt: skip
    if modality == "image" and raw == "uint8" and about["shape"][0] in (1, 3):
        pairs = [_resized(one, about, size) for one, size in zip(_raw(data), IMAGE_SIZES, strict=False)]
    elif modality == "audio" and raw == "int16":
        pairs = [_heard(one, about, number) for number, one in enumerate(_raw(data)[:CLIPS])]
    else:
        return [], {}
    given = {f"given.{number}": torch.from_numpy(one.copy()) for number, (one, _) in enumerate(pairs)}
    return [], given | _prepared([inputs for _, inputs in pairs])


def _prepared(inputs: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    return {f"prepared.{number}": torch.from_numpy(np.ascontiguousarray(one)) for number, one in enumerate(inputs)}


def _raw(data: Data) -> np.ndarray:
    return np.asarray(data.test.drawn(max(len(IMAGE_SIZES), CLIPS)).inputs)


def _resized(pixels: np.ndarray, about: dict[str, Any], size: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """An image (C, H, W) of another size, and its inputs."""
    from PIL import Image

    _, height, width = pixels.shape
    target = max(2, round(size[1] * width)), max(2, round(size[0] * height))
    image = Image.fromarray(pixels.transpose(1, 2, 0).squeeze()).resize(target, Image.Resampling.BICUBIC)
    with tempfile.TemporaryDirectory(prefix="distiq-web-") as place:
        path = Path(place) / "sample.png"
        image.save(path)
        read = runner.read_image(path, tuple(about["shape"]), about["resize"] == "letterbox")
    other = np.asarray(image, np.uint8).reshape(target[1], target[0], -1).transpose(2, 0, 1)
    return np.ascontiguousarray(other), runner.normalized(np.ascontiguousarray(read)[None], about)


def _heard(samples: np.ndarray, about: dict[str, Any], number: int) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of a WAV file, and its inputs: a short clip of 16 bits, then a long one of two channels and 24 bits."""
    with tempfile.TemporaryDirectory(prefix="distiq-web-") as place:
        path = Path(place) / "sample.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1 + number, 2 + number, about["rate"], 0, "NONE", ""))
            if number == 0:
                file.writeframes(samples[: len(samples) // 2].astype("<i2").tobytes())
            else:
                both = np.repeat(np.concatenate([samples, samples[::-1]]).astype("<i4") << 8, 2)
                both[1::2] //= 3  # the second channel is another
                file.writeframes(both.view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
        content = np.frombuffer(path.read_bytes(), np.uint8)
        heard = runner.fitted(runner.read_wav(path, about["rate"]), about["shape"][0])
    return content, runner.normalized(heard[None], about)


def _texts(data: Data, about: dict[str, Any], tokenizer: Path) -> list[list[str]]:
    """Texts of the test set as the tokenizer writes them, odd ones, and one that is too long; of pairs two each."""
    reader = runner.read_tokenizer(tokenizer)
    decoded = [reader.decode(one.tolist()) for one in data.test.drawn(TEXTS).inputs]
    own = [text.replace(" ##", "") for text in decoded if text.strip()]  # pieces of words, where no decoder joins them
    texts = [*own, *PROBES, " ".join(own * (1 + about["shape"][0] // TEXTS))]
    return [[text, texts[number - 1]] if about.get("pair") else [text] for number, text in enumerate(texts)]


def _rows(about: dict[str, Any]) -> list[dict[str, str]]:
    """Rows: of values on the bins' edges, then of any between and beyond them; the last three lack or invent some."""
    draw, rows = np.random.default_rng(0), []
    for number in range(ROWS):
        row = {}
        for name, facts in about["numeric"].items():
            edges = facts["edges"]
            margin = 0.1 * (edges[-1] - edges[0])
            among = edges[draw.integers(len(edges))]
            value = among if number < ROWS // 2 else draw.uniform(edges[0] - margin, edges[-1] + margin)
            row[name] = "" if number == ROWS - 3 else f"{value:.6g}"
        for name, seen in about["categorical"].items():
            odd = {ROWS - 2: "another", ROWS - 1: "?"}
            row[name] = odd.get(number, str(seen[draw.integers(len(seen))]))
        rows.append(row)
    return rows
