"""How near to this core's int8 peak a small network comes in each runtime, and what holds the rest.

    python benchmarks/resnet8.py [--rounds 10] [--seconds 0.3] [--out FILE]
    python benchmarks/resnet8.py --rounds 1 --seconds 0.01 --out /tmp/resnet8.json     to try it

The ResNet-8 of MLPerf Tiny (32 x 32 x 3, 78 k parameters, 12.5 M multiply-adds; Banbury et al. 2021), drawn weights:
times do not depend on them. One thread. Every runtime's float32 and int8 file under the settings that measured fastest,
batch 1 and 32, in turns in one process. The peak is that of `distiq.timing.peak`: square matrices, one thread.

What holds the rest, for ONNX Runtime: a file that only copies the input's first values is called in the same turns, so
that the price of a call is known; the same int8 file with its input and output bound beforehand; and a profile by
operator at batch 1 and 32 of its kernels, without the slowest tenth of their calls. The profiler cuts times to whole
microseconds: half of one is added to each call.
"""

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from rich.console import Console
from runtimes import settled
from torch import Tensor, nn

from distiq import environment
from distiq.errors import UserError
from distiq.evaluation.cost import multiply_adds, parameter_count
from distiq.files import write_atomically
from distiq.models.resnet import ResNet
from distiq.models.signature import Predict
from distiq.quantization.quantize import quantize
from distiq.records.speed import PeakRecord, gmac_per_s
from distiq.runtimes.export import RUNTIMES, export, load, require
from distiq.timing.latency import latencies
from distiq.timing.peak import measure_peak
from distiq.timing.tune import tune

BATCHES = (1, 32)
PROFILED_CALLS = 200
TRUNCATED_US = 0.5  # what the profiler cuts off of a kernel's time, on average


def network() -> tuple[nn.Module, Tensor]:
    """The network and the samples (N, 3, 32, 32) that it is calibrated and timed on."""
    torch.manual_seed(0)
    model = ResNet(10, 3, (16, 32, 64), 1)
    for name, module in model.named_modules():
        if name.endswith("bn2"):
            nn.init.ones_(module.weight)  # at its start a block adds nothing
    return settled(model, torch.randn(128, 3, 32, 32, generator=torch.Generator().manual_seed(0)))


# ONNX Runtime alone ---------------------------------------------------------------------------------------------------


