"""Small networks over token numbers: a convolutional one and a bag of embeddings. Padding never changes an answer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distiq.errors import UserError


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
        found = [(torch.relu(convolution(embedded)) * mask).amax(2) for convolution in self.convolutions]
        return self.classifier(self.dropout(torch.cat(found, 1)))


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

    Texts of kept tokens are answered as by the whole table, to the bit: the tokenizer stays as it is.

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
        self.table = nn.Embedding(len(used), embedding.embedding_dim, None if pad is None else rows[pad])
        self.table.weight.data.copy_(embedding.weight.data[list(used)])

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) int64 -> (B, L, width)."""
        return self.table(self.places.index_select(0, tokens.flatten()).view(tokens.shape).long())


def trim_vocabulary(model: nn.Module, vocabulary: int, used: Sequence[int], unknown: int) -> nn.Module:
    """Leaves rows for the used tokens alone in the model's table of `vocabulary` or more tokens, in place.

    Raises:
        UserError: the model has no such table.
    """
    for module in model.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Embedding) and child.num_embeddings >= vocabulary:
                setattr(module, name, TrimmedEmbedding(child, used, unknown))
                return model
    raise UserError(f"trim_vocabulary: {type(model).__name__} has no embedding of {vocabulary} tokens")
