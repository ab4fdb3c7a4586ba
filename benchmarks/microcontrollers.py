"""A trained student as files for microcontrollers: C and TFLM beside the simulation, RAM, flash, and Vela's estimate.

python benchmarks/microcontrollers.py RECIPE=RUN [RECIPE=RUN ...]

RUN is the folder of a run of that recipe; its student's weights are read, nothing is trained. All test samples are
predicted. A front-end of sound stays in float32, and the file is of C alone: TFLM would compute its formulas at every
inference. Prints a Markdown table.
"""

import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from distiq.data.load import load as load_data
from distiq.data.splits import Data
from distiq.models.audio import front_ends
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe.read import load_recipe
from distiq.recipe.shipped import recipe_file
from distiq.run.networks import build_network
from distiq.run.train import WEIGHTS
from distiq.runtimes.export import differences, export, footprint, load, operations
from distiq.runtimes.vela import estimate

HEAD = (
    "| student | file | accuracy, simulated | accuracy, file | same predictions | RAM kB | flash kB | same integers |"
)


def student_of(recipe: str, run: Path) -> tuple[nn.Module, Data]:
    """The trained student of a run, and its data."""
    settings = load_recipe(recipe_file(recipe))
    data = load_data(settings.data, settings.seed)
    network = build_network(settings, data, "student")
    (weights,) = run.glob(f"steps/student-*/{WEIGHTS}")
    network.module.load_state_dict(load_file(weights))
    return network.module.eval(), data


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """In percent."""
    return 100 * float((outputs.argmax(1) == labels).float().mean())


def row(name: str, quantized: QuantizedModel, path: Path, simulated: Tensor, inputs: Tensor, labels: Tensor) -> str:
    """A file beside the simulation."""
    outputs = load(path)(inputs)
    same = 100 * float((outputs.argmax(1) == simulated.argmax(1)).float().mean())
    flash, ram = footprint(path)
    cells = (
        name,
        path.suffix,
        f"{accuracy(simulated, labels):.2f} %",
        f"{accuracy(outputs, labels):.2f} %",
        f"{same:.2f} % of {len(labels):,}",
        f"{ram / 1000:.1f}" if ram else "",
        f"{flash / 1000:.1f}" if flash else "",
        "yes" if not differences(quantized, path) else "no",
    )
    return f"| {' | '.join(cells)} |"


@torch.no_grad()
def main(cases: list[str]) -> None:
    notes = []
    print(HEAD, "|---" * HEAD.count(" | ") + "|---|", sep="\n")
    for case in cases:
        name, _, run = case.partition("=")
        network, data = student_of(name, Path(run))
        kept = front_ends(network)
        scheme = Scheme(float_modules=kept, integer_io=not kept, rounding="gptq")
        quantized = quantize(network, data.normalize(data.calibration.inputs), scheme)
        inputs, labels = data.normalize(data.test.inputs), data.test.labels
        simulated = torch.cat([quantized(part) for part in inputs.split(250)])
        with tempfile.TemporaryDirectory() as folder:
            for suffix in (".c",) if kept else (".c", ".tflm"):
                path = export(quantized, Path(folder) / f"model{suffix}", inputs[:2], integer_io=not kept)
                print(row(name, quantized, path, simulated, inputs, labels), flush=True)
            if not kept:
                kinds = ", ".join(f"{count} {kind}" for kind, one in operations(path).items() for count in one.values())
                notes.append(f"- {name}: {kinds}. {estimate(path).sentence}")
    print("", *notes, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
