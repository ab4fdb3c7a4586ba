"""The folder `web` of a bundle: a page that predicts samples in a browser, from any static server.

index.html, *.js         the page; page.json: what it shows, and how samples are prepared
model.onnx               the file that is fastest there
vectors.safetensors      its inputs and outputs here, and samples as they come with what preparation makes of them;
                         of texts and spans, page.json has what run.py reads from these samples
ort*.mjs, ort*.wasm      the runtime; of texts also tokenizers.min.mjs
SHA256SUMS               of all of them: `sha256sum -c SHA256SUMS`
"""

import io
import json
import tempfile
import wave
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

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


class Given(NamedTuple):
    """Samples of which the page shows that they are prepared and read as here.

    texts: samples that are written as JSON. tensors: "given.N" of others, "prepared.N" all inputs of sample N.
    said: of texts that are written and spans that are found, what run.py says of each.
    """

    texts: Sequence[Any] = ()
    tensors: Mapping[str, torch.Tensor] = MappingProxyType({})
    said: Sequence[Any] = ()


def write_web(
    folder: Path,
    name: str,
    model: Path,
    data: Data,
    record: WebRecord,
    packages: Sequence[Path],
    kept: Sequence[int] = (),
    frame: int = 0,
) -> None:
    """Writes the folder.

    Args:
        data: as the file takes it. packages: files of the runtime, of texts also the tokenizer's.
        kept, frame: as for `write_bundle`.
    """
    write_parts(folder, model, data, kept, frame=frame)
    about = json.loads((folder / PREPROCESSING).read_text(encoding="utf-8"))
    for surplus in (PREPROCESSING, RUNNER):
        (folder / surplus).unlink()
    given = _samples(data, about, folder / model.name)
    save_tensors({**load_file(folder / VECTORS), **given.tensors}, folder / VECTORS)
    facts = {
        "name": name,
        "sentence": record.sentence,
        "model": model.name,
        "input": runtime_of(model).signature(model).inputs[0].name,
        "measured": [{"cells": _cells(record, one.form), "delivered": one.form == record.delivered}
                     for one in record.files],
        "preprocessing": about,
        "given": given.texts,
        "said": given.said,
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


def _samples(data: Data, about: dict[str, Any], model: Path) -> Given:
    modality, raw, decoding = about["modality"], about.get("raw"), about["decoding"]
    if "numeric" in about:
        rows = _rows(about)
        columns = [runner.encoded({name: [value] for name, value in row.items()}, about, "row")[0] for row in rows]
        return Given(rows, _prepared(columns))
    if about.get("tokenizer"):
        tokenizer = model.with_name(TOKENIZER)
        texts = _texts(data, about, tokenizer)
        if decoding == "spans":
            return _tagged(texts, about, tokenizer, model)
        return Given(texts, _prepared([_numbers(text, about, tokenizer) for text in texts]))
    if modality == "image" and raw == "uint8" and about["shape"][0] in (1, 3):
        pairs = [_resized(one, about, size) for one, size in zip(_raw(data), IMAGE_SIZES, strict=False)]
        return Given((), _pairs(pairs))
    if modality == "audio" and raw == "int16":
        clips = [_clip(one, about["rate"], number) for number, one in enumerate(_raw(data)[:CLIPS])]
        if decoding == "transcript":
            return _written(clips, about, model)
        fitted = [runner.fitted(_heard(one, about), about["shape"][0]) for one in clips]
        return Given((), _pairs([(one, _inputs(own, about)) for one, own in zip(clips, fitted, strict=True)]))
    return Given()


def _pairs(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Samples with their inputs."""
    given = {f"given.{number}": torch.from_numpy(one.copy()) for number, (one, _) in enumerate(pairs)}
    return given | _prepared([inputs for _, inputs in pairs])


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


def _clip(samples: np.ndarray, rate: int, number: int) -> np.ndarray:
    """The bytes of a WAV file: first a short clip of 16 bits, then a long one of two channels and 24 bits."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1 + number, 2 + number, rate, 0, "NONE", ""))
        if number == 0:
            file.writeframes(samples[: len(samples) // 2].astype("<i2").tobytes())
        else:
            both = np.repeat(np.concatenate([samples, samples[::-1]]).astype("<i4") << 8, 2)
            both[1::2] //= 3  # the second channel is another
            file.writeframes(both.view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
    return np.frombuffer(content.getvalue(), np.uint8)


def _heard(content: np.ndarray, about: dict[str, Any]) -> np.ndarray:
    """What run.py reads of a WAV file's bytes, (T,) int16."""
    with tempfile.TemporaryDirectory(prefix="distiq-web-") as place:
        path = Path(place) / "sample.wav"
        path.write_bytes(content.tobytes())
        return runner.read_wav(path, about["rate"])


def _written(clips: Sequence[np.ndarray], about: dict[str, Any], model: Path) -> Given:
    """Clips with their texts; one that is longer than the window is heard chunk by chunk."""
    predict, length, pairs, said = runner.load(model, 1), about["shape"][0], [], []
    for content in clips:
        samples = _heard(content, about)
        if len(samples) <= length:
            samples = runner.fitted(samples, length)
            said.append(runner.text_of(runner.arrays_of(predict(_inputs(samples, about)))[0][0], about))
        elif about.get("frame"):
            size = max(1, round(runner.CHUNK_S * about["rate"]))
            chunks = (samples[start : start + size] for start in range(0, len(samples), size))
            said.append(runner.whole_text([text for *_, text in runner.written_down(predict, about, chunks)], about))
        else:
            continue  # run.py refuses a clip that is longer
        pairs.append((content, _inputs(samples, about)))
    return Given((), _pairs(pairs), said)


def _inputs(samples: np.ndarray, about: dict[str, Any]) -> np.ndarray:
    """(T,) int16 -> (1, T) as the model takes it."""
    return runner.normalized(samples[None], about)


def _tagged(texts: Sequence[list[str]], about: dict[str, Any], tokenizer: Path, model: Path) -> Given:
    """Texts with the token numbers of all of their windows, and their spans."""
    predict, reader, inputs, said = runner.load(model, 1), runner.read_tokenizer(tokenizer), [], []
    for (text,) in texts:
        windows: list[np.ndarray] = []

        spans = runner.spans(text, partial(_recorded, predict, windows), about, reader)
        said.append([[one.label, one.begin, one.end] for one in spans])
        inputs.append(np.concatenate(windows))
    return Given(texts, _prepared(inputs), said)


def _recorded(predict: runner.Predict, windows: list[np.ndarray], ids: runner.Arrays) -> runner.Arrays:
    """What is predicted of token numbers (1, L), which are kept."""
    windows.append(runner.arrays_of(ids)[0][0])
    return predict(ids)


def _numbers(texts: Sequence[str], about: dict[str, Any], tokenizer: Path) -> np.ndarray:
    """Token numbers of a text or of a pair; of two vectors those of both texts, one behind the other."""
    if about["decoding"] == "vector":
        return np.concatenate([runner.tokens(text, about, tokenizer)[0][0] for text in texts])
    return runner.tokens(texts[0], about, tokenizer, texts[-1])[0]


def _texts(data: Data, about: dict[str, Any], tokenizer: Path) -> list[list[str]]:
    """Texts of the test set as the tokenizer writes them, odd ones, and one that is too long; of pairs, and where
    vectors are compared, two each."""
    reader = runner.read_tokenizer(tokenizer)
    decoded = [reader.decode(one.tolist()) for one in data.test.drawn(TEXTS).inputs]
    own = [text.replace(" ##", "") for text in decoded if text.strip()]  # pieces of words, where no decoder joins them
    texts = [*own, *PROBES, " ".join(own * (1 + about["shape"][0] // TEXTS))]
    is_pair = about.get("pair") or about["decoding"] == "vector"
    return [[text, texts[(number + 1) % len(texts)]] if is_pair else [text] for number, text in enumerate(texts)]


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
