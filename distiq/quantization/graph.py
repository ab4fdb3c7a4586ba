"""The quantized graph: exported once, annotated the way integer kernels fuse, prepared and converted by torchao PT2E.

Where the quantize / dequantize pairs stand decides whether a runtime computes in integers: a pair between a
convolution and its activation, or a missing one behind an addition, leaves an island of float32.
"""

import copy
import operator
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from distiq.errors import UserError
from distiq.models.attention import write_out_attention
from distiq.models.layout import dynamic_shapes, free_dimensions, make_contiguous, plain_copy
from distiq.models.recurrent import bilstm
from distiq.models.signature import NAMES, Tensors, each, positional
from distiq.numerics import affine_bounds, symmetric_bounds
from distiq.quantization.fake_quantize import (
    ActivationFakeQuantize,
    BiasFakeQuantize,
    DynamicFakeQuantize,
    PerChannelWeightFakeQuantize,
)
from distiq.quantization.scheme import REDUCED_BITS, Scheme

aten = torch.ops.aten
CONVOLUTIONS = {aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding}
WEIGHTED = {*CONVOLUTIONS, aten.linear.default}
ACTIVATIONS = {
    aten.relu.default, aten.relu_.default, aten.relu6.default, aten.hardtanh.default, aten.hardtanh_.default,
    aten.clamp.default, aten.clamp_min.default,
}  # fmt: skip
ALONE = {
    aten.adaptive_avg_pool2d.default, aten.avg_pool2d.default, aten.mean.dim,
    aten.sigmoid.default, aten.sigmoid_.default, aten.hardsigmoid.default, aten.hardsigmoid_.default,
}  # fmt: skip
GATES = {
    aten.silu.default: aten.sigmoid.default, aten.silu_.default: aten.sigmoid.default,
    aten.hardswish.default: aten.hardsigmoid.default, aten.hardswish_.default: aten.hardsigmoid.default,
}  # fmt: skip
GATED = {aten.sigmoid.default: F.silu, aten.hardsigmoid.default: F.hardswish}
SAME_GRID = {
    aten.max_pool2d.default, aten.flatten.using_ints, aten.view.default, aten.reshape.default, aten.permute.default,
    aten.transpose.int, aten.squeeze.dim, aten.unsqueeze.default, aten.pad.default, aten.constant_pad_nd.default,
}  # fmt: skip
NORMALIZATIONS = {aten.layer_norm.default, aten.rms_norm.default}
GROUPED = "distiq_grouped"


def export_graph(model: nn.Module, example: Tensors) -> fx.GraphModule:
    """The model as a `torch.export` graph with a dynamic batch (and length, of token numbers), of a copy.

    Args:
        example: inputs (B, ...), B >= 2.

    Returns:
        A graph that takes its inputs by position and gives a tensor, or a tuple of tensors; its names are in `meta`.

    Raises:
        UserError: the model cannot be traced; the message names the operation.
    """
    model = make_contiguous(copy.deepcopy(model).cpu().eval())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = positional(model, each(plain_copy, example))
            shapes = dynamic_shapes(network, free_dimensions(network))
            program = torch.export.export(network.module, network.inputs, dynamic_shapes=shapes)
            graph = program.module(check_guards=False)
            graph.meta[NAMES] = (network.input_names, network.output_names)
    except UserError:
        raise
    except Exception as error:  # torch.export raises many kinds, none of them public
        raise UserError(f"the network cannot be traced by torch.export: {_reason(error)}") from error
    _open_gates(graph)
    return graph


def _open_gates(graph: fx.GraphModule) -> None:
    """Writes SiLU and hard-swish as x * gate(x), which integer kernels have: one grid for the gate, one behind it."""
    for node in list(graph.graph.nodes):
        if node.target in GATES:
            source = node.args[0]
            with graph.graph.inserting_before(node):
                gate = graph.graph.call_function(GATES[node.target], (source,))
                product = graph.graph.call_function(aten.mul.Tensor, (source, gate))
            gate.meta, product.meta = dict(node.meta), dict(node.meta)
            node.replace_all_uses_with(product)
            graph.graph.erase_node(node)
    graph.recompile()


