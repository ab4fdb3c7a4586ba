"""A transformers classifier from a folder or hub name: its labels in the data's order, its head trained or to be."""

import contextlib
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distiq.device.run import nfc
from distiq.models.checkpoint import LOADED
from distiq.models.weights import usable
from distiq.progress import Watch

NAMELESS = re.compile(r"LABEL_(\d+)")
DRAWN_ANEW = ("masked_spec_embed", "position_ids", "mask_token")
"""Last parts of names of weights that a classifier does not read."""
SHOWN = 8  # labels named in a message


def drawn_config(name: str, options: dict[str, Any], **of_data: int) -> Any:
    """The config of transformers' architecture `name`, for weights that are drawn: its options, and what the data say.

    Raises:
        ValueError: an option is the data's to say or of another type, or the architecture writes texts.
    """
    import transformers

    if said := sorted(options.keys() & of_data.keys()):
        raise ValueError(f"{said[0]} is {of_data[said[0]]} by the data; leave it out of the options")
    known = list(transformers.CONFIG_MAPPING)
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        advice = f'did you mean "{nearest[0]}"?' if nearest else "its documentation lists those that it has"
        raise ValueError(f"it has no architecture of that name; {advice}")
    try:
        with quiet(transformers):  # of tokens that only writing needs, beyond a small vocabulary
            config = transformers.AutoConfig.for_model(name, **of_data, **options)
    except Exception as error:  # of its own kinds for values of another type
        raise ValueError(" ".join(str(error).split())) from error
    config.architectures = config.architectures or []  # where there are several heads, transformers looks them through
    refuse_decoders(config)
    return config


def drawn_network(auto: Any, config: Any) -> Any:
    """The network of a config, its weights drawn.

    Raises:
        ValueError: transformers has none for this task.
    """
    if type(config) not in auto._model_mapping:
        kinds = sorted({kind.model_type for kind in auto._model_mapping})
        raise ValueError(f"it has no {auto.__name__} of this architecture; take one of {', '.join(kinds)}")
    return auto.from_config(config)


def pretrained_classifier(
    auto: Any,
    weights: str,
    classes: int,
    names: Sequence[str],
    finished: bool,
    options: dict[str, Any],
    watch: Watch | None = None,
) -> Any:
    """The classifier that transformers' class `auto` loads, in float32.

    Args:
        weights: the folder or hub name.
        names: of the classes. If the weights name their labels, those of the data are picked out by name; labels
            called LABEL_0, LABEL_1 ... go by their numbers: see `rows_of`.
        finished: it is used as it is. Otherwise it is trained on, and gets a new head where its own does not fit.
        options: of the config.
        watch: gets a note if the weights were of another type.

    Raises:
        ValueError: it is finished, but lacks a class among its labels, or weights that decide its logits; or a weight
            is not finite.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(weights)
    refuse_decoders(config)
    labels = tuple(nfc(str(config.id2label[number])) for number in sorted(config.id2label))
    rows = rows_of(labels, names, finished) if names else ()
    with quiet(transformers):
        model, report = auto.from_pretrained(
            weights,
            num_labels=len(labels) if rows else classes,
            ignore_mismatched_sizes=not finished,
            output_loading_info=True,
            **options,
        )
    _refuse_drawn_weights(model, sorted(report["missing_keys"]), finished)
    name_loaded(model, report)
    usable(model, weights, watch)
    if rows:
        _order(model, rows, names)
        model.loaded_labels = labels, rows
    return model


def name_loaded(model: nn.Module, report: Mapping[str, Any]) -> None:
    """Notes in a model which of its tensors `from_pretrained` has filled; see `checkpoint.LOADED`."""
    drawn = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    setattr(model, LOADED, tuple(name for name in model.state_dict() if name not in drawn))


def revision_of(network: nn.Module) -> str:
    """The commit of the hub's repository that transformers loaded a network from; empty of a folder or file."""
    configs = (getattr(module, "config", None) for module in network.modules())
    return next((commit for config in configs if (commit := getattr(config, "_commit_hash", None))), "")


def refuse_decoders(config: Any) -> None:
    """Raises ValueError for networks that generate their output token by token."""
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{config.model_type} is an encoder-decoder network, which writes token by token; distiq takes encoders:"
            " classifiers of texts and tokens, embeddings, and CTC networks of speech"
        )


