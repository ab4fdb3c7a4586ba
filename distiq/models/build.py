"""build(): a network by name, and its weights from a file or a hub."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.models.adapted import Adapted
from distiq.models.audio_classifier import SPECTROGRAM_MODELS, WAVEFORM_MODELS
from distiq.models.checkpoint import load_weights
from distiq.models.create import (
    KEEP_CHANNELS,
    KEEP_MACS,
    TABLES,
    WIDTH,
    ModelChoice,
    Tokens,
    audio_network,
    comes_from_hub,
    create,
    explained,
    is_finished,
)
from distiq.models.from_onnx import is_onnx, read_onnx
from distiq.models.prune import Importance, prune
from distiq.models.signature import OutputForm, check_kept
from distiq.models.spaces import Space, parts_of_a_network, parts_of_an_encoder
from distiq.models.text import factorize_embedding, trim_vocabulary
from distiq.models.transformer import CUTS, TokenLogits, cut_encoder, parts_of
from distiq.models.vectors import static_vectors
from distiq.models.weights import usable
from distiq.progress import Watch

OF_CUTS = (*CUTS, *TABLES, KEEP_CHANNELS, KEEP_MACS)
"""Options of a student that is cut from its teacher."""


class _Choice(NamedTuple):
    """A `ModelChoice` without the options that are not the network's own."""

    model: str
    options: dict[str, Any]
    weights: str
    trust: bool = False


def build(
    choice: ModelChoice,
    classes: int,
    example: Tensor,
    role: str,
    tokens: Tokens | None = None,
    names: Sequence[str] = (),
    watch: Watch | None = None,
    form: OutputForm | None = None,
) -> nn.Module:
    """The network that a recipe names, with its weights if it names some.

    Args:
        example: (1, ...) input of the data's form, on which the network is tried.
        role: "teacher" or "student", for messages.
        tokens: of a task on texts. There the option `trim_vocabulary = true` leaves the network's table of embeddings
            rows for the tokens in use alone, and `embedding_width` makes it a narrow table and a layer that widens it.
        watch: gets a note of what was unwrapped from a file of weights.
        form: of the outputs; by default (1, classes) logits.
        names: of the classes; where weights of transformers name their labels, they are matched by name.

    Raises:
        UserError: the name is unknown, a package is missing, the options do not fit, the weights do not fit, or the
            network does not give outputs of that form.
    """
    options = {name: value for name, value in choice.options.items() if tokens is None or name not in TABLES}
    if is_onnx(choice.model):
        if options:
            raise UserError(
                f"{role}.options: {choice.model} is a finished network, which takes no options; remove them"
            )
        model: nn.Module = read_onnx(Path(choice.model), example, logits=True)
    elif choice.model.partition(":")[2] in (*WAVEFORM_MODELS, *SPECTROGRAM_MODELS) and example.ndim == 2:
        writes = form is not None and form.dimensions == 1
        model = audio_network(choice, classes, example.shape[1], role, names, watch, writes)
    else:
        if form is not None and form.dimensions == 1 and example.ndim == 4 and _is_of_a_library(choice.model):
            raise UserError(
                f'{role}.model: "{choice.model}" gives no box for each position of a map, which is how detectors learn'
                ' here; take model = "detector", or one of your own, file.py:function'
            )
        made = _Choice(choice.model, options, choice.weights)
        finished, is_map = is_finished(choice, role), form is not None and form.dimensions == 2
        model = create(made, classes, example.shape[1], role, tokens, names, finished, watch, is_map)
    _shrink_table(model, choice, role, tokens)
    if choice.weights and not comes_from_hub(choice):
        load_weights(model, Path(choice.weights), choice.trust, watch, new_head=not is_finished(choice, role))
    usable(model, f"{role}: {choice.weights or choice.model}", watch)
    check_output(model, form or OutputForm(classes), example, role)
    return model


def _is_of_a_library(model: str) -> bool:
    return ":" in model and ".py:" not in model


def static(teacher: nn.Module, choice: ModelChoice, form: OutputForm, example: Tensor, tokens: Tokens) -> nn.Module:
    """A student that is a table of the teacher's token vectors: `model = "static"`, with the option `width`.

    Raises:
        UserError: an option is none, or the teacher gives no vectors of that width.
    """
    if strange := [name for name in choice.options if name not in ("width", *TABLES[:1])]:
        raise UserError(f'student.options: static has no option "{strange[0]}"; it has width, {TABLES[0]}')
    with explained("student.options"):
        width = choice.options.get("width", WIDTH)
        counts = torch.zeros(tokens.vocabulary) if tokens.counts is None else tokens.counts
        model = static_vectors(teacher, tokens.vocabulary, tokens.special, tokens.around, counts, width)
    kept = sorted({*tokens.used, *tokens.special})  # special tokens keep their rows, which are zero
    _shrink_table(model, choice, "student", tokens._replace(used=tuple(kept)))
    check_output(model, form, example, "student")
    return model


