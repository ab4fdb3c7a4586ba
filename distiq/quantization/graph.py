"""The quantized graph: exported once, annotated the way integer kernels fuse, prepared and converted by torchao PT2E.

Where the quantize / dequantize pairs stand decides whether a runtime computes in integers: a pair between a
convolution and its activation, or the lack of one after an addition, leaves an island of float32.
"""

import copy
import operator
import warnings
from typing import Any

from torch import fx, nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from distiq.errors import UserError
from distiq.models.attention import write_out_attention
from distiq.models.layout import free_dimensions
from distiq.models.signature import NAMES, Tensors
from distiq.models.trace import copied, trace
from distiq.quantization.annotate import GROUPED, IntegerQuantizer, check_paths, is_within
from distiq.quantization.canonical import canonicalize, changes_views
from distiq.quantization.fake_quantize import (
    ActivationFakeQuantize,
    BiasFakeQuantize,
    DynamicFakeQuantize,
    PerChannelWeightFakeQuantize,
    only_enabled,
)
from distiq.quantization.guard import check_unchanged, outputs_of
from distiq.quantization.operations import ACTIVATIONS, GATE, GATED, MAXIMA, WEIGHTED, aten
from distiq.quantization.regions import constant_nodes
from distiq.quantization.scheme import Scheme
from distiq.quantization.weights import layer_of

MOST_NAMED = 5  # operations in a message
EXAMPLE = "distiq_example"
"""Key of a graph's `meta`: example rows, and the network's outputs for them."""


def export_graph(model: nn.Module, example: Tensors) -> fx.GraphModule:
    """Exports a copy of the model as a `torch.export` graph with a dynamic batch (for token ids, length too).

    Args:
        example: inputs (B, ...), B >= 2.

    Returns:
        A graph that takes its inputs by position and gives a tensor, or a tuple of tensors; its names are in `meta`.

    Raises:
        UserError: the model cannot be traced; the message names the operation.
    """
    network = copied(model, example)
    program = trace(network, free_dimensions(network))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own classes
        if changes_views(program.module(check_guards=False)):
            program = program.run_decompositions({})
        graph = program.module(check_guards=False)
    graph.meta[NAMES] = (network.input_names, network.output_names)
    canonicalize(graph)
    outputs = outputs_of(network.module, network.inputs)
    check_unchanged(program.module(check_guards=False), graph, network.inputs, outputs)
    graph.meta[EXAMPLE] = network.inputs, outputs
    return graph


def prepare(graph: fx.GraphModule, scheme: Scheme) -> fx.GraphModule:
    """The graph with an observer wherever the scheme quantizes.

    Raises:
        UserError: the scheme keeps a module in float32 that the network does not have, or quantizes input and output of
            a network that computes in float32 there; or the prepared graph gives other outputs than the network.
    """
    traced = graph
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
        _check_integers(prepared)
    _look_through_gates(prepared)
    _keep_extremes(prepared)
    _insert_bias_fake_quantizers(prepared)
    if scheme.mode == "dynamic":
        _insert_dynamic_fake_quantizers(prepared)
    with only_enabled(prepared):
        check_unchanged(traced, prepared, *traced.meta[EXAMPLE])
    return prepared


def _check_integers(prepared: fx.GraphModule) -> None:
    """Raises UserError unless every operation, from the network's inputs to its outputs, reads and gives integers."""
    modules, constant = dict(prepared.named_modules(remove_duplicate=False)), set(constant_nodes(prepared))

    def is_quantized(node: fx.Node) -> bool:
        return isinstance(modules.get(str(node.target)), ActivationFakeQuantize)

    floats = []
    for node in prepared.graph.nodes:
        data = [one for one in node.all_input_nodes if one not in constant and one.target is not aten.sym_size.int]
        if node.op != "call_function" or node.target is aten.sym_size.int or not data:
            continue
        is_fused = node.target in ACTIVATIONS and data[0].op == "call_function"
        reads = is_fused or all(map(is_quantized, data))
        gives = all(is_quantized(user) or user.target in ACTIVATIONS for user in node.users)
        if Q_ANNOTATION_KEY not in node.meta or not reads or not gives:
            floats.append(f"{node.name} ({str(node.target).removeprefix('aten.')})")
    if floats:
        more = f" and {len(floats) - MOST_NAMED} more" if len(floats) > MOST_NAMED else ""
        raise UserError(
            f"integer_io: {', '.join(floats[:MOST_NAMED])}{more} compute in float32, for which integer kernels have no"
            " form, or since their module is kept in float32; replace them, or set integer_io to false"
        )


