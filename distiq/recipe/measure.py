"""How files are measured, evaluated and exported."""

from typing import ClassVar

from pydantic import Field, field_validator

from distiq.recipe.data import SHORTEST_TEXT
from distiq.recipe.part import Name, Part


class MeasureSettings(Part):
    """Where files are measured, and how latency is."""

    runtimes: tuple[str, ...] = Field(
        ("onnxruntime",),
        min_length=1,
        description='every trial is measured in each, the first is delivered (see quantize.fall_back): "onnxruntime",'
        ' "openvino", "litert", "executorch", "inductor", "c99", "tflm"',
    )
    threads: int = Field(1, ge=1, description="threads of the runtime")
    throughput_batch: int = Field(32, ge=1, description="images per batch when throughput is measured")
    rounds: int = Field(5, ge=1, description="interleaved rounds over all files")
    seconds: float = Field(0.1, gt=0, description="time spent on each file and batch size in one round")
    lengths: tuple[int, ...] = Field(
        (16, 64, 128),
        description="texts: one text is also timed at these lengths, in tokens, as far as data.text.length allows",
    )
    tune: bool = Field(
        False,
        description="time each file under the runtime's settings first; the fastest with the same predictions is kept",
    )

    @field_validator("runtimes")
    @classmethod
    def _runtimes_differ(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"{list(names)} names a runtime twice; name each once")
        return names

    @field_validator("lengths")
    @classmethod
    def _lengths_are_texts(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        if any(length < SHORTEST_TEXT for length in lengths):
            raise ValueError(f"{list(lengths)}: a text has {SHORTEST_TEXT} tokens at least")
        return tuple(sorted(set(lengths)))


class EvaluationSettings(Part):
    """What is measured beside accuracy."""

    keyword: Name = Field(
        "",
        description="a class, such as the word that wakes a device: how often it is missed, how often falsely accepted",
    )
    false_accepts: float = Field(
        0.01, ge=0, lt=1, description="share of the other samples that may be taken for the keyword"
    )


class ExportSettings(Part):
    """What the exported files take, and what is said of them."""

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"licence"})

    uint8_input: bool = Field(
        False, description="images: files take uint8 and normalize it themselves (onnxruntime, openvino, litert)"
    )
    integer_io: bool = Field(
        False,
        description="litert: int8 files take and give int8, for devices without float32; the logits get 8 bits, and no"
        " layer stays float32",
    )
    web: bool = Field(
        False,
        description="also a page for browsers, `web` in the bundle: the .onnx file that is fastest in onnxruntime-web,"
        " measured in headless Chromium (npm, chromium)",
    )
    licence: str = Field(
        "", description='of the model, for its README.md on a hub, such as "apache-2.0"; empty says nothing'
    )
