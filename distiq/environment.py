"""The machine: memory, instruction sets, versions."""

import ctypes
import functools
import importlib.metadata
import platform
import sys

from distiq.device import run as runner
from distiq.records.record import Environment

PACKAGES = ("distiq", "torch", "torchao", "accelerate", "onnx", "onnxscript", "numpy", "transformers",
            "litert-torch", *(package for _, package in runner.RUNTIMES.values()))  # fmt: skip


def keep_freed_memory() -> None:
    """Asks glibc to keep large blocks instead of handing each back to the system.

    Training frees and takes the same activations at every step; by default glibc unmaps each of them, and the page
    faults cost up to half of the step on a CPU. Elsewhere than on glibc nothing happens.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 1 << 26)


@functools.cache
def describe() -> Environment:
    """This machine and the installed versions."""
    import torch

    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return Environment.model_validate({**runner.machine(), "device": device, "versions": versions})
