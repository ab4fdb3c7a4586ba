"""A run's record as a real run would leave it, made from a few knobs."""

import base64
import io
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from distiq.records.data import DataRecord
from distiq.records.models import Column, ColumnName, ModelRecord
from distiq.records.quality import FlipRecord, Metric, Quality
from distiq.records.record import Environment
from distiq.records.run import AdviceRecord, DropRecord, RunRecord, VerdictRecord
from distiq.records.speed import ComparisonRecord, CostRecord, LatencyRecord, PeakRecord
from distiq.records.task import TaskRecord
from distiq.records.training import EpochRecord, TrainingRecord
from distiq.records.trials import Breach, RuntimeRecord, TrialRecord

GARMENTS = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
RUNGS = ("static", "minmax", "percentile", "qat")


def wilson(correct: int, samples: int) -> tuple[float, float]:
    share, z = correct / samples, 1.959964
    centre = share + z * z / (2 * samples)
    half = z * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    return ((centre - half) / (1 + z * z / samples), (centre + half) / (1 + z * z / samples))


def accuracy(share: float, classes: int, samples: int = 10_000, alike: float = 0.95, flips: float = 0.01) -> Quality:
    correct = round(share * samples)
    spread = [min(1.0, max(0.0, share + 0.08 * math.sin(2 + 97 * share + 2.4 * k))) for k in range(classes)]
    value, interval = correct / samples, wilson(correct, samples)
    return Quality(
        samples=samples,
        primary=Metric(name="accuracy", title="accuracy", value=value, interval=interval, interval_by="Wilson"),
        metrics=(
            Metric(name="calibration_error", title="calibration error", note="ECE", value=0.02, higher_is_better=False),
        ),
        per_class=tuple(spread),
        agreement_with_teacher=Metric(name="agreement", title="agreement with teacher", value=alike),
        change_against_float=Metric(name="flips", title="flips against float32", value=flips, higher_is_better=False),
    )


def cost(file: str, size_bytes: int, p50_ms: float) -> CostRecord:
    return CostRecord(
        file=file,
        runtime="ONNX Runtime 1.32.0",
        size_bytes=size_bytes,
        parameters=size_bytes // 4,
        macs=40_551_680,
        peak_memory_bytes=60_000_000 + size_bytes * 3,
        latency=tuple(
            LatencyRecord(
                batch=batch,
                threads=1,
                runs=700,
                p50_ms=p50_ms * batch**0.9,
                p95_ms=1.08 * p50_ms * batch**0.9,
                throughput_per_s=1000 * batch**0.1 / p50_ms,
            )
            for batch in (1, 32)
        ),
    )


def column(name: ColumnName, share: float, classes: int, cost: CostRecord | None = None, **rest: float) -> Column:
    return Column(
        name=name,
        test=accuracy(share, classes, **rest),
        validation=accuracy(share + 0.004, classes, samples=2000, **rest),
        cost=cost,
    )


def training(stage: str, parts: tuple[str, ...], epochs: int, last: float) -> TrainingRecord:
    return TrainingRecord(
        stage=stage,
        epochs=tuple(
            EpochRecord(
                epoch=epoch,
                losses={part: (1 + number) * math.exp(-epoch / 4) + 0.15 for number, part in enumerate(parts)},
                learning_rate=0.1,
                images_per_s=5000.0,
                seconds=11.0,
                validation=Metric(name="accuracy", title="accuracy", value=last - 0.12 * math.exp(-epoch / 3)),
            )
            for epoch in range(1, epochs + 1)
        ),
        steps=450 * epochs,
        kept=epochs,
        precision="float32",
        device="cpu",
        seconds=11.0 * epochs,
    )


def trial(rung: str, number: int, classes: int) -> TrialRecord:
    share = (0.9021, 0.9048, 0.9043, 0.9107)[number % 4]
    over = Breach(limit="drop", title="accuracy drop", allowed=1.0, measured=1.2, excess=0.2, unit="points")
    return TrialRecord(
        rung=rung,
        reason="the cheapest first" if not number else "accuracy broke by 0.2 points; finer ranges may mend it",
        scheme="int8, per-channel symmetric weights, per-tensor affine activations",
        simulated=column("int8 simulated", share + 0.0002, classes, alike=0.951, flips=0.0082),
        deployed=column(
            "int8 deployed",
            share,
            classes,
            cost(f"student-{rung}.onnx", 96_400 + 40 * number, 0.112 + 0.001 * number),
            alike=0.9508,
            flips=0.0085,
        ),
        sqnr_db=24.5 + number,
        breaches=() if rung == "qat" else (over,),
        test_breaches=(),
        seconds=14.2 if rung != "qat" else 161.0,
        training=training("qat", ("task", "kd"), 2, 0.915) if rung == "qat" else None,
        runtimes=(
            in_runtime("ONNX Runtime", 2.6, True, () if number else ("Softmax",)),
            in_runtime("LiteRT", 0.8, False, ("12 (fully_connected)",)),
        ),
    )