def _group_weights(graph: fx.GraphModule, scheme: Scheme) -> None:
    """Stores weights of linear layers (O, I) as (O * I / group, group), a scale for each row, behind a view of (O, I).

    Layers whose width is not a multiple of the group size, and weights with other consumers, stay as they are.
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
    """Gives fake-quantizers whose values are consumed only by x * gate(x) that function, for the choice of ranges."""
    modules = dict(prepared.named_modules(remove_duplicate=False))
    for product in prepared.graph.nodes:
        source: Any = product.args[0] if GATED in product.meta else None
        fake_quantize = modules.get(str(source.target)) if isinstance(source, fx.Node) else None
        if isinstance(fake_quantize, ActivationFakeQuantize) and all(
            user is product or GATE in user.meta for user in source.users
        ):
            fake_quantize.through = product.meta[GATED]


def _keep_extremes(prepared: fx.GraphModule) -> None:
    """Keeps fake-quantizers from clipping where only the largest values matter in the end: global max pooling."""
    modules = dict(prepared.named_modules(remove_duplicate=False))
    read_by_maxima = {
        source for node in prepared.graph.nodes if node.target in MAXIMA for source in node.all_input_nodes
    }
    for node in reversed(prepared.graph.nodes):
        if node not in read_by_maxima or node.target in WEIGHTED:
            continue
        read_by_maxima.update(node.all_input_nodes)
        fake_quantize = modules.get(str(node.target))
        if isinstance(fake_quantize, ActivationFakeQuantize):
            fake_quantize.keeps_extremes = True


def _insert_dynamic_fake_quantizers(prepared: fx.GraphModule) -> None:
    """Quantizes the input of each linear layer with integer weights, batch by batch; a shared input only once."""
    modules = dict(prepared.named_modules(remove_duplicate=False))
    made: dict[fx.Node, fx.Node] = {}
    for node in list(prepared.graph.nodes):
        arguments: Any = node.args
        if node.target is not aten.linear.default or str(arguments[1].target) not in modules:
            continue
        source = arguments[0]
        if source not in made:
            name = f"dynamic_fake_quantize_{len(made)}"
            prepared.add_submodule(name, DynamicFakeQuantize())
            with prepared.graph.inserting_after(source):
                made[source] = prepared.graph.call_module(name, (source,))
            made[source].meta = dict(source.meta)
        node.args = (made[source], *arguments[1:])
    prepared.recompile()


def convert(prepared: fx.GraphModule) -> fx.GraphModule:
    """The reference graph: integer weights, and quantize / dequantize pairs in place of the fake-quantize modules."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = copy.deepcopy(prepared)
        for node in prepared.graph.nodes:
            # Scales come from the weights as they are now, whether or not the graph has run with them.
            module = prepared.get_submodule(str(node.target)) if node.op == "call_module" else None
            if isinstance(module, PerChannelWeightFakeQuantize):
                module(parameter_of(prepared, node))
        for node, bias_fake_quantize in bias_fake_quantizers(prepared):
            bias_fake_quantize.value = bias_fake_quantize.rounded(parameter_of(prepared, node).detach())
        _fold_bias_fake_quantizers(prepared)
        return convert_pt2e(prepared)


def bias_fake_quantizers(prepared: fx.GraphModule) -> list[tuple[fx.Node, BiasFakeQuantize]]:
    """The fake-quantize modules of biases and the nodes that call them."""
    modules = dict(prepared.named_modules(remove_duplicate=False))  # a shared module has several names
    called = [(node, modules[str(node.target)]) for node in prepared.graph.nodes if node.op == "call_module"]
    return [(node, module) for node, module in called if isinstance(module, BiasFakeQuantize)]


def parameter_of(prepared: fx.GraphModule, node: fx.Node) -> nn.Parameter:
    """The parameter that a fake-quantize module's node reads."""
    source: Any = node.args[0]
    return operator.attrgetter(str(source.target))(prepared)


def _insert_bias_fake_quantizers(prepared: fx.GraphModule) -> None:
    modules = dict(prepared.named_modules(remove_duplicate=False))  # a shared module has several names
    for number, node in enumerate(list(prepared.graph.nodes)):
        arguments: Any = node.args
        if node.target not in WEIGHTED or len(arguments) < 3 or not isinstance(arguments[2], fx.Node):
            continue
        activation, weight = (modules.get(str(argument.target)) for argument in arguments[:2])
        if isinstance(activation, ActivationFakeQuantize) and isinstance(weight, PerChannelWeightFakeQuantize):
            name = f"bias_fake_quantize_{number}"
            prepared.add_submodule(name, BiasFakeQuantize(activation, weight))
            with prepared.graph.inserting_before(node):
                rounded = prepared.graph.call_module(name, (arguments[2],))
            node.replace_input_with(arguments[2], rounded)
    prepared.recompile()


def _fold_bias_fake_quantizers(prepared: fx.GraphModule) -> None:
    """Replaces every bias by its rounded value and removes its fake-quantize module."""
    sources: set[Any] = set()
    for node, fake_quantize in bias_fake_quantizers(prepared):
        bias = parameter_of(prepared, node)
        source: Any = node.args[0]
        value: Any = source
        if source in sources:  # a layer that is used twice has other scales the second time
            name = f"{node.target}_value"
            prepared.register_parameter(name, nn.Parameter(fake_quantize.value.clone(), requires_grad=False))
            with prepared.graph.inserting_before(node):
                value = prepared.graph.get_attr(name)
        else:
            bias.data = fake_quantize.value.clone()
        sources.add(source)
        node.replace_all_uses_with(value)
        prepared.graph.erase_node(node)
    prepared.recompile()
