"""Small networks that tag every token: recurrent, convolutional. Padding changes no logit and has logits of 0."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distiq.models.recurrent import BiLSTM


class TagBiLSTM(nn.Module):
    """A bidirectional LSTM over token embeddings, and a linear layer on the state at each token.

    Huang, Xu and Yu 2015, "Bidirectional LSTM-CRF models for sequence tagging" (arXiv:1508.01991), without the CRF.

    Args:
        classes, vocabulary, pad: of the task; `pad` is the padding token's number.
        width: of an embedding.
        hidden: of the recurrence in each direction.
        dropout: share of embeddings and of states that training leaves out.

    Shapes: (B, L) int64 -> (B, classes, L) logits.
    """

    def __init__(
        self, classes: int, vocabulary: int, pad: int = 0, width: int = 64, hidden: int = 64, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.pad = pad
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=pad)
        self.recurrent = BiLSTM(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(2 * hidden, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = tokens != self.pad
        states = self.recurrent(self.dropout(self.embedding(tokens)), mask.sum(1).clamp(min=1))
        return self.classifier(self.dropout(states)).transpose(1, 2) * mask.unsqueeze(1).float()


class TagCNN(nn.Module):
    """Convolutions over token embeddings, each wider apart than the one before, and a linear layer at each token.

    Strubell et al. 2017, "Fast and accurate entity recognition with iterated dilated convolutions" (arXiv:1702.02098),
    with one block and a residual of each layer.

    Args:
        classes, vocabulary, pad: of the task; `pad` is the padding token's number.
        width: of an embedding, and of every layer.
        dilations: steps between the three tokens that a layer sees.
        dropout: share of embeddings and of features that training leaves out.

    Shapes: (B, L) int64 -> (B, classes, L) logits.
    """

    def __init__(
        self,
        classes: int,
        vocabulary: int,
        pad: int = 0,
        width: int = 64,
        dilations: Sequence[int] = (1, 2, 4),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.pad = pad
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=pad)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 3, padding=step, dilation=step) for step in dilations)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv1d(width, classes, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens != self.pad).unsqueeze(1)
        states = self.dropout(self.embedding(tokens)).transpose(1, 2)
        for layer in self.layers:
            states = (states + torch.relu(layer(states))) * mask.float()
        return self.classifier(self.dropout(states)) * mask.float()
