"""A transformers CTC network as a plain network: waveforms in, logits of the symbols out, frame by frame."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distiq.models.audio_classifier import Waves
from distiq.models.pretrained import (
    _few,
    _refuse_drawn_weights,
    drawn_config,
    drawn_network,
    name_loaded,
    quiet,
    refuse_decoders,
)
from distiq.models.weights import usable
from distiq.progress import Watch


class WaveFrames(Waves):
    """Waveforms (B, T) in -1..1 in, logits (B, symbols, frames) out, the blank first.

    Args:
        rows: which output of the network each symbol is. Posteriors are of these alone: what else it can write, the
            data never say.
        normalize, rate: as for `Waves`.
    """

    rows: Tensor

    def __init__(self, model: nn.Module, rows: Sequence[int], normalize: bool = True, rate: int = 0) -> None:
        super().__init__(model, normalize, rate)
        self.register_buffer("rows", torch.tensor(rows), persistent=False)

    def forward(self, waveforms: Tensor) -> Tensor:
        return super().forward(waveforms).index_select(2, self.rows).transpose(1, 2)


def speech_network(
    name: str,
    weights: str,
    classes: int,
    options: dict[str, Any],
    names: Sequence[str],
    finished: bool,
    watch: Watch | None = None,
) -> nn.Module:
    """A CTC network of the architecture `name`, such as "wav2vec2", by config, or from a folder or hub name.

    Args:
        weights: the folder or hub name; empty draws the weights.
        classes: symbols of the data, with the blank.
        options: of the config.
        names: the symbols. They are looked for in the vocabulary of the weights, in capitals and in small letters, too.
        finished: it writes as it is. Otherwise it is trained on, and gets a new head where a symbol is missing.
        watch: is told if the weights were of another type.

    Raises:
        ValueError: it is finished, but lacks a symbol or weights that it writes by; or a weight is not finite.
    """
    import transformers

    auto, everything = transformers.AutoModelForCTC, tuple(range(classes))
    if not weights:
        config = drawn_config(name, options, vocab_size=classes, pad_token_id=0)
        return WaveFrames(drawn_network(auto, config), everything)
    config = transformers.AutoConfig.from_pretrained(weights)
    refuse_decoders(config)
    rows = vocabulary_rows(transformers.AutoTokenizer.from_pretrained(weights), names, finished)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(weights)
    own = {} if rows else {"vocab_size": classes, "pad_token_id": 0}
    with quiet(transformers):
        model, report = auto.from_pretrained(
            weights, ignore_mismatched_sizes=not finished, output_loading_info=True, **own, **options
        )
    _refuse_drawn_weights(model, sorted(report["missing_keys"]), finished)
    name_loaded(model, report)
    usable(model, weights, watch)
    return WaveFrames(
        model, rows or everything, getattr(extractor, "do_normalize", True), getattr(extractor, "sampling_rate", 0)
    )


def vocabulary_rows(tokenizer: Any, names: Sequence[str], finished: bool) -> tuple[int, ...]:
    """The numbers of symbols in a tokenizer's vocabulary, its padding for the blank; none where a new head serves.

    Raises:
        ValueError: it is finished, but lacks a symbol.
    """
    numbers, blank = tokenizer.get_vocab(), tokenizer.pad_token
    space = getattr(tokenizer, "word_delimiter_token", None) or "|"
    spellings = [(blank,), *((space if name == "|" else name, name.upper(), name.lower()) for name in names[1:])]
    found = [next((numbers[own] for own in each if own in numbers), None) for each in spellings]
    missing = [name for name, number in zip(names, found, strict=True) if number is None]
    if missing and finished:
        raise ValueError(
            f"it cannot write {_few([repr(name) for name in missing])}. Its symbols: {_few(sorted(numbers))}. Take"
            ' texts of these (data.transcripts.symbols = "characters"), or set teacher.finetune = true for a new'
            " head"
        )
    return () if missing else tuple(number for number in found if number is not None)
