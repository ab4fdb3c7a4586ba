"""Makes a network by its name: built in, from a library or a hub, or by a function of the user's."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor, nn

from distiq.errors import UserError
from distiq.factory import call_factory
from distiq.models.audio import DSCNN, AudioFrames, AudioGRU, AudioGRUFrames, AudioResNet
from distiq.models.audio_classifier import SPECTROGRAM_MODELS, audio_classifier
from distiq.models.bc_resnet import BCResNet
from distiq.models.checkpoint import SUFFIXES
from distiq.models.conformer import Conformer, ConformerFrames
from distiq.models.detector import Detector
from distiq.models.efficientnet_lite import (
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
    efficientnet_lite3,
    efficientnet_lite4,
)
from distiq.models.frontend import front_end
from distiq.models.mlp import MLP
from distiq.models.mobilenet import MobileNetV2
from distiq.models.options import check_option
from distiq.models.plain import PlainNet
from distiq.models.pretrained import drawn_config, drawn_network, pretrained_classifier
from distiq.models.resnet import ResNet
from distiq.models.segmenter import Segmenter
from distiq.models.speech import speech_network
from distiq.models.text import EmbeddingBag, TextBiLSTM, TextCNN
from distiq.models.text_tags import TagBiLSTM, TagCNN
from distiq.models.transformer import TokenLogits, TokenTags, text_classifier
from distiq.models.vectors import Around, text_encoder
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
KEEP_CHANNELS, KEEP_MACS = "keep_channels", "keep_macs"
STATIC, WIDTH = "static", 256
VECTOR, VECTOR_WIDTH = "outputs", 128
"""The option that says how wide the vectors of a network without classes are, and its default."""
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


def comes_from_hub(choice: ModelChoice) -> bool:
    from_library = choice.model.startswith(("transformers:", "timm:", "torchvision:"))
    return from_library and not choice.weights.endswith(SUFFIXES)


def is_finished(choice: ModelChoice, role: str) -> bool:
    """Whether a network with weights is used as it is: a teacher that is not trained on."""
    return role == "teacher" and not getattr(choice, "finetune", False)


def create(
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
            source = choice.weights if comes_from_hub(choice) else ""
            with explained(
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
            timm, fetched = _require("timm", where), bool(choice.weights) and comes_from_hub(choice)
            with explained(f'{where}: timm cannot build "{name}" with {choice.options}'):
                return timm.create_model(
                    name, pretrained=fetched, num_classes=classes, in_chans=channels, **choice.options
                )
        case "torchvision":
            models = _require("torchvision", where).models
            if channels != 3:
                raise UserError(f"{where}: torchvision's networks read 3 channels, the data has {channels}")
            weights = choice.weights if comes_from_hub(choice) and choice.weights else None
            with explained(f'{where}: torchvision cannot build "{name}" with {choice.options}'):
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
    chosen = dict(choice.options)
    if not classes:  # of vectors, whose width is free
        options, classes = [*options, VECTOR], chosen.pop(VECTOR, VECTOR_WIDTH)
        if type(classes) is not int or classes < 1:
            raise UserError(f"{where}: {VECTOR} = {classes}: give the width of the vectors, a whole number from 1 on")
    for option in choice.options:
        if option not in options:
            raise UserError(f'{where}: {choice.model} has no option "{option}"; it has {", ".join(options)}')
    with explained(f"{where}: {choice.model} cannot be built with {choice.options}"):
        for option, value in chosen.items():
            check_option(front_end if option in fronts else kind, option, value)
        if fronts:
            heard = {name: value for name, value in chosen.items() if name in fronts}
            others = {name: value for name, value in chosen.items() if name not in fronts}
            return kind(classes, front_end(**heard), **others)
        own = tokens[:2] if tokens else (channels,)[: len(given)]
        return kind(classes, *own, **chosen)


def audio_network(
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
    source = choice.weights if comes_from_hub(choice) else ""
    what = source or f'"{name}" with {choice.options}'
    with explained(f"{role}.model: transformers cannot build {what}"):
        finished = is_finished(choice, role)
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
    if choice.weights and comes_from_hub(choice):
        with explained(f"{where}: {choice.weights} cannot be loaded"):
            own, options = names if classes > 1 else (), choice.options
            return Logits(pretrained_classifier(auto, choice.weights, classes, own, finished, options, watch))
    try:
        config = drawn_config(name, choice.options, num_labels=classes, num_channels=channels)
        return Logits(drawn_network(auto, config))
    except (ValueError, TypeError) as error:
        raise UserError(f'{where}: transformers cannot build "{name}" with {choice.options}: {error}') from error


def _segmenter(name: str, choice: ModelChoice, classes: int, channels: int, where: str) -> nn.Module:
    """A segmenter of images by config, or from a folder or hub name, with a head for these classes."""
    transformers = _require("transformers", where)
    auto = transformers.AutoModelForSemanticSegmentation
    source = choice.weights if comes_from_hub(choice) else ""
    with explained(f"{where}: transformers cannot build {source or name} with {choice.options}"):
        if source:
            return MapLogits(
                auto.from_pretrained(source, num_labels=classes, ignore_mismatched_sizes=True, **choice.options)
            )
        config = drawn_config(name, choice.options, num_labels=classes, num_channels=channels)
        return MapLogits(drawn_network(auto, config))


@contextlib.contextmanager
def explained(message: str) -> Iterator[None]:
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
