"""build(): a network by name, and its weights from a file or a hub."""

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.factory import call_factory
from distiq.models.adapted import Adapted
from distiq.models.audio import DSCNN, AudioFrames, AudioGRU, AudioGRUFrames, AudioResNet
from distiq.models.audio_classifier import SPECTROGRAM_MODELS, WAVEFORM_MODELS, audio_classifier
from distiq.models.bc_resnet import BCResNet
from distiq.models.checkpoint import SUFFIXES, load_weights
from distiq.models.conformer import Conformer, ConformerFrames
from distiq.models.detector import Detector
from distiq.models.efficientnet_lite import (
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
    efficientnet_lite3,
    efficientnet_lite4,
)
from distiq.models.from_onnx import is_onnx, read_onnx
from distiq.models.frontend import front_end
from distiq.models.mlp import MLP
from distiq.models.mobilenet import MobileNetV2
from distiq.models.plain import PlainNet
from distiq.models.pretrained import pretrained_classifier
from distiq.models.prune import Importance, prune
from distiq.models.resnet import ResNet
from distiq.models.segmenter import Segmenter
from distiq.models.signature import OutputForm, check_kept
from distiq.models.speech import speech_network
from distiq.models.text import EmbeddingBag, TextBiLSTM, TextCNN, factorize_embedding, trim_vocabulary
from distiq.models.text_tags import TagBiLSTM, TagCNN
from distiq.models.transformer import CUTS, TokenLogits, TokenTags, cut_encoder, text_classifier
from distiq.models.vectors import Around, static_vectors, text_encoder
from distiq.models.weights import usable
from distiq.progress import Watch

BUILT_IN: dict[str, Callable[..., nn.Module]] = {
    "resnet": ResNet,
    "mobilenet_v2": MobileNetV2,
    "efficientnet_lite0": efficientnet_lite0,
    "efficientnet_lite1": efficientnet_lite1,
    "efficientnet_lite2": efficientnet_lite2,
    "efficientnet_lite3": efficientnet_lite3,
    "efficientnet_lite4": efficientnet_lite4,
    "ds_cnn": DSCNN,
    "audio_resnet": AudioResNet,
    "audio_gru": AudioGRU,
    "bc_resnet": BCResNet,
    "conformer": Conformer,
    "ctc_cnn": AudioFrames,
    "ctc_gru": AudioGRUFrames,
    "ctc_conformer": ConformerFrames,
    "mlp": MLP,
    "plain": PlainNet,
    "segmenter": Segmenter,
    "detector": Detector,
}
TEXT_BUILT_IN: dict[str, Callable[..., nn.Module]] = {
    "text_bilstm": TextBiLSTM,
    "text_cnn": TextCNN,
    "embedding_bag": EmbeddingBag,
}
TAG_BUILT_IN: dict[str, Callable[..., nn.Module]] = {"text_bilstm": TagBiLSTM, "text_cnn": TagCNN}
KEEP_CHANNELS = "keep_channels"
STATIC, WIDTH = "static", 256
TABLES = ("trim_vocabulary", "embedding_width")
"""Options of every network for texts: how its table of embeddings is made smaller."""
GIVEN = ("channels", "inputs", "vocabulary", "pad", "frontend")  # by the data, or made of other options


class Tokens(NamedTuple):
    """Of a task on texts: the size of the vocabulary, numbers of the padding and the unknown token, tokens in use; of
    pairs, the token that ends the first text, where what follows counts as a second segment; whether the tokenizer pads
    in front; what the network gives: outputs for each text, for each token, or a vector; the special tokens, and those
    in front of a text and behind it; how often each token stands in the training texts, where that matters."""

    vocabulary: int
    pad: int
    unknown: int
    used: tuple[int, ...]
    separator: int | None = None
    pads_left: bool = False
    gives: Literal["classes", "tags", "vector"] = "classes"
    special: tuple[int, ...] = ()
    around: Around = ((), ())
    counts: Tensor | None = None


