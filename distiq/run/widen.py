"""16-bit activations for the layers around the tensors that 8 bits harm most."""

from dataclasses import replace

from torch import fx

from distiq.quantization.graph import export_graph
from distiq.quantization.operations import ACTIVATIONS, MOVING
from distiq.quantization.scheme import Scheme
from distiq.quantization.sensitivity import place_of
from distiq.records.sensitivity import SensitivityRecord
from distiq.run.measure import example_of
from distiq.run.narrow import Situation

MOST_OF_IT = 0.9  # of the noise of all activations comes from the tensors that are widened


def widened(now: Situation) -> Scheme:
    """The scheme with 16-bit activations in the modules that produce or read the noisiest tensors."""
    assert now.evidence is not None
    graph = export_graph(now.student.module, example_of(now.data))
    modules = wide_modules(now.evidence, graph)
    now.watch.note(f"16-bit activations in {', '.join(modules) if modules else 'no module: none holds a noisy tensor'}")
    return replace(now.start, wide_modules=tuple(dict.fromkeys((*now.plain.wide_modules, *modules))))


def wide_modules(evidence: SensitivityRecord, graph: fx.GraphModule) -> tuple[str, ...]:
    """The paths of the modules around the fewest tensors that make `MOST_OF_IT`, in the order of the graph."""
    power = evidence.noise_of_activations()
    left, noisy = MOST_OF_IT * sum(power.values()), []
    for place in sorted(power, key=lambda place: -power[place]):
        if left <= 0:
            break
        noisy.append(place)
        left -= power[place]
    around = {node for place in noisy for node in _around(graph, place)}
    return tuple(dict.fromkeys(path for node in graph.graph.nodes if node in around and (path := _path(node))))


def _around(graph: fx.GraphModule, place: str) -> set[fx.Node]:
    """The operations that produce the tensor of a place, or read it: 8 bits in any of them would round it."""
    gives = {node for node in graph.graph.nodes if node.op != "get_attr" and place_of(node) == place}
    fused = {source for node in gives if node.target in ACTIVATIONS for source in node.all_input_nodes}
    reads: set[fx.Node] = set()
    waiting = [user for node in gives for user in node.users]
    while waiting:
        node = waiting.pop()
        if node not in reads | gives:
            reads.add(node)
            waiting += node.users if node.target in MOVING else ()
    return gives | fused | reads


def _path(node: fx.Node) -> str:
    """The module that an operation belongs to, empty for those of the network itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0] if stack and node.op == "call_function" else ""
