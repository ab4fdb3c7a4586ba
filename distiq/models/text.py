"""Small networks over token numbers: recurrent, convolutional, a bag of embeddings; smaller tables of embeddings.

Padding never changes the logits.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distiq.models.recurrent import BiLSTM


class TextBiLSTM(nn.Module):
    """A bidirectional LSTM over token embeddings, the largest value of each state over the text, and a hidden layer.

    As the student of Tang et al. 2019, "Distilling task-specific knowledge from BERT into simple neural networks"
    (arXiv:1903.12136), section 3.1. Deviation: the largest states over the text in place of the last ones, as Conneau
    et al. 2017 (arXiv:1705.02364). The recurrence is computed in float32 in every quantized file, from integer weights.

    Args:
        classes, vocabulary, pad: of the task; `pad` is the padding token's number.
        width: of an embedding.
        hidden: of the recurrence in each direction.
        layer: width of the layer behind it; 0 leaves it out.
        dropout: share of embeddings and of the last features that training leaves out.

    Shapes: (B, L) int64 -> (B, classes) logits.
    """

    def __init__(
        self,
        classes: int,
        vocabulary: int,
        pad: int = 0,
        width: int = 64,
        hidden: int = 64,
        layer: int = 64,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.pad = pad
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=pad)
        self.recurrent = BiLSTM(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.layer: nn.Module = nn.Sequential(nn.Linear(2 * hidden, layer), nn.ReLU()) if layer else nn.Identity()
        self.classifier = nn.Linear(layer or 2 * hidden, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        is_padding = tokens == self.pad
        lengths = (~is_padding).sum(1).clamp(min=1)
        states = self.recurrent(self.dropout(self.embedding(tokens)), lengths)
        largest = torch.where(is_padding.unsqueeze(2), -1.0, states).amax(1)  # states lie in -1..1
        return self.classifier(self.dropout(self.layer(largest)))


class TextCNN(nn.Module):
    """Convolutions of several widths over token embeddings, the largest value of each over the text.

    Kim 2014, "Convolutional neural networks for sentence classification" (arXiv:1408.5882). The padding token's
    embedding is zero, and positions of padding cannot be the largest, since what is compared is not negative.

    Args:
        classes, vocabulary, pad: of the task; `pad` is the padding token's number.
        width: of an embedding.
        filters: of each convolution.
        kernels: odd widths of the convolutions, in tokens.
        dropout: share of embeddings and of the last features that training leaves out.

    Shapes: (B, L) int64 -> (B, classes) logits.
    """

    def __init__(
        self,
        classes: int,
        vocabulary: int,
        pad: int = 0,
        width: int = 64,
        filters: int = 64,
        kernels: Sequence[int] = (3, 5),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if any(kernel % 2 == 0 for kernel in kernels):
            raise ValueError(f"text_cnn: kernels = {list(kernels)}: an even width has no middle token; take odd ones")
        self.pad = pad
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=pad)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, filters, size, padding=size // 2) for size in kernels)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(filters * len(kernels), classes)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens != self.pad).float().unsqueeze(1)
        embedded = self.dropout(self.embedding(tokens)).transpose(1, 2)
        pooled = [(torch.relu(convolution(embedded)) * mask).amax(2) for convolution in self.convolutions]
        return self.classifier(self.dropout(torch.cat(pooled, 1)))


class EmbeddingBag(nn.Module):
    """The mean of the tokens' embeddings, and an MLP on it: the smallest network for texts.

    Iyyer et al. 2015, "Deep unordered composition rivals syntactic methods for text classification" (ACL).

    Args:
        classes, vocabulary, pad: of the task; `pad` is the padding token's number.
        width: of an embedding.
        hidden: width of the layer between; 0 leaves it out.
        dropout: share of the tokens and of the hidden values that training leaves out.

    Shapes: (B, L) int64 -> (B, classes) logits.
    """

    def __init__(
        self, classes: int, vocabulary: int, pad: int = 0, width: int = 32, hidden: int = 32, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.pad = pad
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=pad)
        self.dropout = nn.Dropout(dropout)
        self.hidden: nn.Module = nn.Sequential(nn.Linear(width, hidden), nn.ReLU()) if hidden else nn.Identity()
        self.classifier = nn.Linear(hidden or width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens != self.pad).float().unsqueeze(2)
        mean = (self.dropout(mask) * self.embedding(tokens)).sum(1) / mask.sum(1).clamp(min=1)
        return self.classifier(self.dropout(self.hidden(mean)))


class TrimmedEmbedding(nn.Module):
    """An embedding that has rows for some tokens alone; all others are read as the unknown one.

    Texts of kept tokens get the logits of the whole table, to the bit: the tokenizer stays as it is.

    Args:
        embedding: the whole table.
        used: numbers of the tokens that keep their row, ascending; `unknown` and, if there is one, the padding token
            are among them.
    """

    def __init__(self, embedding: nn.Embedding, used: Sequence[int], unknown: int) -> None:
        super().__init__()
        rows = {token: row for row, token in enumerate(used)}
        places = torch.full((embedding.num_embeddings,), rows[unknown], dtype=torch.int32)
        places[list(used)] = torch.arange(len(used), dtype=torch.int32)
        self.places: Tensor
        self.register_buffer("places", places)
        pad = embedding.padding_idx
        self.table: nn.Module = _table(embedding.weight.data[list(used)], None if pad is None else rows[pad])

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) int64 -> (B, L, width)."""
        return self.table(self.places.index_select(0, tokens.flatten()).view(tokens.shape).long())

    def whole(self) -> nn.Embedding:
        """A table of all tokens that gives the same."""
        table = self.table.whole() if isinstance(self.table, FactorizedEmbedding) else self.table
        assert isinstance(table, nn.Embedding)
        return _table(table.weight.data[self.places.long()], None)