def cut(
    teacher: nn.Module,
    choice: ModelChoice,
    form: OutputForm,
    example: Tensor,
    tokens: Tokens | None,
    importance: Importance | None = None,
    samples: Tensor | None = None,
) -> nn.Module:
    """A student that is a part of its teacher: a copy, of which the options leave out what they say.

    Args:
        importance: the loss of a network on samples, by which `keep_channels` chooses; see `prune`.
        samples: of texts, token numbers (N, L) on which `feed_forward` chooses; see `cut_encoder`.

    Raises:
        UserError: an option is none that cuts, or does not fit the teacher.
    """
    model = copy.deepcopy(teacher).requires_grad_(True)
    encoder = _encoder(model)
    cuts = {name: value for name, value in choice.options.items() if tokens is None or name not in TABLES}
    own = CUTS if isinstance(encoder, TokenLogits) else () if tokens else (KEEP_CHANNELS, KEEP_MACS)
    options = (*own, *(TABLES if tokens else ()))
    if strange := [name for name in cuts if name not in options]:
        raise UserError(
            f'student.options: with weights = "teacher" the student is cut from {type(teacher).__name__}, which has no'
            f' option "{strange[0]}" for that; it has {", ".join(options) or "none"}'
        )
    if isinstance(encoder, TokenLogits):
        with explained("student.options"):
            cut_encoder(encoder.model, cuts, samples, encoder.pad)
    elif KEEP_CHANNELS in cuts or KEEP_MACS in cuts:
        with explained("student.options"):
            if KEEP_CHANNELS in cuts and KEEP_MACS in cuts:
                raise ValueError(f"{KEEP_CHANNELS} and {KEEP_MACS} both say how much stays; give one")
            if KEEP_MACS in cuts:
                model = prune(model, example, float(cuts[KEEP_MACS]), importance, of="macs")
            else:
                model = prune(model, example, float(cuts[KEEP_CHANNELS]), importance)
    _shrink_table(model, choice, "student", tokens)
    check_output(model, form, example, "student")
    return model


def space_of_cuts(teacher: nn.Module, model: str, is_text: bool) -> Space | None:
    """What a search draws where the student is cut from its teacher; None where nothing is known to cut.

    Args:
        model: the teacher's name in recipes.
    """
    if not is_text:
        has_channels = any(isinstance(module, nn.Conv2d | nn.Conv1d) for module in teacher.modules())
        return parts_of_a_network(model) if has_channels else None
    encoder = _encoder(teacher)
    parts = parts_of(encoder.model) if isinstance(encoder, TokenLogits) else None
    return parts_of_an_encoder(model, *parts) if parts else None


def _encoder(teacher: nn.Module) -> nn.Module:
    return teacher.network if isinstance(teacher, Adapted) else teacher


def _shrink_table(model: nn.Module, choice: ModelChoice, role: str, tokens: Tokens | None) -> None:
    if tokens is None:
        return
    with explained(f"{role}.options"):
        if choice.options.get("trim_vocabulary"):
            trim_vocabulary(model, tokens.vocabulary, tokens.used, tokens.unknown)
        if width := choice.options.get("embedding_width"):
            factorize_embedding(model, tokens.vocabulary, width)


def check_output(model: nn.Module, form: OutputForm, example: Tensor, role: str) -> None:
    """Raises UserError unless the network turns one input (1, ...) into outputs of the form that the task reads."""
    was_training = model.training
    try:
        with torch.no_grad():
            before = [example.clone()]
            logits = form.read(model.eval()(example))
            check_kept(before, example)
    except UserError as error:
        raise UserError(f"{role}: {error}") from error
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"{role}: the network fails on an input of shape {tuple(example.shape[1:])}: {error}"
        ) from error
    finally:
        model.train(was_training)
    if len(logits) != 1 or not form.fits(logits):
        one = form.outputs == 1
        wants, own = ("a number each", "one output") if one else (f"{form.classes} classes", "the data's classes")
        places = ", ..." * bool(form.dimensions)
        turned = (
            "; move its last dimension to that place" if form.fits(logits.movedim(-1, min(1, logits.ndim - 1))) else ""
        )
        raise UserError(
            f"{role}: the network returns {tuple(logits.shape)} for one input, but the data has {wants}; its output"
            f" must be (1, {form.outputs}{places}) logits{turned}. Teacher and student must both have {own}"
        )
