"""distiq's int8 file against the one that onnxruntime's own quantize_static makes of the same float model.

    python benchmarks/onnx_speed.py [--run runs/fashion_mnist] [--out benchmarks/results/onnx_speed.json]

Takes teacher and student of a finished run (`make run`). Both tools calibrate on the same calibration split, each with
its default ranges (distiq: least squared error, quantize_static: min-max). All three files of a network are timed
interleaved, at batch 1 and 32 with 1 and 2 threads, in `REPETITIONS` sets of newly loaded sessions: medians, and the
median and range of the sets' own ratios; below 1 distiq's file is faster. Both files are measured on the full test set
too, distiq's beside its simulation.
"""

import argparse
import json
import statistics
import tempfile
import tomllib
from pathlib import Path

import torch
from peers import static_onnx
from rich.console import Console
from rich.table import Table

from distiq import environment
from distiq.data.load import load as load_data
from distiq.data.splits import Data
from distiq.evaluation.evaluate import outputs
from distiq.files import write_atomically
from distiq.models.build import build
from distiq.models.checkpoint import load_weights
from distiq.numerics import sqnr_db
from distiq.quantization.quantize import quantize
from distiq.recipe.read import parse_recipe
from distiq.report.reading import read_run
from distiq.run.train import WEIGHTS
from distiq.runtimes.export import export, load
from distiq.tasks.classification import agreement
from distiq.timing.latency import latencies

REPETITIONS = 7


def three_files(
    model: torch.nn.Module, quantized: torch.nn.Module, calibration: torch.Tensor, folder: Path
) -> dict[str, Path]:
    """Paths of the float file, distiq's int8 file and quantize_static's."""
    paths = {name: folder / f"{name}.onnx" for name in ("float32", "distiq", "quantize_static")}
    export(model, paths["float32"], calibration[:2])
    export(quantized, paths["distiq"], calibration[:2])
    static_onnx(paths["float32"], calibration, paths["quantize_static"])
    return paths


def compare(role: str, model: torch.nn.Module, data: Data) -> dict:
    """Figures of one network."""
    calibration = data.normalize(data.calibration.inputs)
    quantized = quantize(model, calibration)
    with tempfile.TemporaryDirectory() as folder:
        paths = three_files(model, quantized, calibration, Path(folder))
        answers = {name: outputs(load(path), data, data.test) for name, path in paths.items()}
        found: dict = {"network": role, "bytes": {name: path.stat().st_size for name, path in paths.items()}}
        for name in ("distiq", "quantize_static"):
            found[name] = {
                "accuracy": float((answers[name].argmax(1) == data.test.labels).double().mean()),
                "flips": 1 - agreement(answers[name], answers["float32"]),
                "sqnr_db": sqnr_db(answers["float32"], answers[name]),
            }
        simulated = outputs(quantized, data, data.test)
        found["deployed_as_simulated"] = agreement(simulated, answers["distiq"])
        found["latency_ms"] = [timed(paths, data, threads, batch) for threads in (1, 2) for batch in (1, 32)]
    return found


def timed(paths: dict[str, Path], data: Data, threads: int, batch: int) -> dict:
    """Median times of the files over all sets, and every set's ratio of distiq to quantize_static."""
    images = data.normalize(data.test.drawn(batch).inputs)
    sets = []
    for _ in range(REPETITIONS):
        models = {name: load(path, threads) for name, path in paths.items()}
        times = latencies(models, images, threads, rounds=6, seconds=0.1)
        sets.append({name: record.p50_ms for name, record in times.items()})
    medians = {name: statistics.median(one[name] for one in sets) for name in paths}
    ratios = sorted(one["distiq"] / one["quantize_static"] for one in sets)
    return {"threads": threads, "batch": batch, **medians, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/fashion_mnist"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/onnx_speed.json"))
    arguments = parser.parse_args()
    run = read_run(arguments.run / "records")
    recipe = parse_recipe(tomllib.loads(run.recipe_toml))
    data = load_data(recipe.data, recipe.seed)
    results = []
    for role in ("teacher", "student"):
        model = build(getattr(recipe, role), len(data.classes), data.example, role)
        load_weights(model, arguments.run / "steps" / run.steps[role] / WEIGHTS)
        results.append(compare(role, model.eval(), data))
    report = {"environment": environment.describe().model_dump(), "results": results}
    write_atomically(arguments.out, json.dumps(report, indent=1).encode())
    table = Table("network", "threads", "batch", "float32 ms", "quantize_static ms", "distiq ms", "distiq / static")
    for result in results:
        for row in result["latency_ms"]:
            times = [row["float32"], row["quantize_static"], row["distiq"]]
            low, *_, high = row["ratios"]
            ratio = f"{statistics.median(row['ratios']):.2f} ({low:.2f} to {high:.2f})"
            cells = [result["network"], row["threads"], row["batch"], *(f"{time:.3f}" for time in times), ratio]
            table.add_row(*map(str, cells))
    Console().print(table)
    quality = Table("network", "file", "bytes", "accuracy", "flips", "SQNR dB")
    for result in results:
        for name in ("quantize_static", "distiq"):
            figures = result[name]
            quality.add_row(
                result["network"],
                name,
                f"{result['bytes'][name]:,}",
                f"{100 * figures['accuracy']:.2f} %",
                f"{100 * figures['flips']:.2f} %",
                f"{figures['sqnr_db']:.1f}",
            )
    Console().print(quality)
    for result in results:
        print(f"{result['network']}: deployed and simulated agree on {100 * result['deployed_as_simulated']:.2f} %")


if __name__ == "__main__":
    main()
