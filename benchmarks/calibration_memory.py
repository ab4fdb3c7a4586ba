"""Does calibration's memory grow with the calibration set? Peak memory of a process for 128 to 10,000 images.

    python benchmarks/calibration_memory.py [--ranges mse]

ResNet on 28 x 28 images, untrained. The images themselves are counted apart: what is left is the float network, the
graph, the activations of one chunk of 256 and one histogram of fixed size for each of them.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from distiq.files import write_atomically
from distiq.models.resnet import ResNet
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme

COUNTS = (128, 256, 1024, 4096, 10_000)


def peak_mb(images: int, ranges: str) -> float:
    """Peak resident memory of this process after calibration, less the images, in MB."""
    samples = torch.randn(images, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    quantize(ResNet(10, 1, (16, 48, 96), 1).eval(), samples, Scheme(ranges=ranges))  # type: ignore[arg-type]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - samples.nbytes / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranges", default="mse")
    parser.add_argument("--images", type=int, default=0, help="measure this many in this process and print MB")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/calibration_memory.json"))
    arguments = parser.parse_args()
    if arguments.images:
        print(peak_mb(arguments.images, arguments.ranges))
        return
    found = {}
    for images in COUNTS:
        command = [sys.executable, __file__, "--ranges", arguments.ranges, "--images", str(images)]
        found[images] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    table = Table("images", "peak, without the images")
    for images, megabytes in found.items():
        table.add_row(f"{images:,}", f"{megabytes:.0f} MB")
    Console().print(table)
    write_atomically(arguments.out, json.dumps({"ranges": arguments.ranges, "peak_mb": found}, indent=1).encode())


if __name__ == "__main__":
    main()
