"""Keys of a recipe that are set and change nothing: each is said, so that nobody looks for its effect."""

from collections.abc import Iterator, Sequence
from typing import Any

from distiq.recipe.part import Part
from distiq.recipe.recipe import Recipe
from distiq.recipe.training import TrainingSettings

PICTURES = ("folder", "masks", "boxes", "bccd")
CLIPS = ("audio", "transcripts", "spoken_digits", "digit_strings")
TEXTS = ("text", "entities", "pairs")
STRINGS = ("digit_strings",)
SOURCES = {
    "download": ("fashion_mnist",),
    "image_size": PICTURES,
    "channels": PICTURES,
    "void": ("masks",),
    "audio": CLIPS,
    "audio.manifest": ("audio", "transcripts"),
    "audio.held_out": CLIPS,
    "table": ("table", "adult"),
    **{f"table.{key}": ("table",) for key in ("train", "test", "header", "label", "target", "group")},
    "text": ("text",),
    **{f"text.{key}": TEXTS for key in ("tokenizer", "vocabulary", "length")},
    "entities": ("entities",),
    "pairs": ("pairs",),
    "transcripts": ("transcripts", "digit_strings"),
    **{f"transcripts.{key}": STRINGS for key in ("digits", "strings", "test_strings", "synthetic")},
}
"""The sources of data that a key below "data" is for; those that are not here are for all, or refused elsewhere."""
LACKING = dict.fromkeys(("train", "labelled", "unlabelled"), "pairs")
"""The source of data that does not read a key below "data"."""
MODALITIES = {
    **{key: "image" for key in ("flip", "flip_vertical", "shift", "colour", "crop", "erase")},
    "audio": "audio",
    "text": "text",
}
"""The modality that a key below "views" is for."""


def idle_keys(recipe: Recipe, modality: str, given: bool = False) -> list[str]:
    """A sentence for each reason why keys that a recipe sets have no effect.

    Keys at their defaults count as not set.

    Args:
        modality: of the data: "image", "audio", "text" or "table".
        given: the data were handed in from Python, so what the recipe says of them is not read.
    """
    by_reason: dict[str, list[str]] = {}
    for key, why in (
        *_of_data(recipe, given),
        *_of_views(recipe, modality),
        *_of_learning(recipe),
        *_of_measures(recipe),
    ):
        by_reason.setdefault(why, []).append(key)
    return [no_effect(keys, why) for why, keys in by_reason.items()]


def no_effect(keys: Sequence[str], why: str) -> str:
    """The sentence about keys that change nothing."""
    return f"warning: {', '.join(keys)} {'has' if len(keys) == 1 else 'have'} no effect: {why}"


def set_keys(part: Part, above: str = "") -> Iterator[str]:
    """The keys of a part whose values differ from their defaults, with those of the parts within it."""
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        default: Any = field.get_default(call_default_factory=True)
        if isinstance(value, Part):
            yield from set_keys(value, f"{above}{name}.")
        elif value != default:
            yield above + name


def _of_data(recipe: Recipe, given: bool) -> Iterator[tuple[str, str]]:
    source = recipe.data.source
    for key in set_keys(recipe.data):
        if given:
            yield f"data.{key}", "the data are handed in; leave it out"
        elif ".py:" in source and key != "source":
            yield f"data.{key}", f"the function of data.source = {source} alone says what the data are; leave it out"
        elif sources := SOURCES.get(key) or SOURCES.get(key.partition(".")[0], ()):
            if source not in sources:
                wanted = " and ".join(f'"{one}"' for one in sources)
                yield f"data.{key}", f'data.source = "{source}" does not read it, but {wanted}; leave it out'
        elif LACKING.get(key) == source:
            yield f"data.{key}", f'data.source = "{source}" does not read it; leave it out'
        elif key.startswith("hub.") and not recipe.data.hub.name:
            yield f"data.{key}", "data.hub.name names no data set; name one, or leave it out"


def _of_views(recipe: Recipe, modality: str) -> Iterator[tuple[str, str]]:
    for key in (*set_keys(recipe.views), *(f"teacher.{key}" for key in recipe.teacher.views)):
        own = key.removeprefix("teacher.")
        wanted = MODALITIES.get(own.partition(".")[0])
        if wanted is not None and wanted != modality:
            place = f"views.{own}" if own == key else f"teacher.views.{own}"
            yield place, f"it is for data of the kind {wanted}, and these are of the kind {modality}; leave it out"


def _of_learning(recipe: Recipe) -> Iterator[tuple[str, str]]:
    distil, cache = recipe.distil, recipe.distil.cache
    if distil.teacher == "none":
        for key in set_keys(distil):
            if not key.startswith(("teacher", "quant_regularization")):
                yield f"distil.{key}", 'distil.teacher = "none": the labels alone are learned from; leave it out'
    else:
        if cache.top_k != 16 and cache.storage != "top_k":
            yield "distil.cache.top_k", f'distil.cache.storage = "{cache.storage}"; set it to "top_k", or leave it out'
        if distil.teacher == "live":
            for key in set_keys(cache):
                if key not in ("limit_mb", "top_k"):
                    yield f"distil.cache.{key}", 'distil.teacher = "live" stores nothing; leave it out'
    if recipe.data.unlabelled and (distil.teacher == "none" or not (distil.kd_weight or distil.losses)):
        yield "data.unlabelled", "nothing is learned from a teacher, who alone says what these are; leave it out"
    for role, network in recipe.networks().items():
        yield from _of_training(f"{role}.training", network.training)
    settings = recipe.teacher
    is_taken = settings.predict or ((settings.weights or settings.model.endswith(".onnx")) and not settings.finetune)
    if is_taken:
        why = "the teacher is taken as it is; set teacher.finetune = true, or leave it out"
        yield from ((f"teacher.training.{key}", why) for key in set_keys(settings.training) if key != "momentum")


def _of_training(place: str, training: TrainingSettings) -> Iterator[tuple[str, str]]:
    if training.optimizer == "adamw" and "momentum" in set_keys(training):
        yield f"{place}.momentum", 'it is for optimizer = "sgd"; leave it out'


def _of_measures(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if "false_accepts" in set_keys(recipe.evaluation) and not recipe.evaluation.keyword:
        yield "evaluation.false_accepts", "evaluation.keyword names no class; name one, or leave it out"
