"""What pair sums of 16 bits cost on a CPU without VNNI: distiq's files and those of onnxruntime's quantize_static.

    python benchmarks/saturation.py [--only mobilenet resnet] [--epochs 6] [--run runs/quantization] [--test 0]

The networks are trained here on Fashion-MNIST in float32: those of benchmarks/quantization.py, by the same names in the
same folder, and one that meets the limit, "positive", with activations clipped to [0, 1] and two wide early
convolutions of positive weights, so that neighbouring products are large and of one sign.
Each file is run in ONNX Runtime, and emulated with pair sums held to 16 bits in the order of its AVX2 kernels, on the
full test set (`--train` and `--test` take fewer images, to try it). Networks that are there are not trained again, rows
that are there not measured again. Where valgrind is installed, whose CPU has AVX2 alone, ONNX Runtime answers the first
images in it too, and the emulation is compared with that. The real column is exact only on a CPU with VNNI; the results
name the CPU's instruction sets.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import static_onnx
from quantization import ON_IMAGES
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from distiq import environment
from distiq.data.load import load as load_data
from distiq.data.splits import Data
from distiq.distillation.distil import distil
from distiq.evaluation.evaluate import outputs
from distiq.files import save_tensors, write_atomically
from distiq.progress import Lines
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe.data import DataSettings, ViewSettings
from distiq.recipe.training import TrainingSettings
from distiq.runtimes.export import export, load, pair_sums
from distiq.runtimes.saturation import emulate
from distiq.tasks.classification import agreement


class Absolute(nn.Module):
    """Weights as their absolute values."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.abs()


