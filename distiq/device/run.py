"""Runs a distiq bundle where distiq is not installed: Python 3.9, numpy and the runtime of its model file are enough.

    python run.py                     check: replays the test vectors; exit code 3 if the file predicts differently here
    python run.py shoe.png clip.wav   predicts samples; image files need Pillow
    python run.py street.png --draw found     also draws the boxes, or the classes, that it finds
    python run.py rows.csv            predicts every row of a file of named columns (.csv, .tsv, .json, .jsonl)
    python run.py "a fine film"       predicts a text; needs the package tokenizers
    python run.py sample.npy          predicts one sample, or several in one array; of a model of several inputs an .npz
    python run.py --time              latency of one sample and throughput of a batch; --json FILE writes them down

An .npy of uint8 pixels (C, H, W) or of int16 sound (T,) is raw: it is prepared as preprocessing.json says. An .npy of
floats holds inputs as the model takes them: of rows float32 (features,), of texts int64 token numbers (length,).
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import csv
import ctypes
import datetime
import functools
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
import warnings
import wave
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Union

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
    ".c": ("C99", "a C compiler"),
    ".tflm": ("TFLM", "tflite-micro"),
}
RAW = {"image": "pixels", "audio": "samples"}
RAW_TYPES = {"image": np.dtype(np.uint8), "audio": np.dtype(np.int16)}
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp",
                    "i8mm")  # fmt: skip
SETTINGS = {
    ".onnx": {"graph_optimization_level": "extended"},
    ".xml": {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "bf16"},
}
"""The options of a runtime that a card may name: those that distiq times."""
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")
MOST_PIXELS = 100_000_000
MOST_VALUES = 100_000_000  # of a sample
MOST_BOUND = 1 << 16  # bytes of inputs and outputs that are copied to and fro rather than wrapped at each call
RATES = 1000, 768_000  # samples per second
LONGEST_WINDOWS, LONGEST_SECONDS = 100, 60.0  # a clip is at most so many windows long, or so many seconds
NAMES = "distiq_names"  # a method of an ExecuTorch file that says the names of inputs and outputs
FACTS = ".wrapper_metadata.json"  # what an Inductor file says about itself
SHORTEST = 2  # tokens that a model is shown at least
MISSING = ("", "?", "NA", "N/A", "NaN", "nan", "null", "None")
UNKNOWN = "?"  # one category for every way to say "missing"
SEPARATED = re.compile(r"[-+]?\d+([.,' ]\d+)*")
"""A number as people write it: "1,000", "1.000,5", "12 %"."""
PIPED = 0x7FFF0000
"""Sizes from here on stand in the headers of WAV files that were written into a pipe."""
EXTENSIBLE = 0xFFFE
PARTING = frozenset(',;()[]{}<>|"\u201c\u201d\u2026')
"""Signs that part words also where no space stands beside them."""
LETTER_IS_WORD = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
WARM_UPS = 3
MOST_SHOWN = 5
MOST_LINES = 20  # of a message
LEAST_SCORE = 0.01  # of a box that is kept
CANDIDATES, MOST_BOXES = 500, 100  # likeliest boxes of an image that are compared, and that are kept
SAME_OBJECT = 0.6  # overlap (intersection over union) from which the less likely of two boxes of a class is dropped
NO_BEAM = "streams and clips longer than the window are read frame by frame; leave --beam out"
UNSEEN = -5.0  # log10 of the probability of a word that an n-gram model neither knows nor has <unk> for
AHEAD_S = 0.5  # seconds of sound behind a frame that a stream waits for before it reads it
CHUNK_S = 0.5  # seconds of a clip that are read at a time
SHOWN_SCORE = 0.5  # of a box that is named and drawn
PADDING = 114  # pixels beside a letterboxed image
VOID = 255  # the class of a pixel that belongs to none
COLOURS = (
    (230, 25, 75), (60, 180, 75), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240), (240, 50, 230),
    (210, 245, 60), (250, 190, 212), (0, 128, 128), (170, 110, 40), (128, 0, 0), (128, 128, 0), (0, 0, 128),
)  # fmt: skip

AT_PLACES = ("spans", "transcript", "mask")
"""Decodings of outputs (B, labels, ...) that have each label at every place."""

Arrays = Union[np.ndarray, dict[str, np.ndarray]]
"""Inputs or outputs: the only one, or several by name; batch first."""
Predict = Callable[[Arrays], Arrays]
"""Inputs (B, ...) as the model takes them -> outputs, such as logits (B, classes)."""


class Refused(Exception):
    """What cannot be done: what was found, where, and what to do."""


def printable(text: str) -> str:
    """One line that a terminal shows as it is: without escape sequences and control characters."""
    text = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-_]?", "", text)
    text = "".join(" " if letter in "\t\n\r" else letter for letter in text)
    return "".join(letter for letter in text if unicodedata.category(letter) not in ("Cc", "Cs"))


# The bundle -----------------------------------------------------------------------------------------------------------


def read_card(folder: Path) -> dict[str, Any]:
    """The card; every file that it lists is there and unchanged."""
    card = read_json(folder / "card.json")
    for name, expected in checksums_of(card, folder).items():
        file = folder / name
        if not file.is_file():
            raise Refused(f"{file}: missing; copy the whole bundle again")
        if hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise Refused(f"{file}: damaged or changed (its SHA-256 is not the card's); copy the bundle again")
    return card


def checksums_of(card: Any, folder: Path) -> dict[str, str]:
    """The checksums that a card lists, by names of files that lie beside it and nowhere else."""
    where = folder / "card.json"
    hashes = card.get("sha256") if isinstance(card, dict) else None
    model = card.get("model", "") if isinstance(card, dict) else ""
    needed = {"preprocessing.json", "vectors.safetensors"}
    if not isinstance(hashes, dict) or not isinstance(model, str) or not {model, *needed} <= hashes.keys():
        raise Refused(f"{where}: damaged (it lacks the files' checksums); copy the whole bundle again")
    for name in hashes:
        if not name or name in (".", "..") or re.search(r"[/\\:\0]", name):
            raise Refused(f'{where}: names the file "{printable(name)}", which is not in the bundle; do not trust it')
    return hashes


def setting_of(card: dict[str, Any], folder: Path) -> tuple[int, dict[str, str]]:
    """The threads and options that a card names for its runtime: those that distiq times, no others."""
    where, setting = folder / "card.json", card.get("setting") or {}
    setting = setting if isinstance(setting, dict) else {"threads": 0}
    threads, options = setting.get("threads", 1), setting.get("options") or {}
    if not isinstance(threads, int) or not 1 <= threads <= 1024 or not isinstance(options, dict):
        raise Refused(f"{where}: damaged (its setting names no number of threads); copy the whole bundle again")
    settings = SETTINGS.get(Path(card["model"]).suffix, {})
    for name, value in options.items():
        if settings.get(name) != value:
            raise Refused(f'{where}: sets "{printable(str(name))}", which distiq never does; do not trust this bundle')
    return threads, options


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds."""
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
        return content
    except RecursionError as error:
        raise Refused(f"{path}: cannot be read (nested too deep); copy the whole bundle again") from error
    except (OSError, ValueError) as error:
        raise Refused(f"{path}: cannot be read ({error}); copy the whole bundle again") from error


def read_about(folder: Path) -> dict[str, Any]:
    """What preprocessing.json says, its form and sizes looked at before anything is made by it."""
    path = folder / "preprocessing.json"
    about = read_json(path)
    try:
        why = unfit(about, shapes_of(folder / "vectors.safetensors"))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        why = f"is of another form ({type(error).__name__}: {error})"
    if why:
        raise Refused(f"{path}: {why}; copy the whole bundle again, or do not trust it")
    about["labels"] = [printable(label) for label in about["labels"]]
    return about


def unfit(about: dict[str, Any], vectors: dict[str, tuple[int, ...]]) -> str:
    """Why a model cannot be fed and read so; empty where it can.

    Args:
        vectors: the shapes of the test vectors, by name.
    """
    modality, shape, labels = about["modality"], about["shape"], about["labels"]
    if modality not in ("image", "audio", "text", "table"):
        return "names no modality that there is"
    if len(shape) != (3 if modality == "image" else 1) or not all(is_count(size, MOST_VALUES) for size in shape):
        return "gives no shape of a sample"
    if math.prod(shape) > MOST_VALUES:
        return f"says that a sample has {math.prod(shape):,} numbers; at most {MOST_VALUES:,} are taken"
    if not labels or not all(isinstance(label, str) for label in labels):
        return "gives no labels"
    if about["raw"] not in ("uint8", "int16", "int64", "float32"):
        return "gives no type of raw samples"
    inputs, outputs = vectors.get("inputs"), vectors.get("outputs")
    if inputs and inputs[1:] != tuple(shape):
        return f"says that a sample is {tuple(shape)}, but then the model does not run on {inputs}, the test vectors"
    decoding = about.get("decoding")
    if decoding == "boxes":
        heads = {one[1] for name, one in vectors.items() if name.startswith("outputs.classes_")}
        if (heads or {outputs[1] - 4 if outputs else 0}) != {len(labels)}:
            return f"names {len(labels)} labels, but the test vectors' outputs are of other classes"
    elif (
        outputs
        and decoding not in ("none", "vector")
        and outputs[1 : 2 if decoding in AT_PLACES else None] != (len(labels),)
    ):
        return f"names {len(labels)} labels, but the test vectors' outputs are {outputs}"
    if about.get("target") and not all(is_finite(about["target"][name]) for name in ("mean", "std")):
        return "gives no mean and standard deviation of its numbers"
    unfit_here = {"image": unfit_image, "audio": unfit_sound, "text": unfit_text, "table": unfit_table}[modality]
    return unfit_here(about, shape[0])


def unfit_image(about: dict[str, Any], channels: int) -> str:
    mean, std = about["mean"], about["std"]
    if len(mean) != channels or len(std) != channels or not all(map(is_finite, [*mean, *std])) or min(std) <= 0:
        return f"gives no mean and standard deviation of {channels} channels"
    if about["divide_by"] not in (1, 255) or about["type"] not in ("uint8", "float32"):
        return "does not say what pixels are divided by"
    return ""


def unfit_sound(about: dict[str, Any], length: int) -> str:
    lowest, highest = RATES
    if not is_count(about["rate"], highest) or about["rate"] < lowest:
        return f"gives no rate from {lowest:,} to {highest:,} samples a second"
    if "frame" in about and not is_count(about["frame"], length):
        return "gives no length of a frame"
    return "" if about["divide_by"] in (1, 32768) else "does not say what samples are divided by"


def unfit_text(about: dict[str, Any], length: int) -> str:
    vocabulary, kept, fixed = about["vocabulary"], about["kept"], about["fixed_length"]
    if not is_count(vocabulary, MOST_VALUES) or about["tokenizer"] not in ("", "tokenizer.json"):
        return "names no vocabulary, or a tokenizer elsewhere"
    numbers = [about["pad"], *about["special"], *(n for n in (about["unknown"], about["mask"]) if n is not None)]
    if not all(isinstance(number, int) and 0 <= number < vocabulary for number in numbers):
        return f"names tokens that are none of its {vocabulary:,}"
    if not isinstance(fixed, int) or not 0 <= fixed <= length:
        return f"says that texts have {fixed} tokens, but at most {length}"
    return "" if not kept or 8 * len(base64.b64decode(kept)) >= vocabulary else "does not say which tokens are kept"


