"""Structures of public networks: the int8 graph is as close to the network as 8-bit activations allow."""

import pytest
import torch
from torch import Tensor

from distiq.numerics import sqnr_db
from distiq.quantization.affine import NORMS
from distiq.quantization.fake_quantize import BiasFakeQuantize, PerChannelWeightFakeQuantize
from distiq.quantization.graph import export_graph
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme
from tests.quantization.structures import STRUCTURES, trained

LEAST_DB = 40.0
QUICK = {"pre-activation", "recursive"}
NAMES = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in STRUCTURES]


@torch.no_grad()
def outputs_without(quantized: QuantizedModel, kinds: tuple[type, ...], images: Tensor) -> Tensor:
    """The outputs while fake-quantizers of these kinds let values pass."""
    off = [module for module in quantized.modules() if isinstance(module, kinds)]
    for module in off:
        module.enabled = False
    try:
        return quantized(images)
    finally:
        for module in off:
            module.enabled = True


@pytest.mark.parametrize("name", NAMES)
def test_integers_stay_close_to_the_network(name: str):
    model, quantized, calibration, images = trained(name)
    with torch.no_grad():
        expected = model(images)
        found = sqnr_db(expected, quantized(images))
    if found < LEAST_DB:
        # Logits of each position average nothing away, and every activation's rounding adds its noise: 8 bits of them
        # give no more, whatever the weights are.
        weights = PerChannelWeightFakeQuantize, BiasFakeQuantize
        rounded, wide = (
            quantize(model, calibration, scheme) for scheme in (Scheme(), Scheme(activation_bits=16, rounding="gptq"))
        )
        assert found > sqnr_db(expected, outputs_without(rounded, weights, images)) - 1
        assert sqnr_db(expected, outputs_without(wide, (), images)) > LEAST_DB
    assert found > 34


@pytest.mark.parametrize("name", STRUCTURES)
def test_no_norm_of_a_map_is_left_and_the_graph_is_the_network(name: str):
    """A batch norm that is left is folded by torchao, without a look at its readers, in half a minute."""
    torch.manual_seed(0)
    model = STRUCTURES[name]()
    images = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        model.train()(images)  # norms that have seen something
        graph = export_graph(model.eval(), images[:2])
        assert sqnr_db(model(images), graph(images)) > 100
    left = {str(node.target) for node in graph.graph.nodes if node.target in NORMS}
    assert left == ({"aten.instance_norm.default"} if name == "islands" else set())


def test_the_graph_of_integers_gives_what_the_simulation_gives():
    _, quantized, _, images = trained("recursive")
    with torch.no_grad():
        assert sqnr_db(quantized(images), quantized.reference()(images)) > 100
