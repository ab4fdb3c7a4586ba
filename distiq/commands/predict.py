"""predict(): samples through a bundle's model file."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from distiq.bundle.open import RUNNER, Bundle, Prediction
from distiq.bundle.stream import hear, text_of_clip, write_down
from distiq.device.run import NO_BEAM, Search, in_line, span_in_words
from distiq.errors import UserError
from distiq.models.signature import Tensors
from distiq.records.documents import ClassShare, FoundRecord, PredictionRecord, SpanRecord


def predict(
    bundle: Path,
    samples: Sequence[str],
    *,
    top: int = 3,
    every: float | None = None,
    stream: bool = False,
    smooth: int = 3,
    draw: Path | None = None,
    out: Path | None = None,
    beam: int = 0,
    words: Path | None = None,
    ngram: Path | None = None,
) -> Iterator[PredictionRecord]:
    """The predictions, each as soon as it is made: a sound's windows while it is still being read.

    Args:
        samples: files, or texts; for a model that compares two texts, both, one after the other.
        top: how many classes are named.
        every: for sound, seconds from one window to the next. stream: read chunk by chunk; "-" is the standard input.
        smooth: for a stream, how many windows are averaged.
        draw: a folder for images with what is found in them.
        out: a .npy file for the vectors of all samples.
        beam: for speech, how many candidate texts are followed at once; 0 decodes frame by frame. words, ngram: files
            for the words that a text may have.

    Raises:
        UserError: the bundle is not whole, a sample cannot be read, or the model does not give what is asked for.
    """
    for sample in samples:
        if sample.endswith((".npy", ".npz")) and Path(sample).is_file():  # else they would be read as texts
            raise UserError(
                f"{sample}: distiq predict reads images, clips, rows and texts; inputs as the model takes them are for"
                f" the bundle's own program: {shlex.join(['python', str(bundle / RUNNER), sample])}"
            )
    opened = Bundle(bundle)
    if out is not None and opened.decoding != "vector":
        raise UserError(f"{bundle}: --out is for vectors, but this model gives {opened.about.get('task')}")
    if opened.pair and len(samples) % 2:
        raise UserError(f"{bundle}: this model compares two texts, but {len(samples)} are given; give both")
    search = opened.search(beam, words, ngram)
    firsts = samples[:: 2 if opened.pair else 1]
    seconds = samples[1::2] if opened.pair else [""] * len(samples)
    vectors: list[tuple[float, ...]] = []
    for sample, second in zip(firsts, seconds, strict=True):
        is_stream = stream or every is not None
        is_long = opened.writes_texts and not is_stream and opened.is_longer(sample)
        if beam and (is_stream or is_long):
            raise UserError(f"{sample}: {NO_BEAM}")
        if is_stream and opened.writes_texts:
            made = _written(opened, sample, 0.5 if every is None else every)
        elif is_long:
            made = iter([PredictionRecord(sample=sample, text=text_of_clip(opened, sample))])
        elif is_stream:
            made = _windows(opened, sample, 0.1 if every is None else every, smooth if stream else 0, top)
        elif opened.finds_spans:
            made = iter([_spans(opened, sample)])
        elif opened.decoding in ("boxes", "mask"):
            made = iter([_objects(opened, sample, draw)])
        else:
            made = _rows(opened, sample, second, top, search if beam else None)
        for record in made:
            vectors.append(record.vector)
            yield record
    if out is not None:
        np.save(out, np.array(vectors, np.float32))


def _windows(bundle: Bundle, sample: str, every: float, smooth: int, top: int) -> Iterator[PredictionRecord]:
    """smooth: 0 where each window is predicted on its own."""
    notes = bundle.conversions(Path(sample)) if sample != "-" else ()
    windows = hear(bundle, sample, every, smooth, top) if smooth else bundle.listen(Path(sample), every, top)
    for heard in windows:
        text = "  ".join(f"{name} {100 * share:.1f} %" for name, share in heard.classes)
        yield PredictionRecord(
            sample=sample,
            start_s=heard.start_s,
            end_s=heard.end_s,
            text=text,
            classes=_classes(heard.classes),
            notes=notes,
        )
        notes = ()


def _written(bundle: Bundle, sample: str, every: float) -> Iterator[PredictionRecord]:
    """What each chunk of a sound adds to its text."""
    notes = bundle.conversions(Path(sample)) if sample != "-" else ()
    for part in write_down(bundle, sample, every):
        if part.text:
            yield PredictionRecord(sample=sample, start_s=part.start_s, end_s=part.end_s, text=part.text, notes=notes)
            notes = ()


def _spans(bundle: Bundle, sample: str) -> PredictionRecord:
    found = bundle.spans(sample)
    text = "\n".join(map(span_in_words, found)) or "none"
    spans = tuple(SpanRecord.model_validate(span._asdict()) for span in found)
    return PredictionRecord(sample=sample, text=text, spans=spans)


def _objects(bundle: Bundle, sample: str, draw: Path | None) -> PredictionRecord:
    found = bundle.objects(sample, draw)
    text = "\n".join([f"{len(found)} found", *(f"  {in_line(thing)}" for thing in found)])
    return PredictionRecord(sample=sample, text=text, found=tuple(map(FoundRecord.model_validate, found)))


def _rows(bundle: Bundle, sample: str, second: str, top: int, search: Search | None) -> Iterator[PredictionRecord]:
    prepared = bundle.prepare(sample, second)
    outputs = bundle.run(prepared.inputs)
    said = bundle.texts(outputs, search) if search else bundle.said(outputs, top)
    values = _values(bundle, outputs, top)
    for row, (text, value) in enumerate(zip(said, values or [{}] * len(said), strict=True), start=1):
        number, notes = row if len(said) > 1 else None, prepared.notes if row == 1 else ()
        yield PredictionRecord.model_validate(
            {"sample": sample, "second": second, "row": number, "text": text, "notes": notes, **value}
        )


def _values(bundle: Bundle, outputs: Tensors, top: int) -> list[dict[str, object]]:
    """The predictions as values, for each sample of a batch; empty where they exist in words only."""
    match bundle.decoding:
        case "softmax" | "sigmoid":
            return [{"classes": _classes(likeliest)} for likeliest in bundle.classes_of(outputs, top)]
        case "number":
            return [{"number": number} for number in bundle.numbers_of(outputs).tolist()]
        case "vector":
            return [{"vector": tuple(vector)} for vector in bundle.vectors_of(outputs).tolist()]
        case _:
            return []


def _classes(likeliest: Sequence[Prediction]) -> tuple[ClassShare, ...]:
    return tuple(ClassShare(label=label, probability=share) for label, share in likeliest)
