"""From sound to strings of digits: a CTC student with its teacher and without, word error rates down to the int8 file.

    python benchmarks/digit_strings.py [--strings 4000] [--epochs 20] [--seed 0] [--out benchmarks/results/...json]

Strings of one to five spoken digits are put together from the packaged recordings, training takes and test takes apart.
A teacher is trained with CTC; the student with CTC alone, and with CTC and the teacher's posteriors of every frame, for
the same steps. The latter is quantized (static int8, front-end in float32), exported and read back from its file.
"""

import argparse
import copy
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from distiq import environment
from distiq.data.audio import DIGIT_RATE
from distiq.data.splits import Data, Split
from distiq.data.strings import digit_strings, transcripts
from distiq.data.views import Views
from distiq.distillation.sequence_losses import ctc, frame_kd
from distiq.evaluation.transcripts import DIGIT_WORDS, ErrorRates, error_rates, greedy
from distiq.files import write_atomically
from distiq.models.audio import AudioFrames
from distiq.models.frontend import front_end
from distiq.progress import Lines
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe import AudioViewSettings, TrainingSettings, ViewSettings
from distiq.runtimes.export import export, load, size_bytes
from distiq.training import Batch, Batches, Losses, fit

MOST, SECONDS, CALIBRATION = 5, 4.0, 200
VIEWS = ViewSettings(audio=AudioViewSettings(shift=0.02, gain_db=6.0, noise=0.5))


class Writing(nn.Module):
    """CTC and, with a teacher, its posteriors frame by frame."""

    def __init__(self, network: nn.Module, teacher: nn.Module | None) -> None:
        super().__init__()
        self.network, self.teachers = network, [teacher] if teacher is not None else []  # a list: no submodule

    def forward(self, batch: Batch) -> Losses:
        logits = self.network(batch.inputs)
        losses = Losses(task=ctc(logits, batch.labels))
        for teacher in self.teachers:
            with torch.no_grad():
                losses["kd"] = frame_kd(logits, teacher.to(batch.inputs.device)(batch.inputs))
        return losses


def trained(network: nn.Module, teacher: nn.Module | None, batches: Batches, epochs: int, stage: str) -> nn.Module:
    settings = TrainingSettings(
        epochs=epochs, batch_size=batches.batch_size, optimizer="adamw", learning_rate=0.004, weight_decay=0.01,
        clip_norm=5.0, precision="float32",
    )  # fmt: skip
    objective = Writing(copy.deepcopy(network), teacher)
    fit(objective, batches, settings, stage=stage, watch=Lines(Console(), seconds=60))
    return objective.network.cpu().eval()


def rates(predict: Callable[[Tensor], Tensor], data: Data) -> ErrorRates:
    """On the test strings."""
    with torch.no_grad():
        found = [tokens for part in data.test.inputs.split(100) for tokens in greedy(predict(data.normalize(part)))]
    return error_rates(found, transcripts(data.test.labels), DIGIT_WORDS)


def strings(count: int, seed: int) -> Data:
    train, test = (digit_strings(number, MOST, SECONDS, seed, part) for number, part in ((count, False), (500, True)))
    held: Split = train.take(slice(0, min(CALIBRATION, count // 2)))
    rest = train.take(slice(len(held), count))
    tokens = ("blank", *DIGIT_WORDS)
    return replace(Data("digit strings", tokens, rest, held, held, test, (), ()), rate=DIGIT_RATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strings", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/digit_strings.json"))
    arguments = parser.parse_args()
    data = strings(arguments.strings, arguments.seed)
    batches = Batches(data, Views(VIEWS, arguments.seed), 32, arguments.seed)
    torch.manual_seed(arguments.seed)
    large, small = (AudioFrames(len(data.classes), front_end(DIGIT_RATE), *form) for form in ((128, 6), (40, 3)))
    teacher = trained(large, None, batches, arguments.epochs, "teacher")
    alone = trained(small, None, batches, arguments.epochs, "student without a teacher")
    student = trained(small, teacher, batches, arguments.epochs, "student")
    calibration = data.normalize(data.calibration.inputs)
    quantized = quantize(student, calibration, Scheme(float_modules=("frontend",)))
    with tempfile.TemporaryDirectory() as folder:
        files = [
            export(model, Path(folder) / f"{name}.onnx", calibration[:2])
            for name, model in (("teacher", teacher), ("student", student), ("int8", quantized))
        ]
        sizes = [size_bytes(file) for file in files]
        found = {
            "teacher float32": (rates(load(files[0]), data), sizes[0]),
            "student without a teacher, float32": (rates(alone, data), sizes[1]),
            "student float32": (rates(load(files[1]), data), sizes[1]),
            "student int8 simulated": (rates(quantized, data), None),
            "student int8 deployed": (rates(load(files[2]), data), sizes[2]),
        }
    table = Table("", "word errors", "character errors", "file, bytes")
    for name, (errors, size) in found.items():
        table.add_row(
            name, f"{100 * errors.words:.2f} %", f"{100 * errors.characters:.2f} %", f"{size:,}" if size else "no file"
        )
    Console().print(table)
    report = {
        "command": f"python benchmarks/digit_strings.py --strings {arguments.strings} --epochs {arguments.epochs}"
        f" --seed {arguments.seed}",
        "environment": environment.describe().model_dump(),
        "test_strings": len(data.test),
        "columns": {name: {**errors._asdict(), "size_bytes": size} for name, (errors, size) in found.items()},
    }
    write_atomically(arguments.out, json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    main()
