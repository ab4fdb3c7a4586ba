"""From sound to strings of digits: CTC students with their teacher and without, word error rates down to int8 files.

    python benchmarks/digit_strings.py [--strings 2200] [--epochs 16] [--seed 0] [--out benchmarks/results/...json]

Strings of one to five spoken digits are put together from the packaged recordings, training takes and test takes apart.
A teacher is trained with CTC. The same student learns from the labels alone (CTC), from them and the teacher's
posteriors of every frame, and from them and the teacher's own strings (sequence-level distillation), with the same
steps, views and first weights. Each is quantized (static int8, front-end in float32), exported and read back from its
file. By the CPU time of a few steps about 9 minutes on one core.
"""

import argparse
import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from distiq import environment
from distiq.data.audio import DIGIT_RATE, Audio
from distiq.data.samples import Split
from distiq.data.splits import Data
from distiq.data.strings import digit_strings, transcripts
from distiq.data.views import Views
from distiq.distillation.sequence_losses import ctc, frame_kd, sequence_kd
from distiq.evaluation.transcripts import DIGIT_WORDS, ErrorRates, error_rates, greedy
from distiq.files import write_atomically
from distiq.models.audio import AudioFrames
from distiq.models.frontend import front_end
from distiq.progress import Lines
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe.data import AudioViewSettings, ViewSettings
from distiq.recipe.training import TrainingSettings
from distiq.runtimes.export import export, load, size_bytes
from distiq.training.batches import Batch, Batches
from distiq.training.fit import Losses, fit

MOST, SECONDS, CALIBRATION, TEST = 5, 4.0, 200, 500
VIEWS = ViewSettings(audio=AudioViewSettings(shift=0.02, gain_db=6.0, noise=0.5))
Knowledge = Callable[[Tensor, Tensor], Tensor]
"""Logits of student and teacher (B, tokens, frames) -> a loss."""


class Writing(nn.Module):
    """CTC and, with a teacher, a loss between what both write."""

    def __init__(self, network: nn.Module, teacher: nn.Module | None, knowledge: Knowledge) -> None:
        super().__init__()
        self.network, self.knowledge = network, knowledge
        self.teachers = [teacher] if teacher is not None else []  # a list: no submodule

    def forward(self, batch: Batch) -> Losses:
        logits = self.network(batch.inputs)
        losses = Losses(task=ctc(logits, batch.labels))
        for teacher in self.teachers:
            with torch.no_grad():
                answer = teacher.to(batch.inputs.device)(batch.inputs)
            losses["kd"] = self.knowledge(logits, answer)
        return losses


def trained(
    network: nn.Module,
    batches: Batches,
    epochs: int,
    stage: str,
    teacher: nn.Module | None = None,
    knowledge: Knowledge = frame_kd,
) -> nn.Module:
    settings = TrainingSettings(
        epochs=epochs, batch_size=batches.batch_size, optimizer="adamw", learning_rate=0.004, weight_decay=0.01,
        clip_norm=5.0, precision="float32",
    )  # fmt: skip
    objective = Writing(copy.deepcopy(network), teacher, knowledge)
    fit(objective, batches, settings, stage=stage, watch=Lines(Console(), seconds=60))
    return objective.network.cpu().eval()


def rates(predict: Callable[[Tensor], Tensor], data: Data) -> ErrorRates:
    """On the test strings."""
    with torch.no_grad():
        found = [tokens for part in data.test.chunks(100) for tokens in greedy(predict(data.normalize(part)))]
    return error_rates(found, transcripts(data.test.labels), DIGIT_WORDS)


def strings(count: int, seed: int, tests: int = TEST) -> Data:
    train, test = (digit_strings(number, MOST, SECONDS, seed, part) for number, part in ((count, False), (tests, True)))
    held: Split = train.take(slice(0, min(CALIBRATION, count // 2)))
    rest = train.take(slice(len(held), count))
    tokens = ("blank", *DIGIT_WORDS)
    return Data("digit strings", tokens, rest, held, held, test, Audio(rest.samples.shape, DIGIT_RATE))


def measured(network: nn.Module, data: Data, folder: Path) -> dict[str, dict[str, float]]:
    """The three columns of a network: its float32 file, int8 simulated, its int8 file."""
    calibration = data.normalize(data.calibration.inputs)
    quantized = quantize(network, calibration, Scheme(float_modules=("frontend",)))
    whole, small = (
        export(form, folder / f"{name}.onnx", calibration[:2])
        for name, form in (("float32", network), ("int8", quantized))
    )
    return {
        "float32": {**rates(load(whole), data)._asdict(), "size_bytes": size_bytes(whole)},
        "int8 simulated": rates(quantized, data)._asdict(),
        "int8 deployed": {**rates(load(small), data)._asdict(), "size_bytes": size_bytes(small)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strings", type=int, default=2200)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tests", type=int, default=TEST, help="test strings")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/digit_strings.json"))
    arguments = parser.parse_args()
    data = strings(arguments.strings, arguments.seed, arguments.tests)
    batches = Batches(data, Views(VIEWS, arguments.seed), 32, arguments.seed)
    torch.manual_seed(arguments.seed)
    large, small = (AudioFrames(len(data.classes), front_end(DIGIT_RATE), *form) for form in ((128, 6), (40, 3)))
    epochs = arguments.epochs
    teacher = trained(large, batches, epochs, "teacher")
    networks = {
        "teacher": teacher,
        "student, labels alone": trained(small, batches, epochs, "student without a teacher"),
        "student, and frame by frame": trained(small, batches, epochs, "student, frames", teacher, frame_kd),
        "student, and the teacher's strings": trained(small, batches, epochs, "student, strings", teacher, sequence_kd),
    }
    with tempfile.TemporaryDirectory() as folder:
        found = {name: measured(network, data, Path(folder)) for name, network in networks.items()}
    columns = ("float32", "int8 simulated", "int8 deployed")
    table = Table("word errors (character errors), %", *columns, "int8 file, bytes")
    for name, entry in found.items():
        cells = [f"{100 * entry[column]['words']:.2f} ({100 * entry[column]['characters']:.2f})" for column in columns]
        table.add_row(name, *cells, f"{entry['int8 deployed']['size_bytes']:,}")
    Console(width=140).print(table)
    report = {
        "command": f"python benchmarks/digit_strings.py --strings {arguments.strings} --epochs {epochs}"
        f" --seed {arguments.seed} --tests {arguments.tests}",
        "environment": environment.describe().model_dump(),
        "test_strings": len(data.test),
        "networks": found,
    }
    write_atomically(arguments.out, json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    main()
