"""Runs a distiq bundle where distiq is not installed: Python 3.9, numpy and the runtime of its model file are enough.

    python run.py                     check: replays the test vectors; exit code 3 if the file answers differently here
    python run.py shoe.png clip.wav   answers samples; image files need Pillow
    python run.py sample.npy          answers one sample, or several in one array
    python run.py --time              latency of one sample and throughput of a batch; --json FILE writes them down

An .npy of uint8 pixels (C, H, W) or of int16 sound (T,) is raw: it is prepared as preprocessing.json says. An .npy of
floats holds inputs as the model takes them. Raw rows and raw texts are read by `distiq predict` alone: here a model of
rows answers prepared float32 (features,), one of texts int64 token numbers (length,).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
import wave
import zipfile
from pathlib import Path
from typing import Any, Callable

import numpy as np

DIVERGES, REFUSED = 3, 2
ALLOWED = 0.02
"""How far a logit may move on another processor, which rounds sums of floats differently: this share of their span."""
RUNTIMES = {
    ".onnx": ("ONNX Runtime", "onnxruntime"),
    ".xml": ("OpenVINO", "openvino"),
    ".tflite": ("LiteRT", "ai-edge-litert"),
    ".pte": ("ExecuTorch", "executorch"),
    ".pt2": ("Inductor", "torch"),
}
RAW = {"image": "pixels", "audio": "samples"}
RAW_TYPES = {"image": np.dtype(np.uint8), "audio": np.dtype(np.int16)}
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp",
                    "i8mm")  # fmt: skip
FACTS = ".wrapper_metadata.json"  # what an Inductor file says about itself
WARM_UPS = 3
MOST_SHOWN = 5

Predict = Callable[[np.ndarray], np.ndarray]
"""Inputs (B, ...) as the model takes them -> logits (B, classes)."""


class Refused(Exception):
    """What cannot be done: what was found, where, and what to do."""


# The bundle -----------------------------------------------------------------------------------------------------------


def read_card(folder: Path) -> dict[str, Any]:
    """The card; every file that it lists is there and unchanged."""
    card = read_json(folder / "card.json")
    hashes = card.get("sha256") if isinstance(card, dict) else None
    if not isinstance(hashes, dict) or not {card.get("model"), "preprocessing.json"} <= hashes.keys():
        raise Refused(f"{folder / 'card.json'}: damaged (it lacks the files' checksums); copy the whole bundle again")
    for name, expected in hashes.items():
        file = folder / name
        if not file.is_file():
            raise Refused(f"{file}: missing; copy the whole bundle again")
        if hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise Refused(f"{file}: damaged or changed (its SHA-256 is not the card's); copy the bundle again")
    return card


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Refused(f"{path}: cannot be read ({error}); copy the whole bundle again") from error


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """A safetensors file: 8 bytes length, a header in JSON, raw bytes."""
    kinds = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "u1", "I8": "i1", "BOOL": "?"}
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    found = {}
    for name, entry in json.loads(content[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            array = np.frombuffer(content[start + begin : start + end], kinds[entry["dtype"]])
            found[name] = array.reshape(entry["shape"])
    return found


# The runtimes ---------------------------------------------------------------------------------------------------------


def load(model: Path, threads: int, options: dict[str, str] | None = None) -> Predict:
    """Opens the model file in the runtime that its ending names, with options by their names there."""
    title, package = RUNTIMES[model.suffix]
    makers: dict[str, Callable[..., Predict]] = {
        ".onnx": onnx_runtime, ".xml": openvino, ".tflite": litert, ".pte": executorch,
        ".pt2": inductor,
    }  # fmt: skip
    try:
        return makers[model.suffix](model, threads, options) if options else makers[model.suffix](model, threads)
    except ImportError as error:
        raise Refused(f"{title} is not installed here ({error}): pip install {package}") from error
    except Exception as error:  # every runtime raises its own kinds
        raise Refused(f"{model}: {title} {version(package)} cannot load this file: {error}") from error


def onnx_runtime(model: Path, threads: int, asked: dict[str, str] | None = None) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    for key, value in (asked or {}).items():
        if key == "graph_optimization_level":
            level = "DISABLE_ALL" if value == "disable" else f"ENABLE_{value.upper()}"
            options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
        else:
            options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: session.run(None, {name: inputs})[0]


def openvino(model: Path, threads: int, asked: dict[str, str] | None = None) -> Predict:
    import openvino

    # Without the hint some CPUs compute float layers in bfloat16.
    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32", **(asked or {})}
    core = openvino.Core()
    requests: dict[tuple[int, ...], Any] = {}
    core.read_model(model)

    def predict(inputs: np.ndarray) -> np.ndarray:
        if inputs.shape not in requests:  # compiled for each shape: fixed ones run faster
            fixed = core.read_model(model)
            fixed.reshape(list(inputs.shape))
            requests[inputs.shape] = core.compile_model(fixed, "CPU", options).create_infer_request()
        return requests[inputs.shape].infer({0: inputs}, share_inputs=True)[0].copy()

    return predict


def litert(model: Path, threads: int) -> Predict:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(model), num_threads=threads)
    interpreter.allocate_tensors()
    entry, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    any_batch = entry["shape_signature"][0] == -1
    shape = tuple(entry["shape"])

    def run(inputs: np.ndarray) -> np.ndarray:
        nonlocal shape
        if inputs.shape != shape:
            interpreter.resize_tensor_input(entry["index"], inputs.shape)
            interpreter.allocate_tensors()
            shape = inputs.shape
        interpreter.set_tensor(entry["index"], as_taken(inputs, entry))
        interpreter.invoke()
        return as_floats(interpreter.get_tensor(result["index"]), result)

    return lambda inputs: run(inputs) if any_batch else np.concatenate([run(one[None]) for one in inputs])


def as_taken(inputs: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    """Inputs as a tensor of LiteRT takes them: floats on its grid if it is of int8, token numbers as int32."""
    if tensor["dtype"] == np.int8 and inputs.dtype.kind == "f":
        scale, zero_point = tensor["quantization"]
        steps = np.rint(inputs.astype(np.float32) * (np.float32(1) / np.float32(scale))) + np.float32(zero_point)
        return np.clip(steps, -128, 127).astype(np.int8)
    return inputs.astype(np.int32) if inputs.dtype == np.int64 else inputs


def as_floats(found: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    """What a tensor of LiteRT holds, as float32."""
    if tensor["dtype"] != np.int8:
        return found
    scale, zero_point = tensor["quantization"]
    return (found.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def executorch(model: Path, threads: int) -> Predict:
    import torch  # the Python package of ExecuTorch takes and gives torch tensors
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(threads)
    method = Runtime.get().load_program(str(model)).load_method("forward")
    largest = method.metadata.input_tensor_meta(0).sizes()[0]

    def predict(inputs: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(np.array(inputs)).split(largest)
        return np.concatenate([method.execute([part])[0].numpy().copy() for part in parts])

    return predict


def inductor(model: Path, threads: int) -> Predict:
    import torch
    import torch._inductor

    with zipfile.ZipFile(model) as archive:
        (facts,) = [json.loads(archive.read(name)) for name in archive.namelist() if name.endswith(FACTS)]
    missing = set(json.loads(facts.get("distiq_instruction_sets", "[]"))) - set(machine()["instruction_sets"])
    if missing:
        raise ValueError(f"it is compiled for a processor with {', '.join(sorted(missing))}, which this one lacks")
    torch.set_num_threads(threads)
    loader = torch._inductor.aoti_load_package(str(model)).loader
    return lambda inputs: loader.boxed_run([torch.from_numpy(np.array(inputs))])[0].numpy()


# Preprocessing --------------------------------------------------------------------------------------------------------


def read_sample(path: Path, about: dict[str, Any]) -> np.ndarray:
    """The model's inputs (B, ...) of a file.

    Args:
        about: what preprocessing.json says.
    """
    kind, shape = about["kind"], tuple(about["shape"])
    if not path.is_file():
        raise Refused(f"{path}: no such file")
    if path.suffix == ".npy":
        try:
            array = np.load(path)
        except (OSError, ValueError) as error:
            raise Refused(f"{path}: cannot be read ({error}); write it with numpy.save") from error
    elif kind == "image":
        array = read_image(path, shape)
    elif kind == "audio":
        array = read_wav(path, about["rate"])
    else:
        what = "rows" if kind == "table" else "texts"
        raise Refused(f"{path}: raw {what} are read by `distiq predict` alone; give prepared inputs in an .npy")
    if array.ndim == len(shape):
        array = array[None]
    raw = kind in RAW and array.dtype.kind in "iu"
    if raw and about.get("raw") == "float32":
        raise Refused(f"{path}: this model was made from float32 {RAW[kind]}; give inputs as an .npy of floats")
    if raw and array.dtype != RAW_TYPES[kind]:
        raise Refused(f"{path}: holds {array.dtype}; raw {RAW[kind]} are {RAW_TYPES[kind]}")
    if raw and kind == "audio" and array.ndim == 2:
        array = np.stack([fitted(samples, shape[0]) for samples in array])
    free = kind == "text" and array.ndim == 2
    if len(array) == 0 or (array.shape[1:] != shape and not free):
        raise Refused(f"{path}: holds {array.shape}; this model takes samples of {shape}")
    if raw:
        return normalized(np.ascontiguousarray(array), about)
    if about.get("type") == "uint8":
        raise Refused(f"{path}: holds {array.dtype}; the file of this model takes uint8 pixels")
    return array.astype(np.int64 if kind == "text" else np.float32)


def normalized(raw: np.ndarray, about: dict[str, Any]) -> np.ndarray:
    """Raw pixels (B, C, H, W) or sound (B, T) -> the model's inputs: float32, or pixels that it normalizes itself."""
    if about.get("type") == "uint8":
        return raw
    scaled = raw.astype(np.float32) / np.float32(about["divide_by"])
    if about["kind"] == "audio":
        return scaled
    mean, std = (np.array(about[name], np.float32).reshape(1, -1, 1, 1) for name in ("mean", "std"))
    return (scaled - mean) / std


