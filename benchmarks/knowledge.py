"""Which knowledge helps this student? Every family's representative losses, equal steps, several seeds, paired.

    python benchmarks/knowledge.py [recipes/fashion_mnist.toml] [--seeds 3] [--only kd,dkd] [--run runs/knowledge]

One teacher serves all. Every arm keeps the recipe's label loss; the listed loss is added to plain distillation or,
where it is itself a loss between outputs, stands in its place. Weights are those of the papers where they carry over,
else they bring the loss to the size of the label loss at the start (none was tuned on this data). Float32 students,
full test set, last epoch. Interrupted, it goes on where it was.
"""

import argparse
from pathlib import Path

from rich.console import Console

from distiq.ablation import ablate
from distiq.files import write_atomically
from distiq.progress import Lines
from distiq.recipe import DistilSettings, KnowledgeLoss, load_recipe
from distiq.report.show import show_ablation

LAST = (("stages.3",), ("stages.2",))
MIDDLE = (("stages.1", "stages.3"), ("stages.1", "stages.2"))
POOL = (("pool",), ("pool",))
OUTPUTS = {
    "soft cross entropy": KnowledgeLoss(name="soft_cross_entropy", weight=2.0, options={"temperature": 2.0}),
    "logit MSE": KnowledgeLoss(name="logit_mse", weight=0.05),
    "DKD": KnowledgeLoss(name="dkd", weight=0.5, options={"alpha": 1.0, "beta": 2.0, "temperature": 2.0}),
    "DIST": KnowledgeLoss(name="dist", weight=1.0),
    "logit standardization": KnowledgeLoss(name="logit_standardization_kd", weight=1.0, options={"temperature": 2.0}),
    "multi-level": KnowledgeLoss(name="multi_level_kd", weight=0.3),
}
LAYERS = {
    "hint": KnowledgeLoss(name="hint_mse", weight=0.5, student=LAST[0], teacher=LAST[1]),
    "attention transfer": KnowledgeLoss(name="attention_transfer", weight=100.0, student=MIDDLE[0], teacher=MIDDLE[1]),
    "NST": KnowledgeLoss(name="nst_poly", weight=10.0, student=LAST[0], teacher=LAST[1]),
    "ReviewKD": KnowledgeLoss(name="reviewkd", weight=0.5, student=MIDDLE[0], teacher=MIDDLE[1]),
    "VID": KnowledgeLoss(name="vid", weight=0.1, student=LAST[0], teacher=LAST[1]),
    "MGD": KnowledgeLoss(name="mgd", weight=7e-5, student=LAST[0], teacher=LAST[1]),
    "similarity preserving": KnowledgeLoss(
        name="similarity_preserving", weight=1000.0, student=LAST[0], teacher=LAST[1]
    ),
    "RKD": KnowledgeLoss(name="rkd", weight=0.1, student=POOL[0], teacher=POOL[1]),
    "PKT": KnowledgeLoss(name="pkt", weight=10_000.0, student=POOL[0], teacher=POOL[1]),
    "CRD": KnowledgeLoss(name="crd", weight=0.1, student=POOL[0], teacher=POOL[1], options={"negatives": 1024}),
}


def arms_of(plain: DistilSettings) -> dict[str, DistilSettings]:
    """No teacher, plain distillation, each loss between outputs in its place, each loss between layers beside it."""
    arms = {"no teacher": plain.without_teacher(), "outputs alone": plain}
    arms |= {name: plain.model_copy(update={"kd_weight": 0.0, "losses": (loss,)}) for name, loss in OUTPUTS.items()}
    live = {"teacher": "live"}  # layers of every view would fill the disk
    return arms | {name: plain.model_copy(update={**live, "losses": (loss,)}) for name, loss in LAYERS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("recipes/fashion_mnist.toml"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="arms to train, separated by commas; by default all")
    parser.add_argument("--run", type=Path, default=Path("runs/knowledge"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/knowledge.json"))
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    arms = arms_of(recipe.distil)
    if arguments.only:
        wanted = {"no teacher", "outputs alone", *arguments.only.split(",")}
        if unknown := wanted - arms.keys():
            parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(arms)}")
        arms = {name: settings for name, settings in arms.items() if name in wanted}
    command = f"python benchmarks/knowledge.py {arguments.recipe} --seeds {arguments.seeds}"
    watch = Lines(Console(), seconds=60)
    record = ablate(recipe, seeds=arguments.seeds, arms=arms, run=arguments.run, watch=watch, command=command)
    show_ablation(record, Console())
    write_atomically(arguments.out, record.model_dump_json(indent=1).encode())


if __name__ == "__main__":
    main()
