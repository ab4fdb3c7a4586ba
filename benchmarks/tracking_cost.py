"""What a tracker costs: the same training told to an MLflow server and to nobody, in turns.

    mlflow server --port 5000 &
    python benchmarks/tracking_cost.py http://127.0.0.1:5000 --pairs 5

Prints the medians of the wall time and of this process's CPU time, the telling thread included, the end of the run too.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import distiq
from distiq.data.images import packaged_fashion_mnist
from distiq.progress import Silent
from distiq.recipe.recipe import Recipe
from distiq.recipe.track import TrackSettings
from distiq.run.tracking import Tracking


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 10)
    )


def trained(uri: str, data: distiq.Data, epochs: int) -> tuple[float, float]:
    """Wall and CPU seconds of one training."""
    recipe = Recipe(name="tracking-cost", track=TrackSettings(mlflow=uri))
    settings = distiq.TrainingSettings(epochs=epochs, batch_size=64, precision="float32")
    wall, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder, Tracking(recipe, Path(folder), "", Silent()) as tracking:
        tracking.begins("student")
        distiq.distil(network(), None, data, training=settings, watch=tracking)
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("uri")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, test = packaged_fashion_mnist()
    data = distiq.from_tensors((train.inputs[:6000], train.labels[:6000]), (test.inputs[:500], test.labels[:500]))
    trained(given.uri, data, 1)  # imports, the first connection
    rows = {"untracked": [], "tracked": []}
    for _ in range(given.pairs):
        for name, uri in (("untracked", ""), ("tracked", given.uri)):
            rows[name].append(trained(uri, data, given.epochs))
    for kind, of in (("wall", 0), ("CPU", 1)):
        plain, told = (statistics.median(row[of] for row in rows[name]) for name in ("untracked", "tracked"))
        print(f"{kind}: untracked {plain:.2f} s, tracked {told:.2f} s, {100 * (told / plain - 1):+.2f} %")


if __name__ == "__main__":
    main()
