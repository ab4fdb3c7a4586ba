"""A transformers classifier of texts or tokens as a plain network: token numbers in, logits out; smaller ones of it."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distiq.files import write_atomically
from distiq.models.neurons import importance, keep_columns, narrow, values_on
from distiq.models.pretrained import drawn_config, drawn_network, keep_rows, pretrained_classifier, quiet
from distiq.models.text import FactorizedEmbedding, TrimmedEmbedding
from distiq.progress import Watch

CUTS = ("keep_layers", "feed_forward", "heads")
"""Options that cut an encoder; others are the config's."""
ATTENTION = (
    ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
)
FEED_FORWARD = (("intermediate.dense", "output.dense"), ("ffn.lin1", "ffn.lin2"))
"""Where a layer of BERT and its kin, or of DistilBERT, has its linear layers."""


class TokenLogits(nn.Module):
    """Turns padded token numbers into the model's arguments; the mask is where the padding token is not.

    Args:
        separator: of pairs, the token that ends the first text; a model that has two segments is told which is which.
        pads_left: the model reads padding in front; what is behind is moved there.

    Shapes: (B, L) int64 -> (B, classes) logits.
    """

    auto = "AutoModelForSequenceClassification"

    def __init__(self, model: Any, pad: int, separator: int | None = None, pads_left: bool = False) -> None:
        super().__init__()
        self.model, self.pad, self.pads_left = model, pad, pads_left
        self.separator = separator if getattr(model.config, "type_vocab_size", 0) > 1 else None

    def around(self, model: Any) -> "TokenLogits":
        """The same around another model."""
        return type(self)(model, self.pad, self.separator, self.pads_left)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens != self.pad).long()
        if self.pads_left:
            places = torch.arange(tokens.shape[1], device=tokens.device) + mask.sum(1, keepdim=True)
            places = places % tokens.shape[1]
            tokens, mask = tokens.gather(1, places), mask.gather(1, places)
        if self.separator is None:
            return self.model(input_ids=tokens, attention_mask=mask).logits
        ends = (tokens == self.separator).long()
        segments = mask * (ends.cumsum(1) > ends).long()
        return self.model(input_ids=tokens, attention_mask=mask, token_type_ids=segments).logits


class TokenTags(TokenLogits):
    """A token classifier; where padding stands, its logits are 0.

    Shapes: (B, L) int64 -> (B, tags, L) logits.
    """

    auto = "AutoModelForTokenClassification"

    def forward(self, tokens: Tensor) -> Tensor:
        mask = tokens != self.pad
        logits = self.model(input_ids=tokens, attention_mask=mask.long()).logits
        return logits.transpose(1, 2) * mask.unsqueeze(1).to(logits.dtype)


def text_classifier(
    kind: type[TokenLogits],
    name: str,
    weights: str,
    classes: int,
    vocabulary: int,
    pad: int,
    options: dict[str, Any],
    names: Sequence[str] = (),
    finished: bool = False,
    watch: Watch | None = None,
) -> nn.Module:
    """A classifier of the architecture `name`, such as "bert", by config, or from a folder or hub name: transformers'
    own, for `kind` to wrap.

    Args:
        weights: the folder or hub name; empty draws the weights.
        options: of the config; those of `CUTS` are for `cut_encoder`.
        names, finished, watch: as for `pretrained_classifier`.

    Raises:
        ValueError: the options do not fit, a class is missing from its labels, it has no head and is not to be trained,
            or the tokenizer has tokens that the weights do not know.
    """
    import transformers

    cuts = {name: value for name, value in options.items() if name in CUTS}
    options = {name: value for name, value in options.items() if name not in CUTS}
    auto = getattr(transformers, kind.auto)
    if not weights:
        config = drawn_config(name, options, num_labels=classes, vocab_size=vocabulary, pad_token_id=pad)
        model = drawn_network(auto, config)
    else:
        model = pretrained_classifier(auto, weights, classes, names, finished, options, watch)
        if model.config.vocab_size < vocabulary:
            raise ValueError(
                f"{weights} knows {model.config.vocab_size} tokens, but the tokenizer has {vocabulary}: they do not"
                " belong together; set data.text.tokenizer to the same folder or hub name"
            )
    cut_encoder(model, cuts)
    return model


