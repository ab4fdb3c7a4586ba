"""Static int8 of an ONNX graph as it is: what `quantize_file` does with files that become no torch graph.

Every operation that is not quantized stays as it was and computes in float32. What is written is measured against the
float32 file on samples that calibration did not see, and is never worse: where int8 is too far from it, or slower, the
noisiest layers go back to float32 one by one, and where that does not help the weights are stored in float16.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from onnx import ModelProto

from distiq.commands.bench import THROUGHPUT_BATCH, bench
from distiq.commands.calibrate_graph import Calibrated, calibrate
from distiq.commands.compare_calls import Comparison, compared
from distiq.data.calls import Calls, Input, names_in, read_calls
from distiq.data.inputs import Preparation
from distiq.errors import UserError
from distiq.files import write_atomically
from distiq.models.onnx_file import every_node, subgraphs_of
from distiq.progress import Watch
from distiq.quantization.scheme import Scheme
from distiq.records.run import OwnFileRecord
from distiq.runtimes.export import operations, pair_sums
from distiq.runtimes.onnx_half import round_to_halves
from distiq.runtimes.onnx_origins import Origins, origins_of, with_origins
from distiq.runtimes.onnx_plan import STANDARD
from distiq.runtimes.onnx_qdq import open_graph
from distiq.runtimes.onnx_runtime import ONNX_RUNTIME
from distiq.runtimes.onnx_session import open_session
from distiq.timing.latency import latencies

COMPARED = 256  # samples at most, each of which both graphs run at every attempt
TRIED = 16  # samples on which a layer's own noise is measured
SLOWER = 1.03  # than float32: less cannot be told from the noise of the measurement
CALL_MS = 0.02  # what a call itself takes
TURNS, TURN_S = 6, 0.1  # of the timing that decides
WORTH_BYTES = 2**14  # by which a file has to be smaller to be chosen instead
PARTS = 8  # steps in which layers go back to float32 for speed
HALVES = "the file holds float16 weights, computed in float32"
NO_MIXTURE = f"no mixture of int8 and float32 layers was better: {HALVES}"
NAMED = {"Loop", "Scan", "LSTM", "GRU", "RNN"}
"""Operations that are carried through and named, beside those of other domains than ONNX's own."""


class GraphFiles(NamedTuple):
    """The float32 file, what is read in its place (see `one_input`), samples, the file to write, a temporary folder."""

    source: Path
    taken: Path
    data: Path
    out: Path
    folder: Path


class Timing(NamedTuple):
    """How files are timed; see `bench`."""

    threads: int
    rounds: int
    seconds: float


def slower(ms: float, than_ms: float) -> bool:
    """Whether a call takes longer, by more than the noise of the measurement."""
    return ms > SLOWER * than_ms + CALL_MS


def quantize_graph(
    files: GraphFiles,
    scheme: Scheme,
    preparation: Preparation,
    why: str,
    samples: int,
    min_sqnr: float,
    timing: Timing,
    watch: Watch,
) -> OwnFileRecord:
    """Writes the int8 file of a graph, or a better one, and measures it; see `quantize_file`.

    Args:
        why: what kept the file from going through a torch graph.

    Raises:
        UserError: the data does not fit, nothing in the graph could be int8, or nothing is better than float32.
    """
    name, threads = str(files.source), timing.threads
    model = open_graph(files.taken, names_in(files.data), files.folder)
    calibration, held_out = read_calls(files.data, inputs_of(model, name), preparation, samples, COMPARED)
    exact, carried = _Exact.of(files.taken, model, threads), list[str]()
    if scheme.mode == "float16":
        watch.stage(f"comparing on {held_out.samples} other samples")
        delivered = _in_half(model, exact, held_out, min_sqnr, ())
    else:
        watch.stage(f"quantizing the ONNX graph on {calibration.samples} samples")
        calibrated = calibrate(model, calibration, scheme, name)
        watch.stage(f"comparing on {held_out.samples} other samples")
        delivered = deliver(calibrated, exact, held_out, threads, min_sqnr, watch)
        carried = _carried(calibrated)
    write_atomically(files.out, delivered.model.SerializeToString())
    call = {key: torch.from_numpy(np.array(one)) for key, one in next(iter(held_out.one_by_one())).items()}
    is_own = files.taken == files.source
    timed = bench(
        [files.source, files.out],
        threads=threads,
        batch=THROUGHPUT_BATCH,
        rounds=timing.rounds,
        seconds=timing.seconds,
        shape={} if is_own else {key: tuple(one.shape[1:]) for key, one in call.items()},
        sample=call if is_own else None,
        watch=watch,
    )
    sqnr, agreement = delivered.comparison.sqnr_db, delivered.comparison.agreement
    return OwnFileRecord(
        bench=timed,
        scheme=str(replace(scheme, rounding="nearest")) if delivered.kind == "int8" else delivered.kind,
        calibration_samples=calibration.samples,
        compared_samples=held_out.samples,
        sqnr_db=delivered.comparison.worst_db,
        sqnr_by_output=sqnr if len(sqnr) > 1 else {},
        agreement=min(agreement.values(), default=None),
        agreement_by_output=agreement if len(agreement) > 1 else {},
        delivered=delivered.kind,
        notes=(
            f"quantized as the ONNX graph that it is: {why}",
            *carried,
            *_measured(exact.origins, delivered.comparison),
            *delivered.notes,
        ),
        float_operations=ONNX_RUNTIME.float_operations(files.out),
        operations=operations(files.out),
        pair_sums=pair_sums(files.out) if delivered.kind == "int8" else "",
    )


