"""Measuring a file: its answers, its cost, and its place beside the float network that it was made from."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from distiq.data.splits import Data, quality
from distiq.evaluation.cost import multiply_adds, parameter_count
from distiq.evaluation.evaluate import Predict, agreement, outputs, score
from distiq.evaluation.keyword import keyword_errors
from distiq.files import save_tensors
from distiq.models.audio import front_ends
from distiq.numerics import sqnr_db
from distiq.quantization.mixed import bit_operations, products
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe.recipe import Recipe
from distiq.records.models import Column, ColumnName
from distiq.records.quality import FlipRecord, QualityRecord
from distiq.records.record import Kind
from distiq.records.speed import CostRecord, LatencyRecord, LengthRecord, TuningRecord
from distiq.records.training import TrainingRecord
from distiq.records.trials import FloatModulesRecord, RuntimeRecord, TrialRecord
from distiq.runtimes.export import RUNTIMES, Runtime, differences, export, load, operations, runtime_of, size_bytes
from distiq.runtimes.uint8_input import MODULE as NORMALIZATION
from distiq.runtimes.uint8_input import Uint8Input
from distiq.timing.latency import latencies
from distiq.timing.memory import peak_memory_bytes
from distiq.timing.tune import tune

ANSWERS, SIMULATED = "answers.safetensors", "simulated.safetensors"
STEPS = (0.5, 1.0, 2.0, 4.0)
WORST_FLIPS = 12
TUNED_ON = 8  # samples whose answers settings of a runtime are compared by
LENGTHS_SECONDS = 20.0  # what timing texts of several lengths takes at most, beside as long for warming up
HARMFUL_DB = 3.0  # what int8 may cost a front-end: half of the noise's power
Answers = dict[str, Tensor]
"""Logits by split: "test" and "validation"."""


@dataclass
class Measuring:
    """Makes files and measures them on one task. `teacher` holds the teacher's answers once they are known.

    `example` is two inputs of the networks. `fed` is the data as the files take it: `data`, or its pixels.
    """

    data: Data
    recipe: Recipe
    teacher: Answers | None = None
    example: Tensor = field(init=False)
    fed: Data = field(init=False)

    def __post_init__(self) -> None:
        self.example = self.data.normalize(self.data.calibration.inputs[:2])
        self.fed = replace(self.data, as_uint8=self.recipe.export.uint8_input)
        self.settings = self.recipe.measure

    @property
    def runtime(self) -> Runtime:
        """The runtime whose files are judged and delivered."""
        return RUNTIMES[self.settings.runtimes[0]]

    @property
    def model_file(self) -> str:
        """The name of a step's file in that runtime."""
        return f"model{self.runtime.ending}"

    def export(self, model: nn.Module, path: Path) -> Path:
        """The model as a file, which takes pixels, or integers at the ends of its grids, if the recipe says so."""
        uint8_input = Uint8Input(self.data.mean, self.data.std) if self.recipe.export.uint8_input else None
        integer_io = isinstance(model, QuantizedModel) and model.scheme.integer_io
        return export(model, path, self.example, uint8_input, integer_io and runtime_of(path).integer_io is not None)

    def answers(self, model: Predict) -> Answers:
        """What a network answers."""
        return self._answers(model, self.data)

    def file_answers(self, path: Path) -> Answers:
        """What a file answers."""
        return self._answers(load(path, self.settings.threads), self.fed)

    def _answers(self, predict: Predict, data: Data) -> Answers:
        return {"test": outputs(predict, data, data.test), "validation": outputs(predict, data, data.validation)}

    def column(
        self, name: ColumnName, answers: Answers, float_answers: Answers | None, cost: CostRecord | None
    ) -> Column:
        """A column of the table from given answers."""
        classes, wanted = len(self.data.classes), self.recipe.evaluation

        def part(split: str, labels: Tensor) -> QualityRecord:
            teacher = self.teacher[split] if self.teacher else None
            own = float_answers[split] if float_answers else None
            found = score(answers[split], labels, classes, teacher, own, self.data.target.std)
            if not wanted.keyword:
                return found
            known = keyword_errors(answers[split], labels, self.data.classes, wanted.keyword, wanted.false_accepts)
            return found.model_copy(update={"keyword": known})

        test, validation = self.data.test.labels, self.data.validation.labels
        return Column(name=name, cost=cost, test=part("test", test), validation=part("validation", validation))

    def file(
        self, name: ColumnName, file: str, folder: Path, model: nn.Module, float_answers: Answers | None = None
    ) -> tuple[Column, Answers]:
        """The column of the exported file in a folder, and its answers, which are also kept there.

        Args:
            file: what the file is called in the run's records.
            model: the float network, for parameters and operations.
        """
        path = folder / self.model_file
        answers = self.file_answers(path)
        save_tensors(answers, folder / ANSWERS)
        cost = CostRecord(
            file=file,
            runtime=self.runtime.title,
            size_bytes=size_bytes(path),
            parameters=parameter_count(model),
            macs=multiply_adds(model, self.example),
            peak_memory_bytes=peak_memory_bytes(path, self.fed.normalize(self.data.test.inputs[:1])),
            latency=self.latencies({file: path})[file],
        )
        return self.column(name, answers, float_answers, cost), answers

    def tuned(self, files: dict[str, Path]) -> dict[str, TuningRecord]:
        """The settings of its runtime under which each file is fastest; empty if the recipe does not ask."""
        settings = self.settings
        if not settings.tune:
            return {}
        inputs = self.fed.normalize(self.data.test.inputs[:TUNED_ON])
        return {
            name: tune(path, settings.threads, inputs, settings.rounds, settings.seconds)
            for name, path in files.items()
        }

    def latencies(
        self, files: dict[str, Path], tuning: Mapping[str, TuningRecord] = MappingProxyType({})
    ) -> dict[str, tuple[LatencyRecord, ...]]:
        """Latency at batch 1 and throughput at the larger batch, of all files side by side, under their settings."""
        settings, test = self.settings, self.data.test.inputs
        models, threads = self._loaded(files, tuning)
        found: dict[str, tuple[LatencyRecord, ...]] = dict.fromkeys(files, ())
        for size in sorted({1, settings.throughput_batch}):
            images = self.fed.normalize(test[torch.arange(size) % len(test)])
            timed = latencies(models, images, settings.threads, settings.rounds, settings.seconds)
            timed = {name: timed[name].model_copy(update={"threads": threads[name]}) for name in files}
            found = {name: (*found[name], timed[name]) for name in files}
        return found

    def lengths(
        self, files: dict[str, Path], tuning: Mapping[str, TuningRecord] = MappingProxyType({})
    ) -> tuple[LengthRecord, ...]:
        """Latency of one text cut to each of `measure.lengths` that texts of this data can have, side by side.

        Turns are cut short where all together would take more than `LENGTHS_SECONDS`. Empty of other data than texts.
        """
        settings = self.settings
        longest = self.data.sample_shape[0] if self.data.kind == "text" else 0
        wanted = [tokens for tokens in settings.lengths if tokens <= longest]
        if not wanted:
            return ()
        (models, threads), fixed = self._loaded(files, tuning), self.fixed_lengths(files)
        test = self.data.test.inputs
        text = self.fed.normalize(test[self.data.lengths(test).argmax()].unsqueeze(0))
        seconds = min(settings.seconds, LENGTHS_SECONDS / (settings.rounds * len(models) * len(wanted)))
        found = []
        for tokens in wanted:
            able = {name: model for name, model in models.items() if fixed.get(name, tokens) == tokens}
            timed = latencies(able, text[:, :tokens].contiguous(), settings.threads, settings.rounds, seconds)
            timed = {name: one.model_copy(update={"threads": threads[name]}) for name, one in timed.items()}
            found.append(LengthRecord(tokens=tokens, files=timed))
        return tuple(found)

    def fixed_lengths(self, files: Mapping[str, Path]) -> dict[str, int]:
        """Of texts: the files that take one length alone, and that length in tokens."""
        if self.data.kind != "text":
            return {}
        lengths = {name: runtime_of(path).entry(path).shape[1] for name, path in files.items()}
        return {name: length for name, length in lengths.items() if length > 0}

    def _loaded(
        self, files: Mapping[str, Path], tuning: Mapping[str, TuningRecord]
    ) -> tuple[dict[str, Predict], dict[str, int]]:
        """The files under their settings, and the threads of each."""
        threads = {name: tuning[name].setting.threads if name in tuning else self.settings.threads for name in files}
        options = {name: tuning[name].setting.options if name in tuning else {} for name in files}
        return {name: load(path, threads[name], options[name]) for name, path in files.items()}, threads

    def quantized(
        self,
        folder: Path,
        file: str,
        rung: str,
        reason: str,
        quantized: QuantizedModel,
        model: nn.Module,
        float_answers: Answers,
        training: TrainingRecord | None = None,
    ) -> TrialRecord:
        """Exports a quantized model and measures it simulated and deployed, against its own float network.

        The budget is not judged here: the record's breaches are empty. Nor is the time taken, which is 0.
        """
        self.export(quantized, folder / self.model_file)
        simulated = self.answers(quantized)
        save_tensors(simulated, folder / SIMULATED)
        column, deployed = self.file("int8 deployed", file, folder, model, float_answers)
        in_runtime = self.in_runtime(folder / self.model_file, file, quantized, simulated["test"], deployed["test"])
        return TrialRecord(
            rung=rung,
            reason=reason,
            scheme=str(quantized.scheme) + (", trained on its grids" if training else ""),
            simulated=self.column("int8 simulated", simulated, float_answers, None),
            deployed=column,
            sqnr_db=sqnr_db(float_answers["validation"], deployed["validation"]),
            breaches=(),
            test_breaches=(),
            seconds=0.0,
            training=training,
            runtimes=(in_runtime,),
            reduced_layers=quantized.reduced_layers(),
            layer_bits=dict(quantized.scheme.layer_bits),
            bit_operations=bit_operations(products(quantized.prepared, self.example)),
        )

    def in_runtime(
        self, path: Path, file: str, quantized: QuantizedModel, simulated: Tensor, deployed: Tensor
    ) -> RuntimeRecord:
        """What the int8 file of one runtime is and answers, not yet timed.

        Args:
            file: what it is called in the run's records, such as "student-static" or "student-static-openvino".
            simulated, deployed: logits of the test set (N, classes).
        """
        role, _, form = file.partition("-")
        suffix = form.partition("-")[2]
        in_float = runtime_of(path).float_operations(path)
        modules = tuple(f"{module}/" for module in (*quantized.scheme.float_modules, NORMALIZATION))
        meant = ("",) if quantized.scheme.in_float else modules
        return RuntimeRecord(
            runtime=runtime_of(path).title,
            file=file,
            float_file=f"{role}-float32" + (f"-{suffix}" if suffix else ""),
            size_bytes=size_bytes(path),
            quality=quality(deployed, self.data.test.labels),
            agreement=agreement(simulated, deployed, self.data.multi_label),
            steps=_steps(simulated, deployed),
            same_integers=not differences(quantized, path),
            float_operations=tuple(name for name in in_float if not name.startswith(meant)),
            intended_float_operations=tuple(name for name in in_float if name.startswith(meant)),
            operations=operations(path),
        )

    def float_modules(
        self, model: nn.Module, asked: tuple[str, ...] | None, scheme: Scheme
    ) -> FloatModulesRecord | None:
        """Whether modules stay in float32: those that are asked for do; front-ends do where int8 costs the logits much.

        Args:
            asked: module paths, or None to look for front-ends.
            scheme: how all else is quantized.

        Returns:
            None if there is nothing to decide.
        """
        paths = front_ends(model) if asked is None else asked
        if not paths:
            return None
        samples = self.data.normalize(self.data.calibration.inputs)

        def sqnr(tried: Scheme) -> float:
            with torch.no_grad():
                return sqnr_db(model(samples), quantize(model, samples, tried)(samples))

        everywhere, without = sqnr(scheme), sqnr(replace(scheme, float_modules=paths))
        kept = asked is not None or without - everywhere > HARMFUL_DB
        return FloatModulesRecord(paths=paths, sqnr_db_int8=everywhere, sqnr_db_float=without, kept=kept)

    def worst_flips(self, before: Tensor, after: Tensor) -> tuple[FlipRecord, ...]:
        """The test images whose right answer was lost, those that the float network was surest of first.

        Args:
            before, after: logits of the test set (N, classes), float and quantized.
        """
        if self.data.kind != "image" or self.data.multi_label:
            return ()
        labels = self.data.test.labels
        probabilities = torch.softmax(before, 1)
        lost = (before.argmax(1) == labels) & (after.argmax(1) != labels)
        order = sorted(lost.nonzero().flatten().tolist(), key=lambda index: -float(probabilities[index].max()))
        return tuple(
            FlipRecord(
                index=index,
                label=int(labels[index]),
                before=int(before[index].argmax()),
                after=int(after[index].argmax()),
                confidence_before=float(probabilities[index].max()),
                image_png=_png(picture(self.data.test.inputs[index], self.data.kind)),
            )
            for index in order[:WORST_FLIPS]
        )


