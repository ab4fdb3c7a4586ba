"""Where values are quantized: the annotation of a graph by which torchao places fake-quantizers.

A quantize / dequantize pair between a convolution and its activation, or the lack of one after an addition, leaves an
island of float32: pairs belong where integer kernels begin and end.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from distiq.errors import UserError
from distiq.models.recurrent import bilstm
from distiq.numerics import affine_bounds, symmetric_bounds
from distiq.quantization.fake_quantize import ActivationFakeQuantize, PerChannelWeightFakeQuantize
from distiq.quantization.operations import (
    ACTIVATIONS,
    FLOAT,
    LARGER,
    MOVING,
    POINTWISE,
    POOLING,
    SUMS,
    WEIGHTED,
    aten,
    channel_axis,
)
from distiq.quantization.regions import among_norms, constant_nodes, enlarged, is_float_tensor, only_multiplied, tail
from distiq.quantization.scheme import REDUCED_BITS, Scheme
from distiq.quantization.weights import layer_of

GROUPED = "distiq_grouped"


class IntegerQuantizer(Quantizer):
    """Annotates a graph so that every weighted layer runs from integers to integers.

    A weighted layer has a quantized input, and its result is quantized after its activation; additions, products,
    gates, concatenations and pooling have quantized inputs and outputs; operations that only move values keep their
    quantization parameters. The network's outputs stay float32, and so does all that only moves or pools values after
    the last layer: a kernel rescales its accumulator straight to float, and quantization would only add noise there.
    Except where moves make a larger map of the last layer's result (see `regions.enlarged`): there bytes are moved, and
    dequantized at the very end. A scheme with `integer_io` quantizes all outputs.

    Among normalizations of rows (transformers) values are computed in float32 anyway: there only the inputs and weights
    of weighted layers are quantized; a scheme with `attention` also quantizes both operands of activation products.
    An embedding table always has one scale per row. For schemes that are not static, only weights are annotated here.
    """

    def __init__(self, scheme: Scheme) -> None:
        super().__init__()
        self.scheme = scheme
        affine = torch.per_tensor_symmetric if scheme.symmetric_activations else torch.per_tensor_affine
        self.activation = _per_tensor(scheme, scheme.activation_bits, affine)
        self.wide = _per_tensor(scheme, 16, affine)
        self.factor = _per_tensor(scheme, scheme.activation_bits, torch.per_tensor_symmetric)
        self.quantized: set[fx.Node] = set()  # nodes whose results are quantized
        self.widened: set[fx.Node] = set()  # those of them that are quantized to 16 bits instead of 8
        self.tail: set[fx.Node] = set()
        self.enlarged: set[fx.Node] = set()
        self.in_float: set[fx.Node] = set()

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        if self.scheme.mode == "float16":
            return model
        self.enlarged = enlarged(model)
        self.tail = set() if self.scheme.integer_io else tail(model) - self.enlarged
        self.in_float = among_norms(model)
        self.useless, self.constant = only_multiplied(model), set(constant_nodes(model))
        if self.scheme.integer_io:
            self.quantized |= {node for node in model.graph.nodes if node.op == "placeholder"}
        for node in model.graph.nodes:
            kept = node.meta.get(FLOAT) or is_within(node, self.scheme.float_modules)
            if node.op == "call_function" and not kept and not self._annotate_weights(node):
                self._annotate(node)
        return model

    def validate(self, model: fx.GraphModule) -> None:
        pass

    def _annotate_weights(self, node: fx.Node) -> bool:
        """Annotates a node's stored weights; returns whether nothing else that it reads is to be quantized."""
        arguments: Any = node.args
        if node.target is aten.embedding.default and arguments[0].op == "get_attr":
            _note(node, {arguments[0]: _per_channel(self.scheme.bits_of_table(layer_of(arguments[0])))}, None)
        elif node.target is bilstm._opoverload:  # computed in float32 from integer weights, in every scheme
            matrices = [weight for weight in arguments[2] if weight.meta["val"].ndim == 2]
            _note(node, {weight: _per_channel(self.scheme.bits_of(layer_of(weight))) for weight in matrices}, None)
        elif node.meta.get(GROUPED):
            _note(node, {arguments[0]: _per_channel(self._bits(arguments[0]))}, None)
        elif self.scheme.mode != "static" and _has_weight(node):
            _note(node, {arguments[1]: self._weights(node)}, None)
        else:
            return self.scheme.mode != "static"
        return True

    def _annotate(self, node: fx.Node) -> None:
        """Annotates a node for a static scheme."""
        arguments: Any = node.args
        if _has_weight(node):
            # Converters drop a quantization to fewer bits in front of a layer whose result stays float32.
            is_wide = arguments[0] in self.widened and self._gives(node)
            inputs = {arguments[0]: self.wide if is_wide else self._activation(node), arguments[1]: self._weights(node)}
            self._mark(node, inputs, fused=True, in_float=node in self.in_float)
        elif node.target is aten.matmul.default:
            if self.scheme.attention and self.constant.isdisjoint(arguments):
                _note(node, dict.fromkeys(arguments, self.factor), None)
        elif node in self.in_float or node in self.tail:
            return
        elif self._are_pair(node) and node not in self.useless:
            self._mark(node, dict.fromkeys(arguments[:2], self._activation(node)), fused=True)
        elif node.target in POOLING | POINTWISE:
            self._mark(node, {arguments[0]: self._activation(node)}, fused=False)
        elif node.target is aten.cat.default and all(map(is_float_tensor, arguments[0])):
            self._share(node, arguments[0])
        elif node.target in LARGER and self._are_quantized(arguments[:2]):
            self._share(node, arguments[:2])
        elif node.target in MOVING | ACTIVATIONS and self._are_quantized(arguments[:1]) and not self._is_fused(node):
            self._share(node, arguments[:1])

    def _activation(self, node: fx.Node) -> QuantizationSpec:
        """The quantization spec of a node's inputs and result."""
        return self.wide if is_within(node, self.scheme.wide_modules) else self.activation

    def _are_quantized(self, arguments: Sequence[object]) -> bool:
        return all(argument in self.quantized for argument in arguments)

    def _are_pair(self, node: fx.Node) -> bool:
        """Whether a node adds or multiplies two tensors of floats; a product with a mask needs no quantization."""
        arguments: Any = node.args[:2]
        if node.target is aten.mul.Tensor:
            return self._are_quantized(arguments)
        return node.target in SUMS and all(map(is_float_tensor, arguments))

    def _is_fused(self, node: fx.Node) -> bool:
        return Q_ANNOTATION_KEY in node.meta

    def _share(self, node: fx.Node, sources: Sequence[fx.Node]) -> None:
        """Makes a node's inputs and result share one set of quantization parameters."""
        first, *others = sources
        shared = SharedQuantizationSpec((first, node))
        # The first source may occur twice: its parameters must not be defined in terms of themselves.
        rest = dict.fromkeys((other for other in others if other is not first), shared)
        spec = self.wide if first in self.widened else self._activation(node)
        _note(node, {first: spec, **rest}, None if self._gives(node) else shared)
        self.quantized.add(node)
        if spec is self.wide:
            self.widened.add(node)

    def _gives(self, node: fx.Node) -> bool:
        """Whether a node's value is an output of the network, or becomes one by moves alone."""
        if self.scheme.integer_io or node in self.enlarged:
            return False
        return any(user.op == "output" or user in self.tail for user in node.users)

    def _weights(self, layer: fx.Node) -> QuantizationSpec:
        weight: Any = layer.args[1]
        axis = channel_axis(layer)
        return _per_channel(self._bits(weight, axis), axis)

    def _bits(self, weight: fx.Node, axis: int = 0) -> int:
        bits = self.scheme.bits_of(layer_of(weight))
        adds_products = weight.meta["val"].select(axis, 0).numel() > 1
        return min(bits, REDUCED_BITS) if self.scheme.reduce_range and adds_products else bits

    def _mark(self, node: fx.Node, inputs: dict, fused: bool, in_float: bool = False) -> None:
        """Annotates a node's inputs and its result; the result after its activation, if that is the only consumer.

        Args:
            in_float: the result stays float32.
        """
        users = list(node.users)
        behind = users[0] if fused and len(users) == 1 and users[0].target in ACTIVATIONS else node
        output = None if in_float or self._gives(behind) else self._activation(node)
        _note(node, inputs, output if behind is node else None)
        if behind is not node:
            _note(behind, {}, output)
        if not in_float:
            self.quantized |= {node, behind}
        if output is self.wide:
            self.widened |= {node, behind}


