"""Five trained networks as files for microcontrollers: C and TFLM beside the simulation, RAM, flash, boards, speed.

    python benchmarks/microcontrollers.py [--only resnet8,adult] [--vectors 1000] [--networks runs/microcontrollers]
    python benchmarks/microcontrollers.py --only adult --vectors 10 --out /tmp/mcu.json      to try it

The networks of MLPerf Tiny's size (Banbury et al. 2021), trained here in minutes on data that the package brings:
resnet8 (Fashion-MNIST), DS-CNN on MFCC and the student of keyword_board from sound to scores (spoken digits), that of
adult, an autoencoder 640-128-8-128-640 (frames of spoken digits). Weights are kept in the folder of networks; the whole
takes twenty minutes on one core the first time, a third of it for trainings.

Every comparison is over the full test set, on int8 files with int8 ends, and beside the simulation in PyTorch:

- same answers: the same class; of the autoencoder the same verdict, whether its error is beyond that of 95 % of the
  validation samples. Quality is accuracy; of the autoencoder the share of the variance that it gives back.
- same integers of the output, and the most steps that one lies beside. The front-end of sound is computed in float32,
  and so are its scores, which are counted in steps of 1 / 255 of the range of all of them.
- The simulation multiplies float32 values, and where a result lies between two integers it may take the other one, as
  files may: how many of its own integers are not those of exact arithmetic is counted, too.
- TFLM takes the network of sound behind its front-end, whose formulas it would compute at every inference. Whether each
  integer is that of its kernels' formulas, and those of LiteRT's reference kernels that of theirs, is asked too: the
  two round differently in linear layers (reference_kernels.py).

Flash is a Cortex-M4's (-Os, code and constants), weights are the bytes of integer weights alone. On emulated boards
`--vectors` samples, of the test set and of the training samples where that is small, have to give the bytes of x86.
Speed is that of DS-CNN with float32 ends, one thread, in turns, medians: on memory that is bound beforehand, and as
Python calls them by `load`.
"""

import argparse
import ctypes
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from boards import BOARDS, lacks_boards, same_bytes
from microcontroller_networks import SUBJECTS, Judge, Samples, Subject, cut_behind_front_end, judge, trained
from reference_kernels import EXACT, LITERT, TFLM, by_formulas, reference_kernels
from torch import Tensor, nn

from distiq import environment
from distiq.device import run as runner
from distiq.files import write_atomically
from distiq.models.audio import front_ends
from distiq.models.signature import Predict
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.c99_write import about_of
from distiq.runtimes.export import differences, export, footprint, load, runtime_of
from distiq.runtimes.vela import estimate, lacks_vela
from distiq.timing.latency import latencies

TIMED = "ds_cnn"
REFERENCED = 2000
"""Test samples that LiteRT's slow reference kernels compute, too."""
Q31 = {"define": "DISTIQ_Q31"}