class ModelChoice(Protocol):
    """What `build` reads of a recipe's teacher or student."""

    @property
    def model(self) -> str: ...
    @property
    def options(self) -> dict[str, Any]: ...
    @property
    def weights(self) -> str: ...
    @property
    def trust(self) -> bool: ...


class _Choice(NamedTuple):
    """A `ModelChoice` without the options that are not the network's own."""

    model: str
    options: dict[str, Any]
    weights: str
    trust: bool = False


class Logits(nn.Module):
    """A transformers image classifier as a plain network: pixels in, logits out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).logits


class MapLogits(nn.Module):
    """A transformers segmenter as a plain network: pixels in, logits of every pixel out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        coarse = self.model(pixel_values=images).logits
        return nn.functional.interpolate(coarse, images.shape[2:], mode="bilinear", align_corners=False)


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
        model = _hearing(choice, classes, example.shape[1], role, names, watch, writes)
    else:
        made = _Choice(choice.model, options, choice.weights)
        finished, is_map = _is_finished(choice, role), form is not None and form.dimensions == 2
        model = _create(made, classes, example.shape[1], role, tokens, names, finished, watch, is_map)
    _shrink_table(model, choice, role, tokens)
    if choice.weights and not _comes_from_hub(choice):
        load_weights(model, Path(choice.weights), choice.trust, watch, new_head=not _is_finished(choice, role))
    usable(model, f"{role}: {choice.weights or choice.model}", watch)
    check_output(model, form or OutputForm(classes), example, role)
    return model


def static(teacher: nn.Module, choice: ModelChoice, form: OutputForm, example: Tensor, tokens: Tokens) -> nn.Module:
    """A student that is a table of the teacher's token vectors: `model = "static"`, with the option `width`.

    Raises:
        UserError: an option is none, or the teacher gives no vectors of that width.
    """
    if strange := [name for name in choice.options if name not in ("width", *TABLES[:1])]:
        raise UserError(f'student.options: static has no option "{strange[0]}"; it has width, {TABLES[0]}')
    with _explained("student.options"):
        width = choice.options.get("width", WIDTH)
        counts = torch.zeros(tokens.vocabulary) if tokens.counts is None else tokens.counts
        model = static_vectors(teacher, tokens.vocabulary, tokens.special, tokens.around, counts, width)
    _shrink_table(model, choice, "student", tokens)
    check_output(model, form, example, "student")
    return model


def cut(
    teacher: nn.Module,
    choice: ModelChoice,
    form: OutputForm,
    example: Tensor,
    tokens: Tokens | None,
    importance: Importance | None = None,
) -> nn.Module:
    """A student that is a part of its teacher: a copy, of which the options leave out what they say.

    Args:
        importance: the loss of a network on samples, by which `keep_channels` chooses; see `prune`.

    Raises:
        UserError: an option is none that cuts, or does not fit the teacher.
    """
    model = copy.deepcopy(teacher).requires_grad_(True)
    encoder = model.network if isinstance(model, Adapted) else model
    cuts = {name: value for name, value in choice.options.items() if tokens is None or name not in TABLES}
    own = CUTS if isinstance(encoder, TokenLogits) else () if tokens else (KEEP_CHANNELS,)
    options = (*own, *(TABLES if tokens else ()))
    if strange := [name for name in cuts if name not in options]:
        raise UserError(
            f'student.options: with weights = "teacher" the student is cut from {type(teacher).__name__}, which has no'
            f' option "{strange[0]}" for that; it has {", ".join(options) or "none"}'
        )
    if isinstance(encoder, TokenLogits):
        with _explained("student.options"):
            cut_encoder(encoder.model, cuts)
    elif KEEP_CHANNELS in cuts:
        with _explained("student.options"):
            model = prune(model, example, float(cuts[KEEP_CHANNELS]), importance)
    _shrink_table(model, choice, "student", tokens)
    check_output(model, form, example, "student")
    return model


