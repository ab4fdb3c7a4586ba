"""quantize_file(): a user's own float32 ONNX file becomes an int8 file, measured beside it without labels."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import torch
from torch import Tensor

from distiq.commands.bench import THROUGHPUT_BATCH, Shape, bench
from distiq.commands.quantize_graph import GraphFiles, Timing, quantize_graph, slower
from distiq.data.calls import names_in
from distiq.data.inputs import Preparation, channels_last, read_inputs, read_named_inputs
from distiq.errors import UserError
from distiq.models.from_onnx import OnnxNetwork, read_onnx
from distiq.models.onnx_inputs import MASK, one_input
from distiq.models.onnx_operations import EXPORT_AGAIN
from distiq.models.signature import (
    Predict,
    Tensors,
    TensorSpec,
    batch_size,
    call,
    concatenated,
    each,
    one_output,
    split,
    tensors_of,
)
from distiq.numerics import drawn, sqnr_db
from distiq.progress import Silent, Watch
from distiq.quantization.joints import Joint, parts_of, unlike_joints
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import RangeMethod, Scheme
from distiq.records.run import OwnFileRecord
from distiq.runtimes.export import export, load, operations, pair_sums, refusal, require, runtime_of
from distiq.runtimes.onnx_runtime import ONNX_RUNTIME, rename_inputs_and_outputs
from distiq.runtimes.runtime import Runtime
from distiq.runtimes.uint8_input import Uint8Input
from distiq.tasks.classification import agreement as same_predictions

COMPARED = 2048
CHUNK = 32
SAME_DB = 60.0  # that a network read from a file must reach against it; float32 sums in another order reach > 100


def scheme_of(
    ranges: RangeMethod,
    rounding: Any,
    equalize: bool,
    weight_bits: int,
    reduce_range: bool,
    iterations: int = 300,
    mode: Any = "static",
    group_size: int = 0,
    integer_io: bool = False,
    attention: bool = False,
) -> Scheme:
    """The scheme that a command line's options name; equalizing corrects the biases, too.

    Raises:
        UserError: no such number of bits, fewer than 8 in a reduced range, or a mode that does not go with the others.
    """
    widths = get_args(get_type_hints(Scheme)["weight_bits"])
    if weight_bits not in widths:
        raise UserError(f"--weight-bits {weight_bits}: distiq quantizes weights to {', '.join(map(str, widths))} bits")
    if reduce_range and weight_bits < 8:
        raise UserError(f"--reduce-range changes nothing at --weight-bits {weight_bits}; leave one of the two out")
    return Scheme(
        weight_bits=weight_bits,  # type: ignore[arg-type]
        ranges=ranges,
        rounding=rounding,
        iterations=iterations,
        equalize=equalize,
        correct_biases=equalize,
        reduce_range=reduce_range,
        mode=mode,
        group_size=group_size,
        integer_io=integer_io,
        attention=attention,
    )


def quantize_file(
    source: Path,
    data: Path,
    out: Path,
    scheme: Scheme,
    preparation: Preparation,
    *,
    samples: int = 512,
    min_sqnr: float = 20.0,
    uint8_input: bool = False,
    pad: int = 0,
    threads: int = 1,
    rounds: int = 10,
    seconds: float = 0.2,
    watch: Watch | None = None,
) -> OwnFileRecord:
    """Quantizes a float32 ONNX file, writes the int8 or float16 file, and measures both on samples not calibrated on.

    A file that distiq can read becomes a torch graph first, which works with every rounding and every runtime. Any
    other is quantized directly as an ONNX graph, if `out` is .onnx, too; so is one that the torch graph made slower,
    or less accurate than `min_sqnr`; see `quantize_graph`.

    Args:
        data: an array of ready inputs (N, ...) as .npy or .npz; of several inputs an .npz with one array for
            each by its name, or a folder of images; see `read_inputs`.
        out: its ending names the runtime; see `export`.
        samples: to calibrate on, at most half of what there is; up to 2048 others are compared.
        min_sqnr: the SQNR in dB that every output of an ONNX graph has to reach; see `deliver`.
        uint8_input: the int8 file takes uint8 images, whose size is right already, and prepares them itself.
        pad: for texts, the padding token's number; a file that also takes a mask becomes one that computes it.
        rounds, seconds: of the timing; see `bench`.

    Raises:
        UserError: a file cannot be read or written, the data does not fit the network, or its outputs are not finite.
    """
    watch = watch or Silent()
    source, out = Path(source), Path(out)
    if source.suffix != ".onnx":
        raise UserError(f"{source}: distiq quantizes .onnx files of float32; {EXPORT_AGAIN}")
    runtime = runtime_of(out)
    require(runtime, to_write=True)
    if scheme.integer_io and not runtime.integer_io:
        raise UserError(f"{out}: --integer-io is for .tflite files; leave it out, or name such a file")
    if why := refusal(runtime, scheme.mode, scheme.activation_bits, scheme.group_size):
        raise UserError(f"{out}: {why}")
    if out.resolve() == source.resolve():
        raise UserError(f"{out}: is the float32 file itself; give another name to --out")
    if uint8_input and not data.is_dir():
        raise UserError(f"{data}: --uint8-input is for a folder of images: their preparation goes into the file")
    watch.stage("reading the network and the samples")
    with tempfile.TemporaryDirectory(prefix="distiq-") as folder:
        taken = source if MASK in names_in(data) else one_input(source, Path(folder), pad)
        files, timing = GraphFiles(source, taken, data, out, Path(folder)), Timing(threads, rounds, seconds)
        if not _takes_any_graph(runtime, scheme) or uint8_input:
            return _through_torch(files, scheme, preparation, samples, uint8_input, timing, watch)
        try:
            record = _through_torch(files, scheme, preparation, samples, uint8_input, timing, watch)
        except UserError as refused:
            why = str(refused).removeprefix(f"{source}: ").partition("; ")[0]
            try:
                return quantize_graph(files, scheme, preparation, why, samples, min_sqnr, timing, watch)
            except UserError as error:
                raise refused if str(data) in str(refused) else error from None
        why = _shortcoming(record, min_sqnr)
        if not why:
            return record
        try:
            return quantize_graph(files, scheme, preparation, why, samples, min_sqnr, timing, watch)
        except UserError as error:
            return record.model_validate(record.model_dump() | {"notes": (*record.notes, f"{why}; {error}")})


def _shortcoming(record: OwnFileRecord, least_db: float) -> str:
    """What a file quantized through a torch graph lacks; empty if nothing."""
    before, after = (file.latency[0].p50_ms for file in record.bench.files)
    if record.delivered != "int8":
        return ""
    if record.sqnr_db < least_db:
        return f"through a torch graph it has {record.sqnr_db:.1f} dB"
    return (
        f"through a torch graph a call takes {after:.3g} ms, {before:.3g} in float32" if slower(after, before) else ""
    )


def _through_torch(
    files: GraphFiles,
    scheme: Scheme,
    preparation: Preparation,
    samples: int,
    uint8_input: bool,
    timing: Timing,
    watch: Watch,
) -> OwnFileRecord:
    """Reads the network, quantizes and writes it.

    Raises:
        UserError: as `quantize_file` does, or distiq cannot read the network.
    """
    source, out, runtime, threads = files.source, files.out, runtime_of(files.out), timing.threads
    read = _read(source, files.taken, files.data, preparation, samples, threads)
    calibration, held_out, reference = read.calibration, read.held_out, read.reference
    watch.stage(f"quantizing on {batch_size(calibration)} samples: {scheme}")
    if uint8_input and channels_last(tensors_of(calibration)[0].shape[1:]):
        raise UserError(f"{source}: --uint8-input is for images whose channels stand in front; leave it out")
    inside = Uint8Input(*preparation.of_channels(tensors_of(calibration)[0].shape[1])) if uint8_input else None
    quantized = quantize(read.network, calibration, scheme, watch=watch)
    joints = unlike_joints(quantized.prepared, each(lambda one: one[:CHUNK], calibration))
    export(quantized, out, each(lambda one: one[:2], calibration), inside, scheme.integer_io)
    if runtime is ONNX_RUNTIME:
        rename_inputs_and_outputs(out, read.network.entries, list(read.network.results))
    watch.stage(f"comparing on {batch_size(held_out)} other samples")
    outputs = _outputs(load(out, threads), each(preparation.pixels, held_out) if uint8_input else held_out, CHUNK)
    timed = bench(
        [source, out],
        threads=threads,
        batch=THROUGHPUT_BATCH,
        rounds=timing.rounds,
        seconds=timing.seconds,
        shape=_shape(calibration),
        watch=watch,
    )
    by_output = _sqnr(reference, outputs, joints)
    has_classes = isinstance(reference, Tensor) and reference.ndim == 2 and reference.shape[1] > 1
    return OwnFileRecord(
        bench=timed,
        scheme=str(quantized.scheme),
        calibration_samples=batch_size(calibration),
        compared_samples=batch_size(held_out),
        sqnr_db=min(by_output.values()),
        sqnr_by_output=by_output if len(by_output) > 1 else {},
        agreement=same_predictions(one_output(reference), one_output(outputs)) if has_classes else None,
        float_operations=runtime.float_operations(out),
        operations=operations(out),
        pair_sums=pair_sums(out),
        delivered="float16 weights" if scheme.mode == "float16" else "int8",
        notes=("quantized through a torch graph", *map(str, joints)),
    )


def _takes_any_graph(runtime: Runtime, scheme: Scheme) -> bool:
    """Whether a scheme is possible without a torch graph."""
    if scheme.mode == "float16":
        return runtime is ONNX_RUNTIME
    plain = Scheme(ranges=scheme.ranges, rounding=scheme.rounding, iterations=scheme.iterations)
    return runtime is ONNX_RUNTIME and scheme.rounding in ("nearest", "gptq") and scheme == plain


class _Read(NamedTuple):
    """A network, inputs to calibrate on, others, and the float32 file's outputs for the latter."""

    network: OnnxNetwork
    calibration: Tensors
    held_out: Tensors
    reference: Tensors