def in_runtime(name: str, gain: float, same_integers: bool, left: tuple[str, ...]) -> RuntimeRecord:
    """A file that is `gain` times faster than its float32."""
    return RuntimeRecord(
        runtime=name,
        file=f"student-{name}",
        float_file=f"student-float32-{name}",
        size_bytes=96_400,
        quality=Metric(name="accuracy", title="accuracy", value=0.9103),
        simulated_sqnr_db=80.0,
        agreement=0.9991,
        steps=(99_000, 900, 90, 9, 1),
        same_integers=same_integers,
        float_operations=left,
        agreement_with={"LiteRT" if name == "ONNX Runtime" else "ONNX Runtime": 0.9987},
        float_size_bytes=352_000,
        latency=cost("", 0, 0.112).latency,
        float_latency=cost("", 0, 0.112 * gain).latency,
    )


def flip(index: int, classes: int) -> FlipRecord:
    image = Image.new("L", (28, 28))
    image.putdata([(7 * x + 3 * y * (index + 1)) % 256 for y in range(28) for x in range(28)])
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return FlipRecord(
        index=index,
        label=index % classes,
        before=index % classes,
        after=(index + 2) % classes,
        confidence_before=0.97 - 0.03 * index,
        image_png=base64.b64encode(stream.getvalue()).decode(),
    )


def run_record(
    classes: tuple[str, ...] = GARMENTS,
    rungs: tuple[str, ...] = RUNGS,
    trained: bool = True,
    met: bool = True,
    drop: DropRecord | None = None,
) -> RunRecord:
    """A run over `rungs`, the last of which is delivered. Without `trained` all weights were loaded."""
    n = len(classes)
    trials = tuple(trial(rung, number, n) for number, rung in enumerate(rungs))
    teacher = column("float32", 0.9182, n, cost("teacher.onnx", 4_712_000, 1.93), alike=1.0)
    student = column("float32", 0.9124, n, cost("student.onnx", 352_000, 0.291), alike=0.956)
    files = [teacher.cost, student.cost, *(entry.deployed.cost for entry in trials)]
    breach = Breach(limit="size_kb", title="size", allowed=90, measured=96.4, excess=6.4, unit="kB")
    return RunRecord(
        name="garments",
        command="distiq run recipes/fashion.toml",
        recipe_toml='name = "garments"\nseed = 0\n\n[budget]\ndrop = 1.0\n',
        created="2026-03-01T12:00:00+00:00",
        seconds=1893.0,
        code_version="0.1.0",
        environment=Environment(
            cpu="AMD EPYC 9R14",
            cores=2,
            instruction_sets=("avx2", "avx512f", "avx512_vnni"),
            memory_bytes=24_000_000_000,
            system="Linux 6.1, Python 3.11.7",
            device="cpu",
            versions={"torch": "2.13.0+cpu", "onnxruntime": "1.32.0"},
        ),
        data=DataRecord(
            source="fashion_mnist",
            classes=classes,
            train=57_488,
            validation=2000,
            calibration=512,
            test=10_000,
            sample_shape=(1, 28, 28),
            mean=(0.286,),
            std=(0.353,),
            digest="5e" * 32,
        ),
        task=TaskRecord(name="classification", predicts=f"one of {n} classes", outputs=n),
        budget={"drop": 1.0, "size_kb": 100.0 if met else 90.0, "latency_ms": 0.2},
        teacher=ModelRecord(
            role="teacher",
            model="resnet",
            origin="trained",
            parameters=1_174_000,
            macs=140_000_000,
            columns=(teacher,),
            training=training("teacher", ("task",), 12, 0.925) if trained else None,
        ),
        student=ModelRecord(
            role="student",
            model="mobilenet_v2",
            origin="distilled",
            parameters=87_000,
            macs=4_100_000,
            columns=(student,),
            training=training("student", ("task", "kd"), 15, 0.918) if trained else None,
        ),
        advice=AdviceRecord(facts=("teacher: 91.82 % of the validation split",), warnings=("too <hot>",)),
        trials=trials,
        comparison=ComparisonRecord(
            threads=1,
            files={entry.file: entry.latency for entry in files},
            peak=PeakRecord(int8_gmac_per_s=400, int8_by="torch", float32_gmac_per_s=100, float32_by="ONNX Runtime"),
        ),
        flips=tuple(flip(index, n) for index in range(6)),
        verdict=VerdictRecord(
            met=met,
            chosen=rungs[-1],
            breaches=() if met else (breach,),
            sentence=f'The rung "{rungs[-1]}" keeps every limit.' if met else "The file is 6.4 kB too large.",
            drop=drop,
            next_step=None if met else "Raise budget.size_kb to 97, or set student.options.width to 0.75.",
        ),
        delivered={"model.onnx": "d0" * 32},
    )


@pytest.fixture
def make_run() -> Callable[..., RunRecord]:
    return run_record


@pytest.fixture
def save_run(tmp_path: Path) -> Callable[..., Path]:
    """Saves `run_record(...)` as a run's records and returns their folder."""

    def save(**knobs: object) -> Path:
        folder = tmp_path / "records"
        run_record(**knobs).save(folder / "run.json")
        return folder

    return save