def picture(sample: Tensor, kind: Kind) -> Tensor:
    """What a person sees of a sample: an image is itself, a clip the waveform as a grey image (1, 48, 128)."""
    if kind != "audio":
        return sample
    rows, columns = 48, 128
    spans = sample.float().tensor_split(columns)
    loudest = float(sample.float().abs().max()) or 1.0
    top, bottom = (torch.stack([end(span) for span in spans]) / loudest for end in (torch.amax, torch.amin))
    height = torch.linspace(1, -1, rows).unsqueeze(1)
    inside = (height <= top + 1 / rows) & (height >= bottom - 1 / rows)
    return torch.where(inside, 0, 255).byte().unsqueeze(0)


def with_one_another(
    runtimes: Sequence[RuntimeRecord], answers: Mapping[str, Tensor], multi_label: bool = False
) -> tuple[RuntimeRecord, ...]:
    """The records of a trial's files with the share of test samples on which each two of them answer the same.

    Args:
        answers: logits of the test set (N, classes) by runtime.
    """
    return tuple(
        entry.model_copy(
            update={
                "agreement_with": {
                    name: agreement(answers[entry.runtime], other, multi_label)
                    for name, other in answers.items()
                    if name != entry.runtime
                }
            }
        )
        for entry in runtimes
    )


def _steps(simulated: Tensor, deployed: Tensor) -> tuple[int, int, int, int, int]:
    """How many logits lie within each distance of the simulated ones; see `RuntimeRecord.steps`."""
    step = (simulated.max() - simulated.min()) / 255
    edges = torch.tensor(STEPS) * step
    counts = torch.bucketize((deployed - simulated).abs().flatten(), edges).bincount(minlength=len(STEPS) + 1)
    half, one, two, four, more = counts.tolist()
    return half, one, two, four, more


def _png(image: Tensor) -> str:
    """A (C, H, W) image as base64 PNG; float images are stretched to 0..255."""
    from PIL import Image

    if image.dtype != torch.uint8:
        low, high = image.min(), image.max()
        image = ((image - low) / (high - low + 1e-12) * 255).byte()
    array = image[0].numpy() if image.shape[0] != 3 else image.permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
