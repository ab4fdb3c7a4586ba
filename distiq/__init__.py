"""distiq: knowledge distillation and quantization in one tool, measured in the runtime that you ship on.

The public names; each is loaded when it is first used, so that `import distiq` stays quick.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Budget": "distiq.recipe",
    "Bundle": "distiq.bundle",
    "CachedTeacher": "distiq.distillation.cache",
    "Data": "distiq.data.splits",
    "DistilSettings": "distiq.recipe",
    "LiveTeacher": "distiq.distillation.teacher",
    "QuantizedModel": "distiq.quantization.quantize",
    "Recipe": "distiq.recipe",
    "Scheme": "distiq.quantization.scheme",
    "TrainingSettings": "distiq.recipe",
    "UserError": "distiq.errors",
    "ViewSettings": "distiq.recipe",
    "collect": "distiq.data.splits",
    "compress": "distiq.compress",
    "distil": "distiq.distillation.distil",
    "evaluate": "distiq.evaluation.evaluate",
    "export": "distiq.runtimes.export",
    "from_tensors": "distiq.data.splits",
    "latencies": "distiq.evaluation.cost",
    "load": "distiq.runtimes.export",
    "load_recipe": "distiq.recipe",
    "quantize": "distiq.quantization.quantize",
    "train_quantized": "distiq.quantization.qat",
    "write_report": "distiq.report.report",
}
__all__ = sorted(_HOMES)


class _Package(ModuleType):
    """Keeps `distiq.compress` the function: Python would put the file of that name there once it is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'distiq' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