def _reason(error: Exception) -> str:
    """The operation and the line of the model that broke the trace, from torch's long message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    place = next((line for line in reversed(lines) if line.startswith("File ") and "/torch/" not in line), "")
    code = lines[lines.index(place) + 1] if place and lines.index(place) + 1 < len(lines) else ""
    frame = error.__traceback__
    while frame is not None:
        name = frame.tb_frame.f_code.co_filename
        if not place and "/torch/" not in name and "/distiq/" not in name and not name.startswith("<"):
            place = f"{name}, line {frame.tb_lineno}"
        frame = frame.tb_next
    where = f" ({' '.join((place, code)).strip()})" if place else ""
    return f"{first}{where}; rewrite that operation with tensor operations that do not depend on the data's values"


def prepare(graph: fx.GraphModule, scheme: Scheme) -> fx.GraphModule:
    """The graph with batch norm folded and a watching point wherever the scheme puts a grid.

    Raises:
        UserError: the scheme keeps a module in float32 that the network does not have, or wants grids at both ends of a
            network that computes in float32 there.
    """
    check_paths(graph, scheme.float_modules)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = copy.deepcopy(graph)
        if scheme.group_size:
            _group_weights(graph, scheme)
        if scheme.attention:
            write_out_attention(graph)
        prepared = prepare_pt2e(graph, IntegerQuantizer(scheme))
    if scheme.integer_io:
        _check_ends(prepared)
    _look_through_gates(prepared)
    _insert_bias_fake_quantizers(prepared)
    if scheme.mode == "dynamic":
        _insert_dynamic_fake_quantizers(prepared)
    return prepared


def _check_ends(prepared: fx.GraphModule) -> None:
    """Raises UserError unless all that reads the network's input, and what it gives, is a grid."""
    modules = dict(prepared.named_modules(remove_duplicate=False))
    for node in prepared.graph.nodes:
        if node.op in ("placeholder", "output"):
            readers = [user for user in node.users if user.target is not aten.sym_size.int]
            beside = readers if node.op == "placeholder" else node.all_input_nodes
            if not all(isinstance(modules.get(str(one.target)), ActivationFakeQuantize) for one in beside):
                end = "reads its input" if node.op == "placeholder" else "computes its output"
                raise UserError(
                    f"integer_io: the network {end} in float32, as token numbers, normalization layers and modules"
                    " that are kept in float32 have it; set it to false"
                )


def _group_weights(graph: fx.GraphModule, scheme: Scheme) -> None:
    """Stores weights of linear layers (O, I) as (O * I / group, group), a scale for each row, behind a view of (O, I).

    Layers whose width is no multiple of the group, and weights that something else reads, too, stay as they are.
    """
    readers: dict[str, list[fx.Node]] = {}
    for node in graph.graph.nodes:
        for source in node.all_input_nodes:
            if source.op == "get_attr":
                readers.setdefault(str(source.target), []).append(node)
    for node in list(graph.graph.nodes):
        weight: Any = node.args[1] if node.target is aten.linear.default else None
        if weight is None or weight.op != "get_attr" or readers[str(weight.target)] != [node]:
            continue
        value = weight.meta["val"]
        if value.shape[1] % scheme.group_size or is_within(node, scheme.float_modules):
            continue
        owner = graph.get_submodule(layer_of(weight))
        name = str(weight.target).rpartition(".")[2]
        values = getattr(owner, name).detach().reshape(-1, scheme.group_size)
        setattr(owner, name, nn.Parameter(values))
        with graph.graph.inserting_after(weight):
            view = graph.graph.call_function(aten.view.default, (weight, list(value.shape)))
        view.meta = {**node.meta, "val": value, GROUPED: True}
        weight.meta["val"] = value.reshape(-1, scheme.group_size)
        node.replace_input_with(weight, view)
    graph.recompile()