def _shrink_table(model: nn.Module, choice: ModelChoice, role: str, tokens: Tokens | None) -> None:
    if tokens is None:
        return
    with _explained(f"{role}.options"):
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
        wants, own = ("a number each", "one output") if one else (f"{form.outputs} classes", "the data's classes")
        places = ", ..." * bool(form.dimensions)
        raise UserError(
            f"{role}: the network returns {tuple(logits.shape)} for one input, but the data has {wants}; its output"
            f" must be (1, {form.outputs}{places}) logits. Teacher and student must both have {own}"
        )


def _comes_from_hub(choice: ModelChoice) -> bool:
    from_library = choice.model.startswith(("transformers:", "timm:", "torchvision:"))
    return from_library and not choice.weights.endswith(SUFFIXES)


def _is_finished(choice: ModelChoice, role: str) -> bool:
    """Whether a network with weights is used as it is: a teacher that is not trained on."""
    return role == "teacher" and not getattr(choice, "finetune", False)


def _create(
    choice: ModelChoice,
    classes: int,
    channels: int,
    role: str,
    tokens: Tokens | None,
    names: Sequence[str],
    finished: bool,
    watch: Watch | None,
    is_map: bool,
) -> nn.Module:
    where = f"{role}.model"
    if ".py:" in choice.model:
        model = call_factory(choice.model, {"classes": classes, **choice.options}, where)
        if not isinstance(model, nn.Module):
            raise UserError(f"{where}: {choice.model} returned {type(model).__name__}; return an nn.Module")
        return model
    library, colon, name = choice.model.partition(":")
    if not colon:
        return _built_in(choice, classes, channels, where, tokens)
    match library:
        case "transformers" if tokens:
            _require("transformers", where)
            source = choice.weights if _comes_from_hub(choice) else ""
            with _explained(
                f'{where}: transformers cannot build "{name}" with {choice.options}, {source or "no weights"}'
            ):
                if tokens.gives == "vector":
                    return text_encoder(name, source, tokens.vocabulary, tokens.pad, choice.options)
                kind = TokenTags if tokens.gives == "tags" else TokenLogits
                model = text_classifier(
                    kind,
                    name,
                    source,
                    classes,
                    tokens.vocabulary,
                    tokens.pad,
                    choice.options,
                    names if classes > 1 else (),
                    finished,
                    watch,
                )
                return kind(model, tokens.pad, tokens.separator, tokens.pads_left)
        case "transformers" if is_map:
            return _segmenter(name, choice, classes, channels, where)
        case "transformers":
            return _transformers(name, choice, classes, channels, where, names, finished, watch)
        case "timm":
            timm, fetched = _require("timm", where), bool(choice.weights) and _comes_from_hub(choice)
            with _explained(f'{where}: timm cannot build "{name}" with {choice.options}'):
                return timm.create_model(
                    name, pretrained=fetched, num_classes=classes, in_chans=channels, **choice.options
                )
        case "torchvision":
            models = _require("torchvision", where).models
            if channels != 3:
                raise UserError(f"{where}: torchvision's networks read 3 channels, the data has {channels}")
            weights = choice.weights if _comes_from_hub(choice) and choice.weights else None
            with _explained(f'{where}: torchvision cannot build "{name}" with {choice.options}'):
                return models.get_model(name, weights=weights, num_classes=classes, **choice.options)
    raise UserError(f'{where}: "{library}" is no known library; take transformers:, timm:, torchvision: or file.py:')


