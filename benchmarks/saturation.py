"""What pair sums of 16 bits cost on a CPU without VNNI: distiq's files and those of onnxruntime's quantize_static.

    python benchmarks/saturation.py [--epochs 4] [--run runs/saturation] [--train 0] [--test 0]

Two networks, trained here on Fashion-MNIST in float32: an ordinary ResNet, and one that meets the limit, with
activations clipped to [0, 1] and two wide early convolutions of positive weights, so that neighbouring products are
large and of one sign.
Each file is run in ONNX Runtime, and emulated with pair sums held to 16 bits in the order of its AVX2 kernels, on the
full test set (`--train` and `--test` take fewer images, to try it). Networks that are there are not trained again. The
real column is exact only on a CPU with VNNI; the results name the CPU's instruction sets.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from peers import static_onnx
from rich.console import Console
from rich.table import Column, Table
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from distiq import environment
from distiq.data.load import load as load_data
from distiq.data.splits import Data
from distiq.distillation.distil import distil
from distiq.evaluation.evaluate import agreement, outputs
from distiq.files import save_tensors, write_atomically
from distiq.models.resnet import ResNet
from distiq.progress import Lines
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe import DataSettings, TrainingSettings, ViewSettings
from distiq.runtimes.export import export, load, pair_sums
from distiq.runtimes.saturation import emulate


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


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "positive": Positive,
    "resnet": lambda: ResNet(10, 1, (16, 48, 96), 1),
}


def trained(name: str, data: Data, epochs: int, folder: Path, console: Console) -> nn.Module:
    """A float32 network, from the folder if it is there."""
    torch.manual_seed(0)
    model, path = NETWORKS[name](), folder / f"{name}-{epochs}-{len(data.train)}.safetensors"
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
    for name, reduce_range in (("distiq", False), ("distiq 7-bit", True)):
        quantized = quantize(model, calibration, Scheme(reduce_range=reduce_range))
        paths[name] = export(quantized, folder / f"{name}.onnx", calibration[:2])
    return paths


def measure(model: nn.Module, data: Data, console: Console) -> dict[str, dict]:
    """Figures of every file of one network; accuracies are fractions of 1."""
    labels = data.test.labels
    found: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = files(model, data.normalize(data.calibration.inputs), Path(folder))
        float_answers = outputs(load(paths.pop("float32")), data, data.test)
        float_top1 = float((float_answers.argmax(1) == labels).double().mean())
        for name, path in paths.items():
            console.print(f"  {name}")
            real, emulated = (outputs(predict, data, data.test) for predict in (load(path), emulate(path)))
            top1, emulated_top1 = (float((given.argmax(1) == labels).double().mean()) for given in (real, emulated))
            found[name] = {
                "float_top1": float_top1,
                "top1": top1,
                "emulated_top1": emulated_top1,
                "lost_points": 100 * (top1 - emulated_top1),
                "flips": 1 - agreement(real, emulated),
                "certified": pair_sums(path).startswith("certified"),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--run", type=Path, default=Path("runs/saturation"))
    parser.add_argument("--train", type=int, default=0, help="images to train on; 0 takes all")
    parser.add_argument("--test", type=int, default=0, help="images to test on; 0 takes all")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/saturation.json"))
    arguments = parser.parse_args()
    console = Console()
    arguments.run.mkdir(parents=True, exist_ok=True)
    data = load_data(DataSettings(), 0)
    train, test = (slice(count or None) for count in (arguments.train, arguments.test))
    data = dataclasses.replace(data, train=data.train.take(train), test=data.test.take(test))
    results = {}
    for name in NETWORKS:
        model = trained(name, data, arguments.epochs, arguments.run, console)
        console.print(f"measuring {name}")
        results[name] = measure(model, data, console)
    report = {
        "environment": environment.describe().model_dump(),
        "epochs": arguments.epochs,
        "test_images": len(data.test),
        "results": results,
    }
    write_atomically(arguments.out, json.dumps(report, indent=1).encode())
    table = Table("network", Column("file", no_wrap=True), "float32", "int8", "emulated", "lost", "flips", "certified")
    for network, rows in results.items():
        for name, row in rows.items():
            percents = (f"{100 * row[key]:.2f} %" for key in ("float_top1", "top1", "emulated_top1"))
            rest = (f"{row['lost_points']:.2f}", f"{100 * row['flips']:.2f} %", "yes" if row["certified"] else "no")
            table.add_row(network, name, *percents, *rest)
    console.print(table)


if __name__ == "__main__":
    main()
