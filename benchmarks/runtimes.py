"""The one quantized graph in every installed runtime, beside files that other tools make of the same float network.

    python benchmarks/runtimes.py [--run runs/fashion_mnist] [--out benchmarks/results/runtimes]

Takes teacher and student of a run (`make run`); a network whose training is not finished is left out. Files of a
runtime are timed in one process, in turns, at batch 1 and 32 with 1 and 2 threads, medians. Peers calibrate on the same
images: onnxruntime's `quantize_static` (its file is also run in OpenVINO) and NNCF, where they are installed. Every
(network, runtime) is a file of results; what is there already is not measured again.
"""

import argparse
import dataclasses
import importlib.util
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from rich.console import Console
from rich.table import Table

from distiq import environment
from distiq.data.load import load as load_data
from distiq.data.splits import Data
from distiq.evaluation.cost import latencies
from distiq.evaluation.evaluate import agreement, outputs
from distiq.files import write_atomically
from distiq.models.build import build, load_weights
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.recipe import load_recipe
from distiq.runtimes.export import RUNTIMES, differences, export, load, size_bytes
from distiq.runtimes.onnx_runtime import INPUT


class Reader(CalibrationDataReader):
    """The calibration split, 64 images at a time."""

    def __init__(self, images: torch.Tensor) -> None:
        self.chunks = iter(images.split(64))

    def get_next(self) -> dict | None:
        chunk = next(self.chunks, None)
        return None if chunk is None else {INPUT: chunk.numpy()}


def by_quantize_static(float_onnx: Path, calibration: torch.Tensor, path: Path) -> None:
    quant_pre_process(str(float_onnx), str(path.with_suffix(".pre.onnx")))
    quantize_static(
        str(path.with_suffix(".pre.onnx")),
        str(path),
        Reader(calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def by_quantize_static_in_openvino(float_onnx: Path, calibration: torch.Tensor, path: Path) -> None:
    import openvino

    by_quantize_static(float_onnx, calibration, path.with_suffix(".onnx"))
    openvino.save_model(openvino.convert_model(path.with_suffix(".onnx")), path, compress_to_fp16=False)


def by_nncf(float_onnx: Path, calibration: torch.Tensor, path: Path) -> None:
    import nncf
    import openvino

    samples = nncf.Dataset([image.numpy() for image in calibration.split(1)])
    quantized = nncf.quantize(openvino.convert_model(float_onnx), samples, subset_size=len(calibration))
    openvino.save_model(quantized, path, compress_to_fp16=False)


Peer = Callable[[Path, torch.Tensor, Path], None]
PEERS: dict[str, dict[str, Peer]] = {
    "onnxruntime": {"quantize_static": by_quantize_static},
    "openvino": {"quantize_static": by_quantize_static_in_openvino, "nncf": by_nncf},
}


def measure(
    runtime: str, model: torch.nn.Module, quantized: QuantizedModel, simulated: torch.Tensor, data: Data, rounds: int
) -> dict:
    """Figures of one network in one runtime."""
    calibration = data.normalize(data.calibration.inputs)
    with tempfile.TemporaryDirectory() as name:
        folder, ending = Path(name), RUNTIMES[runtime].ending
        float_onnx = export(model, folder / "peer.onnx", calibration[:2])
        paths = {form: folder / f"{form}{ending}" for form in ("float32", "distiq", *PEERS.get(runtime, {}))}
        export(model, paths["float32"], calibration[:2])
        export(quantized, paths["distiq"], calibration[:2])
        for form, make in PEERS.get(runtime, {}).items():
            if form != "nncf" or importlib.util.find_spec("nncf"):
                make(float_onnx, calibration, paths[form])
        paths = {form: path for form, path in paths.items() if path.is_file()}
        answers = {form: outputs(load(path), data, data.test) for form, path in paths.items()}
        labels = data.test.labels
        found: dict = {
            "environment": environment.describe().model_dump(),
            "samples": len(labels),
            "bytes": {form: size_bytes(path) for form, path in paths.items()},
            "accuracy": {form: float((got.argmax(1) == labels).double().mean()) for form, got in answers.items()},
            "agreement_with_simulated": agreement(answers["distiq"], simulated),
            "differs_from_graph": differences(quantized, paths["distiq"]),
            "float_operations": RUNTIMES[runtime].float_operations(paths["distiq"]),
            "latency_ms": [],
        }
        for threads in (1, 2):
            models = {form: load(path, threads) for form, path in paths.items()}
            for batch in (1, 32):
                timed = latencies(models, data.normalize(data.test.inputs[:batch]), threads, rounds, seconds=0.15)
                row = {form: record.p50_ms for form, record in timed.items()}
                found["latency_ms"].append({"threads": threads, "batch": batch, **row})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/fashion_mnist"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/runtimes"))
    parser.add_argument("--samples", type=int, default=0, help="of the test set; 0 takes all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--runtimes", default=",".join(RUNTIMES))
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.run / "recipe.toml")
    data = load_data(recipe.data, recipe.seed)
    if arguments.samples:
        data = dataclasses.replace(data, test=data.test.take(slice(arguments.samples)))
    for role in ("teacher", "student"):
        weights = sorted(arguments.run.glob(f"steps/{role}-*[0-9a-f]/weights.safetensors"))
        if not weights:
            continue
        model = build(getattr(recipe, role), len(data.classes), data.example, role)
        load_weights(model, weights[-1])
        places = {name: arguments.out / f"{role}-{name}.json" for name in arguments.runtimes.split(",")}
        missing = [name for name, place in places.items() if not place.exists()]
        if not missing:
            continue
        quantized = quantize(model.eval(), data.normalize(data.calibration.inputs))
        simulated = outputs(quantized, data, data.test)
        for name in missing:
            if all(importlib.util.find_spec(package) for package in RUNTIMES[name].packages):
                found = measure(name, model, quantized, simulated, data, arguments.rounds)
                write_atomically(places[name], json.dumps(found, indent=1).encode())
    show(arguments.out)


def show(folder: Path) -> None:
    """Prints what is measured so far."""
    table = Table("network", "runtime", "threads", "batch", "float32 ms", "distiq ms", "best peer ms", "agreement")
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_bytes())
        for row in found["latency_ms"]:
            peers = [value for form, value in row.items() if form in ("quantize_static", "nncf")]
            times = [f"{row['float32']:.3f}", f"{row['distiq']:.3f}", f"{min(peers):.3f}" if peers else "-"]
            share = f"{100 * found['agreement_with_simulated']:.2f} %"
            table.add_row(*path.stem.split("-"), str(row["threads"]), str(row["batch"]), *times, share)
    Console().print(table)


if __name__ == "__main__":
    main()