def _read(source: Path, taken: Path, data: Path, preparation: Preparation, samples: int, threads: int) -> _Read:
    """The network of a file and the samples, each tried on the other.

    Args:
        taken: what is read in place of `source`; see `one_input`.
    """
    inputs = runtime_of(source).signature(taken).inputs
    for spec in inputs:
        if not spec.shape or spec.shape[0] > 1:
            own = f'its input "{spec.name}"'
            fixed = f"{own} is fixed to {spec.shape[0]} in front" if spec.shape else f"{own} has no batch"
            raise UserError(f"{source}: {fixed}; {EXPORT_AGAIN}, with a dynamic batch")
    calibration, held_out = _inputs(data, inputs, preparation, samples)
    predict = load(taken, threads)
    alone = any(spec.shape[0] == 1 for spec in inputs)
    try:
        _, reference = (_outputs(predict, part, 1 if alone else CHUNK) for part in (calibration, held_out))
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    except Exception as error:  # every runtime raises its own exception types
        raise UserError(f"{data}: {source} does not run on these samples: {str(error).splitlines()[0]}") from error
    try:
        network = read_onnx(taken, each(lambda one: one[:1], calibration))
    except UserError as error:
        raise UserError(str(error).replace(str(taken), str(source))) from error
    network.fixed_length = inputs[0].shape[-1] > 0
    if not all(torch.isfinite(one).all() for one in tensors_of(reference)):
        raise UserError(f"{source}: the float32 file gives NaN or infinite values for these samples")
    chosen = drawn(batch_size(held_out), CHUNK)
    few = [each(lambda one: one[chosen], part) for part in (reference, held_out)]
    with torch.no_grad():
        read = min(_sqnr(few[0], call(network, few[1])).values())
    if read < SAME_DB:
        raise UserError(
            f"{source}: distiq reads this network differently from ONNX Runtime ({read:.0f} dB); {EXPORT_AGAIN}"
        )
    return _Read(network, calibration, held_out, reference)


