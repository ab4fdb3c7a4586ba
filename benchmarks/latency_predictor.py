"""How well a file's latency and size are predicted before it is made: networks drawn from the space of images.

    python benchmarks/latency_predictor.py [--learned 60] [--unseen 30] [--runtimes onnxruntime,litert]
        [--out benchmarks/results/latency_predictor.json]

The int8 files of drawn, untrained networks are timed in turns with the student of `fashion_mnist`; prices are learned
from the first, the others are predicted. Files that are measured are kept in `--out` and not measured again.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distiq import environment
from distiq.data.load import load as load_data
from distiq.evaluation.operations import Operation, operations
from distiq.files import write_atomically
from distiq.models.build import build
from distiq.models.signature import Predict
from distiq.models.spaces import images
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe.read import load_recipe
from distiq.recipe.training import StudentSettings
from distiq.run.candidates import as_trained
from distiq.run.forecast import drawn
from distiq.runtimes.export import export, load, runtime_named, size_bytes
from distiq.timing.latency import latencies
from distiq.timing.predictor import error_of, features, fit

COSTS = ("latency_ms", "size_kb")
ROUNDS, SECONDS = 5, 0.05


def students(count: int, example: Tensor) -> Iterator[nn.Module]:
    """Different networks of the space, drawn at random, in order."""
    for model, options in drawn(images, count, 0):
        yield build(StudentSettings(model=model, options=options), 10, example, "student")


def measured(model: nn.Module, samples: Tensor, suffix: str, yardstick: Predict, folder: Path) -> dict[str, float]:
    """The latency of the model's int8 file in units of the yardstick's, and its size."""
    path = export(quantize(as_trained(model), samples, Scheme()), folder / f"model{suffix}", samples[:2])
    models = {"it": load(path, 1), "yardstick": yardstick}
    timed = latencies(models, samples[:1], 1, ROUNDS, SECONDS)
    return {
        "latency_ms": timed["it"].p50_ms, "yardstick_ms": timed["yardstick"].p50_ms, "size_kb": size_bytes(path) / 1000
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learned", type=int, default=60)
    parser.add_argument("--unseen", type=int, default=30)
    parser.add_argument("--runtimes", default="onnxruntime,litert,openvino")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/latency_predictor.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe("fashion_mnist", ())
    data = load_data(recipe.data, recipe.seed)
    samples = data.normalize(data.calibration.inputs[:16])
    report: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {"files": {}}
    report["environment"] = environment.describe().model_dump()
    with tempfile.TemporaryDirectory() as name:
        for runtime in arguments.runtimes.split(","):
            files, suffix = report["files"].setdefault(runtime, {}), runtime_named(runtime).suffix
            own = build(recipe.student, 10, data.example, "student")
            yardstick = load(export(quantize(own, samples, Scheme()), Path(name) / f"own{suffix}", samples[:2]), 1)
            for number, model in enumerate(students(arguments.learned + arguments.unseen, data.example)):
                if str(number) not in files:
                    costs = measured(model, samples, suffix, yardstick, Path(name))
                    files[str(number)] = costs | {"operations": [list(one) for one in operations(model, samples)]}
                    write_atomically(arguments.out, json.dumps(report).encode())
    report["errors"] = {
        runtime: errors(list(files.values()), arguments.learned) for runtime, files in report["files"].items()
    }
    write_atomically(arguments.out, json.dumps(report).encode())
    print(json.dumps(report["errors"], indent=1))


def errors(files: list[dict], learned: int) -> dict[str, dict[str, float]]:
    """Of each cost, over the files that nothing was learned from."""
    usual = sorted(one["yardstick_ms"] for one in files)[len(files) // 2]
    for one in files:
        one["latency_ms"] *= usual / one["yardstick_ms"]
        one["yardstick_ms"] = usual
    seen = [features([Operation(*given) for given in one["operations"]]) for one in files]
    found = {}
    for cost in COSTS:
        values = [one[cost] for one in files]
        predictor = fit(seen[:learned], values[:learned])
        predicted = [predictor(given) for given in seen[learned:]]
        found[cost] = vars(error_of(predicted, values[learned:]))
    return found


if __name__ == "__main__":
    main()
