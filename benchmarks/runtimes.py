"""distiq's int8 file in each runtime against the other tools' int8 files of the same network, and against float32.

    python benchmarks/runtimes.py --make                               makes the files, which takes long; times nothing
    python benchmarks/runtimes.py [--only mobilenet_v2 resnet18 bert4 student] [--minutes 25] [--out FILE]
    python benchmarks/runtimes.py --quick --out /tmp/runtimes.json     tiny networks, to try it; its times mean nothing

MobileNetV2 and ResNet-18 at 224 x 224, a BERT of 4 layers (384 wide, 128 tokens) and the student of
recipes/fashion_mnist.toml, all with drawn weights: times do not depend on them. Every tool calibrates on the same
samples with its defaults, distiq with products within attention on int8 but in Inductor, whose fused attention is of
float32. All files of a network, of all runtimes, are timed in turns in one process, at batch 1 and 32
with 1 and 2 threads, in several sets of newly loaded sessions. Ratios are paired turn by turn: distiq's time over that
of the fastest other int8 file of the runtime (1.05 or less is asked for), and the fastest float32 file's over distiq's.
Files of other tools for LiteRT, ExecuTorch and Inductor are made for each size of batch, distiq's take any.

`--minutes` is the time for all that is still to be timed: every size of batch and number of threads of a network gets
an equal share of what is left, and as many turns as fit into it. What is measured already stands in the results and is
not measured again, files that are there are not made again: interrupted, the same command goes on. A tool that is not
installed has a line that says so.
"""

import argparse
import json
import math
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import peers
import torch
from rich.console import Console
from torch import Tensor, nn

from distiq import environment
from distiq.evaluation.cost import multiply_adds
from distiq.evaluation.statistics import paired_speed
from distiq.files import write_atomically
from distiq.models.build import build
from distiq.models.create import Tokens
from distiq.models.mobilenet import MobileNetV2
from distiq.models.resnet import ResNet
from distiq.models.signature import Predict
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe.read import parse_recipe
from distiq.recipe.training import StudentSettings
from distiq.records.speed import SpeedRecord
from distiq.run.keys import source_hash
from distiq.runtimes.export import export, load, runtime_named, size_bytes
from distiq.timing.latency import WARM_UPS, latencies
from distiq.timing.peak import measure_peak

VOCABULARY = 8000
MOBILENET_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                    (6, 320, 1, 1))  # fmt: skip
FLOAT32, DISTIQ, REFUSED = "float32", "distiq", "refused"
PER_BATCH = (".pt2", ".pte", ".tflite")  # endings of files that other tools make for one size of batch
ROUNDS = (2, 8)  # turns of each file in a set: the least and the most
PEER_LIMIT = 1.05  # of distiq's time over the fastest other int8 file's
MAKING = ("quantization", "runtimes", "models", "numerics.py")  # the rooms whose code distiq's files come from


class Network(NamedTuple):
    """A float network and the samples (N, ...) that it is calibrated and timed on."""

    model: nn.Module
    samples: Tensor


class Maker(NamedTuple):
    """How a tool makes a file: from the float ONNX file, or from the network for a size of batch."""

    ending: str
    from_onnx: Callable[[Path, Tensor, Path], Path] | None = None
    from_network: Callable[[nn.Module, Tensor, Path, int], Path] | None = None


def _ai_edge(recipe: str) -> Callable[[nn.Module, Tensor, Path, int], Path]:
    return lambda model, calibration, path, batch: peers.ai_edge(model, calibration, path, batch, recipe)


PEERS: dict[str, dict[str, Maker]] = {
    "onnxruntime": {
        "quantize_static": Maker(".onnx", peers.static_onnx),
        "quantize_dynamic": Maker(".onnx", peers.dynamic_onnx),
        "NNCF": Maker(".onnx", peers.nncf_onnx),
    },
    "openvino": {
        "NNCF": Maker(".xml", peers.nncf_openvino),
        "quantize_static": Maker(".xml", peers.static_openvino),
    },
    "litert": {
        "ai-edge static": Maker(".tflite", from_network=_ai_edge("static_wi8_ai8")),
        "ai-edge dynamic": Maker(".tflite", from_network=_ai_edge("dynamic_wi8_afp32")),
    },
    "executorch": {"XNNPACK PT2E": Maker(".pte", from_network=peers.xnnpack)},
    "inductor": {"X86Inductor PT2E": Maker(".pt2", from_network=peers.x86_inductor)},
}