def cut_encoder(model: Any, cuts: Mapping[str, Any], tokens: Tensor | None = None, pad: int = 0) -> None:
    """Leaves a part of a transformers encoder, in place; what is left keeps its weights.

    Args:
        cuts: `keep_layers`, such as [0, 2, 4]: the layers that stay (DistilBERT, Sanh et al. 2019, arXiv:1910.01108);
            `feed_forward`: neurons that stay in each layer, `heads`: attention heads that stay in each. Those stay
            whose weights are largest: the product of the norms of what goes in and what comes out.
        tokens: (N, L), padded with `pad`. On these texts neurons are chosen by `importance`, and those that stay take
            over from the others; see `narrow`.

    Raises:
        ValueError: there is no such layer, fewer neurons or heads than are to stay, or the encoder is built otherwise.
    """
    if not cuts:
        return
    parent, name, layers = _stack(model)
    if (numbers := cuts.get("keep_layers")) is not None:
        count = len(layers)
        if not numbers or not all(0 <= number < count for number in numbers):
            raise ValueError(f"keep_layers = {numbers}: the encoder has the layers 0 to {count - 1}")
        layers = nn.ModuleList(layers[number] for number in numbers)
        setattr(parent, name, layers)
        model.config.num_hidden_layers = len(numbers)
    if (width := cuts.get("feed_forward")) is not None:
        linears = [_linears(layer, FEED_FORWARD, "feed_forward") for layer in layers]
        seconds = [second for _, second in linears]
        values = [None] * len(linears) if tokens is None else values_on(model, seconds, tokens, pad)
        for (first, second), own in zip(linears, values, strict=True):
            norms = first.weight.norm(dim=1) * second.weight.norm(dim=0)
            kept = _largest(norms if own is None else importance(second, own), width, "feed_forward", "neurons")
            narrow(first, second, kept, own)
        setattr(
            model.config, "intermediate_size" if hasattr(model.config, "intermediate_size") else "hidden_dim", width
        )
    if (heads := cuts.get("heads")) is not None:
        size = _head_size(model.config)
        for layer in layers:
            *inputs, output = _linears(layer, ATTENTION, "heads")
            norms = inputs[2].weight.unflatten(0, (-1, size)).norm(dim=(1, 2))
            norms = norms * output.weight.unflatten(1, (-1, size)).norm(dim=(0, 2))
            chosen = _largest(norms, heads, "heads", "heads")
            kept = (chosen.unsqueeze(1) * size + torch.arange(size)).flatten()
            for linear in inputs:
                keep_rows(linear, kept)
            keep_columns(output, kept)


PROBLEM_TYPES = {
    "softmax": "single_label_classification",
    "sigmoid": "multi_label_classification",
    "number": "regression",
}
"""What the library calls the outputs of its classifiers; it knows no others."""


def save_transformers(
    network: TokenLogits,
    folder: Path,
    classes: Sequence[str],
    text: Mapping[str, Any],
    decoding: str = "softmax",
    target: Mapping[str, float] | None = None,
) -> None:
    """Writes the network and its tokenizer as a folder that transformers' `from_pretrained` loads.

    Args:
        text: how raw text becomes token numbers, as `Text.to_json` gives it; empty if unknown.
        decoding: what the outputs mean; see `PROBLEM_TYPES`.
        target: of a number: mean and std by which the network's outputs become numbers of the data's unit; they stand
            in config.json under this name.
    """
    import transformers
    from tokenizers import Tokenizer

    transformers.logging.disable_progress_bar()
    try:
        as_transformers(network, classes, decoding, target).save_pretrained(folder)
    finally:
        transformers.logging.enable_progress_bar()
    if not text:
        return
    tokenizer = Tokenizer.from_str(text["tokenizer"])
    names = {"pad_token": tokenizer.id_to_token(text["pad"])}
    if text["unknown"] is not None:
        names["unk_token"] = tokenizer.id_to_token(text["unknown"])
    inputs = ["input_ids", *(["token_type_ids"] if network.separator is not None else []), "attention_mask"]
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=text["shape"][0], model_input_names=inputs, **names
    ).save_pretrained(folder)
    file = folder / "tokenizer_config.json"  # Optimum's transformers is older and knows the class by its older name
    config = json.loads(file.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    write_atomically(file, json.dumps(config, indent=2).encode())


@torch.no_grad()
def check_saved(network: TokenLogits, folder: Path, tokens: Tensor) -> None:
    """Loads a folder of `save_transformers` again.

    Args:
        tokens: (B, L) on which both must give the same logits.

    Raises:
        ValueError: it does not load whole, or gives other logits.
    """
    import transformers

    try:
        with quiet(transformers):
            model, report = getattr(transformers, network.auto).from_pretrained(folder, output_loading_info=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"transformers does not load it again ({str(error).splitlines()[0]})") from error
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # networks that give vectors have none
    absent = {key for key in report["missing_keys"] if not key.startswith("pooler.")}
    if missing := sorted({*absent, *(key for key, *_ in report["mismatched_keys"])}):
        raise ValueError(f"{len(missing)} tensors are missing or of another shape, {missing[0]} among them")
    again = network.around(model.eval())
    before, after = network.eval()(tokens), again(tokens)
    if before.shape != after.shape or not torch.allclose(before, after, atol=1e-3 * float(before.abs().max() + 1)):
        raise ValueError("loaded again, it gives other logits")


def as_transformers(
    network: TokenLogits,
    classes: Sequence[str],
    decoding: str = "softmax",
    target: Mapping[str, float] | None = None,
) -> Any:
    """A copy in the library's own architecture, whose `save_pretrained` other programs can load.

    Its logits are the network's. What the library has no form for is written out: a trimmed or factorized table has
    every row again, heads that were left out are zero.
    """
    model: Any = copy.deepcopy(network.model).eval()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, TrimmedEmbedding | FactorizedEmbedding):
                setattr(module, name, child.whole())
    config = model.config
    with torch.device("meta"):
        whole = dict(
            type(model)(config).named_modules()
        )  # ConvBERT's heads, for one, are narrower than its hidden size
    names = {module: name for name, module in model.named_modules()}
    for layer in _layers(model):
        attention = _found(layer, ATTENTION)
        for linear in attention[:3]:
            _pad(linear, whole[names[linear]].out_features - linear.out_features, rows=True)
        for linear in attention[3:4]:
            _pad(linear, whole[names[linear]].in_features - linear.in_features, rows=False)
    config.problem_type = PROBLEM_TYPES.get(decoding)
    if config.problem_type is None and decoding != "spans":
        return model
    if decoding == "number" and target is not None:
        config.target = dict(target)
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: number for number, name in enumerate(classes)}
    return model


