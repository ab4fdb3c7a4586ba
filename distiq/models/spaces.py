"""Where students are looked for: each modality's space of networks, as a function of an Optuna trial.

A space is a function from a trial to the name of a network and its options, as a recipe has them. A user's own is
named in a recipe as `file.py:function`.
"""

from collections.abc import Callable
from typing import Any, Protocol

Choice = tuple[str, dict[str, Any]]
"""A network as recipes name it: `student.model` and `student.options`."""
Space = Callable[[Any], Choice]
WIDTHS = (16, 24, 32, 40, 48, 64, 80, 96)
GROWTH = (1.0, 1.5, 2.0)
HOPS_MS = (16.0, 24.0, 32.0)  # between the frames of a spectrogram
MULTIPLE = 8  # of channels that kernels of integers like


class Trial(Protocol):
    """What a space uses of `optuna.Trial`."""

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...
    def suggest_int(self, name: str, low: int, high: int) -> int: ...


def images(trial: Trial) -> Choice:
    """Plain and residual convolutions, inverted residuals, fused ones too, with or without squeeze-and-excitation.

    Height and width are halved by the stem, or else by the first stage, and by every later stage.
    """
    family = trial.suggest_categorical("family", ("plain", "resnet", "mobilenet_v2"))
    stem = trial.suggest_categorical("stem", WIDTHS[:3])
    stem_stride = trial.suggest_int("stem stride", 1, 2)
    stages = trial.suggest_int("stages", 2, 3)
    widths = [trial.suggest_categorical(f"width {stage}", WIDTHS[1:]) for stage in range(stages)]
    depths = [trial.suggest_int(f"depth {stage}", 1, 3) for stage in range(stages)]
    strides = [3 - stem_stride, *[2] * (stages - 1)]
    rows = list(zip(widths, depths, strides, strict=True))
    if family == "plain":
        layers = [[width, stride if not number else 1] for width, depth, stride in rows for number in range(depth)]
        return "plain", {"layers": [[stem, stem_stride], *layers]}
    if family == "resnet":
        blocks = [min(depth, 2) for depth in depths]
        return "resnet", {"widths": widths, "blocks": blocks, "stem_stride": stem_stride}
    expansion = trial.suggest_categorical("expansion", (1, 2, 3, 4, 6))
    stages_of = [[expansion, *row] for row in rows]
    return "mobilenet_v2", {
        "stem": stem,
        "stem_stride": stem_stride,
        "stages": stages_of,
        "fused": trial.suggest_int("fused", 0, stages),
        "head": trial.suggest_categorical("head", (0, 96, 128)),
        "squeeze": trial.suggest_categorical("squeeze", (0.0, 0.25)),
        "activation": trial.suggest_categorical("activation", ("relu", "hard_swish")),
    }


def sounds(trial: Trial) -> Choice:
    """DS-CNN, residual networks and BC-ResNet over the recipe's front-end, whose frames may lie farther apart: of a
    small network's time most is the spectrogram's.
    """
    model, options = _over_a_front_end(trial)
    return model, {"hop_ms": trial.suggest_categorical("hop_ms", HOPS_MS), **options}


def _over_a_front_end(trial: Trial) -> Choice:
    family = trial.suggest_categorical("family", ("ds_cnn", "audio_resnet", "bc_resnet"))
    stem = trial.suggest_categorical("stem", WIDTHS[:4])
    depth = trial.suggest_int("depth", 2, 5)
    width = trial.suggest_categorical("width", (8, *WIDTHS[:6]))
    growth = trial.suggest_categorical("growth", GROWTH)
    if family == "ds_cnn":
        halved = trial.suggest_int("halved at", 0, depth - 1)
        widths = [grown(width, growth, int(stage > halved)) for stage in range(depth)]
        return "ds_cnn", {"stem": stem, "widths": widths, "strides": [2 if at == halved else 1 for at in range(depth)]}
    if family == "audio_resnet":
        return "audio_resnet", {"widths": [grown(width, growth, stage) for stage in range(min(depth, 3))], "blocks": 1}
    widths = [grown(width, growth, stage) for stage in range(4)]
    return "bc_resnet", {"stem": stem, "widths": widths, "blocks": [1, 1, depth - 1, depth - 1], "last": widths[-1]}


def texts(trial: Trial) -> Choice:
    """Networks that need no pretrained weights."""
    family = trial.suggest_categorical("family", ("text_cnn", "embedding_bag", "text_bilstm"))
    width = trial.suggest_categorical("width", (16, 32, 64, 96))
    if family == "text_cnn":
        return "text_cnn", {"width": width, "filters": trial.suggest_categorical("filters", (32, 64, 128))}
    return family, {"width": width, "hidden": trial.suggest_categorical("hidden", (32, 64, 128))}


def tables(trial: Trial) -> Choice:
    """Multilayer perceptrons."""
    depth = trial.suggest_int("depth", 1, 3)
    widths = (8, 16, 24, 32, 48, 64, 96, 128, 192)
    return "mlp", {"hidden": [trial.suggest_categorical(f"width {layer}", widths) for layer in range(depth)]}


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


def parts_of_an_encoder(model: str, layers: int, neurons: int, heads: int, width: int) -> Space:
    """How much of an encoder of texts stays: layers, evenly spread, and of each its neurons and heads; the width of its
    table of embeddings, in two factors.

    Args:
        model: the encoder's name in recipes. neurons, heads: of each layer. width: of an embedding.
    """

    def space(trial: Trial) -> Choice:
        count = trial.suggest_int("layers", 1, layers)
        options: dict[str, Any] = {"keep_layers": spread(layers, count)}
        shares = {
            "feed_forward": (neurons, [neurons * part // MULTIPLE for part in range(1, MULTIPLE + 1)]),
            "heads": (heads, [heads // 2, heads * 3 // 4, heads]),
            "embedding_width": (width, [width // 4, width // 2, width]),
        }
        for name, (whole, values) in shares.items():
            value = trial.suggest_categorical(name, sorted({max(1, value) for value in values}))
            if value < whole:
                options[name] = value
        return model, options

    return space


def parts_of_a_network(model: str) -> Space:
    """How many channels of each group stay in a convolution network of that name."""
    return lambda trial: (model, {"keep_channels": trial.suggest_int("sixteenths", 3, 12) / 16})


def spread(whole: int, count: int) -> list[int]:
    """Numbers below `whole`, so many, the first and the last among them: 6, 4 -> [0, 2, 3, 5]."""
    return [round(place * (whole - 1) / max(1, count - 1)) for place in range(count)]


SPACES = {"image": images, "audio": sounds, "text": texts, "table": tables}
"""The space of each modality, for tasks of some outputs a sample."""
SPACES_OF_TASKS = {
    ("detection", "image"): detectors, ("segmentation", "image"): segmenters, ("tokens", "text"): taggers,
    ("transcript", "audio"): writers, ("embedding", "text"): tables_of_vectors,
}  # fmt: skip
"""The space of each task and modality whose networks are others."""