def _carried(calibrated: Calibrated) -> list[str]:
    """Names operations that distiq does not look into, and branches in which it quantizes nothing."""
    nodes, layers = list(every_node(calibrated.model.graph)), {layer.name for layer in calibrated.plan.layers}
    names = [f"{node.op_type} ({node.domain})" for node in nodes if node.domain not in STANDARD]
    names += [node.op_type for node in nodes if node.op_type in NAMED]
    within = [(node, {inner.name for one in subgraphs_of(node) for inner in every_node(one)}) for node in nodes]
    names += ["If" for node, inside in within if node.op_type == "If" and not inside & layers]
    return [f"carried through unchanged, in float32: {', '.join(dict.fromkeys(names))}"] if names else []


def _measured(origins: Origins, comparison: Comparison) -> list[str]:
    """Says which outputs are compared by what they are made from."""
    notes = [
        f'"{name}" is chosen among values; these are compared: {", ".join(of)}' for name, of in origins.chosen.items()
    ]
    for name, (part, own_db) in comparison.hidden.items():
        whole_db = comparison.sqnr_db[name]
        notes.append(
            f'"{name}" has {whole_db:.1f} dB as a whole, "{part}", which is joined to it, {own_db:.1f} dB alone: a'
            " higher --min-sqnr keeps more layers in float32"
        )
    return notes


def inputs_of(model: ModelProto, name: str) -> list[Input]:
    """What a graph takes.

    Raises:
        UserError: an input is no tensor of numbers.
    """
    session = open_session(model.SerializeToString(), 1, name=name)
    return [_input(one, name) for one in session.get_inputs()]


def _input(stated: Any, name: str) -> Input:
    kind = stated.type.removeprefix("tensor(").removesuffix(")")
    try:
        dtype = np.dtype({"float": "float32", "double": "float64"}.get(kind, kind))
    except TypeError as error:
        raise UserError(f'{name}: the input "{stated.name}" is {stated.type}; distiq feeds numbers alone') from error
    free = {axis: size for axis, size in enumerate(stated.shape) if isinstance(size, str) and size}
    return Input(stated.name, tuple(size if isinstance(size, int) else -1 for size in stated.shape), dtype, free)


class Delivered(NamedTuple):
    """The graph to deliver, how it compares, "int8" or "float16 weights", and notes, a sentence each."""

    model: ModelProto
    comparison: Comparison
    kind: Literal["int8", "float16 weights"]
    notes: tuple[str, ...]


class Attempt(NamedTuple):
    """An int8 graph without some layers: how its outputs compare, and how long a call takes beside float32."""

    model: ModelProto
    without: tuple[str, ...]
    comparison: Comparison
    ms: float
    float_ms: float


class _Exact(NamedTuple):
    """The float32 graph: a session of the file, which is timed, and one that returns what outputs are compared by."""

    timed: Any
    session: Any
    origins: Origins
    threads: int

    @classmethod
    def of(cls, path: Path, model: ModelProto, threads: int) -> "_Exact":
        timed, origins = open_session(path, threads), origins_of(model)
        if not origins.more:
            return cls(timed, timed, origins, threads)
        more = with_origins(model, origins).SerializeToString()
        return cls(timed, open_session(more, threads, name=str(path)), origins, threads)

    def compared(self, model: ModelProto, calls: Calls) -> Comparison:
        more = with_origins(model, self.origins).SerializeToString()
        session = open_session(more, self.threads, name="the quantized graph")
        return compared(self.session, session, calls, self.origins)