def _look_through_gates(prepared: fx.GraphModule) -> None:
    """Tells the points whose values go into x * gate(x) alone what is made of them."""
    modules = dict(prepared.named_modules(remove_duplicate=False))
    for node in prepared.graph.nodes:
        point = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(point, ActivationFakeQuantize) or len(node.users) != 2:
            continue
        for gate in node.users:
            on_grid = next(iter(gate.users), None) if gate.target in GATED else None
            products = set(on_grid.users) if on_grid is not None and on_grid.op == "call_module" else {on_grid}
            if on_grid is not None and products | {gate} == set(node.users):
                point.through = GATED[gate.target]


def _insert_dynamic_fake_quantizers(prepared: fx.GraphModule) -> None:
    """A grid of each batch in front of the linear layers that have integer weights; those of one source share it."""
    modules = dict(prepared.named_modules(remove_duplicate=False))
    made: dict[fx.Node, fx.Node] = {}
    for node in list(prepared.graph.nodes):
        arguments: Any = node.args
        if node.target is not aten.linear.default or str(arguments[1].target) not in modules:
            continue
        source = arguments[0]
        if source not in made:
            name = f"dynamic_point_{len(made)}"
            prepared.add_submodule(name, DynamicFakeQuantize())
            with prepared.graph.inserting_after(source):
                made[source] = prepared.graph.call_module(name, (source,))
            made[source].meta = dict(source.meta)
        node.args = (made[source], *arguments[1:])
    prepared.recompile()


def convert(prepared: fx.GraphModule) -> fx.GraphModule:
    """The reference graph: integer weights, and quantize / dequantize pairs in place of the points."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = copy.deepcopy(prepared)
        for node in prepared.graph.nodes:
            # Grids of weights are made from the weights as they are now, whether or not the graph has run with them.
            point = prepared.get_submodule(str(node.target)) if node.op == "call_module" else None
            if isinstance(point, PerChannelWeightFakeQuantize):
                point(parameter_of(prepared, node))
        for node, bias_point in bias_fake_quantizers(prepared):
            bias_point.value = bias_point.on_grid(parameter_of(prepared, node).detach())
        _fold_bias_fake_quantizers(prepared)
        return convert_pt2e(prepared)


def bias_fake_quantizers(prepared: fx.GraphModule) -> list[tuple[fx.Node, BiasFakeQuantize]]:
    """The points of biases and the nodes that stand for them."""
    modules = dict(prepared.named_modules(remove_duplicate=False))  # a shared grid stands under several names
    found = [(node, modules[str(node.target)]) for node in prepared.graph.nodes if node.op == "call_module"]
    return [(node, module) for node, module in found if isinstance(module, BiasFakeQuantize)]


def parameter_of(prepared: fx.GraphModule, node: fx.Node) -> nn.Parameter:
    """The parameter that a point's node reads."""
    source: Any = node.args[0]
    return operator.attrgetter(str(source.target))(prepared)


def layer_of(weight: fx.Node) -> str:
    """The module path of the layer whose weight a node reads: "stages.0.conv" for "stages.0.conv.weight"."""
    return str(weight.target).rpartition(".")[0]


def _insert_bias_fake_quantizers(prepared: fx.GraphModule) -> None:
    modules = dict(prepared.named_modules(remove_duplicate=False))  # a shared grid stands under several names
    for number, node in enumerate(list(prepared.graph.nodes)):
        arguments: Any = node.args
        if node.target not in WEIGHTED or len(arguments) < 3 or not isinstance(arguments[2], fx.Node):
            continue
        activation, weight = (modules.get(str(argument.target)) for argument in arguments[:2])
        if isinstance(activation, ActivationFakeQuantize) and isinstance(weight, PerChannelWeightFakeQuantize):
            name = f"bias_point_{number}"
            prepared.add_submodule(name, BiasFakeQuantize(activation, weight))
            with prepared.graph.inserting_before(node):
                point = prepared.graph.call_module(name, (arguments[2],))
            node.replace_input_with(arguments[2], point)
    prepared.recompile()