class Positive(nn.Module):
    """Four 3x3 convolutions, each clipped to [0, 1], the first two of positive weights: (B, 1, H, W) -> (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for number, (width, stride) in enumerate(((32, 1), (32, 2), (64, 1), (64, 2))):
            convolution = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
            if number < 2:
                parametrize.register_parametrization(convolution, "weight", Absolute())
            layers += [convolution, nn.BatchNorm2d(width), nn.Hardtanh(0.0, 1.0)]
            channels = width
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(channels, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"positive": Positive, **ON_IMAGES}
SHORT, LARGEST_LOSS = 1.0, 0.1  # points: a peer's file that loses so much shows what a certified one must not lose
IN_VALGRIND = 50  # images; it takes about a hundred times as long
WITHOUT_VNNI = """
import sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
numpy.save(sys.argv[3], session.run(None, {session.get_inputs()[0].name: numpy.load(sys.argv[2])})[0])
"""


def trained(name: str, data: Data, path: Path, epochs: int, console: Console) -> nn.Module:
    """A float32 network, from its file if it is there."""
    torch.manual_seed(0)
    model = NETWORKS[name]()
    if not path.is_file():
        console.print(f"training {name}")
        training = TrainingSettings(epochs=epochs, batch_size=64, learning_rate=0.1, precision="float32")
        model, _ = distil(model, None, data, training=training, views=ViewSettings(), watch=Lines(console))
        save_tensors(model.state_dict(), path)
    model.load_state_dict(load_file(path))
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")  # what is left are its absolute values
    return model.eval()


def files(model: nn.Module, calibration: Tensor, folder: Path) -> dict[str, Path]:
    """The float file and the quantized ones by name."""
    paths = {"float32": export(model, folder / "float32.onnx", calibration[:2])}
    for name, reduce_range in (("quantize_static", False), ("quantize_static 7-bit", True)):
        paths[name] = static_onnx(paths["float32"], calibration, folder / f"{name}.onnx", reduce_range)
    for name, reduce_range in (("distiq 7-bit", True), ("distiq", False)):
        quantized = quantize(model, calibration, Scheme(reduce_range=reduce_range))
        paths[name] = export(quantized, folder / f"{name}.onnx", calibration[:2])
    return paths


def measure(
    model: nn.Module, data: Data, known: dict[str, Any], keep: Callable[[str, dict], None], console: Console
) -> None:
    """Hands `keep` the figures of every file of one network that are not known; accuracies are fractions of 1."""
    labels = data.test.labels
    with tempfile.TemporaryDirectory() as folder:
        paths = files(model, data.normalize(data.calibration.inputs), Path(folder))
        float_top1 = top1(outputs(load(paths.pop("float32")), data, data.test), labels)
        for name, path in paths.items():
            if name in known:
                continue
            console.print(f"  {name}", highlight=False)
            real, emulated = (outputs(predict, data, data.test) for predict in (load(path), emulate(path)))
            figures = {
                "float_top1": float_top1,
                "top1": top1(real, labels),
                "emulated_top1": top1(emulated, labels),
                "lost_points": 100 * (top1(real, labels) - top1(emulated, labels)),
                "flips": 1 - agreement(real, emulated),
                "certified": pair_sums(path).startswith("certified"),
                "avx2_differs": beside_avx2(path, data.normalize(data.test.drawn(IN_VALGRIND).inputs), emulated),
            }
            keep(name, figures)


def top1(answers: Tensor, labels: Tensor) -> float:
    return float((answers.argmax(1) == labels).double().mean())


def beside_avx2(path: Path, inputs: Tensor, emulated: Tensor) -> float | None:
    """The largest difference of logits between ONNX Runtime on a CPU with AVX2 alone and the emulation.

    None without valgrind, whose CPU that is. emulated: logits (N, classes), those of the inputs first.
    """
    if shutil.which("valgrind") is None:
        return None
    with tempfile.TemporaryDirectory() as name:
        given, found = Path(name) / "inputs.npy", Path(name) / "outputs.npy"
        np.save(given, inputs.numpy())
        command = ["valgrind", "--tool=none", "-q", sys.executable, "-c", WITHOUT_VNNI, path, given, found]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        return float((torch.from_numpy(np.load(found)) - emulated[: len(inputs)]).abs().max())


def print_results(results: dict[str, dict[str, dict]], console: Console) -> None:
    """A markdown table, and what it shows."""
    names = ("network", "file", "float32", "int8", "emulated", "lost", "flips", "certified", "logits beside AVX2")
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    said = []
    for network, rows in results.items():
        for name, row in rows.items():
            percents = (f"{100 * row[key]:.2f} %" for key in ("float_top1", "top1", "emulated_top1"))
            beside = "" if row["avx2_differs"] is None else f"{row['avx2_differs']:.1e}"
            cells = (network, name, *percents, f"{row['lost_points']:.2f}", f"{100 * row['flips']:.2f} %",
                     "yes" if row["certified"] else "no", beside)  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
        peer, own = (rows.get(name, {}).get("lost_points") for name in ("quantize_static", "distiq 7-bit"))
        if peer is not None and own is not None and peer >= SHORT:
            verdict = "holds" if own <= LARGEST_LOSS else "does not hold"
            said.append(
                f"{network}: quantize_static loses {peer:.2f} points, distiq's certified file {own:.2f}: {verdict}"
            )
    for line in (*lines, "", *said):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(NETWORKS), default=["mobilenet", "resnet"])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--run", type=Path, default=Path("runs/quantization"))
    parser.add_argument("--train", type=int, default=0, help="images to train on; 0 takes all")
    parser.add_argument("--test", type=int, default=0, help="images to test on; 0 takes all")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/saturation.json"))
    given = parser.parse_args()
    console = Console()
    given.run.mkdir(parents=True, exist_ok=True)
    data = load_data(DataSettings(), 0)
    whole = data
    train, test = (slice(count or None) for count in (given.train, given.test))
    data = dataclasses.replace(data, train=data.train.take(train), test=data.test.take(test))
    report: dict[str, Any] = {
        "environment": environment.describe().model_dump(mode="json"),
        "epochs": given.epochs,
        "train_images": len(data.train),
        "test_images": len(data.test),
        "results": {},
    }
    if given.out.is_file():
        before = json.loads(given.out.read_text(encoding="utf-8"))
        if {**before, "results": {}} != report:
            raise SystemExit(
                f"{given.out}: was measured on other images, another machine or other versions; move it away"
            )
        report = before
    for name in given.only:
        rows = report["results"].setdefault(name, {})

        def keep(file: str, figures: dict, rows: dict[str, dict] = rows) -> None:
            rows[file] = figures
            write_atomically(given.out, json.dumps(report, indent=1).encode())

        few = "" if len(data.train) == len(whole.train) else f"-{len(data.train)}"
        model = trained(name, data, given.run / f"{name}-{given.epochs}{few}.safetensors", given.epochs, console)
        console.print(f"measuring {name}")
        measure(model, data, rows, keep, console)
    print_results(report["results"], console)


if __name__ == "__main__":
    main()