class _Search:
    """Takes the noisiest layers back to float32 until the graph is near enough and no slower."""

    def __init__(self, calibrated: Calibrated, exact: _Exact, held_out: Calls, threads: int, least_db: float) -> None:
        self.calibrated, self.exact, self.held_out = calibrated, exact, held_out
        self.threads, self.least_db = threads, least_db

    def attempt(self, without: Sequence[str]) -> Attempt | None:
        """The int8 graph without these layers, compared and timed; None where no layer is left."""
        planned = self.calibrated.without(without)
        if not planned.layers:
            return None
        model = self.calibrated.written(planned)
        session = open_session(model.SerializeToString(), self.threads, name="the int8 graph")
        comparison = self.exact.compared(model, self.held_out)
        times = self._times(session)
        if without and times[0] <= times[1]:  # what was fast by chance is not fast a second time
            times = max(times, self._times(session), key=lambda pair: pair[0] / pair[1])
        return Attempt(model, tuple(without), comparison, *times)

    def _times(self, session: Any) -> tuple[float, float]:
        feed = next(iter(self.held_out.one_by_one()))
        models = {"int8": lambda _: session.run(None, feed), "float32": lambda _: self.exact.timed.run(None, feed)}
        timed = latencies(models, torch.zeros(1), self.threads, TURNS, TURN_S)
        return timed["int8"].p50_ms, timed["float32"].p50_ms

    def holds(self, attempt: Attempt) -> bool:
        """Near and fast enough; a mixture has to be as fast as float32, with no margin but a call's own overhead."""
        limit = attempt.float_ms + CALL_MS
        too_slow = attempt.ms > limit if attempt.without else slower(attempt.ms, attempt.float_ms)
        return attempt.comparison.worst_db >= self.least_db and not too_slow

    def noisiest(self, watch: Watch) -> list[str]:
        """The layers by the noise that each of them alone adds to the worst output, the noisiest first."""
        few, everyone = self.held_out.few(TRIED), [layer.name for layer in self.calibrated.plan.layers]
        watch.stage(f"measuring the noise of each of {len(everyone)} layers")
        alone = {}
        for name in everyone:
            planned = self.calibrated.without([other for other in everyone if other != name])
            model = self.calibrated.written(planned)
            alone[name] = self.exact.compared(model, few).worst_db
        return sorted(everyone, key=alone.__getitem__)

    def best(self, watch: Watch) -> tuple[Attempt | None, list[str]]:
        """The attempt that holds, or None, and what was found on the way."""
        attempt = self.attempt(())
        assert attempt is not None
        if self.holds(attempt):
            return attempt, []
        notes = [f"all {len(self.calibrated.plan.layers)} layers in int8: {_told(attempt)}"]
        order = self.noisiest(watch)
        watch.stage(f"taking the noisiest of {len(order)} layers back to float32")
        taken, step = 0, 1
        while attempt is not None and not self.holds(attempt):
            taken += step
            step = 1 if attempt.comparison.worst_db < self.least_db else max(len(order) // PARTS, 1)
            attempt = self.attempt(order[:taken])
        if attempt is not None:
            kept = ", ".join(attempt.without)
            notes.append(f"{taken} of {len(order)} layers stay in float32, the noisiest: {kept}")
        return attempt, notes


def _told(attempt: Attempt) -> str:
    return f"{attempt.comparison.worst_db:.1f} dB, {attempt.ms:.3g} ms a call beside {attempt.float_ms:.3g} of float32"


def deliver(
    calibrated: Calibrated, exact: _Exact, held_out: Calls, threads: int, least_db: float, watch: Watch
) -> Delivered:
    """The int8 graph that is near enough to float32 and no slower, else one of float16 weights.

    Args:
        least_db: SQNR that every output has to reach on `held_out`.

    Raises:
        UserError: not even float16 weights reach `least_db`.
    """
    attempt, notes = _Search(calibrated, exact, held_out, threads, least_db).best(watch)
    joined = [
        f'"{name}" joins outputs of unlike range: it and what follows stay in float32' for name in calibrated.apart
    ]
    if attempt is not None and (half := _smaller_in_half(attempt, calibrated, exact, held_out, least_db, notes)):
        return half
    if attempt is not None:
        return Delivered(attempt.model, attempt.comparison, "int8", (*joined, *notes))
    untaken = f"int8 is no better than float32 here ({'; '.join(notes)})"
    try:
        return _in_half(calibrated.model, exact, held_out, least_db, (*notes, NO_MIXTURE))
    except UserError as error:
        raise UserError(f"{untaken}, and {error}") from error


def _smaller_in_half(
    attempt: Attempt, calibrated: Calibrated, exact: _Exact, held_out: Calls, least_db: float, notes: list[str]
) -> Delivered | None:
    """The graph with float16 weights, where it is smaller than a mixture that leaves most weights in float32."""
    if not attempt.without:
        return None
    layers = len(calibrated.plan.layers)
    told = f"a mixture would leave {len(attempt.without)} of {layers} layers in float32 and be larger: {HALVES}"
    try:
        half = _in_half(calibrated.model, exact, held_out, least_db, (*notes[:-1], told))
    except UserError:  # weights beyond float16's range
        return None
    return half if half.model.ByteSize() < attempt.model.ByteSize() - WORTH_BYTES else None


def _in_half(model: ModelProto, exact: _Exact, held_out: Calls, least_db: float, notes: tuple[str, ...]) -> Delivered:
    """The graph with float16 weights.

    Raises:
        UserError: it is farther from float32 than `least_db`.
    """
    half = copy.deepcopy(model)
    round_to_halves(half)
    comparison = exact.compared(half, held_out)
    if comparison.worst_db < least_db:
        raise UserError(
            f"float16 weights give {comparison.worst_db:.1f} dB: stay with the float32 file, or lower --min-sqnr"
        )
    return Delivered(half, comparison, "float16 weights", notes)
