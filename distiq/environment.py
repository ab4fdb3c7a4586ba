"""The machine: memory, instruction sets, versions."""

import ctypes
import functools
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

from distiq.records import Environment

PACKAGES = ("distiq", "torch", "torchao", "accelerate", "onnx", "onnxscript", "onnxruntime", "numpy", "transformers",
            "openvino", "ai-edge-litert", "litert-torch", "executorch")  # fmt: skip
INSTRUCTION_SETS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
)


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


def _cpu_info() -> tuple[str, tuple[str, ...]]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), ()
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    name = fields.get("model name", platform.machine())
    return name, tuple(entry for entry in INSTRUCTION_SETS if entry in flags)


@functools.cache
def describe() -> Environment:
    """This machine and the installed versions."""
    import torch

    cpu, instruction_sets = _cpu_info()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Environment(
        cpu=cpu,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        instruction_sets=instruction_sets,
        memory_bytes=memory,
        system=f"{platform.system()} {platform.machine()}",
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        versions=versions,
    )