def _inputs(
    data: Path, inputs: Sequence[TensorSpec], preparation: Preparation, samples: int
) -> tuple[Tensors, Tensors]:
    """Inputs to calibrate on, and others to compare on."""
    if len(inputs) == 1:
        return read_inputs(data, inputs[0].shape[1:], inputs[0].dtype, preparation, samples, COMPARED)
    stated = {spec.name: (spec.shape[1:], spec.dtype) for spec in inputs}
    return read_named_inputs(data, stated, samples, COMPARED)


def _outputs(predict: Predict, inputs: Tensors, chunk: int) -> Tensors:
    results = [each(torch.Tensor.float, predict(part)) for part in split(inputs, chunk)]
    sizes = [[tuple(one.shape[1:]) for one in tensors_of(result)] for result in results]
    if any(size != sizes[0] for size in sizes):
        raise UserError("its outputs have other sizes for other samples")
    return concatenated(results)


def _sqnr(reference: Tensors, outputs: Tensors, joints: Sequence[Joint] = ()) -> dict[str, float]:
    """The SQNR of each output by its name, in dB, and of each part of what is joined; "" is the only one."""
    if isinstance(reference, Tensor):
        own = one_output(outputs)
        if parts := parts_of(joints, own):
            return {name: sqnr_db(one, parts[name]) for name, one in parts_of(joints, reference).items()}
        return {"": sqnr_db(reference, own)}
    assert isinstance(outputs, dict)
    return {name: sqnr_db(one, outputs[name]) for name, one in reference.items()}


def _shape(inputs: Tensors) -> Shape:
    """Of one sample, by name where there are several inputs."""
    if isinstance(inputs, Tensor):
        return tuple(inputs.shape[1:])
    return {name: tuple(one.shape[1:]) for name, one in inputs.items()}