def simulation(quantized: QuantizedModel, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([quantized(part) for part in inputs.split(250)])


def beside(simulated: Tensor, outputs: Tensor, inputs: Tensor, step: float, verdict: Judge) -> dict[str, Any]:
    """How outputs (N, C) of a file differ from the simulation's.

    Args:
        step: from one integer to the next.
    """
    apart = ((outputs - simulated) / step).round().abs()
    same = verdict.answers(inputs, outputs) == verdict.answers(inputs, simulated)
    return {
        "same_answers": 100 * float(same.float().mean()),
        "other_answers": int((~same).sum()),
        "same_integers": 100 * float((apart == 0).float().mean()),
        "most_steps": int(apart.max()),
        "quality": verdict.quality(outputs),
    }


def step_of(path: Path, simulated: Tensor) -> float:
    """From one integer of the output to the next; of floats 1 / 255 of their range."""
    (stated,) = runtime_of(path).signature(path).outputs
    return stated.quantization.scale if stated.quantization else float(simulated.max() - simulated.min()) / 255


def in_c(
    quantized: QuantizedModel, simulated: Tensor, samples: Samples, folder: Path, verdict: Judge, vectors: int
) -> dict[str, Any]:
    """The C file: beside the simulation, in both ways to rescale, its sizes, and the boards."""
    inputs = samples.test
    path = export(quantized, folder / "model.c", inputs[:2], integer_io=quantized.scheme.integer_io)
    step, about = step_of(path, simulated), about_of(path.read_text())
    held = runtime_of(path).quantization_parameters(path)
    flash, ram = footprint(path)
    found: dict[str, Any] = {
        "samples": len(inputs),
        "simulated_quality": verdict.quality(simulated),
        "float": beside(simulated, load(path)(inputs), inputs, step, verdict),
        "q31": beside(simulated, load(path, 1, Q31)(inputs), inputs, step, verdict),
        "differences": differences(quantized, path),
        "arena_bytes": about["arena_bytes"],
        "least_arena_bytes": about["least_arena_bytes"],
        "ram_bytes": ram,
        "flash_bytes": flash,
        "weight_bytes": sum(one.integers.size for one in held.weights) + 4 * sum(one.size for one in held.floats),
        "boards": {},
    }
    given = torch.cat([inputs, samples.train])[:vectors]
    for board in BOARDS if not lacks_boards() else ():
        began = time.perf_counter()
        same = same_bytes(path, given, board, seconds=3000)
        found["boards"][board] = {"vectors": len(given), "same": same, "seconds": time.perf_counter() - began}
    return found


def in_tflm(
    quantized: QuantizedModel, simulated: Tensor, samples: Samples, folder: Path, verdict: Judge
) -> dict[str, Any]:
    """The TFLM file: beside the simulation and LiteRT's reference kernels, its arena, what Vela makes of it."""
    inputs = samples.test
    path = export(quantized, folder / "model.tflm", inputs[:2], integer_io=True)
    outputs, content = load(path)(inputs), path.read_bytes()
    about = runner.about_of(content)
    taken = runner.as_laid(inputs.numpy(), about)[0]
    own, reference = by_formulas(content, taken, TFLM), reference_kernels(content, taken[:REFERENCED])
    found = {
        "simulated_quality": verdict.quality(simulated),
        **beside(simulated, outputs, inputs, step_of(path, simulated), verdict),
        "as_its_formulas": np.array_equal(outputs.numpy(), runner.as_given([own], about)),
        "reference_kernels_as_formulas": bool((by_formulas(content, taken[:REFERENCED], LITERT) == reference).all()),
        "beside_reference_kernels": int((own[:REFERENCED] != reference).sum()),
        "integers_of_reference_kernels": reference.size,
        "arena_bytes": about["arena_bytes"],
    }
    exact, c = by_formulas(content, taken, EXACT), folder / "model.c"
    found["simulation_beside_exact"] = beside_exact(simulated, exact, about)
    if runtime_of(c).signature(c).outputs[0].quantization:  # the same network
        found["c_beside_exact"] = beside_exact(load(c)(inputs), exact, about)
        found["q31_beside_exact"] = beside_exact(load(c, 1, Q31)(inputs), exact, about)
    if not lacks_vela():
        compiled = estimate(path)
        found |= {"on_npu": compiled.on_accelerator, "on_cpu": compiled.on_cpu, "vela": compiled.sentence}
    return found


def beside_exact(outputs: Tensor, exact: np.ndarray, about: dict[str, Any]) -> dict[str, int]:
    """How many integers of outputs are not those of exact arithmetic, and by how many steps at most."""
    apart = np.abs(outputs.numpy() - runner.as_given([exact], about)) / about["outputs"][0]["scale"]  # type: ignore[arg-type, operator]
    return {"integers": int((apart > 0.5).sum()), "most_steps": int(np.rint(apart).max())}


def speed(network: nn.Module, samples: Samples, folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Milliseconds of a sample in C and in ONNX Runtime, float32 in and out."""
    quantized, sample = quantize(network, samples.calibration, Scheme(rounding="gptq")), samples.test[:1].contiguous()
    c, onnx = (export(quantized, folder / f"timed{suffix}", samples.test[:2]) for suffix in (".c", ".onnx"))
    calls = {"c": bound_c(c, sample), "onnxruntime": bound_onnx(onnx, sample), "c by load()": load(c),
             "onnxruntime by load()": load(onnx)}  # fmt: skip
    timed = latencies(calls, sample, 1, rounds, seconds)
    found = {f"{name}_ms": one.p50_ms for name, one in timed.items()}
    return {**found, "ratio": found["onnxruntime_ms"] / found["c_ms"], "rounds": rounds, "seconds": seconds}


def bound_c(path: Path, sample: Tensor) -> Predict:
    """The function of a C file on memory that it is given once, as a firmware would."""
    about, function = about_of(path.read_text()), getattr(runner.library(path, ""), f"{path.stem}_run")
    taken = runner.as_laid(sample.numpy(), about)[0]
    ((shape, kind),) = runner.given_shapes(about)
    result = np.empty((1, *shape), kind)
    pointers = [ctypes.c_void_p(one.ctypes.data) for one in (taken, result)]

    def predict(_: Any) -> Any:
        function(*pointers)
        return taken, result

    return predict


def bound_onnx(path: Path, sample: Tensor) -> Predict:
    """ONNX Runtime on an input and an output that it is given once."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    opened = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    binding, given = opened.io_binding(), opened.get_outputs()[0]
    result = np.empty((1, *given.shape[1:]), np.float32)
    binding.bind_cpu_input(opened.get_inputs()[0].name, sample.numpy())
    binding.bind_output(given.name, "cpu", 0, np.float32, result.shape, result.ctypes.data)

    def predict(_: Any) -> Any:
        opened.run_with_iobinding(binding)
        return sample, result

    return predict


def measured(subject: Subject, given: argparse.Namespace) -> dict[str, Any]:
    """All that is measured of a network."""
    samples = subject.samples()
    network = trained(subject, samples, given.networks)
    verdict, kept = judge(network, samples), front_ends(network)
    quantized = quantize(network, samples.calibration, Scheme(float_modules=kept, integer_io=not kept, rounding="gptq"))
    with torch.no_grad():
        outputs = torch.cat([network(one) for one in samples.test.split(250)])
    found: dict[str, Any] = {"float_quality": verdict.quality(outputs)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulated = simulation(quantized, samples.test)
        found["c"] = in_c(quantized, simulated, samples, folder, verdict, given.vectors)
        if kept:
            network, samples = cut_behind_front_end(network, samples)
            quantized = quantize(network, samples.calibration, Scheme(integer_io=True, rounding="gptq"))
            simulated = simulation(quantized, samples.test)
        found["tflm"] = in_tflm(quantized, simulated, samples, folder, verdict)
        if subject.name == TIMED:
            found["speed"] = speed(network, samples, folder, given.rounds, given.seconds)
    return found


def table_of(report: dict[str, Any]) -> list[str]:
    """Markdown: predictions, then sizes, boards and speed."""
    lines = ["| network, test samples | quality: float32, simulated, C, TFLM | C: answers, integers, most steps | Q31 |"
             " TFLM | TFLM, LiteRT's reference kernels: by their formulas? integers that differ |"
             " simulation beside exact arithmetic: integers, steps |", "|---" * 7 + "|"]  # fmt: skip

    said = {True: "yes", False: "no"}

    def counted(one: dict[str, Any]) -> str:
        return f"{one['same_answers']:.2f} %, {one['same_integers']:.2f} %, {one['most_steps']}"

    for name, one in report["networks"].items():
        c, tflm = one["c"], one["tflm"]
        qualities = (one["float_quality"], c["simulated_quality"], c["float"]["quality"], tflm["quality"])
        cells = (
            f"{name}, {c['samples']:,}", ", ".join(f"{value:.2f}" for value in qualities) + " %", counted(c["float"]),
            counted(c["q31"]), counted(tflm),
            f"{said[tflm['as_its_formulas']]}, {said[tflm['reference_kernels_as_formulas']]};"
            f" {tflm['beside_reference_kernels']:,} of {tflm['integers_of_reference_kernels']:,}",
            "{integers:,}, {most_steps}".format(**tflm["simulation_beside_exact"]),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| network | weights | flash | beside weights | arena, over the lower bound | RAM | TFLM's arena |"
              " boards, vectors with the same bytes | Vela |", "|---" * 9 + "|"]  # fmt: skip
    for name, one in report["networks"].items():
        c, tflm = one["c"], one["tflm"]
        boards = ", ".join(
            f"{board}: {each['vectors'] if each['same'] else 'other bytes'}" for board, each in c["boards"].items()
        )
        sizes = (c["weight_bytes"], c["flash_bytes"], (c["flash_bytes"] or 0) - c["weight_bytes"], c["arena_bytes"])
        weights, flash, beyond, arena = (f"{size / 1000:.1f} kB" for size in sizes)
        ratio = c["arena_bytes"] / max(c["least_arena_bytes"], 1)
        vela = f"{tflm['on_npu']} of {tflm['on_npu'] + tflm['on_cpu']}" if "on_npu" in tflm else ""
        cells = (name, weights, flash, beyond, f"{arena}, {ratio:.3f}", f"{c['ram_bytes'] / 1000:.1f} kB",
                 f"{tflm['arena_bytes'] / 1000:.1f} kB", boards, vela)  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    for name, one in report["networks"].items():
        if "speed" in one:
            timed = one["speed"]
            lines += ["", f"{name}: C {timed['c_ms']:.4f} ms, ONNX Runtime int8 {timed['onnxruntime_ms']:.4f} ms:"
                          f" {timed['ratio']:.2f} of its speed"]  # fmt: skip
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of networks, with commas; the others stay as they are")
    parser.add_argument("--vectors", type=int, default=1000, help="samples for each board")
    parser.add_argument("--networks", type=Path, default=Path("runs/microcontrollers"), help="trained weights")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each timed file")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a turn")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/microcontrollers.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    report = json.loads(given.out.read_text()) if given.out.is_file() else {"networks": {}}
    report["environment"] = environment.describe().model_dump(mode="json")
    chosen = given.only.split(",") if given.only else [one.name for one in SUBJECTS]
    for subject in SUBJECTS:
        if subject.name in chosen:
            report["networks"][subject.name] = measured(subject, given)
            report["networks"] = {one.name: report["networks"][one.name] for one in SUBJECTS
                                  if one.name in report["networks"]}  # fmt: skip
            write_atomically(given.out, json.dumps(report, indent=1).encode())
    print("\n".join(table_of(report)))


if __name__ == "__main__":
    main()