def _fold_bias_fake_quantizers(prepared: fx.GraphModule) -> None:
    """Puts every bias on its grid for good and takes its point away."""
    sources: set[Any] = set()
    for node, point in bias_fake_quantizers(prepared):
        bias = parameter_of(prepared, node)
        source: Any = node.args[0]
        value: Any = source
        if source in sources:  # a layer that is used twice has another grid the second time
            name = f"{node.target}_value"
            prepared.register_parameter(name, nn.Parameter(point.value.clone(), requires_grad=False))
            with prepared.graph.inserting_before(node):
                value = prepared.graph.get_attr(name)
        else:
            bias.data = point.value.clone()
        sources.add(source)
        node.replace_all_uses_with(value)
        prepared.graph.erase_node(node)
    prepared.recompile()


def _is_on_grid(argument: object) -> bool:
    return isinstance(argument, fx.Node) and Q_ANNOTATION_KEY in argument.meta


def _is_constant(node: fx.Node) -> bool:
    """Whether a value is a stored tensor, or that as another type, on another device or in another shape."""
    while len(node.all_input_nodes) == 1:
        (node,) = node.all_input_nodes
    return node.op == "get_attr"


def _is_float_tensor(argument: object) -> bool:
    value = argument.meta.get("val") if isinstance(argument, fx.Node) else None
    return isinstance(value, Tensor) and value.is_floating_point()


PAIRED = {
    aten.add.Tensor: _is_float_tensor, aten.add_.Tensor: _is_float_tensor,
    aten.mul.Tensor: _is_on_grid, aten.mul_.Tensor: _is_on_grid,
}  # fmt: skip
"""Operations on two tensors, and what both have to be: a product with a mask or a constant needs no grid."""