class FactorizedEmbedding(nn.Module):
    """A narrow table and a linear layer that widens what it gives: V k + k D weights in place of V D.

    Lan et al. 2020, "ALBERT" (arXiv:1909.11942), section 3.1. It starts as the best approximation of rank k of the
    whole table in least squares.

    Args:
        embedding: the whole table, (V, D).
        width: k.
    """

    def __init__(self, embedding: nn.Embedding, width: int) -> None:
        super().__init__()
        count, wide = embedding.weight.shape
        if not 1 <= width < min(count, wide):
            raise ValueError(
                f"embedding_width = {width}: the table is {count} x {wide}; take 1 to {min(count, wide) - 1}"
            )
        left, sizes, right = torch.linalg.svd(embedding.weight.data, full_matrices=False)
        root = sizes[:width].sqrt()
        self.table = _table(left[:, :width] * root, embedding.padding_idx)
        if embedding.padding_idx is not None and not embedding.weight.data[embedding.padding_idx].any():
            self.table.weight.data[embedding.padding_idx] = 0  # where it is zero networks rely on it
        self.widen = nn.Linear(width, wide, bias=False)
        self.widen.weight.data.copy_((root.unsqueeze(1) * right[:width]).T)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) int64 -> (B, L, D)."""
        return self.widen(self.table(tokens))

    def whole(self) -> nn.Embedding:
        """A table that gives the same."""
        return _table(self.table.weight.data @ self.widen.weight.data.T, None)


def _table(weight: Tensor, padding: int | None) -> nn.Embedding:
    made = nn.Embedding(weight.shape[0], weight.shape[1], padding)
    made.weight.data.copy_(weight)
    return made


def trim_vocabulary(model: nn.Module, vocabulary: int, used: Sequence[int], unknown: int) -> nn.Module:
    """The model, in whose table of `vocabulary` or more tokens the used ones alone have rows left, in place.

    Raises:
        ValueError: the model has no such table.
    """
    parent, name, table = _find_table(model, vocabulary)
    setattr(parent, name, TrimmedEmbedding(table, used, unknown))
    return model


def factorize_embedding(model: nn.Module, vocabulary: int, width: int) -> nn.Module:
    """The model, whose table of tokens, trimmed or not, is a `FactorizedEmbedding` of that width, in place.

    Raises:
        ValueError: the model has no such table, or it is no wider.
    """
    parent, name, table = _find_table(model, vocabulary)
    setattr(parent, name, FactorizedEmbedding(table, width))
    return model


def _find_table(model: nn.Module, vocabulary: int) -> tuple[nn.Module, str, nn.Embedding]:
    for module in model.modules():
        for name, child in module.named_children():
            trimmed = isinstance(module, TrimmedEmbedding) and name == "table"
            if isinstance(child, nn.Embedding) and (trimmed or child.num_embeddings >= vocabulary):
                return module, name, child
    raise ValueError(f"{type(model).__name__} has no embedding of {vocabulary} tokens")
