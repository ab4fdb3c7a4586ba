"""distiq: knowledge distillation and quantization in one tool, measured in the runtime that you ship on.

The public names; each is loaded when it is first used, so that `import distiq` stays quick.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "AdaptedTeacher": "distiq.distillation.teacher",
    "Budget": "distiq.recipe.budget",
    "Bundle": "distiq.bundle.open",
    "CachedTeacher": "distiq.distillation.cache",
    "Data": "distiq.data.splits",
    "DistilSettings": "distiq.recipe.distil",
    "Ensemble": "distiq.distillation.teacher",
    "KnowledgeLoss": "distiq.recipe.distil",
    "LiveTeacher": "distiq.distillation.teacher",
    "MeanTeacher": "distiq.distillation.teacher",
    "Metric": "distiq.records.quality",
    "NotebookWatch": "distiq.progress",
    "PredictTeacher": "distiq.distillation.teacher",
    "QuantizedModel": "distiq.quantization.quantize",
    "Recipe": "distiq.recipe.recipe",
    "Scheme": "distiq.quantization.scheme",
    "Scores": "distiq.tasks.task",
    "StreamingModel": "distiq.runtimes.onnx_streaming",
    "Task": "distiq.tasks.task",
    "TrainingSettings": "distiq.recipe.training",
    "Uint8Input": "distiq.runtimes.uint8_input",
    "UserError": "distiq.errors",
    "ViewSettings": "distiq.recipe.data",
    "ablate": "distiq.commands.ablate",
    "born_again": "distiq.distillation.generations",
    "collect": "distiq.data.loaders",
    "compress": "distiq.commands.compress",
    "distil": "distiq.distillation.distil",
    "evaluate": "distiq.evaluation.evaluate",
    "export": "distiq.runtimes.export",
    "export_streaming": "distiq.runtimes.onnx_streaming",
    "from_loader": "distiq.data.loaders",
    "from_tensors": "distiq.data.splits",
    "latencies": "distiq.timing.latency",
    "load": "distiq.runtimes.export",
    "load_recipe": "distiq.recipe.read",
    "mutual": "distiq.distillation.mutual",
    "quantize": "distiq.quantization.quantize",
    "reuse_classifier": "distiq.distillation.simkd",
    "show": "distiq.report.notebook",
    "train_quantized": "distiq.quantization.qat",
    "with_unlabelled": "distiq.data.splits",
    "write_report": "distiq.report.report",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'distiq' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