def _has_weight(node: fx.Node) -> bool:
    weight = node.args[1] if node.target in WEIGHTED else None
    return isinstance(weight, fx.Node) and weight.op == "get_attr"


def _per_tensor(scheme: Scheme, bits: int, kind: torch.qscheme) -> QuantizationSpec:
    low, high = affine_bounds(bits)
    dtype = torch.int8 if bits <= 8 else torch.int16
    return QuantizationSpec(dtype, ActivationFakeQuantize.with_args(scheme=scheme), low, high, kind)


def _per_channel(bits: int, axis: int = 0) -> QuantizationSpec:
    low, high = symmetric_bounds(bits)
    kind = torch.per_channel_symmetric
    return QuantizationSpec(torch.int8, PerChannelWeightFakeQuantize, low, high, kind, ch_axis=axis)


def is_within(node: fx.Node, paths: Sequence[str]) -> bool:
    """Whether a node of an exported graph belongs to one of the modules at these paths, or to a part of one."""
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    return any(path and path == module for path in paths for module in stack)


def check_paths(graph: fx.GraphModule, paths: Sequence[str], key: str = "float_modules") -> None:
    """Raises UserError if one of the module paths names nothing that computes in an exported graph."""
    for path in paths:
        if not any(is_within(node, (path,)) for node in graph.graph.nodes):
            stacks = (node.meta.get("nn_module_stack", {}).values() for node in graph.graph.nodes)
            names = sorted({module for stack in stacks for module, _ in stack if module and "." not in module})
            raise UserError(f'{key}: the network has no "{path}" that computes; it has {", ".join(names)}')


def _note(node: fx.Node, inputs: dict, output: object) -> None:
    node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(inputs, output, _annotated=True)  # type: ignore[arg-type]
