"""What a model file adds to the memory of a process that runs it, with its bundle's runner."""

import json
import subprocess
import sys
from pathlib import Path

from torch import Tensor

from distiq.device import run as runner
from distiq.models.signature import Tensors, type_name
from distiq.runtimes.export import runtime_of

SECONDS = 600
PROBE = """
import importlib, importlib.util, json, pathlib, sys
import numpy
spec = importlib.util.spec_from_file_location("runner", sys.argv[1])
runner = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runner)
importlib.import_module(sys.argv[2])
inputs = {name: numpy.zeros(*about) for name, about in json.loads(sys.argv[4]).items()}
inputs = inputs.pop("") if "" in inputs else inputs

def memory(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew: what the imports took is not the model's
before = memory("VmRSS")
runner.load(pathlib.Path(sys.argv[3]), 1)(inputs)
print(memory("VmHWM") - before)
"""


def peak_memory_bytes(path: Path, sample: Tensors) -> int | None:
    """What loading the file and running one batch of that shape and type adds to a fresh process's peak memory.

    None where the system does not report it: on anything but Linux, and in containers that hide a part of /proc.
    """
    if sys.platform != "linux":
        return None
    named = {"": sample} if isinstance(sample, Tensor) else sample
    about = {name: (list(one.shape), type_name(one.dtype)) for name, one in named.items()}
    arguments = [runner.__file__, runtime_of(path).imported, str(path), json.dumps(about)]
    command = [sys.executable, "-c", PROBE, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return None
    return int(done.stdout.splitlines()[-1]) if done.returncode == 0 else None  # some runtimes print a banner first
