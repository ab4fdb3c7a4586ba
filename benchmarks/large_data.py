"""Peak memory of a run's data, of 10,000 to 200,000 images of 224 x 224, and the speed of training on packs.

    python benchmarks/large_data.py [--images 10000 50000 200000] [--folder FOLDER]

Each size is a process of its own: it packs (or opens) the images, splits them, computes statistics and digest, and
trains a few steps; its peak resident memory is the operating system's count. For the speed, one process holds 5,000
images in memory and in a pack, and takes training steps of both in turn. The folder's JPEG files are hard links to 500
drawn images, since only their number matters; a pack needs 150 kB an image on the disk.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

SIZE, DRAWN, CLASSES, BATCH, STEPS = 224, 500, 10, 32, 12


def draw(folder: Path, images: int) -> Path:
    """A folder of so many training images, and 500 test images, of ten classes."""
    import numpy as np
    from PIL import Image

    originals = folder / "drawn"
    originals.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(2 * DRAWN):
        if not (file := originals / f"{number}.jpg").exists():
            rough = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(rough).resize((256, 256)).save(file)
    photos = folder / f"photos-{images}"
    for part, count, first in (("train", images, 0), ("test", DRAWN, DRAWN)):
        for number in range(count):
            file = photos / part / f"class{number % CLASSES}" / f"{number}.jpg"
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                os.link(originals / f"{first + number % DRAWN}.jpg", file)
    return photos


def loaded(photos: Path, memory_mb: int):  # type: ignore[no-untyped-def]
    from distiq.data.load import load
    from distiq.recipe.data import DataSettings

    settings = DataSettings(
        source="folder", folder=str(photos), image_size=SIZE, memory_mb=memory_mb, validation=200, calibration=200
    )
    return load(settings, 0, photos.parent / "cache")


def trainer(data):  # type: ignore[no-untyped-def]
    """A function that takes one training step of a small MobileNetV2 and returns its seconds."""
    import torch

    from distiq.data.views import Views
    from distiq.models.mobilenet import MobileNetV2
    from distiq.recipe.data import ViewSettings
    from distiq.training.batches import Batches

    torch.manual_seed(0)
    network = MobileNetV2(CLASSES, 3, stem_stride=2)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    epoch = Batches(data, Views(ViewSettings(), 0), BATCH, 0).epoch(0)

    def step() -> float:
        began = time.perf_counter()
        batch = next(epoch)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(batch.inputs), batch.labels).backward()
        optimizer.step()
        return time.perf_counter() - began

    return step


def measure(photos: Path) -> dict[str, float]:
    """Seconds and peak memory of this process from the folder to a few training steps."""
    began = time.perf_counter()
    data = loaded(photos, 0)
    digest = data.digest()
    read = time.perf_counter() - began
    step = trainer(data)
    seconds = statistics.median(step() for _ in range(STEPS))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"images": len(data.train), "read_s": read, "step_s": seconds, "peak_mb": peak, "digest": digest[:8]}


def compare(photos: Path) -> dict[str, float]:
    """How long training steps take on a pack, by those in memory, in turn."""
    in_memory, packed = (trainer(loaded(photos, memory)) for memory in (10**6, 0))
    pairs = [(in_memory(), packed()) for _ in range(4 * STEPS)][4:]
    ratios = sorted(on_disk / in_ram for in_ram, on_disk in pairs)
    return {
        "ratio": statistics.median(ratios),
        "lowest": ratios[len(ratios) // 10],
        "highest": ratios[-len(ratios) // 10],
    }


def child(what: str, photos: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", what, "--folder", str(photos)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 50_000, 200_000])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/distiq-large-data"))
    parser.add_argument("--child", choices=("measure", "compare"))
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps({"measure": measure, "compare": compare}[arguments.child](arguments.folder)))
        return
    print(
        "| images | packing and reading (s) | reading again (s) | training step (s) | peak memory (MB) |\n"
        "|---|---|---|---|---|"
    )
    for images in arguments.images:
        photos = draw(arguments.folder, images)
        first, again = child("measure", photos), child("measure", photos)
        assert first["digest"] == again["digest"]
        peak = max(first["peak_mb"], again["peak_mb"])
        print(
            f"| {images:,} | {first['read_s']:.1f} | {again['read_s']:.1f} | {again['step_s']:.3f} | {peak:.0f} |",
            flush=True,
        )
    times = child("compare", draw(arguments.folder, 5_000))
    spread = f"{times['lowest']:.3f} to {times['highest']:.3f}"
    print(f"a training step on a pack, by one in memory: {times['ratio']:.3f} ({spread})")


if __name__ == "__main__":
    main()
