"""Where students are looked for: each modality's space of networks, as a function of an Optuna trial.

A space is a function from a trial to the name of a network and its options, as a recipe has them. A user's own is
named in a recipe as `file.py:function`.
"""

from typing import Any, Protocol

Choice = tuple[str, dict[str, Any]]
"""A network as recipes name it: `student.model` and `student.options`."""
WIDTHS = (16, 24, 32, 40, 48, 64, 80, 96)
GROWTH = (1.0, 1.5, 2.0)
MULTIPLE = 8  # of channels that kernels of integers like


class Trial(Protocol):
    """What a space uses of `optuna.Trial`."""

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...
    def suggest_int(self, name: str, low: int, high: int) -> int: ...


def images(trial: Trial) -> Choice:
    """Plain and residual convolutions, inverted residuals, with or without squeeze-and-excitation."""
    family = trial.suggest_categorical("family", ("plain", "resnet", "mobilenet_v2"))
    first = trial.suggest_categorical("first width", WIDTHS[:5])
    growth = trial.suggest_categorical("growth", GROWTH)
    stages = trial.suggest_int("stages", 2, 3)
    depth = trial.suggest_int("depth", 1, 3)
    widths = [grown(first, growth, stage) for stage in range(stages)]
    if family == "plain":
        return "plain", {"layers": [[width, 2 if not number else 1] for width in widths for number in range(depth)]}
    if family == "resnet":
        return "resnet", {"widths": widths, "blocks": min(depth, 2), "stem_stride": 2}
    expansion = trial.suggest_categorical("expansion", (2, 3, 4, 6))
    squeeze = trial.suggest_categorical("squeeze", (0.0, 0.25))
    rows = [[expansion, width, depth, 2 if stage else 1] for stage, width in enumerate(widths)]
    head = trial.suggest_categorical("head", (0, 96, 128))
    return "mobilenet_v2", {"stem_stride": 2, "stages": rows, "head": head, "squeeze": squeeze, "activation": "relu"}


def sounds(trial: Trial) -> Choice:
    """DS-CNN and residual networks over the recipe's front-end."""
    family = trial.suggest_categorical("family", ("ds_cnn", "audio_resnet"))
    width = trial.suggest_categorical("width", (16, 24, 32, 48, 64))
    depth = trial.suggest_int("depth", 2, 5)
    if family == "ds_cnn":
        return "ds_cnn", {"stem": width, "widths": [width] * depth, "strides": [2, *[1] * (depth - 1)]}
    return "audio_resnet", {"widths": [grown(width, 1.5, stage) for stage in range(3)], "blocks": 1}


def texts(trial: Trial) -> Choice:
    """Networks that need no pretrained weights."""
    family = trial.suggest_categorical("family", ("text_cnn", "embedding_bag", "text_bilstm"))
    width = trial.suggest_categorical("width", (16, 32, 64, 96))
    if family == "text_cnn":
        return "text_cnn", {"width": width, "filters": trial.suggest_categorical("filters", (32, 64, 128))}
    return family, {"width": width, "hidden": trial.suggest_categorical("hidden", (32, 64, 128))}


def tables(trial: Trial) -> Choice:
    """Multilayer perceptrons."""
    first = trial.suggest_categorical("first width", (16, 32, 64, 96, 128, 192))
    depth = trial.suggest_int("depth", 1, 3)
    return "mlp", {"hidden": [max(MULTIPLE, first // 2**layer) for layer in range(depth)]}


def grown(width: int, growth: float, stage: int) -> int:
    """The width of a later stage, a multiple of 8 channels."""
    return max(MULTIPLE, round(width * growth**stage / MULTIPLE) * MULTIPLE)


def detectors(trial: Trial) -> Choice:
    """Detectors over light encoders."""
    return "detector", _over_an_encoder(trial)


def segmenters(trial: Trial) -> Choice:
    """Segmenters over light encoders."""
    return "segmenter", _over_an_encoder(trial)


def _over_an_encoder(trial: Trial) -> dict[str, Any]:
    return {
        "encoder": trial.suggest_categorical("encoder", ("mobilenet", "resnet")),
        "width": trial.suggest_categorical("width", (16, 24, 32, 48, 64)),
        "depth": trial.suggest_int("depth", 1, 2),
    }


def taggers(trial: Trial) -> Choice:
    """Networks that tag tokens and need no pretrained weights."""
    width = trial.suggest_categorical("width", (16, 32, 64, 96))
    if trial.suggest_categorical("family", ("text_cnn", "text_bilstm")) == "text_cnn":
        return "text_cnn", {
            "width": width,
            "dilations": [2**layer for layer in range(trial.suggest_int("layers", 2, 4))],
        }
    return "text_bilstm", {"width": width, "hidden": trial.suggest_categorical("hidden", (32, 64, 128))}


def writers(trial: Trial) -> Choice:
    """Networks that write a symbol for every stretch of sound, over the recipe's front-end."""
    width = trial.suggest_categorical("width", (24, 32, 48, 64, 96))
    return "ctc_cnn", {"width": width, "blocks": trial.suggest_int("blocks", 2, 5)}


def tables_of_vectors(trial: Trial) -> Choice:
    """Tables of the teacher's token vectors, of some widths."""
    return "static", {"width": trial.suggest_categorical("width", (32, 64, 96, 128, 192, 256))}


SPACES = {"image": images, "audio": sounds, "text": texts, "table": tables}
"""The space of each modality, for tasks of some outputs a sample."""
SPACES_OF_TASKS = {
    "detection": detectors, "segmentation": segmenters, "tokens": taggers, "transcript": writers,
    "embedding": tables_of_vectors,
}  # fmt: skip
"""The space of each task whose networks are others."""
