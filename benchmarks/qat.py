"""What a step of quantization-aware training costs beside a plain step of the same network, and beside torchao's.

    python benchmarks/qat.py [--batch 128] [--rounds 15]

A CIFAR-style ResNet-20 on random 32 x 32 images: forward, cross entropy, backward, SGD with momentum, in float32. One
step of each way in turn after two rounds of warm-up; medians, and the medians of the rounds' own ratios. "with stored
teacher" adds plain distillation from answers in memory.
"""

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from distiq import environment
from distiq.files import write_atomically
from distiq.models.resnet import ResNet
from distiq.quantization.fake_quantize import PerChannelWeightFakeQuantize
from distiq.quantization.quantize import activation_fake_quantizers, quantize
from distiq.quantization.scheme import Scheme
from distiq.tasks.classification import kd

AGAINST = "float32, channels_last"


def fresh() -> nn.Module:
    torch.manual_seed(0)
    model = ResNet(10, 3, (16, 32, 64), 3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # torchao divides by it
    return model


def distiq_qat(images: Tensor, bits: int, learn_ranges: bool = False) -> nn.Module:
    quantized = quantize(fresh().eval(), images, Scheme(weight_bits=bits))  # type: ignore[arg-type]
    for module in quantized.modules():
        if isinstance(module, PerChannelWeightFakeQuantize) and bits < 8:
            module.learn()
    for activation in activation_fake_quantizers(quantized) if learn_ranges else ():
        activation.learn()
    return quantized.to(memory_format=torch.channels_last).train()


def torchao_qat(images: Tensor) -> nn.Module:
    from torchao.quantization.pt2e import move_exported_model_to_train
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    quantizer = X86InductorQuantizer()
    quantizer.set_global(get_default_x86_inductor_quantization_config(is_qat=True))
    graph = torch.export.export(fresh().train(), (images,)).module(check_guards=False)
    prepared = prepare_qat_pt2e(graph, quantizer)
    return move_exported_model_to_train(prepared)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/qat.json"))
    arguments = parser.parse_args()
    environment.keep_freed_memory()
    images, labels = torch.randn(arguments.batch, 3, 32, 32), torch.randint(0, 10, (arguments.batch,))
    last, answers = images.to(memory_format=torch.channels_last), torch.randn(arguments.batch, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ways: dict[str, tuple[nn.Module, Tensor, bool]] = {
            "float32, contiguous": (fresh().train(), images, False),
            AGAINST: (fresh().train().to(memory_format=torch.channels_last), last, False),
            "distiq W8A8": (distiq_qat(images, 8), last, False),
            "distiq W8A8, with stored teacher": (distiq_qat(images, 8), last, True),
            "distiq W4A8": (distiq_qat(images, 4), last, False),
            "distiq W4A8, ranges learned too": (distiq_qat(images, 4, learn_ranges=True), last, False),
            "torchao PT2E": (torchao_qat(images), images, False),
            "torchao PT2E, channels_last": (torchao_qat(images).to(memory_format=torch.channels_last), last, False),
        }
        optimizers = {
            name: torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9) for name, (model, _, _) in ways.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(arguments.rounds + 2):
            for name in sorted(ways, key=lambda way: (list(ways).index(way) + number) % len(ways)):
                model, inputs, taught = ways[name]
                began = time.perf_counter()
                logits = model(inputs)
                loss = F.cross_entropy(logits, labels)
                (loss + kd(logits, answers) if taught else loss).backward()
                optimizers[name].step()
                optimizers[name].zero_grad()
                if number >= 2:
                    seconds[name].append(time.perf_counter() - began)
    ratios = {
        name: statistics.median(a / b for a, b in zip(times, seconds[AGAINST], strict=True))
        for name, times in seconds.items()
    }
    table = Table("step", "median ms", f"against {AGAINST}")
    for name, times in seconds.items():
        table.add_row(name, f"{1000 * statistics.median(times):.0f}", f"{ratios[name]:.2f}")
    console = Console()
    console.print(table)
    console.print(f"batch {arguments.batch}, {arguments.rounds} rounds, {torch.get_num_threads()} threads")
    report = {
        "environment": environment.describe().model_dump(),
        "batch": arguments.batch,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "ratios": ratios,
    }
    write_atomically(arguments.out, json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    main()
