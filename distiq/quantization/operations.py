"""The operations of an exported graph, grouped by how integer kernels treat them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

aten = torch.ops.aten
CONVOLUTIONS = {aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding}
TRANSPOSED = {aten.conv_transpose1d.default, aten.conv_transpose2d.input}
WEIGHTED = {*CONVOLUTIONS, *TRANSPOSED, aten.linear.default}
"""Layers whose weights are quantized."""
ACTIVATIONS = {
    aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default,
}  # fmt: skip
"""Operations that a kernel applies to its layer's result at no cost."""
POOLING = {
    aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.avg_pool1d.default,
    aten.avg_pool2d.default, aten.mean.dim,
}  # fmt: skip
POINTWISE = {aten.sigmoid.default, aten.hardsigmoid.default, aten.leaky_relu.default}
"""Functions of one value that integer kernels have, with quantization parameters of their own behind them."""
GATES = {
    aten.silu.default: (aten.sigmoid.default, F.silu),
    aten.hardswish.default: (aten.hardsigmoid.default, F.hardswish),
}
"""x * gate(x): the gate, and the whole as a function."""
MOVING = {
    aten.max_pool2d.default, aten.max_pool1d.default, aten.amax.default, aten.flatten.using_ints, aten.view.default,
    aten.reshape.default, aten.permute.default, aten.transpose.int, aten.squeeze.dim, aten.squeeze.dims,
    aten.unsqueeze.default, aten.pad.default, aten.constant_pad_nd.default, aten.slice.Tensor, aten.select.int,
    aten.pixel_shuffle.default, aten.pixel_unshuffle.default, aten.channel_shuffle.default, aten.flip.default,
    aten.contiguous.default, aten.upsample_nearest2d.vec, aten.upsample_nearest2d.default,
}  # fmt: skip
"""Operations that give some of their input's values: the result has its quantization parameters."""
MAXIMA = {aten.amax.default, aten.adaptive_max_pool2d.default, aten.max.dim}
LAYOUT = {
    aten.flatten.using_ints, aten.view.default, aten.reshape.default, aten.permute.default, aten.transpose.int,
    aten.linear.default, aten.matmul.default, aten.bmm.default, aten.softmax.int, aten.select.int,
}  # fmt: skip
"""Operations behind which the channels of a feature map may lie on another axis."""
FEATURE_LAYERS = {*CONVOLUTIONS, *TRANSPOSED, aten.conv3d.default, aten.conv3d.padding, aten.conv_transpose3d.input}
SUMS = {aten.add.Tensor, aten.sub.Tensor}
LARGER = {aten.maximum.default, aten.minimum.default}
SCALING = {aten.mul.Tensor, aten.div.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.rsub.Scalar, aten.neg.default}
PRODUCTS_OF_TWO = {
    aten.matmul.default, aten.bmm.default, aten.softmax.int, aten.scaled_dot_product_attention.default,
    aten.masked_fill.Scalar,
}  # fmt: skip
FLOAT, GATE, GATED = "distiq_float", "distiq_gate", "distiq_gated"
"""Keys of a node's `meta`: it computes in float32, whatever its operation is; it is of a gate; it is x * gate(x), with
that as a function."""
NORMALIZATIONS = {aten.layer_norm.default, aten.rms_norm.default}


def channel_axis(layer: fx.Node) -> int:
    """The axis of a layer's weights that its output channels (of one group, where it is transposed) lie on."""
    return 1 if layer.target in TRANSPOSED else 0


def groups_of(layer: fx.Node) -> int:
    """The groups of a convolution; 1 of a linear layer."""
    arguments: Any = layer.args
    return int(arguments[6]) if layer.target is not aten.linear.default and len(arguments) > 6 else 1