def read_image(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """(C, H, W) uint8 of an image file, turned as its EXIF says, resized; one channel reads grey, three colour.

    Of 16-bit grey the upper 8 bits are kept.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise Refused(f"{path}: image files need Pillow: pip install pillow; or give the pixels in an .npy") from error
    channels, height, width = shape
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16-bit grey, which Pillow would clip to white
                upright = Image.fromarray((np.asarray(upright).astype(np.uint32) >> 8).astype(np.uint8))
            converted = upright.convert("L" if channels == 1 else "RGB")
            if converted.size != (width, height):
                converted = converted.resize((width, height), Image.BILINEAR)  # type: ignore[attr-defined]
            pixels = np.array(converted, np.uint8)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise Refused(f"{path}: this image does not decode ({error}); repair or remove it") from error
    return pixels.reshape(height, width, -1).transpose(2, 0, 1)


def read_wav(path: Path, rate: int) -> np.ndarray:
    """(T,) int16 of a WAV file of integers, 8 to 32 bits; several channels are averaged."""
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, found, count = file.getparams()[:4]
            data = np.frombuffer(file.readframes(count), np.uint8)
    except (wave.Error, EOFError) as error:
        raise Refused(f"{path}: this WAV file does not decode ({error}); integers of 8 to 32 bits are read") from error
    if found != rate:
        raise Refused(f"{path}: {found} Hz; this model hears {rate} Hz: resample it first (`distiq predict` does)")
    if len(data) == 0 or len(data) != count * width * channels:
        raise Refused(f"{path}: this WAV file is empty or cut short")
    upper = np.zeros((count * channels, 4), np.uint8)  # every width as the upper part of 32 bits
    upper[:, 4 - width :] = (data ^ 128 if width == 1 else data).reshape(-1, width)
    samples = upper.view("<i4").astype(np.float32) / np.float32(2**31)
    mono = samples.reshape(count, channels).mean(1, dtype=np.float32)
    return np.clip(np.round(mono * 32768), -32768, 32767).astype(np.int16)


def fitted(samples: np.ndarray, length: int) -> np.ndarray:
    """(length,): a short clip in the middle of silence, the middle of a long one."""
    if len(samples) >= length:
        start = (len(samples) - length) // 2
        return samples[start : start + length]
    before = (length - len(samples)) // 2
    return np.pad(samples, (before, length - len(samples) - before))


# What it does ---------------------------------------------------------------------------------------------------------


def check(predict: Predict, vectors: dict[str, np.ndarray], about: dict[str, Any]) -> bool:
    """Replays the test vectors, and the preparation of their raw samples where there are some; says what it saw."""
    name = RAW.get(about["kind"], "")
    prepared = True
    if name in vectors:
        wanted = vectors["inputs"]
        off, step = difference(normalized(vectors[name], about), wanted).max(), 1e-5 * np.abs(wanted).max()
        prepared = bool(off <= step)
        print(f"{'pass' if prepared else 'FAIL'}: preparation, largest difference {off:.3g} (allowed {step:.3g})")
    expected, answers = vectors["outputs"], predict(vectors["inputs"])
    differences = difference(answers, expected).max(1)
    several = about.get("several_labels", False)
    changed = ((answers > 0) != (expected > 0)).any(1) if several else answers.argmax(1) != expected.argmax(1)
    tolerance = ALLOWED * float(expected.max() - expected.min())
    wrong = changed | ~(differences <= tolerance)
    verdict = "FAIL" if wrong.any() else "pass"
    seen = f"largest difference {differences.max():.3g} (allowed {tolerance:.3g})"
    print(f"{verdict}: {len(expected)} vectors, {changed.sum()} answers changed, {seen}")
    for number in np.flatnonzero(wrong)[:MOST_SHOWN]:
        here, there = (about["labels"][scores[number].argmax()] for scores in (answers, expected))
        said = f"answers {here}, not {there}" if changed[number] else f"answers {here} as expected"
        print(f"  vector {number}: {said}; a logit differs by {differences[number]:.3g}")
    if wrong.sum() > MOST_SHOWN:
        print(f"  and {wrong.sum() - MOST_SHOWN} more")
    return prepared and not wrong.any()


def difference(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    if found.shape != expected.shape:
        raise Refused(f"the model gives {found.shape} where {expected.shape} is expected; copy the bundle again")
    return np.abs(found.astype(np.float32) - expected)


def answer(logits: np.ndarray, labels: list[str], top: int, several: bool = False) -> str:
    """The likeliest classes of one sample with their softmax probabilities, or of several labels each one's own."""
    shares = np.exp(logits - logits.max())
    shares = 1 / (1 + np.exp(-logits)) if several else shares / shares.sum()
    best = np.argsort(-shares, kind="stable")[:top]
    return "  ".join(f"{labels[index]} {100 * shares[index]:.1f} %" for index in best)


def latency(predict: Predict, inputs: np.ndarray, threads: int, seconds: float) -> dict[str, Any]:
    """Wall time of a call with inputs (B, ...), after a warm-up: milliseconds, samples per second."""
    for _ in range(WARM_UPS):
        predict(inputs)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        began = time.perf_counter()
        predict(inputs)
        times.append(time.perf_counter() - began)
    median = statistics.median(times)
    p95, p99 = (1e3 * sorted(times)[min(len(times) - 1, int(share * len(times)))] for share in (0.95, 0.99))
    return {
        "batch": len(inputs), "threads": threads, "runs": len(times), "p50_ms": 1e3 * median, "p95_ms": p95,
        "p99_ms": p99, "throughput_per_s": len(inputs) / median,
    }  # fmt: skip


def machine() -> dict[str, Any]:
    """This machine: processor, cores, instruction sets that matter here, memory in bytes, system."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    named = [facts[key] for key in ("model name", "Model", "Hardware") if key in facts]
    return {
        "cpu": named[0] if named else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0,
        "system": f"{platform.system()} {platform.machine()}",
    }


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def measurement(model: Path, hashes: dict[str, str], times: list[dict[str, Any]]) -> dict[str, Any]:
    """What `distiq bench --json` writes, too; `distiq report RUN --measurement FILE` takes it into the run's report."""
    title, package = RUNTIMES[model.suffix]
    versions = {"python": platform.python_version(), "numpy": np.__version__, package: version(package)}
    parts = [model.name, model.with_suffix(".bin").name] if model.suffix == ".xml" else [model.name]
    file = {
        "file": model.name,
        "runtime": title,
        "size_bytes": sum(model.with_name(name).stat().st_size for name in parts),
        "sha256": {name: hashes[name] for name in parts},
        "latency": times,
    }
    return {
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "environment": {**machine(), "device": "cpu", "versions": versions},
        "files": [file],
    }


def show_times(times: list[dict[str, Any]]) -> None:
    for entry in times:
        print(
            f"batch {entry['batch']}, {entry['threads']} thread(s): p50 {entry['p50_ms']:.3f} ms,"
            f" p95 {entry['p95_ms']:.3f} ms, {entry['throughput_per_s']:.0f} samples/s ({entry['runs']} runs)"
        )


def main(arguments: list[str] | None = None, folder: Path | None = None) -> int:
    """The command line; returns the exit code."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", nargs="*", type=Path, help="image files, WAV files, .npy; none: check")
    parser.add_argument("--time", action="store_true", help="time the model file on this machine")
    parser.add_argument("--json", type=Path, help="with --time: write the measurement here")
    parser.add_argument("--threads", type=int, help="threads of the runtime (those of the card)")
    parser.add_argument("--batch", type=int, default=32, help="samples per call where throughput is measured (32)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a size of batch is timed (2)")
    parser.add_argument("--top", type=int, default=3, help="how many classes to name (3)")
    given = parser.parse_args(arguments)
    if min(given.threads or 1, given.batch, given.top) < 1 or given.threads == 0:
        parser.error("--threads, --batch and --top are at least 1")
    if given.json and not given.time:
        parser.error("--json writes what --time measures; add --time")
    folder = folder or Path(__file__).resolve().parent
    try:
        card, about = read_card(folder), read_json(folder / "preprocessing.json")
        model = folder / card["model"]
        setting = card.get("setting") or {}
        threads = given.threads or setting.get("threads", 1)
        predict = load(model, threads, setting.get("options"))
        for path in given.samples:
            inputs = read_sample(path, about)
            for number, logits in enumerate(predict(inputs)):
                place = f"{path}[{number}]" if len(inputs) > 1 else str(path)
                print(f"{place}: {answer(logits, about['labels'], given.top, about.get('several_labels', False))}")
        if not given.samples or given.time:
            vectors = read_tensors(folder / "vectors.safetensors")
        if given.time:
            one = vectors["inputs"][:1]
            batches = [np.repeat(one, size, axis=0) for size in sorted({1, given.batch})]
            times = [latency(predict, batch, threads, given.seconds) for batch in batches]
            show_times(times)
            if given.json:
                given.json.write_text(json.dumps(measurement(model, card["sha256"], times), indent=1) + "\n")
        elif not given.samples and not check(predict, vectors, about):
            return DIVERGES
    except (Refused, OSError) as error:
        print(error, file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
