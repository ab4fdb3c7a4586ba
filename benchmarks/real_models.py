"""`distiq quantize` against onnxruntime's quantize_static on ONNX files that other people made.

    python benchmarks/real_models.py MODEL.onnx SAMPLES.npy [MODEL.onnx SAMPLES.npz ...] [--out real_models.json]

Every tool calibrates on the same 64 samples and is compared on the same others, at most 64, that none of them saw:
SQNR of the worst output, predictions that change, bytes of the file. All files of a model, the float32 one too, are
timed in turns at the smallest batch on one thread. quantize_static has its own preparation (`quant_pre_process` of the
file raised to opset 13; where that fails, distiq's opened graph), QDQ, per-channel weights, min-max or percentile
ranges. NNCF only where it is installed.
"""

import argparse
import importlib.util
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx.version_converter
import torch
from onnxruntime import quantization as peer
from onnxruntime.quantization.shape_inference import quant_pre_process

from distiq import environment
from distiq.commands.compare_calls import compared
from distiq.commands.quantize_file import quantize_file
from distiq.commands.quantize_graph import inputs_of
from distiq.data.calls import Calls, names_in, read_calls
from distiq.data.inputs import Preparation
from distiq.files import write_atomically
from distiq.quantization.scheme import Scheme
from distiq.runtimes.onnx_qdq import open_graph
from distiq.runtimes.onnx_session import open_session
from distiq.timing.latency import latencies

SAMPLES = 64
PER_CHANNEL_OPSET = 13


class Reader(peer.CalibrationDataReader):
    """Calls one after the other, as quantize_static wants them."""

    def __init__(self, calls: Calls) -> None:
        self.calls = iter(calls.one_by_one())

    def get_next(self) -> Any:
        return next(self.calls, None)


def by_quantize_static(prepared: Path, out: Path, calls: Calls, ranges: peer.CalibrationMethod) -> None:
    peer.quantize_static(
        str(prepared), str(out), Reader(calls), quant_format=peer.QuantFormat.QDQ, per_channel=True,
        activation_type=peer.QuantType.QUInt8, weight_type=peer.QuantType.QInt8, calibrate_method=ranges,
    )  # fmt: skip


def by_nncf(source: Path, out: Path, calls: Calls) -> None:
    import nncf

    data = nncf.Dataset(list(calls.one_by_one()))
    onnx.save(nncf.quantize(onnx.load(str(source)), data, subset_size=calls.samples), str(out))


def figures(source: Path, data: Path, folder: Path) -> dict[str, Any]:
    """Of every tool by its name: what its file is beside the float32 one, or why there is none."""
    model = open_graph(source, names_in(data), folder)
    calls, others = read_calls(data, inputs_of(model, str(source)), Preparation(), SAMPLES, SAMPLES)
    prepared = folder / "prepared.onnx"
    try:
        raised = onnx.load(str(source))
        if raised.opset_import[0].version < PER_CHANNEL_OPSET:  # else it writes what its runtime does not load
            raised = onnx.version_converter.convert_version(raised, PER_CHANNEL_OPSET)
        onnx.save(raised, str(prepared))
        quant_pre_process(str(prepared), str(prepared), skip_symbolic_shape=True)
    except Exception:  # it knows fewer graphs than its runtime
        onnx.save(model, str(prepared))
    notes: list[str] = []

    def by_distiq(out: Path) -> None:
        record = quantize_file(source, data, out, Scheme(rounding="gptq"), Preparation(), samples=SAMPLES, rounds=1)
        notes.extend([record.delivered, *record.notes])

    tools: dict[str, Callable[[Path], None]] = {
        "distiq": by_distiq,
        "quantize_static min-max": lambda out: by_quantize_static(prepared, out, calls, peer.CalibrationMethod.MinMax),
        "quantize_static percentile": lambda out: by_quantize_static(
            prepared, out, calls, peer.CalibrationMethod.Percentile
        ),
    }
    if importlib.util.find_spec("nncf"):
        tools["nncf"] = lambda out: by_nncf(source, out, calls)
    reference, sessions, found = open_session(source, 1), {}, dict[str, Any]()
    for name, make in tools.items():
        out = folder / f"{len(found)}.onnx"
        try:
            make(out)
            sessions[name] = open_session(out, 1)
            comparison = compared(reference, sessions[name], others)
        except Exception as error:  # each tool raises its own kinds; that it fails is a figure, too
            found[name] = {"fails": str(error).splitlines()[0][:200]}
            continue
        flips = 1 - min(comparison.agreement.values(), default=1.0)
        found[name] = {"sqnr_db": comparison.worst_db, "flips": flips, "bytes": out.stat().st_size}
    feed = next(iter(others.one_by_one()))
    runs = {name: lambda _, one=one: one.run(None, feed) for name, one in ({"float32": reference} | sessions).items()}
    found["float32"] = {"bytes": source.stat().st_size}
    for name, timed in latencies(runs, torch.zeros(1), 1, rounds=8, seconds=0.25).items():
        found[name]["p50_ms"] = timed.p50_ms
    return {"samples": calls.samples, "compared": others.samples, "notes": notes, "tools": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="a model and its samples, in pairs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/real_models.json"))
    arguments = parser.parse_args()
    results = {}
    for source, data in zip(arguments.files[::2], arguments.files[1::2], strict=True):
        with tempfile.TemporaryDirectory() as folder:
            results[source.name] = figures(source, data, Path(folder))
        print(source.name, json.dumps(results[source.name], indent=1), flush=True)
        document = {"environment": environment.describe().model_dump(), "models": results}
        write_atomically(arguments.out, (json.dumps(document, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
