"""Pruned by half: distiq's `prune` beside torch-pruning, fine-tuned alike by the unpruned teacher, as int8 files.

    pip install torch-pruning
    python benchmarks/pruning.py [--run runs/fashion_mnist] [--keep 0.5] [--epochs 4] [--seeds 1]
        [--out benchmarks/results/pruning.json]

The network is the teacher of `fashion_mnist`, from the run folder or trained there. All remove channels in groups of
which a multiple of 8 stays, judged by gradients on the same 512 samples, until no more than the share of the
multiply-adds is left. Fine-tuning has the recipe's losses and views. Files are made by the first rung and timed in
turns in ONNX Runtime.
"""

import argparse
import copy
import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console
from torch import Tensor, nn

from distiq import environment
from distiq.data.splits import Data
from distiq.distillation.distil import distil
from distiq.evaluation.cost import multiply_adds, parameter_count
from distiq.evaluation.evaluate import outputs
from distiq.evaluation.paired import paired_drop
from distiq.files import write_atomically
from distiq.models.prune import prune
from distiq.progress import Lines
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe.part import changed
from distiq.recipe.read import load_recipe
from distiq.run.ledger import Ledger, Place
from distiq.run.networks import build_network
from distiq.run.prepare import read_data
from distiq.run.train import live_or_cached, train_teacher
from distiq.runtimes.export import export, load, size_bytes
from distiq.tasks.choose import task_of
from distiq.tasks.score import score
from distiq.timing.latency import latencies

MULTIPLE = 8
LEARNING_RATE = 0.05


def loss_of(model: nn.Module, data: Data) -> Tensor:
    """The mean loss on the calibration split."""
    return task_of(data).loss(model(data.normalize(data.calibration.inputs)), data.calibration.labels).mean()


def by_torch_pruning(model: nn.Module, data: Data, keep: float, globally: bool) -> nn.Module:
    """Of the networks that some ratios give, the one with the most multiply-adds that are no more than the share."""
    example = data.normalize(data.calibration.inputs[:2])
    whole = multiply_adds(model, example)
    found = [_at_ratio(model, data, step / 40, globally) for step in range(4, 33, 2)]
    shares = [multiply_adds(one, example) / whole for one in found]
    return max(zip(shares, found, strict=True), key=lambda pair: pair[0] if pair[0] <= keep else -pair[0])[1]


def _at_ratio(model: nn.Module, data: Data, ratio: float, globally: bool) -> nn.Module:
    import torch_pruning

    smaller = copy.deepcopy(model).eval().requires_grad_(True)
    pruner = torch_pruning.pruner.BasePruner(
        smaller,
        data.normalize(data.calibration.inputs[:1]),
        importance=torch_pruning.importance.GroupTaylorImportance(),
        global_pruning=globally,
        pruning_ratio=ratio,
        round_to=MULTIPLE,
        ignored_layers=[smaller.classifier],
    )
    loss_of(smaller, data).backward()
    pruner.step()
    smaller.zero_grad()
    return smaller


def by_distiq(model: nn.Module, data: Data, keep: float) -> nn.Module:
    example = data.normalize(data.calibration.inputs[:1])
    return prune(copy.deepcopy(model).requires_grad_(True), example, keep, partial(loss_of, data=data), of="macs")


ARMS: dict[str, Callable[[nn.Module, Data, float], nn.Module]] = {
    "distiq": by_distiq,
    "torch-pruning, globally": partial(by_torch_pruning, globally=True),
    "torch-pruning, all groups alike": partial(by_torch_pruning, globally=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/fashion_mnist"))
    parser.add_argument("--keep", type=float, default=0.5, help="the share of multiply-adds")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pruning.json"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    watch, recipe = Lines(Console()), load_recipe("fashion_mnist", ())
    training = changed(recipe.teacher.training, {"epochs": arguments.epochs, "learning_rate": LEARNING_RATE})
    training = changed(training, {"precision": "bfloat16"})
    found: dict = json.loads(arguments.out.read_text())["figures"] if arguments.out.is_file() else {}
    with Ledger(arguments.run, watch) as ledger:
        data = read_data(recipe, ledger)
        teacher = train_teacher(ledger, recipe, data, build_network(recipe, data, "teacher", watch=watch))
        folder = arguments.run / "pruning"
        folder.mkdir(exist_ok=True)
        example, samples = data.normalize(data.calibration.inputs[:2]), data.normalize(data.calibration.inputs)
        whole = _file(teacher.module, samples, folder / "whole.onnx")
        answers = outputs(load(whole), data, data.test)
        for seed in range(arguments.seeds):
            for arm, make in ARMS.items():
                if f"{arm}, seed {seed}" in found:
                    continue
                smaller = make(teacher.module, data, arguments.keep)
                before = _accuracy(outputs(smaller.eval(), data, data.test), data)
                place = Place(folder, ledger.cache, watch)
                source = live_or_cached(place, teacher, data, recipe.distil, recipe.views, recipe.seed)
                tuned, _ = distil(
                    smaller, source, data, recipe.distil, training, views=recipe.views, seed=seed, watch=watch
                )
                path = _file(tuned, samples, folder / "pruned.onnx")
                deployed = outputs(load(path), data, data.test)
                metric = score(task_of(data), answers, data.test.labels).primary
                lost, low, high = paired_drop(task_of(data), metric, answers, deployed, data.test.labels)
                timed = latencies({"whole": load(whole), "pruned": load(path)}, example[:1], 1)
                found[f"{arm}, seed {seed}"] = {
                    "macs": multiply_adds(tuned, example),
                    "macs_share": multiply_adds(tuned, example) / multiply_adds(teacher.module, example),
                    "parameters": parameter_count(tuned),
                    "before_tuning": before,
                    "teacher_int8": _accuracy(answers, data),
                    "float32": _accuracy(outputs(tuned.eval(), data, data.test), data),
                    "int8": _accuracy(deployed, data),
                    "lost_points": lost,
                    "interval": [low, high],
                    "size_kb": size_bytes(path) / 1000,
                    "latency_ms": timed["pruned"].p50_ms,
                    "whole_ms": timed["whole"].p50_ms,
                    "faster": timed["whole"].p50_ms / timed["pruned"].p50_ms,
                }
                report = {
                    "environment": environment.describe().model_dump(),
                    "epochs": arguments.epochs,
                    "figures": found,
                }
                write_atomically(arguments.out, json.dumps(report, indent=1).encode())
    print(json.dumps(found, indent=1))


def _file(model: nn.Module, samples: Tensor, path: Path) -> Path:
    return export(quantize(copy.deepcopy(model).eval(), samples, Scheme(rounding="gptq")), path, samples[:2])


def _accuracy(answers: Tensor, data: Data) -> float:
    return float((answers.argmax(1) == data.test.labels).double().mean())


if __name__ == "__main__":
    main()
