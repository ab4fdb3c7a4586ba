"""Conformer: self-attention for what is far apart, convolution for what is near, between two halves of a feed-forward.

Gulati et al. 2020, "Conformer: Convolution-augmented Transformer for Speech Recognition" (arXiv:2005.08100), section 2
and figure 1. Deviations, for a kilobyte: one convolution over the frames instead of two; no relative positions in the
attention, since the depthwise convolutions tell near frames apart; no dropout; feed-forward and kernel are narrower.
"""

import math

import torch
from torch import Tensor, nn

from distiq.models.frontend import MFCC, LogMel


class FeedForward(nn.Module):
    """Two linear layers with swish between them: (B, T, width) -> the same, to be added by half."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, frames: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.up(self.norm(frames))))


class Attention(nn.Module):
    """Every frame looks at every other, with several heads: (B, T, width) -> the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, 1 / math.sqrt(width / heads)
        self.norm, self.inputs, self.output = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, frames: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.inputs(self.norm(frames)).chunk(3, 2)
        )
        shares = torch.softmax(torch.matmul(query, key.transpose(2, 3)) * self.scale, 3)
        return self.output(torch.matmul(shares, value).transpose(1, 2).flatten(2))


class Convolution(nn.Module):
    """A gated pointwise layer, a depthwise convolution over frames, batch norm, swish, a pointwise layer."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm, self.gated = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.batch_norm, self.pointwise = nn.BatchNorm1d(width), nn.Linear(width, width)

    def forward(self, frames: Tensor) -> Tensor:
        value, gate = self.gated(self.norm(frames)).chunk(2, 2)
        maps = self.batch_norm(self.depthwise((value * torch.sigmoid(gate)).transpose(1, 2)))
        return self.pointwise(nn.functional.silu(maps).transpose(1, 2))


class Block(nn.Module):
    """Equation 1 of the paper: half a feed-forward, attention, convolution, half a feed-forward, layer norm."""

    def __init__(self, width: int, hidden: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.before, self.after = FeedForward(width, hidden), FeedForward(width, hidden)
        self.attention, self.convolution = Attention(width, heads), Convolution(width, kernel)
        self.norm = nn.LayerNorm(width)

    def forward(self, frames: Tensor) -> Tensor:
        frames = frames + 0.5 * self.before(frames)
        frames = frames + self.attention(frames)
        frames = frames + self.convolution(frames)
        return self.norm(frames + 0.5 * self.after(frames))


class Conformer(nn.Module):
    """A conformer encoder; the mean of its frames is classified.

    Args:
        classes, frontend: as for `DSCNN`.
        width: of a frame behind the first convolution, over 5 frames of the front-end.
        stride: of that convolution.
        blocks: how many.
        heads: of the attention; hidden: neurons of a feed-forward; kernel: frames of the depthwise convolution, odd.

    Shapes: (B, T) waveforms in -1..1 -> (B, classes) logits.

    Raises:
        ValueError: the heads do not divide the width, or the kernel is even.
    """

    def __init__(
        self,
        classes: int,
        frontend: LogMel | MFCC,
        width: int = 16,
        stride: int = 2,
        blocks: int = 1,
        heads: int = 2,
        hidden: int = 24,
        kernel: int = 7,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"conformer: {heads} heads do not divide a width of {width}")
        if kernel % 2 == 0:
            raise ValueError(f"conformer: a kernel of {kernel} frames has no middle; take an odd number")
        self.frontend = frontend
        self.stem = nn.Conv1d(frontend.rows, width, 3, stride, 1)
        self.blocks = nn.Sequential(*(Block(width, hidden, heads, kernel) for _ in range(blocks)))
        self.classifier = nn.Linear(width, classes)

    def forward(self, waveforms: Tensor) -> Tensor:
        frames = torch.relu(self.stem(self.frontend(waveforms))).transpose(1, 2)
        return self.classifier(self.blocks(frames).mean(1))


class ConformerFrames(Conformer):
    """A `Conformer` that classifies every frame, for CTC: (B, T) -> (B, classes, frames)."""

    def forward(self, waveforms: Tensor) -> Tensor:
        frames = torch.relu(self.stem(self.frontend(waveforms))).transpose(1, 2)
        return self.classifier(self.blocks(frames)).transpose(1, 2)
