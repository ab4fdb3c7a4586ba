"""Networks that turn a text into a vector of length 1: an encoder of transformers, and a table of token vectors."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from distiq.files import save_tensors, write_atomically
from distiq.models.pretrained import drawn_config, name_loaded, quiet, refuse_decoders
from distiq.models.text import TrimmedEmbedding
from distiq.models.transformer import CUTS, TokenLogits, check_saved, cut_encoder, save_transformers

Around = tuple[tuple[int, ...], tuple[int, ...]]
POOLINGS = ("mean", "cls", "max")
SMALLEST = 1e-12  # of a squared length
RARE = 3e-4  # tokens of this share of all count half
AT_ONCE = 1024


def unit(vectors: Tensor) -> Tensor:
    """Vectors (B, D) divided by their length; a zero stays zero."""
    return vectors / vectors.square().sum(1, keepdim=True).clamp(min=SMALLEST).sqrt()


class TokenVectors(TokenLogits):
    """An encoder of transformers; the mean of its tokens' states, the first one's, or the largest values, of length 1.

    Args:
        pooling: one of `POOLINGS`.

    Shapes: (B, L) int64 -> (B, width).
    """

    auto = "AutoModel"

    def __init__(self, model: Any, pad: int, pooling: str = "mean") -> None:
        super().__init__(model, pad)
        self.pooling = pooling

    def around(self, model: Any) -> "TokenVectors":
        return TokenVectors(model, self.pad, self.pooling)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = tokens != self.pad
        states = self.model(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        match self.pooling:
            case "cls":
                return unit(states[:, 0])
            case "max":
                return unit(torch.where(mask.unsqueeze(2), states, -1e4).amax(1))
        weights = mask.unsqueeze(2).to(states.dtype)
        return unit((states * weights).sum(1) / weights.sum(1).clamp(min=1.0))


class StaticVectors(nn.Module):
    """The sum of the tokens' rows of a table, of length 1; special tokens count nothing.

    Their rows are zero and are not trained, so a file needs no mask. A row's length is the weight of its token (Tulkens
    and van Dongen 2024, "Model2Vec"; weights of Arora et al. 2017, "A simple but tough-to-beat baseline for sentence
    embeddings").

    Args:
        table: (V, width).
        special: numbers of the tokens that are left out.

    Shapes: (B, L) int64 -> (B, width).
    """

    def __init__(self, table: Tensor, special: Sequence[int]) -> None:
        super().__init__()
        self.special = tuple(special)
        rows = table.index_fill(0, torch.tensor(self.special, dtype=torch.int64), 0.0)
        self.embedding: nn.Module = nn.Embedding.from_pretrained(rows, freeze=False)

    def forward(self, tokens: Tensor) -> Tensor:
        rows = self.embedding(tokens)
        if self.training:  # no gradient reaches the rows that are to stay zero
            rows = rows * torch.isin(tokens, tokens.new_tensor(self.special), invert=True).unsqueeze(2)
        return unit(rows.sum(1))


def text_encoder(name: str, weights: str, vocabulary: int, pad: int, options: dict[str, Any]) -> TokenVectors:
    """An encoder of the architecture `name`, such as "bert", by config, or from a folder or hub name.

    Args:
        options: `pooling`; else that of the folder, as sentence-transformers writes it, or "mean"; those of `CUTS`; of
            the config.

    Raises:
        ValueError: the options do not fit, weights are missing, or the tokenizer has tokens that the weights do not
            know.
    """
    import transformers

    cuts = {key: value for key, value in options.items() if key in CUTS}
    own = {key: value for key, value in options.items() if key not in (*CUTS, "pooling")}
    pooling = options.get("pooling") or _pooling_of(Path(weights))
    if pooling not in POOLINGS:
        raise ValueError(f'pooling = "{pooling}" is none of {", ".join(POOLINGS)}')
    if weights:
        refuse_decoders(transformers.AutoConfig.from_pretrained(weights))
        with quiet(transformers):
            model, report = transformers.AutoModel.from_pretrained(weights, output_loading_info=True, **own)
        missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
        if missing:
            raise ValueError(f"{len(missing)} weights of the encoder are missing, {missing[0]} among them")
        name_loaded(model, report)
        if model.config.vocab_size < vocabulary:
            raise ValueError(
                f"{weights} knows {model.config.vocab_size} tokens, but the tokenizer has {vocabulary}: they do not"
                " belong together; set data.text.tokenizer to the same folder or hub name"
            )
    else:
        config = drawn_config(name, own, vocab_size=vocabulary, pad_token_id=pad)
        model = transformers.AutoModel.from_config(config)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # it reads the first token alone
    cut_encoder(model, cuts)
    return TokenVectors(model.float(), pad, pooling)


def _pooling_of(folder: Path) -> str:
    """What sentence-transformers has written beside a folder's weights; "mean" where it says nothing."""
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    config = json.loads(file.read_bytes())
    named = {"pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max", "pooling_mode_mean_tokens": "mean"}
    return next((pooling for key, pooling in named.items() if config.get(key)), str(config.get("pooling_mode", "mean")))