def _built_in(choice: ModelChoice, classes: int, channels: int, where: str, tokens: Tokens | None) -> nn.Module:
    known_here = {"classes": TEXT_BUILT_IN, "tags": TAG_BUILT_IN, "vector": {}}[tokens.gives] if tokens else BUILT_IN
    if choice.model not in known_here:
        what = " for texts" if tokens else ""
        hub = f'; a hub name is written model = "transformers:NAME" (such as bert), weights = "{choice.model}"'
        raise UserError(
            f'{where}: "{choice.model}" is unknown; built in{what} are {", ".join(known_here)}; others are written'
            " file.py:function, file.onnx, transformers:NAME, timm:NAME or torchvision:NAME"
            + (hub if "/" in choice.model else "")
        )
    kind = known_here[choice.model]
    parameters = inspect.signature(kind).parameters
    given = [name for name in parameters if name in GIVEN]
    fronts = list(inspect.signature(front_end).parameters) if "frontend" in given else []
    options = [*fronts, *(name for name in parameters if name not in GIVEN and name != "classes")]
    for option in choice.options:
        if option not in options:
            raise UserError(f'{where}: {choice.model} has no option "{option}"; it has {", ".join(options)}')
    with _explained(f"{where}: {choice.model} cannot be built with {choice.options}"):
        if fronts:
            heard = {name: value for name, value in choice.options.items() if name in fronts}
            others = {name: value for name, value in choice.options.items() if name not in fronts}
            return kind(classes, front_end(**heard), **others)
        own = tokens[:2] if tokens else (channels,)[: len(given)]
        return kind(classes, *own, **choice.options)


def _hearing(
    choice: ModelChoice,
    classes: int,
    samples: int,
    role: str,
    names: Sequence[str],
    watch: Watch | None,
    writes: bool,
) -> nn.Module:
    """A classifier of sound, or, where it `writes`, a network of frames."""
    _require("transformers", f"{role}.model")
    name = choice.model.partition(":")[2]
    source = choice.weights if _comes_from_hub(choice) else ""
    what = source or f'"{name}" with {choice.options}'
    with _explained(f"{role}.model: transformers cannot build {what}"):
        finished = _is_finished(choice, role)
        if writes and name not in SPECTROGRAM_MODELS:
            return speech_network(name, source, classes, choice.options, names, finished, watch)
        return audio_classifier(name, source, classes, samples, choice.options, names, finished, watch)


def _transformers(
    name: str,
    choice: ModelChoice,
    classes: int,
    channels: int,
    where: str,
    names: Sequence[str],
    finished: bool,
    watch: Watch | None,
) -> nn.Module:
    """A classifier of images by config, or from a folder or hub name."""
    transformers = _require("transformers", where)
    auto = transformers.AutoModelForImageClassification
    if choice.weights and _comes_from_hub(choice):
        with _explained(f"{where}: {choice.weights} cannot be loaded"):
            own, options = names if classes > 1 else (), choice.options
            return Logits(pretrained_classifier(auto, choice.weights, classes, own, finished, options, watch))
    try:
        config = transformers.AutoConfig.for_model(name, num_labels=classes, num_channels=channels, **choice.options)
        return Logits(auto.from_config(config))
    except (ValueError, TypeError) as error:
        raise UserError(f'{where}: transformers cannot build "{name}" with {choice.options}: {error}') from error


def _segmenter(name: str, choice: ModelChoice, classes: int, channels: int, where: str) -> nn.Module:
    """A segmenter of images by config, or from a folder or hub name, with a head for these classes."""
    transformers = _require("transformers", where)
    auto = transformers.AutoModelForSemanticSegmentation
    source = choice.weights if _comes_from_hub(choice) else ""
    with _explained(f"{where}: transformers cannot build {source or name} with {choice.options}"):
        if source:
            return MapLogits(
                auto.from_pretrained(source, num_labels=classes, ignore_mismatched_sizes=True, **choice.options)
            )
        config = transformers.AutoConfig.for_model(name, num_labels=classes, num_channels=channels, **choice.options)
        return MapLogits(auto.from_config(config))


@contextlib.contextmanager
def _explained(message: str) -> Iterator[None]:
    """What a library raises for options that it does not take, as a UserError."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        raise UserError(f"{message}: {error}") from error


def _require(package: str, where: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"{where}: needs the package {package}; install it with: pip install {package}") from error