class IntegerQuantizer(Quantizer):
    """Annotates a graph so that every weighted layer runs from integers to integers.

    A weighted layer reads grids and its result gets one behind its activation; additions, products, gates,
    concatenations and pooling read and write grids; reshaping and padding keep their input's. The last layer's output
    stays float32: an integer kernel rescales its accumulator straight to float, and a grid there would only add noise
    to the logits. A scheme of `integer_io` has one there all the same.

    Where layers are normalized (transformers), what lies between weighted layers is computed in float anyway: there
    only the inputs and weights of weighted layers get grids, and the results of convolutions, which have no integer
    kernel with a float32 result; a scheme of `attention` puts the factors of products of two activations there, too.
    An embedding's table has a grid for each row, everywhere.
    Schemes that are not static have grids of weights alone here.
    """

    def __init__(self, scheme: Scheme) -> None:
        super().__init__()
        self.scheme = scheme
        low, high = affine_bounds(scheme.activation_bits)
        kind = torch.int8 if scheme.activation_bits == 8 else torch.int16
        point = ActivationFakeQuantize.with_args(scheme=scheme)
        self.activation = QuantizationSpec(kind, point, low, high, torch.per_tensor_affine)
        self.factor = QuantizationSpec(kind, point, low, high, torch.per_tensor_symmetric)

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        self.float_between = any(node.target in NORMALIZATIONS for node in model.graph.nodes)
        for node in model.graph.nodes:
            if node.op == "call_function" and not is_within(node, self.scheme.float_modules):
                self._annotate(node)
        return model

    def validate(self, model: fx.GraphModule) -> None:
        pass

    def _annotate(self, node: fx.Node) -> None:
        arguments: Any = node.args
        if node.target is aten.embedding.default and arguments[0].op == "get_attr":
            _note(node, {arguments[0]: _weight_grid(self.scheme.bits_of_table(layer_of(arguments[0])))}, None)
        elif node.target is bilstm._opoverload:  # computed in float32 from integer weights, in every scheme
            matrices = [weight for weight in arguments[2] if weight.meta["val"].ndim == 2]
            _note(node, {weight: _weight_grid(self.scheme.bits_of(layer_of(weight))) for weight in matrices}, None)
        elif node.meta.get(GROUPED):
            _note(node, {arguments[0]: _weight_grid(self._bits(arguments[0]))}, None)
        elif self.scheme.mode != "static":
            if node.target in WEIGHTED and arguments[1].op == "get_attr":
                _note(node, {arguments[1]: _weight_grid(self._bits(arguments[1]))}, None)
        elif node.target in WEIGHTED and arguments[1].op == "get_attr":
            inputs = {arguments[0]: self.activation, arguments[1]: _weight_grid(self._bits(arguments[1]))}
            if self.float_between and node.target not in CONVOLUTIONS:
                _note(node, inputs, None)
            else:
                self._mark(node, inputs, fused=True)
        elif self.scheme.attention and node.target is aten.matmul.default:
            if not any(map(_is_constant, arguments)):
                _note(node, dict.fromkeys(arguments, self.factor), None)
        elif self.float_between:
            return
        elif node.target in PAIRED and all(PAIRED[node.target](argument) for argument in arguments[:2]):
            self._mark(node, dict.fromkeys(arguments[:2], self.activation), fused=True)
        elif node.target in ALONE:
            self._mark(node, {arguments[0]: self.activation}, fused=False)
        elif node.target is aten.cat.default:
            first, *others = arguments[0]
            shared = SharedQuantizationSpec((first, node))
            # The first may stand twice: its grid must not be defined by itself.
            rest = dict.fromkeys((other for other in others if other is not first), shared)
            _note(node, {first: self.activation, **rest}, shared)
        elif node.target in SAME_GRID and _is_float_tensor(arguments[0]) and self._keeps_grid(arguments[0]):
            _note(node, {arguments[0]: self.activation}, SharedQuantizationSpec((arguments[0], node)))

    def _keeps_grid(self, source: fx.Node) -> bool:
        return _is_on_grid(source) or (self.scheme.integer_io and source.op == "placeholder")

    def _bits(self, weight: fx.Node) -> int:
        bits = self.scheme.bits_of(layer_of(weight))
        adds_products = weight.meta["val"][0].numel() > 1
        return min(bits, REDUCED_BITS) if self.scheme.reduce_range and adds_products else bits

    def _mark(self, node: fx.Node, inputs: dict, fused: bool) -> None:
        """Grids on the inputs, and one on the output, behind the activation if there is one alone."""
        users = list(node.users)
        behind = users[0] if fused and len(users) == 1 and users[0].target in ACTIVATIONS else node
        is_last = all(user.op == "output" for user in behind.users)
        output = None if is_last and not self.scheme.integer_io else self.activation
        _note(node, inputs, output if behind is node else None)
        if behind is not node:
            _note(behind, {}, output)


def _weight_grid(bits: int) -> QuantizationSpec:
    low, high = symmetric_bounds(bits)
    return QuantizationSpec(torch.int8, PerChannelWeightFakeQuantize, low, high, torch.per_channel_symmetric, ch_axis=0)


def is_within(node: fx.Node, paths: Sequence[str]) -> bool:
    """Whether a node of an exported graph belongs to one of the modules at these paths, or to a part of one."""
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    return any(path and path == found for path in paths for found in stack)


def check_paths(graph: fx.GraphModule, paths: Sequence[str]) -> None:
    """Raises UserError if one of the module paths names nothing that computes in an exported graph."""
    for path in paths:
        if not any(is_within(node, (path,)) for node in graph.graph.nodes):
            stacks = (node.meta.get("nn_module_stack", {}).values() for node in graph.graph.nodes)
            known = sorted({found for stack in stacks for found, _ in stack if found and "." not in found})
            raise UserError(f'float_modules: the network has no "{path}" that computes; it has {", ".join(known)}')


def _note(node: fx.Node, inputs: dict, output: object) -> None:
    node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(inputs, output, _annotated=True)  # type: ignore[arg-type]