def _stack(model: Any) -> tuple[nn.Module, str, nn.ModuleList]:
    """The encoder's layers, with the module that holds them and their name there."""
    count = model.config.num_hidden_layers
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return module, name, child
    raise ValueError(f"{type(model).__name__} has no stack of {count} layers that could be cut")


class Parts(NamedTuple):
    """What an encoder of texts has that can be cut: layers, and of each its neurons and heads; the hidden width."""

    layers: int
    neurons: int
    heads: int
    width: int


def parts_of(model: Any) -> Parts | None:
    """What `cut_encoder` can cut of a transformers encoder; None of one that is built otherwise."""
    layers = _layers(model)
    if not layers or not (ends := _found(layers[0], FEED_FORWARD)) or not _found(layers[0], ATTENTION):
        return None
    return Parts(len(layers), ends[0].out_features, model.config.num_attention_heads, model.config.hidden_size)


def _layers(model: Any) -> Sequence[nn.Module]:
    """The encoder's layers; none where they are not stacked, as ALBERT's, which are one."""
    try:
        return list(_stack(model)[2])
    except ValueError:
        return ()


def _head_size(config: Any) -> int:
    return config.hidden_size // config.num_attention_heads


def _found(layer: nn.Module, places: tuple[tuple[str, ...], ...]) -> list[nn.Linear]:
    modules = dict(layer.named_modules())
    for paths in places:
        linears = [modules.get(path) for path in paths]
        if all(isinstance(linear, nn.Linear) for linear in linears):
            return linears  # type: ignore[return-value]
    return []


def _linears(layer: nn.Module, places: tuple[tuple[str, ...], ...], option: str) -> list[nn.Linear]:
    if not (layers := _found(layer, places)):
        raise ValueError(
            f"{option}: {type(layer).__name__} is not built as a layer of BERT or DistilBERT; leave it out"
        )
    return layers


def _largest(sizes: Tensor, count: int, option: str, noun: str) -> Tensor:
    """The numbers of the largest, ascending."""
    if not isinstance(count, int) or not 1 <= count <= len(sizes):
        raise ValueError(f"{option} = {count}: a layer has {len(sizes)} {noun}; take 1 to {len(sizes)}")
    return sizes.topk(count).indices.sort().values


def _pad(linear: nn.Linear, count: int, rows: bool) -> None:
    """Zeros behind the rows or the columns."""
    shape = (0, 0, 0, count) if rows else (0, count)
    linear.weight = nn.Parameter(nn.functional.pad(linear.weight.detach(), shape))
    if rows:
        linear.bias = nn.Parameter(nn.functional.pad(linear.bias.detach(), (0, count)))
    linear.out_features, linear.in_features = linear.weight.shape