def loaded_labels(network: nn.Module) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """The labels of the weights in the order of their outputs, and where each class of the data stands among them; None
    of what `pretrained_classifier` did not match."""
    by_module = (getattr(module, "loaded_labels", None) for module in network.modules())
    return next((labels for labels in by_module if labels), None)


def rows_of(labels: Sequence[str], names: Sequence[str], finished: bool) -> tuple[int, ...]:
    """Which output of the weights each class of the data is; none where a new head serves.

    Args:
        labels: of the weights, in the order of their outputs. Where they are called LABEL_0, LABEL_1 ... and the data's
            classes are not, these are the classes in their order, or, of classes that are numbers themselves, those of
            the same numbers.

    Raises:
        ValueError: it is finished, but a class is not among the labels.
    """
    row_of = {label: row for row, label in enumerate(labels)}
    numbers = [NAMELESS.fullmatch(label) for label in labels]
    if all(numbers) and not set(names) <= set(labels):
        rows = {int(match[1]): row for row, match in enumerate(numbers) if match}
        if len(labels) == len(names):
            row_of = dict(zip(names, (rows[number] for number in sorted(rows)), strict=True))
        else:
            row_of = {str(number): row for number, row in rows.items()}
    missing = [name for name in names if name not in row_of]
    if missing and finished:
        raise ValueError(
            f"it does not know {_few([repr(name) for name in missing])}. Its labels: {_few(labels)}. The data's"
            f" classes: {_few(names)}. Name its labels as the data does, in their order, in"
            " teacher.preprocessing.labels, call the classes by its labels, or set teacher.finetune = true: that trains"
            " a new head"
        )
    return () if missing else tuple(row_of[name] for name in names)


def _few(names: Sequence[str]) -> str:
    more = f", ... ({len(names):,} in all)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _refuse_drawn_weights(model: Any, missing: Sequence[str], finished: bool) -> None:
    """Raises ValueError where transformers drew what decides the logits: in a finished classifier anything, in one that
    is trained on most of what stands before the head."""
    missing = [key for key in missing if key.rpartition(".")[2] not in DRAWN_ANEW]
    heads = [key for key in missing if not key.startswith(model.base_model_prefix)]
    if finished and missing:
        lacking = (heads or missing)[0]
        raise ValueError(f"it holds no trained classifier ({lacking} is missing): set teacher.finetune = true")
    encoder = [key for key, _ in model.named_parameters() if key.startswith(model.base_model_prefix)]
    drawn = [key for key in missing if key in set(encoder)]
    if 2 * len(drawn) > len(encoder):
        raise ValueError(
            f"{len(drawn)} of {len(encoder)} weights of its encoder are missing, {drawn[0]} among them: these are"
            f" weights of another network than {type(model).__name__}"
        )


def keep_rows(linear: nn.Linear, kept: Tensor) -> None:
    """Leaves those rows of the weight and the bias, in place."""
    linear.weight = nn.Parameter(linear.weight.detach()[kept].clone())
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach()[kept].clone())
    linear.out_features = len(kept)


def _order(model: Any, rows: tuple[int, ...], names: Sequence[str]) -> None:
    """Leaves those rows of the last layer, in this order."""
    if rows != tuple(range(model.config.num_labels)):
        for head in _heads(model):
            keep_rows(head, torch.tensor(rows))
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {label: number for number, label in enumerate(names)}


def _heads(model: Any) -> list[nn.Linear]:
    """The layers that give the logits: the last one with as many outputs as there are labels, and those of its form
    beside it, outside the encoder: distilled vision transformers average two."""
    count = model.config.num_labels
    linears = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == count
    ]
    if not linears:
        raise ValueError(
            f"{type(model).__name__} has no linear layer of {count} outputs whose rows could be put in order"
        )
    _, last = linears[-1]
    outside = [module for name, module in linears if not name.startswith(f"{model.base_model_prefix}.")]
    if last.in_features == count:  # a hidden layer would look the same
        return [last]
    return [module for module in outside if module.in_features == last.in_features] or [last]


@contextlib.contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """A new head is no surprise here."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        transformers.logging.enable_progress_bar()