def unfit_table(about: dict[str, Any], features: int) -> str:
    if not all(len(about[name]) in (0, features) and all(map(is_finite, about[name])) for name in ("mean", "std")):
        return f"gives no mean and standard deviation of {features} columns"
    if "numeric" not in about:
        return ""
    width = sum(len(seen) for seen in about["categorical"].values())
    for column in about["numeric"].values():
        edges = column["edges"]
        if len(edges) < 2 or not all(map(is_finite, [column["median"], *edges])) or np.diff(edges).min() <= 0:
            return "gives a column edges that do not rise"
        width += len(edges) - 1
    return "" if width == features else f"encodes rows in {width} numbers, but the model takes {features}"


def is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a safetensors file's arrays, read from its header alone."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(min(size, path.stat().st_size))
    try:
        return {name: tuple(entry["shape"]) for name, entry in json.loads(header).items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(f"{path}: damaged or no safetensors file ({error}); copy the whole bundle again") from error


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """A safetensors file: 8 bytes length, a header in JSON, raw bytes."""
    kinds = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "u1", "I8": "i1", "BOOL": "?"}
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    try:
        if start > len(content):
            raise ValueError("its header is cut short")
        for name, entry in json.loads(content[8:start]).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                if not 0 <= begin <= end <= len(content) - start:
                    raise ValueError(f"{name} lies outside the file")
                array = np.frombuffer(content[start + begin : start + end], kinds[entry["dtype"]])
                if any(size < 0 for size in entry["shape"]):  # numpy takes -1 for what is left
                    raise ValueError(f"{name} has the shape {entry['shape']}")
                tensors[name] = array.reshape(entry["shape"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(f"{path}: damaged or no safetensors file ({error}); copy the whole bundle again") from error
    return tensors


# The runtimes ---------------------------------------------------------------------------------------------------------


def load(model: Path, threads: int, options: dict[str, str] | None = None) -> Predict:
    """Opens the model file in the runtime that its ending names, with options by their names there."""
    if model.suffix not in RUNTIMES:
        raise Refused(f"{model}: no known kind of model file; it ends with {', '.join(RUNTIMES)}")
    title, package = RUNTIMES[model.suffix]
    makers: dict[str, Callable[..., Predict]] = {
        ".onnx": onnx_runtime, ".xml": openvino, ".tflite": litert, ".pte": executorch,
        ".pt2": inductor, ".c": c99, ".tflm": tflm,
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
    calls = BoundCalls(onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"]))
    return lambda inputs: by_name(calls(in_order(inputs, calls.inputs)), calls.outputs)


class BoundCalls:
    """Calls a session of ONNX Runtime with arrays in the order of its inputs; gives arrays in that of its outputs.

    Small inputs and outputs are bound once and reused while their shapes stay: to wrap and allocate them at each call
    takes a tenth of the time of a model of ten microseconds. `inputs` and `outputs` are their names.
    """

    def __init__(self, session: Any) -> None:
        self.session = session
        sides = session.get_inputs(), session.get_outputs()
        self.inputs, self.outputs = ([one.name for one in side] for side in sides)
        known = {size for one in sides[0] for size in one.shape if size}
        # Sizes of outputs that no input has may change from call to call.
        self.follows = all(isinstance(size, int) or size in known for one in sides[1] for size in one.shape)
        self.kind: list[Any] = []  # shapes and types of the latest inputs
        self.bound: tuple[Any, list[np.ndarray], list[np.ndarray]] | None = None
        self.lock = threading.Lock()

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        if not self.lock.acquire(blocking=False):  # another thread fills the bound inputs
            return self._plain(arrays)
        try:
            if self.bound is None:
                return self._first(arrays)
            binding, taken, given = self.bound
            for own, array in zip(taken, arrays):
                if own.shape != array.shape or own.dtype != array.dtype:
                    return self._first(arrays)
                own[...] = array
            try:
                self.session.run_with_iobinding(binding)
            except Exception:  # outputs of another size than the file states
                self.follows, self.bound = False, None
                return self._plain(arrays)
            return [own.copy() for own in given]
        finally:
            self.lock.release()

    def _first(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """A call without what is bound; the second of a kind binds."""
        kind, outputs = [(array.shape, array.dtype) for array in arrays], self._plain(arrays)
        self.bound = self._bind(arrays, outputs) if kind == self.kind else None
        self.kind = kind
        return outputs

    def _plain(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self.session.run(self.outputs, dict(zip(self.inputs, arrays)))

    def _bind(self, arrays: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> Any:
        both = [*arrays, *outputs]  # sequences and maps are no arrays; texts are not bound
        if not self.follows or not all(isinstance(one, np.ndarray) and one.dtype.kind in "biuf" for one in both):
            return None
        if sum(one.nbytes for one in both) > MOST_BOUND:
            return None
        binding = self.session.io_binding()
        sides = [[np.array(one, order="C") for one in side] for side in (arrays, outputs)]
        for bind, names, own in zip((binding.bind_input, binding.bind_output), (self.inputs, self.outputs), sides):
            for name, one in zip(names, own):
                bind(name, "cpu", 0, one.dtype, one.shape, one.ctypes.data)
        return binding, *sides


def openvino(model: Path, threads: int, asked: dict[str, str] | None = None) -> Predict:
    import openvino

    # Without the hint some CPUs compute float layers in bfloat16.
    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32", **(asked or {})}
    core = openvino.Core()
    requests: dict[tuple[tuple[int, ...], ...], Any] = {}
    network = core.read_model(model)
    names, given = ([one.get_any_name() for one in side] for side in (network.inputs, network.outputs))

    def predict(inputs: Arrays) -> Arrays:
        arrays = in_order(inputs, names)
        shapes = tuple(array.shape for array in arrays)
        if shapes not in requests:  # compiled for each shape: fixed ones run faster
            fixed = core.read_model(model)
            fixed.reshape({number: list(shape) for number, shape in enumerate(shapes)})
            requests[shapes] = core.compile_model(fixed, "CPU", options).create_infer_request()
        results = requests[shapes].infer(dict(enumerate(arrays)), share_inputs=True)
        return by_name([results[number].copy() for number in range(len(given))], given)

    return predict


def litert(model: Path, threads: int) -> Predict:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(model), num_threads=threads)
    interpreter.allocate_tensors()
    entries, results = named_tensors(interpreter)
    any_batch = all(entry["shape_signature"][0] == -1 for entry in entries.values())
    shapes = [tuple(entry["shape"]) for entry in entries.values()]

    def run(arrays: Sequence[np.ndarray]) -> Arrays:
        nonlocal shapes
        if [array.shape for array in arrays] != shapes:
            shapes = [array.shape for array in arrays]
            for entry, shape in zip(entries.values(), shapes):
                interpreter.resize_tensor_input(entry["index"], shape)
            interpreter.allocate_tensors()
        for entry, array in zip(entries.values(), arrays):
            interpreter.set_tensor(entry["index"], as_taken(array, entry))
        interpreter.invoke()
        outputs = [as_floats(interpreter.get_tensor(result["index"]), result) for result in results.values()]
        return by_name(outputs, list(results))

    def predict(inputs: Arrays) -> Arrays:
        arrays = in_order(inputs, list(entries))
        if any_batch:
            return run(arrays)
        return joined([run([array[row : row + 1] for array in arrays]) for row in range(len(arrays[0]))])

    return predict


def named_tensors(interpreter: Any) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The inputs and the outputs of a LiteRT file by the names of its signature, each in the order of the file."""
    described = []
    for side, usual in (("input", "input"), ("output", "logits")):
        tensors = getattr(interpreter, f"get_{side}_details")()
        names = {tensor["index"]: tensor["name"] for tensor in tensors}
        if len(interpreter.get_signature_list()) == 1:
            of_signature = getattr(interpreter.get_signature_runner(), f"get_{side}_details")()
            names = {tensor["index"]: name for name, tensor in of_signature.items()}
        if len(tensors) == 1 and names[tensors[0]["index"]] in ("args_0", "output_0"):  # the converter's number
            names = {tensors[0]["index"]: usual}
        described.append({names[tensor["index"]]: tensor for tensor in tensors})
    return described[0], described[1]


def as_taken(inputs: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    """Inputs as a tensor of LiteRT takes them: quantized floats if it is of int8, token numbers as int32."""
    if tensor["dtype"] == np.int8 and inputs.dtype.kind == "f":
        scale, zero_point = tensor["quantization"]
        steps = np.rint(inputs.astype(np.float32) * (np.float32(1) / np.float32(scale))) + np.float32(zero_point)
        return np.clip(steps, -128, 127).astype(np.int8)
    return inputs.astype(np.int32) if inputs.dtype == np.int64 else inputs


def as_floats(values: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    """What a tensor of LiteRT holds, as float32."""
    if tensor["dtype"] != np.int8:
        return values
    scale, zero_point = tensor["quantization"]
    return (values.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def executorch(model: Path, threads: int) -> Predict:
    import torch  # the Python package of ExecuTorch takes and gives torch tensors
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(threads)
    program = Runtime.get().load_program(str(model))
    method = program.load_method("forward")
    largest = method.metadata.input_tensor_meta(0).sizes()[0]
    names, given = ["input"], ["logits"]
    if NAMES in program.method_names:
        names, given = json.loads(bytes(program.load_method(NAMES).execute([])[0].tolist()))

    def predict(inputs: Arrays) -> Arrays:
        parts = zip(*(torch.from_numpy(np.array(array)).split(largest) for array in in_order(inputs, names)))
        outputs = [[one.numpy().copy() for one in method.execute(list(part))] for part in parts]
        return joined([by_name(output, given) for output in outputs])

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
    stated = json.loads(
        facts.get("distiq_signature", '{"inputs": [{"name": "input"}], "outputs": [{"name": "logits"}]}')
    )
    names, given = ([one["name"] for one in stated[side]] for side in ("inputs", "outputs"))

    def predict(inputs: Arrays) -> Arrays:
        outputs = loader.boxed_run([torch.from_numpy(np.array(array)) for array in in_order(inputs, names)])
        return by_name([one.numpy() for one in outputs], given)

    return predict


# GCC 12 makes wrong code of the kernels' loops for AVX-512VL; tests/runtimes/test_c99_board.py found it.
WITHOUT = ("-mno-avx512f",) if platform.machine() in ("x86_64", "AMD64") else ()
COMPILED = ("-std=c99", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC",
            "-shared", *WITHOUT)  # fmt: skip
ABOUT_C = "/* distiq "  # begins what a file for microcontrollers says of itself
TFLM_ROOM = 1 << 16  # bytes that TFLM is given beside what it took where the file was made


def compiler() -> str:
    """The C compiler of this machine; empty where there is none."""
    return next(
        (found for name in (os.environ.get("CC", ""), "cc", "gcc", "clang") if (found := shutil.which(name))), ""
    )


def c99(model: Path, _threads: int, asked: dict[str, str] | None = None) -> Predict:
    """Compiles a C file for this processor and calls it, sample by sample; option "define": a macro to compile with."""
    content = model.read_bytes()
    about = about_of(content)
    named = re.search(rb"`(\w+_run)`", content)
    if named is None:
        raise ValueError("names no function that runs its network")
    function = getattr(library(model, (asked or {}).get("define", "")), named[1].decode())

    def predict(inputs: Arrays) -> Arrays:
        laid = as_laid(inputs, about)
        outputs = [np.empty((len(laid[0]), *shape), kind) for shape, kind in given_shapes(about)]
        both = [*laid, *outputs]
        starts, steps = [array.ctypes.data for array in both], [array.strides[0] for array in both]
        for row in range(len(laid[0])):
            function(*(ctypes.c_void_p(start + row * step) for start, step in zip(starts, steps)))
        return as_given(outputs, about)

    return predict


def tflm(model: Path, _threads: int) -> Predict:
    """Runs a file for microcontrollers in TFLM's own kernels, sample by sample."""
    from tflite_micro.python.tflite_micro import runtime

    content = model.read_bytes()
    about = about_of(content)
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=about["arena_bytes"] + TFLM_ROOM)

    def predict(inputs: Arrays) -> Arrays:
        laid = as_laid(inputs, about)
        outputs = [np.empty((len(laid[0]), *shape), kind) for shape, kind in given_shapes(about)]
        for row in range(len(laid[0])):
            for number, array in enumerate(laid):
                interpreter.set_input(array[row : row + 1], number)
            interpreter.invoke()
            for number, array in enumerate(outputs):
                array[row] = interpreter.get_output(number)[0]
        return as_given(outputs, about)

    return predict


def about_of(content: bytes) -> dict[str, Any]:
    """What a file for microcontrollers says of itself: what it takes and gives, with the order of axes in memory."""
    text = content[content.index(ABOUT_C.encode()) + len(ABOUT_C) :].decode(errors="replace")
    return json.JSONDecoder().raw_decode(text)[0]


def as_laid(inputs: Arrays, about: dict[str, Any]) -> list[np.ndarray]:
    """Inputs as such a file takes them: axes in their order in memory, integers where it wants such."""
    laid = []
    arrays = in_order(inputs, [tensor["name"] for tensor in about["inputs"]])
    for array, tensor, order in zip(arrays, about["inputs"], about["orders"][0]):
        if list(array.shape[1:]) != tensor["shape"][1:]:
            raise ValueError(f"{tensor['name']} has shape {list(array.shape)}, the file takes {tensor['shape']}")
        taken = as_taken(array, as_c(tensor)).transpose([0, *order])
        laid.append(np.ascontiguousarray(taken, as_c(tensor)["dtype"]))
    return laid


def given_shapes(about: dict[str, Any]) -> list[tuple[list[int], np.dtype]]:
    """The shape and type of each output of a sample, as it lies in memory."""
    both = zip(about["outputs"], about["orders"][1])
    return [([tensor["shape"][axis] for axis in order], as_c(tensor)["dtype"]) for tensor, order in both]


def as_given(outputs: Sequence[np.ndarray], about: dict[str, Any]) -> Arrays:
    """Outputs as they lie in memory as those of the network: float32, axes in its own order."""
    both = zip(outputs, about["outputs"], about["orders"][1])
    plain = [as_floats(one.transpose(np.argsort([0, *order])), as_c(tensor)) for one, tensor, order in both]
    return by_name([np.ascontiguousarray(one) for one in plain], [tensor["name"] for tensor in about["outputs"]])


def as_c(tensor: dict[str, Any]) -> dict[str, Any]:
    """A tensor of a signature in the words of LiteRT."""
    return {"dtype": np.dtype(tensor["type"]), "quantization": (tensor.get("scale"), tensor.get("zero_point"))}


def library(model: Path, define: str) -> ctypes.PyDLL:
    """A C file as a library of its own: its arena is static, and no two models may share one.

    A call keeps Python's lock, so that threads which share a model do not disturb one another.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model.so"
        made.write_bytes(machine_code(model.read_bytes(), model.with_suffix(".h").read_bytes(), model.stem, define))
        return ctypes.PyDLL(str(made))


@functools.lru_cache(maxsize=16)
def machine_code(source: bytes, header: bytes, name: str, define: str) -> bytes:
    """What the compiler makes of a C file; kept, since one file is opened many times."""
    if not compiler():
        raise ValueError("no C compiler is found here: install gcc or clang, or name one in the variable CC")
    with tempfile.TemporaryDirectory() as folder:
        for suffix, content in ((".c", source), (".h", header)):
            (Path(folder) / (name + suffix)).write_bytes(content)
        words = [compiler(), *COMPILED, *([f"-D{define}"] if define else []), f"{name}.c", "-o", "model.so"]
        made = subprocess.run(words, cwd=folder, capture_output=True, text=True)
        if made.returncode:
            raise ValueError(f"the compiler refuses it: {made.stderr.strip().splitlines()[0]}")
        return (Path(folder) / "model.so").read_bytes()


def in_order(inputs: Arrays, names: Sequence[str]) -> list[np.ndarray]:
    """Inputs in the order of the file's names; an array is the only one."""
    if not isinstance(inputs, dict):
        if len(names) != 1:
            raise Refused(f"this model takes {len(names)} inputs by name ({', '.join(names)}); give them in an .npz")
        return [inputs]
    if set(inputs) != set(names):
        raise Refused(f"this model takes {', '.join(names)}; {', '.join(inputs)} is given")
    return [inputs[name] for name in names]


def by_name(values: Sequence[np.ndarray], names: Sequence[str]) -> Arrays:
    """Values by their names; the only one as it is."""
    return values[0] if len(names) == 1 else dict(zip(names, values))


def each(function: Callable[[np.ndarray], np.ndarray], values: Arrays) -> Arrays:
    """The function of every array."""
    return {name: function(one) for name, one in values.items()} if isinstance(values, dict) else function(values)


def arrays_of(values: Arrays) -> list[np.ndarray]:
    """The arrays without their names."""
    return list(values.values()) if isinstance(values, dict) else [values]


def joined(parts: Sequence[Arrays]) -> Arrays:
    """Batches as one."""
    first = parts[0]
    if isinstance(first, dict):
        return {name: np.concatenate([part[name] for part in parts]) for name in first}  # type: ignore[index]
    return np.concatenate(parts)  # type: ignore[arg-type]


# Preprocessing --------------------------------------------------------------------------------------------------------


def prepared(sample: str, about: dict[str, Any], folder: Path, second: str = "") -> tuple[Arrays, list[str]]:
    """The model's inputs (B, ...) of a file or a text, and sentences about what was cut, missing or unknown in it.

    Args:
        about: what preprocessing.json says.
        folder: that of the bundle, where a tokenizer lies.
        second: the other text, where two are compared.
    """
    if sample.endswith(".npz"):
        return read_arrays(Path(sample)), []
    if sample.endswith(".npy") or about["modality"] in RAW:
        return read_sample(Path(sample), about), []
    if "numeric" in about:
        return encoded(read_rows(Path(sample), [*about["numeric"], *about["categorical"]]), about, sample)
    if about.get("tokenizer"):
        return tokens(sample, about, folder / "tokenizer.json", second)
    raise Refused(f"{sample}: this bundle does not say how raw {about['modality']}s are read; give inputs in an .npy")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Inputs (B, ...) by name, as the model takes them."""
    try:
        with np.load(path) as arrays:
            return {name: finite(arrays[name], f"{path}: {name}") for name in arrays.files}
    except FileNotFoundError as error:
        raise Refused(f"{path}: no such file") from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise Refused(f"{path}: cannot be read ({error}); write it with numpy.savez") from error


def read_sample(path: Path, about: dict[str, Any]) -> np.ndarray:
    """The model's inputs (B, ...) of an .npy, an image or a WAV file."""
    modality, shape = about["modality"], tuple(about["shape"])
    if not path.is_file():
        raise Refused(f"{path}: no such file")
    if path.suffix == ".npy":
        array = read_npy(path)
    elif modality == "image":
        array = read_image(path, shape, about.get("resize") == "letterbox")
    else:
        array = read_wav(path, about["rate"])
    if array.ndim == len(shape):
        array = array[None]
    raw = modality in RAW and array.dtype.kind in "iu"
    if raw and about.get("raw") == "float32":
        raise Refused(f"{path}: this model was made from float32 {RAW[modality]}; give inputs as an .npy of floats")
    if raw and array.dtype != RAW_TYPES[modality]:
        raise Refused(f"{path}: holds {array.dtype}; raw {RAW[modality]} are {RAW_TYPES[modality]}")
    if raw and modality == "audio" and array.ndim == 2:
        array = np.stack([fitted(samples, shape[0]) for samples in array])
    free = modality == "text" and not about.get("fixed_length")
    is_shorter = free and array.ndim == 2 and SHORTEST <= array.shape[1] <= shape[0]
    if len(array) == 0 or (array.shape[1:] != shape and not is_shorter):
        raise Refused(f"{path}: holds {array.shape}; this model takes samples of {shape}")
    if raw:
        return normalized(np.ascontiguousarray(array), about)
    if about.get("type") == "uint8":
        raise Refused(f"{path}: holds {array.dtype}; the file of this model takes uint8 pixels")
    kinds, kind = ("iu", "int64") if modality == "text" else ("biuf", "float32")
    if array.dtype.kind not in kinds:
        raise Refused(f"{path}: holds {array.dtype}; this model takes {kind}")
    with np.errstate(over="ignore"):  # of what float32 cannot hold
        return finite(array.astype(kind), str(path))


def finite(array: np.ndarray, where: str) -> np.ndarray:
    """The array, which holds numbers alone: of NaN a model would make an answer, too."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused(f"{where}: holds NaN or infinite values; remove these samples")
    return array


def read_npy(path: Path) -> np.ndarray:
    """The one array of an .npy file, which is read as far as it is looked at."""
    try:
        with path.open("rb") as file:
            if file.read(6) != b"\x93NUMPY":
                raise ValueError("it does not begin as an .npy file does")
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy evaluates the header, which raises whatever stands in it
        raise Refused(f"{path}: cannot be read ({error}); write it with numpy.save") from error


def normalized(raw: np.ndarray, about: dict[str, Any]) -> np.ndarray:
    """Raw pixels (B, C, H, W) or sound (B, T) -> the model's inputs: float32, or pixels that it normalizes itself."""
    if about.get("type") == "uint8":
        return raw
    scaled = raw.astype(np.float32) / np.float32(about["divide_by"])
    if about["modality"] == "audio":
        return scaled
    mean, std = (np.array(about[name], np.float32).reshape(1, -1, 1, 1) for name in ("mean", "std"))
    return (scaled - mean) / std


def read_rows(path: Path, columns: Sequence[str]) -> dict[str, list[str]]:
    """The columns of a .csv or .tsv file with a header, or of a .json or .jsonl file of objects, as text.

    A missing value is the empty text.
    """
    ending = path.suffix.lower()
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if ending in (".json", ".jsonl"):
            rows = objects(text, ending == ".jsonl")
        elif ending in (".csv", ".tsv"):
            rows = delimited(text, ending == ".tsv", path)
        else:
            raise Refused(f"{path}: rows are read from .csv, .tsv, .json and .jsonl; or give inputs in an .npy")
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, csv.Error, RecursionError) as error:
        raise Refused(f"{path}: cannot be read ({error}); save it as UTF-8, as its ending says") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise Refused(f"{path}: holds no rows; every row has the columns {', '.join(columns)}")
    lacking = [name for name in columns if not any(name in row for row in rows)]
    if lacking:
        there = dict.fromkeys(name for row in rows for name in row)
        raise Refused(f'{path}: no column "{lacking[0]}"; its columns: {", ".join(there)}')
    return {name: [cell(row.get(name), f'{path}: column "{name}"') for row in rows] for name in columns}


def objects(text: str, lines: bool) -> list[Any]:
    """The values of JSON lines, or of a JSON file of one object, a list of them or one a line; keys in NFC, none twice.

    Raises:
        ValueError: it is no JSON, or an object has a key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        unique_pairs = {nfc(key): value for key, value in pairs}
        if len(unique_pairs) < len(pairs):
            raise ValueError("an object has a key twice: " + ", ".join(key for key, _ in pairs))
        return unique_pairs

    # Not splitlines: strings of JSON may hold what it takes for the end of a line, such as U+2028.
    rows = [part for part in text.split("\n") if part.strip()]
    try:
        parts = rows if lines else [text] if text.strip() else []
        unique_pairs = [json.loads(part, object_pairs_hook=unique) for part in parts]
    except json.JSONDecodeError as error:
        if lines or error.msg != "Extra data" or not rows[0].rstrip().endswith("}"):
            raise
        return objects(text, True)  # one object a line, whatever the file is called
    return unique_pairs[0] if not lines and unique_pairs and isinstance(unique_pairs[0], list) else unique_pairs


def cell(value: Any, where: str) -> str:
    """A value as files of text write it, in NFC; a missing one is empty."""
    if value is None or value != value:  # NaN is not itself
        return ""
    if isinstance(value, (bytes, bytearray)):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise Refused(f"{where} holds bytes that are no UTF-8; decode them first") from error
    if isinstance(value, (list, tuple, dict, set, np.ndarray)):
        shown = str(value)[:40]
        raise Refused(f"{where} holds lists or structs ({shown}); give one value a row, each part in its own column")
    return nfc(str(value)).strip()


def nfc(text: str) -> str:
    """Letters with marks as one character each: files of different systems write them differently."""
    return unicodedata.normalize("NFC", text)


def delimited(text: str, tabs: bool, path: Path) -> list[dict[str, str]]:
    """Rows of a CSV or TSV text by the names in its first line."""
    lines = table_lines(text, tabs)
    names = [name.strip() for name in lines[0][1]] if lines else []
    if len(set(names)) < len(names):
        raise Refused(f"{path}: its header names a column twice: {', '.join(names)}")
    for number, row in lines[1:]:
        if len(row) != len(names):
            raise Refused(f"{path}: line {number} has {len(row)} values, but there are {len(names)} columns")
    return [dict(zip(names, row)) for _, row in lines[1:]]


def table_lines(text: str, tabs: bool) -> list[tuple[int, list[str]]]:
    """The values of every line of a CSV or TSV text that is not empty, in NFC, and where it ends.

    Quotes are read as the module csv does. In a TSV of texts they may stand unpaired, and then mean nothing: where they
    do not close, or would swallow the ends of lines that have all their columns.

    Raises:
        csv.Error: it cannot be read.
    """
    text = nfc(text)
    if not tabs:
        return read_lines(text, delimiter=",", skipinitialspace=True)
    plain = read_lines(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        quoted = read_lines(text, delimiter="\t", strict=True)
    except csv.Error:
        return plain
    is_whole = len({len(row) for _, row in plain}) == 1
    return plain if is_whole and len(quoted) < len(plain) else quoted


def read_lines(text: str, **how: Any) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), **how)
    return [(reader.line_num, row) for row in reader if row]


def encoded(rows: dict[str, list[str]], table: dict[str, Any], where: str) -> tuple[np.ndarray, list[str]]:
    """Rows, by column, as vectors (N, features) float32 in 0..1; a missing number is the column's median.

    Args:
        table: "numeric": by column the median and the edges of its bins; "categorical": by column what was seen.
    """
    parts, notes = [], []
    for name, facts in table["numeric"].items():
        column = numbers(rows[name], f'{where}: column "{name}"')
        missing = int(np.isnan(column).sum())
        if missing:
            notes.append(f'{where}: {missing} missing in "{name}"; taken as its median, {facts["median"]:g}')
        edges = np.array(facts["edges"])
        low, high = edges[:-1], edges[1:]
        # How far the value has come through each bin.
        parts.append(np.clip((np.nan_to_num(column, nan=facts["median"])[:, None] - low) / (high - low), 0, 1))
    for name, seen in table["categorical"].items():
        values = categories(rows[name])
        places = {value: number for number, value in enumerate(seen)}
        column = np.array([places.get(value, -1) for value in values])
        strange = [value for value in values if value not in places]
        missing, unseen = strange.count(UNKNOWN), sorted({value for value in strange if value != UNKNOWN})
        if missing:
            notes.append(
                f'{where}: {missing} missing in "{name}", which no training row lacks; taken as none of its categories'
            )
        if unseen:
            shown = ", ".join(f'"{value}"' for value in unseen[:3]) + (", ..." if len(unseen) > 3 else "")
            count = len(strange) - missing
            notes.append(
                f'{where}: {count} in "{name}" not seen in training ({shown}); taken as none of its categories'
            )
        parts.append(column[:, None] == np.arange(len(seen)))
    return np.concatenate(parts, axis=1, dtype=np.float32), notes


def numbers(values: Sequence[str], where: str) -> np.ndarray:
    """(N,) float64 with NaN where a value is missing."""
    parsed = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        if value in MISSING:
            continue
        try:
            parsed[row] = float(value)
        except ValueError:
            is_number = SEPARATED.fullmatch(value.strip("%$ "))
            why = "is a number written as text" if is_number else "is no number"
            raise Refused(
                f'{where}, row {row + 1}: "{value}" {why}; write it as 1234.5, or name the column categorical'
            ) from None
        if not np.isfinite(parsed[row]):
            raise Refused(f'{where}, row {row + 1}: "{value}" is not finite; correct it or leave it empty')
    return parsed


def categories(values: Sequence[str]) -> list[str]:
    return [UNKNOWN if value in MISSING else value for value in values]


def read_tokenizer(path: Path) -> Any:
    """The `tokenizers.Tokenizer` of a bundle, without padding and truncation."""
    return _tokenizer_and_side(path)[0]


def _tokenizer_and_side(path: Path) -> tuple[Any, str]:
    """The tokenizer and the side that it cuts texts on; a file that has not changed is parsed once: 30,000 tokens take
    25 ms."""
    try:
        state = path.stat()
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error}") from error
    tokenizer, side = _parsed_tokenizer(path, state.st_mtime_ns, state.st_size)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer, side


@functools.lru_cache(maxsize=4)
def _parsed_tokenizer(path: Path, changed_ns: int, size: int) -> tuple[Any, str]:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise Refused(
            "texts need the package tokenizers: pip install tokenizers; or give token numbers in an .npy"
        ) from error
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except BaseException as error:  # tokenizers raises bare Exception, and panics that are none
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise Refused(f"{path} cannot be read: {error}") from error
    return tokenizer, (tokenizer.truncation or {}).get("direction", "right")


def tokens(text: str, about: dict[str, Any], tokenizer: Path, second: str = "") -> tuple[np.ndarray, list[str]]:
    """A text, or two that are compared, as token numbers (1, L) int64, cut at the model's length.

    Args:
        about: of preprocessing.json: the length as "shape", the number that "pad"s, that of "unknown" tokens, those
            "special"; what a trimmed vocabulary has "kept", as bits in base64; the "fixed_length" of texts, or 0.
    """
    texts: list[Any] = [nfc(text), nfc(second)] if about.get("pair") else [nfc(text)]
    if not all(one.strip() for one in texts):
        raise Refused("the text is empty; give it words")
    (cutter, side), length = _tokenizer_and_side(tokenizer), about["shape"][0]
    try:
        found = cutter.encode(*texts).ids
        cutter.enable_truncation(length, direction=side)
        ids = np.array(cutter.encode(*texts).ids if len(found) > length else found, np.int64)
    except BaseException as error:  # tokenizers raises bare Exception, and panics that are none
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise Refused(f"the text or {tokenizer} cannot be read: {error}") from error
    notes, shown = [], f'"{text[:40]}"'
    if len(found) > length:
        notes.append(f"{shown}: longer than {length} tokens (it has {len(found)}); cut there")
    if about.get("kept"):
        bits = np.unpackbits(np.frombuffer(base64.b64decode(about["kept"]), np.uint8))
        outside = np.unique(ids[bits[ids] == 0])[:MOST_SHOWN]
        strange = ", ".join(str(cutter.id_to_token(int(number))) for number in outside)
        if strange:
            notes.append(f"{shown}: none of the model's vocabulary, counted as unknown: {strange}")
    if about["unknown"] is not None and set(ids) <= {about["unknown"], *about["special"]}:
        notes.append(f"{shown}: holds no token that the tokenizer knows")
    shortest = length if about.get("fixed_length") else SHORTEST
    return np.pad(ids, (0, max(0, shortest - len(ids))), constant_values=about["pad"])[None], notes


# Words and spans ------------------------------------------------------------------------------------------------------


class Window(NamedTuple):
    """A part of a long text: its words, and those of them whose predictions count; ends are behind the last."""

    begin: int
    end: int
    own_begin: int
    own_end: int


class Span(NamedTuple):
    """A part of a text that has a label, such as a name: where it begins and ends there, in characters."""

    label: str
    begin: int
    end: int
    text: str
    probability: float


def words_of(text: str) -> list[tuple[int, int]]:
    """Where the words of a text begin and end, in characters: what stands between spaces, without the signs around it.

    Signs are words of their own, but for an @ or # that begins a word; so is the 's of a genitive, and each letter of
    scripts that put no spaces between words.
    """
    words = []
    for match in re.finditer(r"\S+", text):
        begin, end = match.span()
        while begin < end and is_sign(text[begin]) and not is_handle(text, begin, end):
            words.append((begin, begin + 1))
            begin += 1
        behind = []
        while end > begin and is_sign(text[end - 1]):
            end -= 1
            behind.append((end, end + 1))
        if end - begin > 2 and text[end - 1] in "sS" and text[end - 2] in "'\u2019":
            behind.append((end - 2, end))
            end -= 2
        words += within(text, begin, end) + behind[::-1]
    return words


def is_sign(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "PS"


def is_handle(text: str, begin: int, end: int) -> bool:
    """Whether an @ or # begins a word."""
    return text[begin] in "@#" and begin + 1 < end and not is_sign(text[begin + 1])


def within(text: str, begin: int, end: int) -> list[tuple[int, int]]:
    """The words between two places without spaces: parted at brackets and commas, and around letters that are words."""
    words = []
    for place in range(begin, end):
        is_number = text[place] == "," and text[place - 1 : place].isdigit() and text[place + 1 : place + 2].isdigit()
        if (text[place] in PARTING and not is_number) or LETTER_IS_WORD.match(text[place]):
            words += [(begin, place), (place, place + 1)]
            begin = place + 1
    return [(first, last) for first, last in [*words, (begin, end)] if first < last]


def pieces_of(tokenizer: Any, words: Sequence[str]) -> list[list[int]]:
    """The token numbers of each word, at least one: of a word that the tokenizer drops, its unknown token's."""
    splitter = tokenizer.pre_tokenizer
    before = (
        " " if splitter is not None and b"ByteLevel" in splitter.__getstate__() else ""
    )  # such tokenizers tell the beginning of a word by it
    unknown = [tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>") if tokenizer.token_to_id(token) is not None]
    given = [word if number == 0 else before + word for number, word in enumerate(words)]
    encoding = tokenizer.encode(given, is_pretokenized=True, add_special_tokens=False)
    pieces: list[list[int]] = [[] for _ in words]
    for number, word in zip(encoding.ids, encoding.word_ids):
        pieces[word].append(number)
    return [own or unknown[:1] or [0] for own in pieces]


def special_around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens in front of a text and behind it."""
    for text in ("a", "1", "."):
        encoding = tokenizer.encode(text)
        inside = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
        if inside:
            return encoding.ids[: inside[0]], encoding.ids[inside[-1] + 1 :]
    raise Refused("the tokenizer makes no token of a letter, a digit or a full stop; take another")


def windows_of(sizes: Sequence[int], most: int, may_begin: Sequence[bool] = ()) -> list[Window]:
    """Overlapping parts of a text of words with so many tokens each; a quarter of a part is shared with the next one.

    Every word counts in one part, that in which more stands around it.

    Args:
        most: tokens of a part. may_begin: words before which the parts that count may meet; empty: all.
    """
    windows: list[Window] = []
    begin, own = 0, 0
    while True:
        end, used = begin, 0
        while end < len(sizes) and (end == begin or used + sizes[end] <= most):
            used += sizes[end]
            end += 1
        if end == len(sizes):
            return [*windows, Window(begin, end, own, end)]
        back, shared = end, 0
        while back - 1 > begin and shared + sizes[back - 1] <= min(most // 4, most - sizes[end]):
            back -= 1
            shared += sizes[back]
        middle = (back + end) // 2
        places = [place for place in range(max(back, own + 1), end + 1) if not may_begin or may_begin[place]]
        earlier = [place for place in range(own + 1, back) if may_begin and may_begin[place]]
        if not places and earlier:
            places = [back] = earlier[-1:]
        meet = min(places, key=lambda place: abs(place - middle)) if places else max(middle, own + 1)
        windows.append(Window(begin, end, own, meet))
        begin, own = back, meet


def spans_in(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The spans that tags of words write down, such as B-person I-person O: label, first word, behind the last.

    IOB, BIO and BIOES are read as conlleval reads them: a span goes on where B or I is followed by I or E of its label.
    """
    spans: list[tuple[str, int, int]] = []
    before, label, begin = "O", "", 0
    for place, tag in enumerate([*tags, "O"]):
        prefix, own = tag[:1], tag[2:]
        if not (before in "BI" and prefix in "IE" and own == label):
            if before != "O":
                spans.append((label, begin, place))
            begin = place
        before, label = prefix, own
    return spans


def spans(text: str, predict: Predict, about: dict[str, Any], tokenizer: Any) -> list[Span]:
    """The spans of a text of any length, which is read in overlapping windows."""
    words = words_of(text)
    if not words:
        raise Refused("the text is empty; give it words")
    front, behind = special_around(tokenizer)
    most = about["shape"][0] - len(front) - len(behind)
    pieces = [own[:most] for own in pieces_of(tokenizer, [nfc(text[begin:end]) for begin, end in words])]
    tags, shares = [], []
    for window in windows_of([len(own) for own in pieces], most):
        inside = pieces[window.begin : window.end]
        ids = np.array([*front, *(number for own in inside for number in own), *behind], np.int64)
        shortest = about["shape"][0] if about.get("fixed_length") else SHORTEST
        ids = np.pad(ids, (0, max(0, shortest - len(ids))), constant_values=about["pad"])
        logits = arrays_of(predict(ids[None]))[0][0]
        first = len(front) + np.cumsum([0, *(len(own) for own in inside)])[:-1]
        own_words = slice(window.own_begin - window.begin, window.own_end - window.begin)
        scores = logits[:, first[own_words]]
        likely = np.exp(scores - scores.max(0))
        tags += [about["labels"][number] for number in scores.argmax(0)]
        shares += (likely.max(0) / likely.sum(0)).tolist()
    return [
        Span(label, words[first][0], words[last - 1][1], text[words[first][0] : words[last - 1][1]],
             float(np.mean(shares[first:last])))
        for label, first, last in spans_in(tags)
    ]  # fmt: skip


def span_in_words(span: Span) -> str:
    return f'{span.begin} to {span.end}: {span.label} "{printable(span.text)}" {100 * span.probability:.1f} %'


def greedy(logits: np.ndarray) -> list[int]:
    """The likeliest symbol of each frame of (symbols, frames), repeats merged, then without blanks, which are 0."""
    likely = logits.argmax(0)
    is_new = np.concatenate([[True], likely[1:] != likely[:-1]])
    return [int(number) for number in likely[is_new] if number]


def joint_of(symbols: Sequence[str]) -> str:
    """What stands between symbols: nothing between characters, a space between words."""
    return "" if all(len(symbol) == 1 for symbol in symbols[1:]) else " "


def text_of(logits: np.ndarray, about: dict[str, Any], top: int = 0) -> str:
    """The text that frames write."""
    return spelt(greedy(logits), about["labels"])


def spelt(numbers: Sequence[int], symbols: Sequence[str]) -> str:
    """Symbols as a text; "|" is a space."""
    return joint_of(symbols).join(symbols[number] for number in numbers).replace("|", " ")


class Language(NamedTuple):
    """A model of what words follow one another: for n-grams log10 of their probability and of their backoff weight."""

    order: int
    grams: dict[tuple[str, ...], tuple[float, float]]


class Search(NamedTuple):
    """How the best text of all frames is looked for.

    width: texts that are followed at once. words: that a text may have; empty allows any. language: how likely words
    follow one another, or None; weight: of its natural logarithm, bonus: added for each word.
    """

    width: int
    words: frozenset[str] = frozenset()
    language: Language | None = None
    weight: float = 0.5
    bonus: float = 0.0


def read_words(path: Path) -> frozenset[str]:
    """A word a line."""
    try:
        words = frozenset(nfc(path.read_text(encoding="utf-8-sig")).split())
    except (OSError, ValueError) as error:
        raise Refused(f"{path}: cannot be read ({error}); give a word a line, in UTF-8") from error
    if not words:
        raise Refused(f"{path}: holds no word")
    return words


def read_arpa(path: Path) -> Language:
    """An n-gram model in the ARPA format: log10 of the probability, the words, log10 of the backoff weight."""
    grams: dict[tuple[str, ...], tuple[float, float]] = {}
    order = 0
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
            section, fields = re.fullmatch(r"\\(\d+)-grams:\s*", line), line.split()
            if section:
                order = int(section[1])
            elif order and fields and not line.startswith("\\"):
                if len(fields) not in (order + 1, order + 2):
                    raise ValueError(f"line {number} holds no {order}-gram")
                grams[tuple(fields[1 : order + 1])] = (float(fields[0]), float([*fields, "0"][order + 1]))
    except (OSError, ValueError) as error:
        raise Refused(f"{path}: cannot be read ({error}); give an n-gram model in the ARPA format") from error
    if not grams:
        raise Refused(f"{path}: holds no n-grams; give an n-gram model in the ARPA format")
    return Language(order, grams)


def log_probability(language: Language, before: Sequence[str], word: str) -> float:
    """Natural logarithm of the probability of a word behind others, by Katz's backoff; see `Language`."""
    history, backoff = tuple(before)[max(0, len(before) - language.order + 1) :], 0.0
    while True:
        known = language.grams.get((*history, word))
        if known:
            return (known[0] + backoff) * math.log(10)
        if not history:
            return (language.grams.get(("<unk>",), (UNSEEN, 0.0))[0] + backoff) * math.log(10)
        backoff += language.grams.get(history, (0.0, 0.0))[1]
        history = history[1:]


def sought(logits: np.ndarray, symbols: Sequence[str], search: Search) -> list[int]:
    """The likeliest text of (symbols, frames), over all its alignments, as numbers of symbols.

    Prefix beam search (Hannun et al. 2014, "First-pass large vocabulary continuous speech recognition using
    bi-directional recurrent DNNs"): of each text the logarithms of the probability that its last frame is a blank, and
    that it is its last symbol. Words that are not allowed are never begun.
    """
    spelling = Spelling(symbols, search)
    logs = logits - logits.max(0)
    logs = logs - np.log(np.exp(logs).sum(0))
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    for frame in logs.T.tolist():
        grown: dict[tuple[int, ...], tuple[float, float]] = {}

        def add(text: tuple[int, ...], blank: float, symbol: float) -> None:
            before = grown.get(text, (-math.inf, -math.inf))  # noqa: B023
            grown[text] = (log_sum(before[0], blank), log_sum(before[1], symbol))  # noqa: B023

        likely = sorted(range(1, len(frame)), key=lambda number: -frame[number])[: search.width]
        for text, (blank, symbol) in beams.items():
            both = log_sum(blank, symbol)
            add(text, both + frame[0], symbol + frame[text[-1]] if text else -math.inf)
            for number in likely:
                if spelling.allows((*text, number)):
                    add((*text, number), -math.inf, (blank if text[-1:] == (number,) else both) + frame[number])
        best = sorted(grown.items(), key=lambda one: -log_sum(*one[1]) - spelling.score(one[0], False))
        beams = dict(best[: search.width])
    ended = {text: log_sum(*own) + spelling.score(text, True) for text, own in beams.items() if spelling.is_whole(text)}
    return list(max(ended.items(), key=lambda one: one[1])[0]) if ended else []


def log_sum(one: float, other: float) -> float:
    """Logarithm of the sum of two numbers whose logarithms are given."""
    high, low = max(one, other), min(one, other)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


class Spelling:
    """What words say of texts of symbols: which are allowed, and how likely they are."""

    def __init__(self, symbols: Sequence[str], search: Search) -> None:
        self.symbols, self.search, self.joint = symbols, search, joint_of(symbols)
        self.begun = {word[:size] for word in search.words for size in range(len(word) + 1)}
        self.scores: dict[tuple[str, ...], float] = {(): 0.0}

    def words(self, text: tuple[int, ...]) -> tuple[str, ...]:
        """Its words, the last one perhaps not whole; "" behind a space."""
        whole = [self.symbols[number] for number in text]
        return tuple(whole) if self.joint else tuple("".join(whole).split("|"))

    def allows(self, text: tuple[int, ...]) -> bool:
        """Whether a text, whose beginning is allowed, may go on so."""
        if not self.search.words:
            return True
        words = self.words(text)
        if self.joint:
            return words[-1] in self.search.words
        return words[-2] in self.search.words if words[-1] == "" else words[-1] in self.begun

    def is_whole(self, text: tuple[int, ...]) -> bool:
        """Whether a text may end so."""
        return not self.search.words or not text or self.joint != "" or self.words(text)[-1] in (*self.search.words, "")

    def score(self, text: tuple[int, ...], is_end: bool) -> float:
        """What its words add to the logarithm of its probability; the last one once it is whole."""
        if self.search.language is None and not self.search.bonus:
            return 0.0
        words = self.words(text)
        return self._score(tuple(filter(None, words if is_end or self.joint else words[:-1])))

    def _score(self, words: tuple[str, ...]) -> float:
        if words not in self.scores:
            own = self.search.bonus
            if self.search.language:
                own += self.search.weight * log_probability(self.search.language, ("<s>", *words[:-1]), words[-1])
            self.scores[words] = self._score(words[:-1]) + own
        return self.scores[words]


class Heard(NamedTuple):
    """What must be kept of a stream to write on: the state between two chunks.

    window: (T,) the last samples, as the model takes them. begin: its first sample's place in the stream, negative at
    first. rest: samples behind the window, too few for a frame. read: frames that are read. last: their last symbol.
    """

    window: np.ndarray
    begin: int
    rest: np.ndarray
    read: int
    last: int


def unheard(about: dict[str, Any]) -> Heard:
    """The state before anything is heard: silence in the window, which begins at a whole number of frames."""
    length, frame = about["shape"][0], about.get("frame", 0)
    if not frame:
        raise Refused("preprocessing.json: gives no length of a frame, so clips are heard as a whole; make it again")
    begin = -(-length // frame) * -frame
    return Heard(np.zeros(length, np.float32), begin, np.zeros(-begin - length, np.float32), 0, 0)


def written_on(
    predict: Predict, about: dict[str, Any], before: Heard, chunk: np.ndarray, is_last: bool = False
) -> tuple[Heard, list[int]]:
    """The symbols that a chunk of samples (n,) adds, as numbers, and the state behind it.

    The window moves on by whole frames, and those are read that lie `AHEAD_S` before its end or longer, where it
    shows as much of what follows as of any other. The last chunk is followed by silence, so that all are read.
    """
    frame, window, begin, read, last = about["frame"], before.window, before.begin, before.read, before.last
    ahead = math.ceil(AHEAD_S * about["rate"] / frame)
    most = len(window) // frame - 2 * ahead - 1
    if most < 1:
        raise Refused(f"its window of {len(window) / about['rate']:g} s is too short for streams")
    rest = np.concatenate([before.rest, chunk.astype(np.float32)])
    if is_last:
        rest = np.pad(rest, (0, (ahead + 1) * frame))
    numbers: list[int] = []
    while len(rest) >= frame:
        size = min(len(rest) // frame, most) * frame
        window, rest, begin = np.concatenate([window[size:], rest[:size]]), rest[size:], begin + size
        likely = arrays_of(predict(window[None]))[0][0].argmax(0)
        first, stop = read - begin // frame, len(likely) - ahead
        for number in likely[first:stop] if first < stop else ():
            if number not in (last, 0):
                numbers.append(int(number))
            last = int(number)
        read = max(read, begin // frame + stop)
    return Heard(window, begin, rest, read, last), numbers


def written_down(
    predict: Predict, about: dict[str, Any], chunks: Iterator[np.ndarray]
) -> Iterator[tuple[float, float, str]]:
    """Of every chunk (n,) int16 its begin and end in seconds, and what it adds to the text; then what silence adds."""
    state, end, rate = unheard(about), 0, about["rate"]
    for chunk in chunks:
        begin, end = end, end + len(chunk)
        state, numbers = written_on(predict, about, state, normalized(chunk[None], about)[0])
        yield begin / rate, end / rate, spelt(numbers, about["labels"])
    _, numbers = written_on(predict, about, state, np.zeros(0, np.float32), is_last=True)
    yield end / rate, end / rate, spelt(numbers, about["labels"])


def whole_text(parts: Sequence[str], about: dict[str, Any]) -> str:
    """The whole text of what chunks add to it."""
    return joint_of(about["labels"]).join(filter(None, parts))


def in_chunks(sample: str, about: dict[str, Any], seconds: float = CHUNK_S) -> Iterator[np.ndarray]:
    """int16 samples of a WAV file, or of the standard input, raw (-), so many seconds at a time."""
    size = max(1, round(seconds * about["rate"]))
    if sample != "-":
        samples = read_wav(Path(sample), about["rate"])
        yield from (samples[start : start + size] for start in range(0, len(samples), size))
        return
    while block := sys.stdin.buffer.read(2 * size):
        yield np.frombuffer(block[: len(block) // 2 * 2], "<i2")


def token_tags(logits: np.ndarray, about: dict[str, Any], top: int = 0) -> str:
    """The tag of each token of (labels, tokens); padding, which is zero, has none."""
    tokens = np.abs(logits).max(0) > 0
    return " ".join(about["labels"][number] for number in logits[:, tokens].argmax(0))


def read_image(path: Path, shape: tuple[int, ...], letterbox: bool = False) -> np.ndarray:
    """(C, H, W) uint8 of an image file, turned as its EXIF says, resized; one channel reads grey, three colour.

    Of 16-bit grey the upper 8 bits are kept. A letterboxed image keeps the ratio of its sides: it stands in the upper
    left corner, grey beside it.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise Refused(f"{path}: image files need Pillow: pip install pillow; or give the pixels in an .npy") from error
    channels, height, width = shape
    try:
        with quiet(), Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Refused(
                    f"{path}: {image.width} x {image.height} pixels; at most {MOST_PIXELS:,} are read: make it smaller"
                )
            upright = ImageOps.exif_transpose(image)
            if upright.mode == "F":
                raise Refused(f"{path}: this image holds floats; save it with 8 or 16 bits")
            if upright.mode.startswith("I"):  # 16-bit grey, which Pillow would clip to white
                upright = Image.fromarray((np.asarray(upright).astype(np.uint32) >> 8).astype(np.uint8))
            converted = upright.convert("L" if channels == 1 else "RGB")
            if letterbox:
                return letterboxed(converted, shape)
            if converted.size != (width, height):
                converted = converted.resize((width, height), Image.BILINEAR)  # type: ignore[attr-defined]
            pixels = np.array(converted, np.uint8)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise Refused(f"{path}: no such file") from error
    except Refused:
        raise
    except Exception as error:  # Pillow lets its decoders' own errors through
        reason = str(error).replace(str(path), "it") or type(error).__name__
        raise Refused(f"{path}: this image does not decode ({reason}); repair or remove it") from error
    return pixels.reshape(height, width, -1).transpose(2, 0, 1)


def letterboxed(image: Any, shape: Sequence[int]) -> np.ndarray:
    """(C, H, W) uint8 of an image of Pillow, the ratio of its sides kept, in the upper left corner, grey beside it."""
    channels, height, width = shape
    rows, columns = fitted_size(image.height, image.width, shape)
    converted = image.convert("L" if channels == 1 else "RGB")
    if converted.size != (columns, rows):
        converted = converted.resize((columns, rows), 2)  # bilinear
    pixels = np.full((height, width, channels), PADDING, np.uint8)
    pixels[:rows, :columns] = np.asarray(converted, np.uint8).reshape(rows, columns, channels)
    return pixels.transpose(2, 0, 1)


def image_size(path: Path) -> tuple[int, int]:
    """Rows and columns of an image file, turned as its EXIF says."""
    from PIL import Image, ImageOps

    with quiet(), Image.open(path, formats=FORMATS) as image:
        upright = ImageOps.exif_transpose(image)
        return upright.height, upright.width


def whole_wav(content: bytes) -> bytes:
    """A WAV file whose header says how long it is: what was written into a pipe says 0, or the largest there is."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return content
    place = 12
    while place + 8 <= len(content):
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        rest = len(content) - place - 8
        if content[place : place + 4] == b"data":
            if rest and (size == 0 or (size >= PIPED and size > rest)):
                head = content[:4] + (len(content) - 8).to_bytes(4, "little") + content[8 : place + 4]
                return head + rest.to_bytes(4, "little") + content[place + 8 :]
            return content
        place += 8 + size + size % 2
    return content


def wav_encoding(content: bytes) -> int:
    """What the samples of a WAV file are: 1 integers, 3 floats, 6 A-law, 7 mu-law; 1 where it does not say."""
    place = 12
    while place + 24 <= len(content):
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        if content[place : place + 4] == b"fmt ":
            tag = int.from_bytes(content[place + 8 : place + 10], "little")
            extended = tag == EXTENSIBLE and size >= 26
            return int.from_bytes(content[place + 32 : place + 34], "little") if extended else tag
        place += 8 + size + size % 2
    return 1


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings, of odd metadata and of many pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_wav(path: Path, rate: int) -> np.ndarray:
    """(T,) int16 of a WAV file of integers, 8 to 32 bits; several channels are averaged."""
    try:
        with wave.open(io.BytesIO(whole_wav(path.read_bytes())), "rb") as file:
            channels, width, own_rate, count = file.getparams()[:4]
            data = np.frombuffer(file.readframes(min(count, path.stat().st_size)), np.uint8)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise Refused(f"{path}: no such file") from error
    except (wave.Error, EOFError, ValueError, OverflowError, MemoryError, struct.error) as error:
        raise Refused(f"{path}: this WAV file does not decode ({error}); integers of 8 to 32 bits are read") from error
    if own_rate != rate:
        raise Refused(f"{path}: {own_rate} Hz; this model hears {rate} Hz: resample it first (`distiq predict` does)")
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


class Check(NamedTuple):
    """What replaying the test vectors showed; `lines` say it, with the vectors that diverge."""

    passed: bool
    vectors: int
    changed: int
    largest_difference: float
    tolerance: float
    lines: tuple[str, ...]


def check(predict: Predict, vectors: dict[str, np.ndarray], about: dict[str, Any]) -> Check:
    """Replays the test vectors, and the preparation of their raw samples where there are some."""
    inputs, outputs = (vectors_of(side, vectors) for side in ("inputs", "outputs"))
    name = RAW.get(about["modality"], "")
    passed, lines = True, []
    if name in vectors:
        own_inputs = vectors["inputs"]
        off, step = difference(normalized(vectors[name], about), own_inputs).max(), 1e-5 * np.abs(own_inputs).max()
        passed = bool(off <= step)
        verdict = "pass" if passed else "FAIL"
        lines.append(f"{verdict}: preparation, largest difference {off:.3g} (allowed {step:.3g})")
    here = run(predict, inputs, "the test vectors")
    if isinstance(outputs, dict) or isinstance(here, dict):
        return check_each(here, outputs, passed, lines)
    expected = outputs
    differences = difference(here, expected).reshape(len(expected), -1).max(1)
    tolerance, decoding = ALLOWED * float(expected.max() - expected.min()), decoding_of(about)
    changed = decoding.changed(here, expected, tolerance)
    wrong = changed | ~(differences <= tolerance)
    verdict = "FAIL" if wrong.any() else "pass"
    seen = f"largest difference {differences.max():.3g} (allowed {tolerance:.3g})"
    lines.append(f"{verdict}: {len(expected)} vectors, {changed.sum()} predictions changed, {seen}")
    for number in np.flatnonzero(wrong)[:MOST_SHOWN]:
        now, before = (decoding.named(scores[number], about) for scores in (here, expected))
        said = f"predicts {now}, not {before}" if changed[number] else f"predicts {now} as expected"
        lines.append(f"  vector {number}: {said}; a logit differs by {differences[number]:.3g}")
    if wrong.sum() > MOST_SHOWN:
        lines.append(f"  and {wrong.sum() - MOST_SHOWN} more")
    passed = passed and not bool(wrong.any())
    return Check(passed, len(expected), int(changed.sum()), float(differences.max()), tolerance, tuple(lines))


def vectors_of(side: str, vectors: dict[str, np.ndarray]) -> Arrays:
    """The test vectors called "inputs" or "outputs", or several as "inputs.NAME"."""
    if side in vectors:
        return vectors[side]
    several = {name[len(side) + 1 :]: array for name, array in vectors.items() if name.startswith(f"{side}.")}
    if not several:
        raise Refused("vectors.safetensors: lacks inputs or outputs; copy the whole bundle again")
    return several


def check_each(outputs: Arrays, expected: Arrays, passed: bool, lines: list[str]) -> Check:
    """Each of several outputs may move by a share of its own span."""
    named = (value if isinstance(value, dict) else {"": value} for value in (outputs, expected))
    here, there = named
    if here.keys() != there.keys():
        raise Refused(f"the model gives {', '.join(here)}, not {', '.join(there)}; copy the bundle again")
    largest = tolerance = 0.0
    for name, array in there.items():
        off, allowed = float(difference(here[name], array).max()), ALLOWED * float(array.max() - array.min())
        passed, largest, tolerance = passed and off <= allowed, max(largest, off), max(tolerance, allowed)
        verdict = "pass" if off <= allowed else "FAIL"
        lines.append(f"{verdict}: {name}, {len(array)} vectors, largest difference {off:.3g} (allowed {allowed:.3g})")
    return Check(passed, len(arrays_of(expected)[0]), 0, largest, tolerance, tuple(lines))


def run(predict: Predict, inputs: Arrays, what: str) -> Arrays:
    """The model's outputs, or what the runtime says where it gives none."""
    try:
        return predict(inputs)
    except Refused as error:
        raise Refused(f"{what}: {error}") from error
    except Exception as error:  # every runtime raises its own kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        shapes = ", ".join(f"{one.shape} of {one.dtype}" for one in arrays_of(inputs))
        raise Refused(f"{what}: the model file does not run on {shapes}: {reason}") from error


def difference(outputs: np.ndarray, expected: np.ndarray) -> np.ndarray:
    if outputs.shape != expected.shape:
        raise Refused(f"the model gives {outputs.shape} where {expected.shape} is expected; copy the bundle again")
    return np.abs(outputs.astype(np.float32) - expected)


# Boxes and masks ------------------------------------------------------------------------------------------------------


def joined_heads(outputs: Arrays) -> np.ndarray:
    """A detector's outputs as one array (B, 4 + classes, positions): corners x0, y0, x1, y1 in pixels, then logits.

    By stride there are "classes_8" (B, classes, H / 8, W / 8), logits, and "boxes_8" (B, 4, H / 8, W / 8), from which
    softplus makes distances from a position's centre to the left, upper, right and lower side, in strides. Positions
    are those of the maps in the order of their strides, row by row. One array is taken as such already.
    """
    if not isinstance(outputs, dict):
        return outputs
    numbers = sorted(int(name[8:]) for name in outputs if re.fullmatch(r"classes_\d+", name))
    if not numbers or any(f"boxes_{number}" not in outputs for number in numbers):
        raise Refused(f"the model gives {', '.join(outputs)}; a detector gives classes_8 and boxes_8 of its strides")
    parts = []
    for stride in numbers:
        classes, raw = outputs[f"classes_{stride}"], outputs[f"boxes_{stride}"].astype(np.float32)
        distances = np.logaddexp(raw, np.float32(0)) * np.float32(stride)
        y, x = ((np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(stride) for size in raw.shape[2:])
        left, upper, right, lower = distances.transpose(1, 0, 2, 3)
        corners = np.stack([x - left, y[:, None] - upper, x + right, y[:, None] + lower], 1)
        parts.append(np.concatenate([corners, classes], 1).reshape(len(raw), -1, raw.shape[2] * raw.shape[3]))
    return np.concatenate(parts, 2)


def detected(outputs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The boxes of images, likeliest first: (B, MOST_BOXES, 6) float32 of class, x0, y0, x1, y1, score.

    Of two boxes of a class that overlap by more than SAME_OBJECT the likelier is kept (non-maximum suppression), and
    lies where all that overlap it so lie in mean, weighted by score and squared overlap (box voting, Gidaris and
    Komodakis 2015, arXiv:1505.01749, section 5). The more of them say the same, the surer it is: of a score s, and
    scores of the others that sum up to v, become 1 - (1 - s)^(1 + ln(1 + v)); a box alone keeps its score. Rows that
    are left over have the class -1.

    Args:
        outputs: (B, 4 + classes, positions), corners in pixels and logits.
        size: height and width of the images, at which boxes are cut off.
    """
    kept = np.zeros((len(outputs), MOST_BOXES, 6), np.float32)
    kept[:, :, 0] = -1
    height, width = size
    for number, output in enumerate(outputs.astype(np.float32)):
        scores = 1 / (1 + np.exp(-np.clip(output[4:], -60, 60)))
        classes, places = np.nonzero(scores > LEAST_SCORE)
        own = scores[classes, places]
        order = np.argsort(-own, kind="stable")[:CANDIDATES]
        classes, places, own = classes[order], places[order], own[order]
        corners = np.clip(output[:4, places].T, 0, np.array([width, height, width, height], np.float32))
        shared = overlaps(corners, corners) * (classes[:, None] == classes)
        rows = np.array(suppressed(shared > SAME_OBJECT), int)
        agreeing = shared[rows] > SAME_OBJECT
        agreeing[range(len(rows)), rows] = False
        surer = 1 - (1 - own[rows]) ** (1 + np.log1p((agreeing * own).sum(1)))
        votes = agreeing * shared[rows] ** 2 * own
        votes[range(len(rows)), rows] = own[rows]  # a box without an area overlaps not even itself
        voted = votes @ corners / votes.sum(1, keepdims=True)
        best = np.argsort(-surer, kind="stable")[:MOST_BOXES]
        kept[number, : len(best)] = np.column_stack([classes[rows], voted, surer])[best]
    return kept


def suppressed(same: np.ndarray) -> list[int]:
    """Which boxes are left, likeliest first, without those that are the same (N, N) as a likelier one that is left."""
    left = np.ones(len(same), bool)
    for row in range(len(same)):
        if left[row]:
            left[row + 1 :] &= ~same[row, row + 1 :]
    return np.flatnonzero(left).tolist()


def overlaps(one: np.ndarray, other: np.ndarray, crowd: np.ndarray | None = None) -> np.ndarray:
    """Intersection over union of boxes (N, 4) and (M, 4) of corners, (N, M).

    Args:
        crowd: (M,), which of the others are crowds: there it is the share of the first box that lies in the crowd.
    """
    corners = np.minimum(one[:, None, 2:], other[:, 2:]) - np.maximum(one[:, None, :2], other[:, :2])
    shared = np.clip(corners, 0, None).prod(2)
    area, others = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (one, other))
    union = area[:, None] + others - shared
    if crowd is not None:
        union = np.where(crowd, area[:, None], union)
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0)


def fitted_size(height: int, width: int, shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of an image that is brought into `shape` (..., H, W) with its sides' ratio kept."""
    share = min(shape[-2] / height, shape[-1] / width)
    return max(1, min(shape[-2], round(height * share))), max(1, min(shape[-1], round(width * share)))


def objects_in(output: np.ndarray, about: dict[str, Any], size: tuple[int, int]) -> list[dict[str, Any]]:
    """What is found in one image: of a detector each box with its label and score, of a segmenter each class's share.

    Args:
        output: (4 + classes, positions), or (classes, H, W).
        size: rows and columns of the image itself, in whose pixels boxes are given.
    """
    shape, labels = about["shape"], about["labels"]
    rows, columns = fitted_size(*size, shape) if about.get("resize") == "letterbox" else shape[-2:]
    if about["decoding"] == "mask":
        counts = np.bincount(output.argmax(0)[:rows, :columns].ravel(), minlength=len(labels))
        order = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
        return [{"label": labels[label], "share": round(float(counts[label] / counts.sum()), 4)} for label in order]
    scale = np.array([size[1] / columns, size[0] / rows] * 2)
    boxes = detected(output[None], (rows, columns))[0]
    return [
        {
            "label": labels[int(box[0])],
            "score": round(float(box[5]), 4),
            "box": [round(float(side), 1) for side in box[1:5] * scale],
        }
        for box in boxes
        if box[0] >= 0 and box[5] >= SHOWN_SCORE
    ]


def in_line(thing: dict[str, Any]) -> str:
    """What `objects_in` found, in words."""
    if "share" in thing:
        return f"{thing['label']} {100 * thing['share']:.1f} %"
    x0, y0, x1, y1 = thing["box"]
    return f"{thing['label']} {100 * thing['score']:.0f} % ({x0:g}, {y0:g}) to ({x1:g}, {y1:g})"


def drawn(sample: Path, output: np.ndarray, about: dict[str, Any]) -> Any:
    """The image (of Pillow) with what is found in it: boxes with labels, or each class in its colour."""
    from PIL import Image, ImageOps

    with quiet(), Image.open(sample, formats=FORMATS) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    size = (picture.height, picture.width)
    if about["decoding"] == "mask":
        shape = about["shape"]
        rows, columns = fitted_size(*size, shape) if about.get("resize") == "letterbox" else shape[-2:]
        painted = Image.fromarray(coloured(output.argmax(0)[:rows, :columns].astype(np.uint8)))
        return Image.blend(picture, painted.resize(picture.size, Image.NEAREST), 0.5)  # type: ignore[attr-defined]
    with_boxes(picture, objects_in(output, about, size), about["labels"])
    return picture


def with_boxes(picture: Any, things: Sequence[dict[str, Any]], labels: Sequence[str]) -> None:
    """Draws boxes, each with its label and in the colour of its class, into an image of Pillow."""
    from PIL import ImageDraw

    pen, width = ImageDraw.Draw(picture), max(1, round(max(picture.size) / 300))
    for thing in things:
        colour = COLOURS[labels.index(thing["label"]) % len(COLOURS)]
        pen.rectangle(thing["box"], outline=colour, width=width)
        pen.text((thing["box"][0] + width + 1, thing["box"][1] + width), thing["label"], fill=colour)


def coloured(classes: np.ndarray) -> np.ndarray:
    """A map (H, W) uint8 of classes in their colours, (H, W, 3) uint8; VOID is black."""
    table = np.array([COLOURS[number % len(COLOURS)] for number in range(VOID)] + [(0, 0, 0)], np.uint8)
    return table[classes]


# What outputs mean ----------------------------------------------------------------------------------------------------


class Decoding(NamedTuple):
    """What an output of the model says.

    changed: outputs here and expected (N, ...), an allowed difference -> which predictions differ, (N,) bool.
    named: an output (...) and preprocessing.json -> the prediction alone. said: the same and a count -> the prediction
    with what is known of it, such as so many classes with their probabilities.
    """

    changed: Callable[[np.ndarray, np.ndarray, float], np.ndarray]
    named: Callable[[np.ndarray, dict[str, Any]], str]
    said: Callable[[np.ndarray, dict[str, Any], int], str]


def decoding_of(about: dict[str, Any]) -> Decoding:
    """What preprocessing.json says of the outputs."""
    name = about.get("decoding")
    if name not in DECODINGS:
        raise Refused(f"preprocessing.json: decoding {name!r} is none of {', '.join(DECODINGS)}; make the bundle again")
    return DECODINGS[name]


def likeliest(logits: np.ndarray, about: dict[str, Any], top: int) -> str:
    """Classes with their softmax probabilities."""
    shares = np.exp(logits - logits.max())
    return listed(shares / shares.sum(), about["labels"], top)


def each_label(logits: np.ndarray, about: dict[str, Any], top: int) -> str:
    """Labels, each with its own probability."""
    return listed(1 / (1 + np.exp(-logits)), about["labels"], top)


def listed(shares: np.ndarray, labels: list[str], top: int) -> str:
    best = np.argsort(-shares, kind="stable")[:top]
    return "  ".join(f"{labels[index]} {100 * shares[index]:.1f} %" for index in best)


def labels_of(logits: np.ndarray, about: dict[str, Any]) -> str:
    return ", ".join(label for label, score in zip(about["labels"], logits) if score > 0) or "none"


def number(output: np.ndarray, about: dict[str, Any]) -> str:
    """The number that is predicted, in the unit of the data."""
    target = about["target"]
    return f"{target['mean'] + target['std'] * float(output[0]):.4g}"


def written(output: np.ndarray, about: dict[str, Any], top: int = MOST_SHOWN) -> str:
    """The first values of an output that is a vector, or means nothing here."""
    values = " ".join(f"{value:.4g}" for value in output.ravel()[:top])
    return values + (" ..." if output.size > top else "")


def beyond(outputs: np.ndarray, expected: np.ndarray, allowed: float) -> np.ndarray:
    return ~(np.abs(outputs - expected).reshape(len(expected), -1).max(1) <= allowed)


def repainted(outputs: np.ndarray, expected: np.ndarray, _allowed: float) -> np.ndarray:
    """Which images have another class at more than one pixel in a hundred."""
    return (outputs.argmax(1) != expected.argmax(1)).reshape(len(outputs), -1).mean(1) > 0.01


def said_objects(output: np.ndarray, about: dict[str, Any], top: int) -> str:
    things = objects_in(output, about, about["shape"][-2:])
    more = f"  and {len(things) - top} more" if len(things) > top else ""
    return ("  ".join(in_line(thing) for thing in things[:top]) or "nothing") + more


def named_objects(output: np.ndarray, about: dict[str, Any]) -> str:
    return said_objects(output, about, MOST_SHOWN)


DECODINGS = {
    "softmax": Decoding(
        lambda found, expected, _: found.argmax(1) != expected.argmax(1),
        lambda logits, about: str(about["labels"][logits.argmax()]),
        likeliest,
    ),
    "sigmoid": Decoding(
        lambda found, expected, _: ((found > 0) != (expected > 0)).any(1),
        labels_of,
        each_label,
    ),
    "number": Decoding(beyond, number, lambda output, about, _: f"{about['labels'][0]} {number(output, about)}"),
    "spans": Decoding(
        lambda found, expected, _: (found.argmax(1) != expected.argmax(1)).any(1),
        token_tags,
        token_tags,
    ),
    "mask": Decoding(repainted, named_objects, said_objects),
    "boxes": Decoding(beyond, named_objects, said_objects),
    "transcript": Decoding(
        lambda found, expected, _: np.array([greedy(one) != greedy(two) for one, two in zip(found, expected)]),
        text_of,
        text_of,
    ),
    "vector": Decoding(beyond, written, written),
    "none": Decoding(beyond, written, written),
}
"""By the name that preprocessing.json gives; "none" are outputs that only the task's own code understands."""


def latency(predict: Predict, inputs: Arrays, threads: int, seconds: float) -> dict[str, Any]:
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
    size = len(arrays_of(inputs)[0])
    return {
        "batch": size, "threads": threads, "runs": len(times), "p50_ms": 1e3 * median, "p95_ms": p95,
        "p99_ms": p99, "throughput_per_s": size / median,
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
    beside = {".xml": ".bin", ".c": ".h"}.get(model.suffix)
    parts = [model.name, *([model.with_suffix(beside).name] if beside else [])]
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


def show_outputs(sample: str, outputs: dict[str, np.ndarray]) -> None:
    """Several outputs of a model, each as its shape and range: what they mean is the caller's."""
    for name, array in outputs.items():
        print(f"{sample}: {name} {array.shape}, {array.min():.4g} to {array.max():.4g}")


def show_spans(sample: str, found: Sequence[Span]) -> None:
    """Each span of a text on its line."""
    for span in found:
        print(f"{printable(sample)}: {span_in_words(span)}")
    if not found:
        print(f"{printable(sample)}: none")


def search_of(width: int, words: Path | None, ngram: Path | None, about: dict[str, Any]) -> Search:
    """The search for texts that is asked for."""
    if not width and (words or ngram):
        raise Refused("a word list or an n-gram model is for a beam search; say how wide it is, such as --beam 8")
    if width and about.get("decoding") != "transcript":
        raise Refused("--beam is for models that write a text, which this one does not")
    if width < 0:
        raise Refused(f"--beam {width}: follow one text at least")
    return Search(width, read_words(words) if words else frozenset(), read_arpa(ngram) if ngram else None)


def is_streamed(sample: str, about: dict[str, Any], stream: bool) -> bool:
    """Whether a sample is heard chunk by chunk: where that is asked for, and texts of clips longer than the window."""
    if about.get("decoding") != "transcript":
        if stream:
            raise Refused("--stream is for models that write a text, which this one does not")
        return False
    is_wav = sample != "-" and not sample.endswith(".npy") and Path(sample).is_file()
    return stream or (is_wav and len(read_wav(Path(sample), about["rate"])) > about["shape"][0])


def show_text(
    sample: str, parts: Iterator[tuple[float, float, str]], about: dict[str, Any], stream: bool
) -> None:  # fmt: skip
    """The text of a clip, or what every chunk adds to it."""
    if not stream:
        print(f"{printable(sample)}: {whole_text([text for _, _, text in parts], about)}")
        return
    for begin, end, text in parts:
        if text:
            print(f"{printable(sample)}, {begin:.2f} to {end:.2f} s: {text}", flush=True)


def show_objects(sample: Path, outputs: np.ndarray, about: dict[str, Any], given: argparse.Namespace) -> None:
    """What is found in an image, line by line; the image with it drawn, where that is asked for."""
    is_image = sample.suffix != ".npy"
    for number, output in enumerate(outputs):
        place = f"{sample}[{number}]" if len(outputs) > 1 else str(sample)
        things = objects_in(output, about, image_size(sample) if is_image else about["shape"][-2:])
        print(f"{place}: {len(things)} {'classes' if about['decoding'] == 'mask' else 'objects'}")
        for thing in things:
            print(f"  {in_line(thing)}")
    if given.draw and is_image:
        given.draw.mkdir(parents=True, exist_ok=True)
        drawn(sample, outputs[0], about).save(given.draw / f"{sample.stem}.png")


def show_times(times: list[dict[str, Any]]) -> None:
    for entry in times:
        print(
            f"batch {entry['batch']}, {entry['threads']} thread(s): p50 {entry['p50_ms']:.3f} ms,"
            f" p95 {entry['p95_ms']:.3f} ms, {entry['throughput_per_s']:.0f} samples/s ({entry['runs']} runs)"
        )


def arguments_of(arguments: list[str] | None) -> argparse.Namespace:
    """What the command line asks for; ends the program where that makes no sense."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", nargs="*", help="image files, WAV files, rows, texts, .npy; none: check")
    parser.add_argument("--time", action="store_true", help="time the model file on this machine")
    parser.add_argument("--json", type=Path, help="with --time: write the measurement here")
    parser.add_argument("--draw", type=Path, help="of boxes and masks: a folder for the images with them drawn")
    parser.add_argument("--threads", type=int, help="threads of the runtime (those of the card)")
    parser.add_argument("--batch", type=int, default=32, help="samples per call where throughput is measured (32)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a size of batch is timed (2)")
    parser.add_argument("--beam", type=int, default=0, help="texts of sound: follow so many texts at once")
    parser.add_argument("--words", type=Path, help="with --beam: a file of the words that a text may have")
    parser.add_argument("--ngram", type=Path, help="with --beam: an n-gram model of words in the ARPA format")
    parser.add_argument("--stream", action="store_true", help="texts of sound: chunk by chunk; - is raw int16 input")
    parser.add_argument("--out", type=Path, help="embeddings: write the vectors of all samples here, as .npy")
    parser.add_argument("--top", type=int, default=3, help="how many classes to name (3)")
    given = parser.parse_args(arguments)
    if min(given.threads or 1, given.batch, given.top) < 1 or given.threads == 0:
        parser.error("--threads, --batch and --top are at least 1")
    if given.json and not given.time:
        parser.error("--json writes what --time measures; add --time")
    return given


def show_samples(given: argparse.Namespace, predict: Predict, about: dict[str, Any], folder: Path) -> None:
    """Prints what the model says of each sample of the command line, and writes the vectors that --out asks for."""
    pair = bool(about.get("pair")) and not any(one.endswith(".npy") for one in given.samples)
    if pair and len(given.samples) % 2:
        raise Refused(f"this model compares two texts, but {len(given.samples)} are given; give both")
    search = search_of(given.beam, given.words, given.ngram, about)
    embeddings: list[np.ndarray] = []
    for first in range(0, len(given.samples), 2 if pair else 1):
        sample, second = given.samples[first], given.samples[first + 1] if pair else ""
        if about.get("decoding") == "spans" and about.get("tokenizer") and not sample.endswith(".npy"):
            show_spans(sample, spans(sample, predict, about, read_tokenizer(folder / "tokenizer.json")))
            continue
        if is_streamed(sample, about, given.stream):
            if given.beam:
                raise Refused(f"{sample}: {NO_BEAM}")
            show_text(sample, written_down(predict, about, in_chunks(sample, about)), about, given.stream)
            continue
        inputs, notes = prepared(sample, about, folder, second)
        sample += f" | {second}" if pair else ""
        for note in notes:
            print(note, file=sys.stderr)
        outputs = run(predict, inputs, sample)
        if given.beam:
            for row in arrays_of(outputs)[0]:
                print(f"{printable(sample)}: {spelt(sought(row, about['labels'], search), about['labels'])}")
        elif about.get("decoding") in ("boxes", "mask"):
            show_objects(Path(sample), joined_heads(outputs), about, given)
        elif isinstance(outputs, dict):
            show_outputs(sample, outputs)
        elif given.out and about.get("decoding") == "vector":
            embeddings.append(outputs)
        else:
            for number, logits in enumerate(outputs):
                place = f"{sample}[{number}]" if len(outputs) > 1 else sample
                print(f"{place}: {decoding_of(about).said(logits, about, given.top)}")
    if given.out:
        if not embeddings:
            raise Refused("--out writes vectors of samples; this model gives none")
        np.save(given.out, np.concatenate(embeddings))


def show_speed(given: argparse.Namespace, predict: Predict, model: Path, hashes: dict[str, str], threads: int) -> None:
    """Times the model alone and in a batch, prints the times, and writes the measurement that --json asks for."""
    vectors = read_tensors(model.parent / "vectors.safetensors")
    one = each(lambda array: array[:1], vectors_of("inputs", vectors))
    batches = [each(lambda array: np.repeat(array, size, axis=0), one) for size in sorted({1, given.batch})]  # noqa: B023
    run(predict, batches[-1], f"--batch {given.batch}")
    times = [latency(predict, batch, threads, given.seconds) for batch in batches]
    show_times(times)
    if given.json:
        given.json.write_text(json.dumps(measurement(model, hashes, times), indent=1) + "\n")


def main(arguments: list[str] | None = None, folder: Path | None = None) -> int:
    """The command line; returns the exit code."""
    given = arguments_of(arguments)
    folder = folder or Path(__file__).resolve().parent
    try:
        card, about = read_card(folder), read_about(folder)
        model = folder / card["model"]
        threads, options = setting_of(card, folder)
        threads = given.threads or threads
        predict = load(model, threads, options)
        show_samples(given, predict, about, folder)
        if given.time:
            show_speed(given, predict, model, card["sha256"], threads)
        elif not given.samples:
            result = check(predict, read_tensors(folder / "vectors.safetensors"), about)
            print(*result.lines, sep="\n")
            return 0 if result.passed else DIVERGES
    except (Refused, OSError) as error:
        print(*(printable(line) for line in str(error).splitlines()[:MOST_LINES]), sep="\n", file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