# The networks ---------------------------------------------------------------------------------------------------------


def mobilenet_v2(quick: bool) -> Network:
    """The paper's, 3.5 M parameters (Sandler et al. 2018, table 2)."""
    width, size = (0.25, 32) if quick else (1.0, 224)
    model = MobileNetV2(1000, 3, width, stem=32, stem_stride=2, stages=MOBILENET_STAGES, head=1280)
    return settled(model, _images(3, size, quick))


def resnet18(quick: bool) -> Network:
    """The paper's, 11.7 M parameters (He et al. 2016, table 1): distiq's blocks behind its stem for 224 x 224."""
    widths, size = ((8, 16, 32, 64), 64) if quick else ((64, 128, 256, 512), 224)
    model = ResNet(1000, 3, widths, 2)
    model.stem = nn.Sequential(nn.Conv2d(3, widths[0], 7, 2, 3, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(),
                               nn.MaxPool2d(3, 2, 1))  # fmt: skip
    for name, module in model.named_modules():
        if name.endswith("bn2"):
            nn.init.ones_(module.weight)  # at its start a block adds nothing
    return settled(model, _images(3, size, quick))


def bert4(quick: bool) -> Network:
    """A BERT of 4 layers, 384 wide, on 128 tokens; a quarter of each text is padding."""
    width, length, layers = (16, 8, 1) if quick else (384, 128, 4)
    options = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 8 if quick else 6,
               "intermediate_size": 4 * width, "max_position_embeddings": length}  # fmt: skip
    tokens = torch.randint(2, VOCABULARY, (8 if quick else 128, length), generator=torch.Generator().manual_seed(0))
    tokens[:, length * 3 // 4 :] = 0
    choice = StudentSettings(model="transformers:bert", options=options)
    everything = Tokens(VOCABULARY, 0, 1, tuple(range(VOCABULARY)))
    return Network(build(choice, 2, tokens[:1], "student", everything).eval(), tokens)


def student(quick: bool) -> Network:
    """The student of the Fashion-MNIST recipe."""
    recipe = parse_recipe(tomllib.loads(Path("recipes/fashion_mnist.toml").read_text(encoding="utf-8")))
    images = _images(1, 28, quick)
    return settled(build(recipe.student, 10, images[:1], "student"), images)


NETWORKS: dict[str, Callable[[bool], Network]] = {
    "mobilenet_v2": mobilenet_v2,
    "resnet18": resnet18,
    "bert4": bert4,
    "student": student,
}


def _images(channels: int, size: int, quick: bool) -> Tensor:
    return torch.randn(8 if quick else 128, channels, size, size, generator=torch.Generator().manual_seed(0))


def settled(model: nn.Module, images: Tensor) -> Network:
    """The network with batch norms that have seen the images, so that its activations are of an ordinary size."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # type: ignore[assignment]  # the plain mean
    with torch.no_grad():
        model.train()(images[:32])
    return Network(model.eval(), images)


# Their files ----------------------------------------------------------------------------------------------------------


class Files:
    """The files of one network in a folder: each is made once; what was refused is remembered with its reason."""

    def __init__(self, name: str, runtimes: list[str], quick: bool, folder: Path, console: Console) -> None:
        torch.manual_seed(0)
        self.makers = {runtime: PEERS[runtime] for runtime in runtimes}
        self.network, self.folder, self.console = NETWORKS[name](quick), folder, console
        self.name = name
        folder.mkdir(parents=True, exist_ok=True)
        self.quantized: dict[bool, nn.Module] = {}  # with attention on int8, and without
        self.macs = multiply_adds(self.network.model, self.network.samples)

    def at_batch(self, batch: int) -> tuple[dict[str, Path], dict[str, str]]:
        """Paths by "runtime/maker" at a size of batch, and the reasons why others are not there."""
        paths, refused = {}, {}
        for runtime, makers in self.makers.items():
            for maker in (FLOAT32, DISTIQ, *makers):
                label = f"{runtime}/{maker}"
                made = self._made(runtime, maker, batch)
                if isinstance(made, Path):
                    paths[label] = made
                else:
                    refused[label] = made
        return paths, refused

    def _made(self, runtime: str, maker: str, batch: int) -> Path | str:
        ending = runtime_named(runtime).suffix
        once = ending not in PER_BATCH or maker in (FLOAT32, DISTIQ)
        version = f"-{source_hash(*MAKING)[:8]}" if maker == DISTIQ else ""
        path = self.folder / f"{runtime}-{maker.replace(' ', '_')}{version}{'' if once else f'-{batch}'}{ending}"
        reason = path.with_suffix(f".{REFUSED}")
        if path.is_file():
            return path
        if reason.is_file():
            return reason.read_text(encoding="utf-8")
        self.console.print(f"{self.name}: {runtime}, {maker}{'' if once else f', batch {batch}'}", highlight=False)
        try:
            return self._make(runtime, maker, path, batch)
        except ImportError as error:
            return f"not installed: {error}"  # not remembered: it may be, next time
        except Exception as error:  # every tool raises its own kinds
            text = _told(error)
            self.console.print(f"  {text}", highlight=False, markup=False)
            if "not installed" not in text:
                reason.write_text(text, encoding="utf-8")
            return text

    def _make(self, runtime: str, maker: str, path: Path, batch: int) -> Path:
        model, samples = self.network
        if maker in (FLOAT32, DISTIQ):
            network = self._int8(attention=runtime != "inductor") if maker == DISTIQ else model
            return export(network, path, samples[:2])
        tool = PEERS[runtime][maker]
        if tool.from_onnx is not None:
            source = self.folder / "onnxruntime-float32.onnx"
            if not source.is_file():
                export(model, source, samples[:2])
            return tool.from_onnx(source, samples, path)
        assert tool.from_network is not None
        return tool.from_network(model, samples, path, batch)

    def _int8(self, attention: bool) -> nn.Module:
        if attention not in self.quantized:
            scheme = Scheme(rounding="gptq", attention=attention)
            self.quantized[attention] = quantize(self.network.model, self.network.samples, scheme)
        return self.quantized[attention]


def opened(label: str, path: Path, threads: int) -> Predict:
    """The file in its runtime."""
    if label.endswith((f"/{FLOAT32}", f"/{DISTIQ}")):
        return load(path, threads)
    fixed = {".pt2": peers.load_compiled, ".tflite": peers.load_fixed_tflite}.get(path.suffix)
    return fixed(path, threads) if fixed else load(path, threads)


# Timing ---------------------------------------------------------------------------------------------------------------


def timed(files: Files, batch: int, threads: int, sets: int, seconds: float, budget_s: float) -> dict[str, Any]:
    """Medians of every turn of every file, in ms, and why files are missing.

    Args:
        seconds: length of a turn; a call that takes longer is a turn of its own.
        budget_s: what loading and timing may take; at least two turns of every file in every set are taken.
    """
    began = time.perf_counter()
    paths, refused = files.at_batch(batch)
    samples = files.network.samples
    inputs = samples[torch.arange(batch) % len(samples)].contiguous()
    turns: dict[str, list[float]] = {}
    rounds = []
    for number in range(sets):
        models: dict[str, Predict] = {}
        cost_s = 0.0  # of a turn of every file
        for label in [label for label in paths if label not in refused]:
            try:
                models[label] = opened(label, paths[label], threads)
                models[label](inputs)
                called = time.perf_counter()
                models[label](inputs)
                call_s = time.perf_counter() - called
                cost_s += min(WARM_UPS * call_s, seconds + call_s) + max(call_s, seconds)
            except Exception as error:  # every runtime raises its own kinds
                models.pop(label, None)
                refused[label] = _told(error)
        left_s = (budget_s - (time.perf_counter() - began)) / (sets - number)
        rounds.append(min(max(ROUNDS[0], int(left_s / max(cost_s, 1e-9))), ROUNDS[1]))
        for label, record in latencies(models, inputs, threads, rounds[-1], seconds).items():
            turns.setdefault(label, []).extend(record.turns_ms)
    return {
        "network": files.name,
        "batch": batch,
        "threads": threads,
        "runtimes": list(files.makers),
        "macs": files.macs,
        "rounds": rounds,
        "seconds_of_a_turn": seconds,
        "took_s": time.perf_counter() - began,
        "turns_ms": {label: values for label, values in turns.items() if label not in refused},
        "bytes": {label: _size(path) for label, path in paths.items()},
        "missing": refused,
    }


def _told(error: Exception) -> str:
    """An error's kind and the first line of what it says."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.suffix == ".pt2" else size_bytes(path)


# What it says ---------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One runtime at one setting. `ratio` is distiq's time over that of the fastest other int8 file."""

    runtime: str
    float_ms: float | None
    peer: str
    peer_ms: float | None
    distiq_ms: float | None
    ratio: SpeedRecord | None
    gain: SpeedRecord | None


def median(turns: list[float]) -> float:
    return float(torch.tensor(turns).median())


def rows_of(entry: dict[str, Any]) -> list[Row]:
    """A row for each runtime of which a file was timed."""
    turns: dict[str, list[float]] = entry["turns_ms"]
    rows = []
    for runtime in PEERS:
        own, plain = turns.get(f"{runtime}/{DISTIQ}"), turns.get(f"{runtime}/{FLOAT32}")
        others = {maker: turns[label] for maker in PEERS[runtime] if (label := f"{runtime}/{maker}") in turns}
        if not own and not plain and not others:
            continue
        peer = min(others, key=lambda maker: median(others[maker]), default="")
        rows.append(
            Row(
                runtime=runtime,
                float_ms=median(plain) if plain else None,
                peer=peer,
                peer_ms=median(others[peer]) if peer else None,
                distiq_ms=median(own) if own else None,
                ratio=paired_speed(own, others[peer]) if own and peer else None,
                gain=paired_speed(plain, own) if own and plain else None,
            )
        )
    return rows


def gain_of_the_best(entry: dict[str, Any]) -> float | None:
    """The fastest float32 file of all runtimes over distiq's fastest int8 file."""
    kinds = {
        kind: [median(values) for label, values in entry["turns_ms"].items() if label.endswith(f"/{kind}")]
        for kind in (FLOAT32, DISTIQ)
    }
    return min(kinds[FLOAT32]) / min(kinds[DISTIQ]) if all(kinds.values()) else None


HEADINGS = ("network", "batch", "threads", "runtime", "float32 ms", "best peer", "ms", "distiq ms", "distiq / peer",
            "float32 / distiq")  # fmt: skip


def print_results(results: list[dict[str, Any]], console: Console) -> None:
    """A markdown table, what is missing, where a limit does not hold, and the gain of the best runtime by network."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    broken = []
    for entry in results:
        for row in rows_of(entry):
            times = [f"{value:.3f}" if value else "" for value in (row.float_ms, row.peer_ms, row.distiq_ms)]
            cells = (entry["network"], entry["batch"], entry["threads"], row.runtime, times[0], row.peer, times[1],
                     times[2], _speed(row.ratio), _speed(row.gain))  # fmt: skip
            lines.append("| " + " | ".join(map(str, cells)) + " |")
            place = f"{entry['network']}, batch {entry['batch']}, {entry['threads']} thread(s), {row.runtime}"
            if row.ratio is not None and row.ratio.ratio > PEER_LIMIT:
                broken.append(f"{place}: {row.ratio.ratio:.2f} times the time of {row.peer}")
            if row.gain is not None and row.gain.ratio < 1:
                broken.append(f"{place}: slower than float32 ({row.gain.ratio:.2f})")
    missing = {f"{entry['network']}: {label}: {why}" for entry in results for label, why in entry["missing"].items()}
    for threads in sorted({entry["threads"] for entry in results}):
        alone = [entry for entry in results if entry["threads"] == threads and entry["batch"] == 1]
        gains = {entry["network"]: gain for entry in alone if (gain := gain_of_the_best(entry))}
        if gains:
            mean = math.exp(sum(map(math.log, gains.values())) / len(gains))
            each = ", ".join(f"{name} {gain:.2f}" for name, gain in gains.items())
            broken.append(f"batch 1, {threads} thread(s): best float32 / best distiq int8 {mean:.2f} ({each})")
    for line in (*lines, "", *sorted(missing), "", *broken):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _speed(found: SpeedRecord | None) -> str:
    if found is None:
        return ""
    return f"{found.ratio:.2f}" + (" ({:.2f} to {:.2f})".format(*found.interval) if found.interval else "")


def results_before(out: Path, quick: bool, machine: dict[str, Any]) -> dict[str, Any]:
    """The report so far, or a new one.

    Raises:
        SystemExit: what is there was measured on another machine, with other versions or other networks.
    """
    new: dict[str, Any] = {"environment": machine, "quick": quick, "peak": None, "results": []}
    if not out.is_file():
        return new
    before = json.loads(out.read_text(encoding="utf-8"))
    if before.get("environment") != machine or before.get("quick") != quick:
        raise SystemExit(f"{out}: holds other networks, or times of another machine or other versions; move it away")
    return before


def place_of(entry: dict[str, Any]) -> tuple[str, int, int]:
    """Which setting a result is of."""
    return entry["network"], entry["batch"], entry["threads"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--runtimes", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--minutes", type=float, default=25.0, help="for all that is still to be timed")
    parser.add_argument("--sets", type=int, default=2, help="how often all files are loaded anew")
    parser.add_argument("--seconds", type=float, default=0.2, help="length of a turn")
    parser.add_argument("--make", action="store_true", help="make the files and time nothing; needs no quiet machine")
    parser.add_argument("--quick", action="store_true", help="tiny networks, two turns; only to try it")
    parser.add_argument("--files", type=Path, default=Path("runs/benchmark_runtimes"), help="where files are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/runtimes.json"))
    given = parser.parse_args()
    sets, seconds, minutes, batches = given.sets, given.seconds, given.minutes, given.batches
    if given.quick:
        sets, seconds, minutes, batches = 1, 0.0, 0.0, [1, 2]
    console = Console()
    report = results_before(given.out, given.quick, environment.describe().model_dump(mode="json"))
    known = {place_of(entry) for entry in report["results"] if set(given.runtimes) <= set(entry["runtimes"])}
    every = [(name, batch, threads) for name in given.only for batch in batches for threads in given.threads]
    wanted = [one for one in every if one not in known]
    until = time.perf_counter() + 60 * minutes
    if wanted and not given.make:
        report["peak"] = report["peak"] or measure_peak(seconds).model_dump()
        console.print(f"{len(wanted)} of {len(every)} settings to time, {minutes:.0f} minutes")
    files: Files | None = None
    for number, (name, batch, threads) in enumerate(wanted):
        if files is None or files.name != name:
            folder = given.files / ("quick" if given.quick else "full") / name
            files = Files(name, given.runtimes, given.quick, folder, console)
        began = time.perf_counter()
        files.at_batch(batch)
        until += time.perf_counter() - began  # files that had to be made
        if given.make:
            continue
        console.print(f"{name}: timing, batch {batch}, {threads} thread(s)", highlight=False)
        share_s = (until - time.perf_counter()) / (len(wanted) - number)
        others = [entry for entry in report["results"] if place_of(entry) != (name, batch, threads)]
        report["results"] = [*others, timed(files, batch, threads, sets, seconds, share_s)]
        write_atomically(given.out, json.dumps(report, indent=1).encode())
        console.print(f"  {report['results'][-1]['took_s']:.0f} s", highlight=False)
    print_results(report["results"], console)


if __name__ == "__main__":
    main()