@torch.no_grad()
def static_vectors(
    teacher: nn.Module, vocabulary: int, special: Sequence[int], around: Around, counts: Tensor, width: int
) -> StaticVectors:
    """A table of what the teacher makes of each token alone, its `width` principal components, rare tokens weighing
    more: a / (a + p), where p is the share of a token in the training texts.

    Args:
        teacher: token numbers (B, L) -> (B, width).
        around: the special tokens in front of a text and behind it.
        counts: how often each token stands in the training texts, (V,).

    Raises:
        ValueError: the teacher's vectors are no wider than that.
    """
    numbers = torch.arange(vocabulary)
    front, behind = (torch.tensor(part, dtype=torch.int64).expand(vocabulary, -1) for part in around)
    rows = torch.cat([front, numbers.unsqueeze(1), behind], 1)
    vectors = torch.cat([teacher.eval()(part) for part in rows.split(AT_ONCE)]).double()
    if not 1 <= width <= vectors.shape[1]:
        raise ValueError(f"width = {width}: the teacher's vectors have {vectors.shape[1]}; take 1 to that many")
    centred = vectors - vectors.mean(0)
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :width]
    directions = directions * torch.where(directions.abs().max(0).values == directions.max(0).values, 1.0, -1.0)
    shares = counts.double().index_fill(0, torch.tensor(special, dtype=torch.int64), 0) + 0.5
    shares = shares / shares.sum()
    table = (centred @ directions) * (RARE / (RARE + shares)).unsqueeze(1)
    table[list(special)] = 0
    return StaticVectors((table / table.norm(dim=1).mean()).float(), special)


# Folders for other programs -------------------------------------------------------------------------------------------


def save_vectors(network: TokenVectors | StaticVectors, folder: Path, text: dict[str, Any]) -> None:
    """Writes the network and its tokenizer as a folder that sentence-transformers loads; of a table model2vec, too.

    Args:
        text: how raw text becomes token numbers, as `Text.to_json` says it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(network, StaticVectors):
        _save_static(network, folder, text)
        modules = [(".", "StaticEmbedding"), ("1_Normalize", "Normalize")]
    else:
        save_transformers(network, folder, (), text, "vector")
        keys = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens"}
        poolings = {f"pooling_mode_{key}": pooling == network.pooling for pooling, key in keys.items()}
        width = int(network.model.config.hidden_size)
        _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **poolings})
        _write(folder / "sentence_bert_config.json", {"max_seq_length": text["shape"][0], "do_lower_case": False})
        modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    (folder / modules[-1][0]).mkdir(exist_ok=True)
    _write(folder / "config_sentence_transformers.json", {"prompts": {}, "similarity_fn_name": "cosine"})
    _write(
        folder / "modules.json",
        [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (path, kind) in enumerate(modules)
        ],
    )


def _save_static(network: StaticVectors, folder: Path, text: dict[str, Any]) -> None:
    table = network.embedding
    whole = table.whole() if isinstance(table, TrimmedEmbedding) else table
    rows = whole.get_parameter("weight").data
    save_tensors({"embeddings": rows.contiguous()}, folder / "model.safetensors")
    tokenizer = json.loads(text["tokenizer"]) | {"truncation": None, "padding": None}
    _write(folder / "tokenizer.json", tokenizer)
    config = {"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": True, "seq_length": 1_000_000,
              "hidden_dim": rows.shape[1], "max_length": text["shape"][0]}  # fmt: skip
    _write(folder / "config.json", config)


def _write(file: Path, value: object) -> None:
    file.parent.mkdir(exist_ok=True)
    write_atomically(file, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


@torch.no_grad()
def check_vectors(network: TokenVectors | StaticVectors, folder: Path, tokens: Tensor) -> None:
    """Loads a folder of `save_vectors` again.

    Args:
        tokens: (B, L) of which both have to make the same vectors.

    Raises:
        ValueError: it does not load whole, or gives other vectors.
    """
    if isinstance(network, TokenVectors):
        return check_saved(network, folder, tokens)
    again = StaticVectors(load_file(folder / "model.safetensors")["embeddings"], network.special)
    if not torch.allclose(network.eval()(tokens), again(tokens), atol=1e-5):
        raise ValueError("loaded again, it gives other vectors")
