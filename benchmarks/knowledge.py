"""Which knowledge helps this student? Every family's representative losses, equal steps, several seeds, paired.

    python benchmarks/knowledge.py [recipes/fashion_mnist.toml] [--set data.train=10000] [--seeds 3] [--only DKD]

One teacher serves all. Every arm keeps the recipe's label loss; the listed loss is added to plain distillation or,
where it is itself a loss between outputs, stands in its place. Weights are those of the papers where they carry over,
else they bring the loss to the size of the label loss at the start (none was tuned on this data). Float32 students,
full test set, last epoch. Interrupted, it goes on where it was.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from distiq.commands.ablate import ablate
from distiq.files import write_atomically
from distiq.progress import Lines
from distiq.recipe.distil import DistilSettings, KnowledgeLoss
from distiq.recipe.part import changed
from distiq.recipe.read import load_recipe
from distiq.report.show import show_ablation

OUTPUTS = {
    "soft cross entropy": KnowledgeLoss(name="soft_cross_entropy", weight=2.0, options={"temperature": 2.0}),
    "logit MSE": KnowledgeLoss(name="logit_mse", weight=0.05),
    "DKD": KnowledgeLoss(name="dkd", weight=0.5, options={"alpha": 1.0, "beta": 2.0, "temperature": 2.0}),
    "DIST": KnowledgeLoss(name="dist", weight=1.0),
    "logit standardization": KnowledgeLoss(name="logit_standardization_kd", weight=1.0, options={"temperature": 2.0}),
    "multi-level": KnowledgeLoss(name="multi_level_kd", weight=0.3),
}
Paths = tuple[str, ...]
# By kind of student: the last map, an earlier one and the embedding, of the student and of its teacher.
LAYERS: dict[str, tuple[Paths, Paths]] = {
    "mobilenet_v2": (("stages.3", "stages.1", "pool"), ("stages.2", "stages.1", "pool")),
    "ds_cnn": (("blocks.3", "blocks.1", "pool"), ("network.stages.2", "network.stages.1", "network.pool")),
}


def between_maps(student: Paths, teacher: Paths) -> dict[str, KnowledgeLoss]:
    last: dict[str, Any] = {"student": student[:1], "teacher": teacher[:1]}
    both: dict[str, Any] = {"student": student[1::-1], "teacher": teacher[1::-1]}
    return {
        "hint": KnowledgeLoss(name="hint_mse", weight=0.5, **last),
        "attention transfer": KnowledgeLoss(name="attention_transfer", weight=100.0, **both),
        "NST": KnowledgeLoss(name="nst_poly", weight=10.0, **last),
        "ReviewKD": KnowledgeLoss(name="reviewkd", weight=0.5, **both),
        "VID": KnowledgeLoss(name="vid", weight=0.1, **last),
        "MGD": KnowledgeLoss(name="mgd", weight=7e-5, **last),
        "similarity preserving": KnowledgeLoss(name="similarity_preserving", weight=1000.0, **last),
    }


def between_embeddings(student: Paths, teacher: Paths) -> dict[str, KnowledgeLoss]:
    pool: dict[str, Any] = {"student": student[2:], "teacher": teacher[2:]}
    return {
        "RKD": KnowledgeLoss(name="rkd", weight=0.1, **pool),
        "PKT": KnowledgeLoss(name="pkt", weight=10_000.0, **pool),
        "CRD": KnowledgeLoss(name="crd", weight=0.1, options={"negatives": 1024}, **pool),
    }


def arms_of(plain: DistilSettings, kind: str) -> dict[str, DistilSettings]:
    """No teacher; its outputs alone, at each step, without labels, as `distiq init` weighs them; then every loss.

    A loss between outputs stands in the place of plain distillation, one between layers beside it.
    """

    def other(**values: object) -> DistilSettings:
        return changed(plain, values)

    arms = {
        "no teacher": plain.without_teacher(),
        "outputs alone": plain,
        "live teacher": other(teacher="live"),
        "no labels": other(task_weight=0.0, kd_weight=1.0),
        "distiq init": DistilSettings(),
    }
    arms |= {name: other(kd_weight=0.0, losses=(loss,)) for name, loss in OUTPUTS.items()}
    stored = changed(plain.cache, {"features": True, "limit_mb": 16_000.0})
    between_layers = between_embeddings(*LAYERS[kind]) | between_maps(*LAYERS[kind])
    return arms | {name: other(cache=stored, losses=(loss,)) for name, loss in between_layers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("recipes/fashion_mnist.toml"))
    parser.add_argument("--set", action="append", default=[], help="change a setting, such as data.train=10000")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="arms to train, separated by commas; by default all")
    parser.add_argument("--run", type=Path, default=Path("runs/knowledge"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/knowledge.json"))
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, arguments.set)
    arms = arms_of(recipe.distil, recipe.student.model)
    if arguments.only:
        wanted = {"no teacher", "outputs alone", *arguments.only.split(",")}
        if unknown := wanted - arms.keys():
            parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(arms)}")
        arms = {name: settings for name, settings in arms.items() if name in wanted}
    changes = "".join(f" --set {change}" for change in arguments.set)
    command = f"python benchmarks/knowledge.py {arguments.recipe} --seeds {arguments.seeds}{changes}"
    watch = Lines(Console(), seconds=60)
    record = ablate(recipe, seeds=arguments.seeds, arms=arms, run=arguments.run, watch=watch, command=command)
    show_ablation(record, Console())
    write_atomically(arguments.out, record.model_dump_json(indent=1).encode())


if __name__ == "__main__":
    main()
