"""What the Hugging Face hub reads at the head of a bundle's README.md: measured metrics, licence, origin, tags."""

import re
import tomllib
from pathlib import Path

from distiq.records.quality import Metric
from distiq.records.record import Modality
from distiq.records.run import RunRecord
from distiq.records.trials import TrialRecord
from distiq.tasks.task import Decoding

OF_CLASSES: dict[Modality, str] = {
    "image": "image-classification",
    "audio": "audio-classification",
    "text": "text-classification",
    "table": "tabular-classification",
}
PIPELINES: dict[Decoding, str] = {
    "mask": "image-segmentation",
    "boxes": "object-detection",
    "spans": "token-classification",
    "transcript": "automatic-speech-recognition",
    "vector": "sentence-similarity",
}
"""The hub's names of tasks."""
NAME_OF_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def front_matter(run: RunRecord, trial: TrialRecord, decoding: Decoding) -> str:
    """The YAML head: each metric of the delivered file on the test set, with its interval of 95 % where it has one."""
    from huggingface_hub import EvalResult, ModelCardData

    recipe, test = tomllib.loads(run.recipe_toml), trial.deployed.test
    data, task = recipe.get("data", {}), pipeline_of(decoding, run.data.modality)
    hub_data = hub_name(data.get("hub", {}).get("name", "")) or hub_name(data.get("text", {}).get("hub", ""))
    assert trial.deployed.cost is not None
    results = [
        EvalResult(
            task_type=task or run.task.name,
            dataset_type=hub_data or "local",
            dataset_name=hub_data or run.data.source,
            dataset_split="test",
            metric_type=metric.name,
            metric_name=metric.title,
            metric_value=metric.value,
            metric_args=_told(metric, test.samples),
        )
        for metric in (test.primary, *test.metrics)
    ]
    card = ModelCardData(
        model_name=run.name,
        license=recipe.get("export", {}).get("licence") or None,
        library_name="distiq",
        pipeline_tag=task,
        base_model=hub_name(recipe.get("teacher", {}).get("weights", "")) or None,
        datasets=[hub_data] if hub_data else None,
        tags=[
            "distiq",
            "distillation",
            "quantization",
            trial.rung,
            trial.deployed.cost.runtime.lower().replace(" ", "-"),
        ],
        eval_results=results,
    )
    return f"---\n{card.to_yaml()}\n---\n\n"


def pipeline_of(decoding: Decoding, modality: Modality) -> str | None:
    """The hub's name of a task; None where it has none."""
    if decoding in ("softmax", "sigmoid"):
        return OF_CLASSES[modality]
    if decoding == "number" and modality == "table":
        return "tabular-regression"
    return PIPELINES.get(decoding)


def hub_name(name: str) -> str:
    """The name, if it is one of the hub; empty of a file or folder."""
    return name if NAME_OF_HUB.fullmatch(name) and not Path(name).exists() else ""


def _told(metric: Metric, samples: int) -> dict[str, object]:
    interval = {"interval_95": list(metric.interval), "interval_by": metric.interval_by} if metric.interval else {}
    return {"samples": samples, **interval}