def session(path: Path, profile: Path | None = None, packed: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if not packed:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def copying(path: Path) -> Path:
    """A file that takes what the network takes, of the same size of output, and computes nothing."""
    shapes = {"input": ["batch", 3, 32, 32], "output": ["batch", 10]}
    nodes = [
        helper.make_node("Slice", ["input", "starts", "ends", "axes"], ["part"]),
        helper.make_node("Flatten", ["part"], ["output"]),
    ]
    values = {"starts": [0, 0, 0], "ends": [1, 1, 10], "axes": [1, 2, 3]}
    graph = helper.make_graph(
        nodes,
        "copy",
        *([helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name])] for name in ("input", "output")),
        [helper.make_tensor(name, TensorProto.INT64, [3], given) for name, given in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def bound(path: Path, inputs: Tensor) -> Predict:
    """Runs the file on these inputs, which it holds before it is called, as a program in C would."""
    opened = session(path)
    binding, result = opened.io_binding(), np.zeros((len(inputs), 10), np.float32)
    binding.bind_cpu_input(opened.get_inputs()[0].name, inputs.numpy())
    binding.bind_output(opened.get_outputs()[0].name, "cpu", 0, np.float32, result.shape, result.ctypes.data)

    def predict(_: Tensor) -> Tensor:
        opened.run_with_iobinding(binding)
        return torch.from_numpy(result)

    return predict


class Kernel(NamedTuple):
    """A node of the optimized graph: microseconds of a call, and its multiply-adds where it is a layer."""

    name: str
    operator: str
    us: float
    macs: int


def profile(path: Path, inputs: Tensor) -> list[Kernel]:
    """Every node's mean time of a call, in the graph's order."""
    # Weights that are packed for their kernel have no shape any more.
    macs = {name: _macs(calls[-1]) for name, calls in _calls(path, inputs, 1, packed=False).items()}
    kernels = []
    for name, calls in _calls(path, inputs, 2 * PROFILED_CALLS).items():  # the first half warms up
        times = sorted(call["dur"] for call in calls[-PROFILED_CALLS:])
        us = statistics.fmean(times[: PROFILED_CALLS * 9 // 10]) + TRUNCATED_US
        kernels.append(Kernel(name, calls[-1]["args"]["op_name"], us, macs.get(name, 0)))
    return kernels


def _calls(path: Path, inputs: Tensor, count: int, packed: bool = True) -> dict[str, list[dict[str, Any]]]:
    """What the profiler says of each node's calls, by its name."""
    with tempfile.TemporaryDirectory() as folder:
        opened = session(path, Path(folder) / "profile", packed)
        for _ in range(count):
            opened.run(None, {opened.get_inputs()[0].name: inputs.numpy()})
        events = json.loads(Path(opened.end_profiling()).read_text(encoding="utf-8"))
    found = defaultdict[str, list[dict[str, Any]]](list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found[event["name"].removesuffix("_kernel_time")].append(event)
    return found


def _macs(call: dict[str, Any]) -> int:
    """Multiply-adds of a layer, from the shapes of a call: the weight is what has int8."""
    about = call["args"]
    weights = [one["int8"] for one in about["input_type_shape"] if len(one.get("int8", ())) > 1]
    if len(weights) != 1 or not ("Conv" in about["op_name"] or "Gemm" in about["op_name"]):
        return 0
    result = next(iter(about["output_type_shape"][0].values()))
    # The weight of a convolution is (O, I, kh, kw), that of a Gemm has two sides, of which one is the outputs.
    outputs = weights[0][0] if "Conv" in about["op_name"] else result[-1]
    return prod(result) * prod(weights[0]) // outputs


# Timing ---------------------------------------------------------------------------------------------------------------


def opened(
    model: nn.Module, samples: Tensor, folder: Path, rounds: int, seconds: float, console: Console
) -> tuple[dict[str, Callable[[Tensor], Predict]], dict[str, str]]:
    """What loads each file for its inputs, by name; and what each is set to, or why it is missing."""
    int8 = quantize(model, samples)
    loaders: dict[str, Callable[[Tensor], Predict]] = {}
    said: dict[str, str] = {}
    for runtime in RUNTIMES:
        for form, net in (("float32", model), ("int8", int8)):
            label = f"{runtime.title} {form}"
            console.print(f"making {label}", highlight=False)
            try:
                require(runtime)
                path = export(net, folder / f"{runtime.name}-{form}{runtime.suffix}", samples[:2])
                chosen = tune(path, 1, samples[:8], rounds, seconds).setting
            except UserError as error:
                said[label] = str(error)
                continue
            said[label] = ", ".join(f"{key} = {value}" for key, value in chosen.options.items()) or "as it is"
            loaders[label] = lambda _, path=path, chosen=chosen: load(path, 1, chosen.options)
    return loaders, said


def timed(
    loaders: dict[str, Callable[[Tensor], Predict]], inputs: Tensor, rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Median times of every turn of every file, in ms."""
    models = {label: open_it(inputs) for label, open_it in loaders.items()}
    return {label: list(one.turns_ms) for label, one in latencies(models, inputs, 1, rounds, seconds).items()}


# What it says ---------------------------------------------------------------------------------------------------------


def table_of(turns: dict[str, list[float]], batch: int, macs: int, peak: PeakRecord, said: dict[str, str]) -> list[str]:
    """A markdown table of one size of batch."""
    lines = ["| file | settings | ms | inferences / s | GMAC/s | share of the peak |", "|---" * 6 + "|"]
    for label, times in turns.items():
        ms = statistics.median(times)
        counts = "int8" in label or "float32" in label
        rate = gmac_per_s(macs * batch, ms)
        share = f"{100 * peak.share(rate, 'int8' in label, 1):.0f} %"
        reached = (f"{1000 * batch / ms:,.0f}", f"{rate:.0f}", share) if counts else ("", "", "")
        cells = (label, said.get(label, ""), f"{ms:.4f}", *reached)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def profile_table(kernels: list[Kernel], batch: int, call_us: float, peak: PeakRecord) -> list[str]:
    """A markdown table by operator, what the kernels do not explain, and the layers one by one."""
    groups: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        groups.setdefault(kernel.operator, []).append(kernel)
    own_us = sum(kernel.us for kernel in kernels)
    lines = [f"| operator, batch {batch} | nodes | us | share | GMAC/s | share of the peak |", "|---" * 6 + "|"]

    def row(name: str, nodes: int, us: float, macs: int) -> str:
        rate = gmac_per_s(macs, us / 1000) if macs else 0.0
        of_peak = [f"{rate:.0f}", f"{100 * peak.share(rate, True, 1):.0f} %"] if macs else ["", ""]
        cells = (name, str(nodes or ""), f"{us:.1f}", f"{100 * us / max(own_us, call_us):.0f} %", *of_peak)
        return "| " + " | ".join(cells) + " |"

    for name, members in sorted(groups.items(), key=lambda group: -sum(one.us for one in group[1])):
        lines.append(row(name, len(members), sum(one.us for one in members), sum(one.macs for one in members)))
    lines.append(row("between and around them", 0, max(0.0, call_us - own_us), 0))
    return lines + [row(f"{one.operator} {one.name}", 0, one.us, one.macs) for one in kernels if one.macs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="turns of each file")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a turn")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/resnet8.json"))
    given = parser.parse_args()
    console = Console()
    model, samples = network()
    macs = multiply_adds(model, samples)
    report: dict[str, Any] = {"environment": environment.describe().model_dump(mode="json"), "macs": macs,
                              "parameters": parameter_count(model), "batches": {}}  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loaders, said = opened(model, samples, folder, min(given.rounds, 4), given.seconds / 3, console)
        int8, empty = folder / "onnxruntime-int8.onnx", copying(folder / "copy.onnx")
        loaders["ONNX Runtime int8, bound"] = lambda inputs: bound(int8, inputs)
        loaders["a call of ONNX Runtime"] = lambda _: load(empty)
        peaks = [measure_peak(max(given.seconds, 0.01))]
        for batch in BATCHES:
            inputs = samples[:batch].contiguous()
            turns = timed(loaders, inputs, given.rounds, given.seconds)
            report["batches"][batch] = {"turns_ms": turns, "kernels": [one._asdict() for one in profile(int8, inputs)]}
        peaks.append(measure_peak(max(given.seconds, 0.01)))
    peak = max(peaks, key=lambda one: one.int8_gmac_per_s)
    report |= {"peak": peak.model_dump(), "settings": said}
    write_atomically(given.out, json.dumps(report, indent=1).encode())
    lines = [
        f"{macs:,} multiply-adds, {report['parameters']:,} parameters, one thread; peak of the core: int8"
        f" {peak.int8_gmac_per_s:.0f} GMAC/s ({peak.int8_by}), float32 {peak.float32_gmac_per_s:.0f}"
        f" ({peak.float32_by}); instruction sets: {', '.join(report['environment']['instruction_sets'])}"
    ]
    for batch, found in report["batches"].items():
        call_us = 1000 * statistics.median(found["turns_ms"]["ONNX Runtime int8, bound"])
        kernels = [Kernel(**one) for one in found["kernels"]]
        lines += ["", f"Batch {batch}:", "", *table_of(found["turns_ms"], batch, macs, peak, said), ""]
        lines += profile_table(kernels, batch, call_us, peak)
    lines += ["", *(f"{label}: {why}" for label, why in said.items() if label not in loaders)]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
