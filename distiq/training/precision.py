"""Which precision trains faster here."""

import time
from typing import Literal

import torch
from accelerate import Accelerator
from torch import nn

from distiq.recipe.training import TrainingSettings
from distiq.training import processes
from distiq.training.batches import Batches
from distiq.training.layout import memory_layout


def faster_precision(
    objective: nn.Module, batches: Batches, settings: TrainingSettings
) -> Literal["float32", "bfloat16"]:
    """Times training steps of a copy in float32 and bfloat16 and names the faster; all processes must call it.

    Depthwise convolutions train slower in bfloat16 on many CPUs, plain ones twice as fast: it has to be measured.
    """
    import copy

    processes.start()
    trial = copy.deepcopy(objective)
    accelerator = Accelerator()
    device = accelerator.device
    layout = memory_layout(trial, batches, settings, accelerator)
    trial.to(device).to(memory_format=layout).train()  # type: ignore[call-overload]
    share = batches.epoch(0, 0, accelerator.process_index, accelerator.num_processes)
    batch = next(share).to(device, layout)
    medians: dict[bool, float] = {}
    for enabled in (False, True):
        times = []
        for _ in range(5):
            began = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
                losses = trial(batch)
            torch.stack([loss.float() for loss in losses.values()]).sum().backward()
            times.append(time.perf_counter() - began)
        medians[enabled] = sorted(times[1:])[2]
    return processes.on_main(lambda: "bfloat16" if medians[True] < medians[False] else "float32")
