"""Modules that stay in float32: nothing quantized inside, everything else on integers, and the file says so."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from distiq.errors import UserError
from distiq.models.audio import DSCNN
from distiq.models.frontend import front_end
from distiq.numerics import sqnr_db
from distiq.quantization.annotate import is_within
from distiq.quantization.qat import train_quantized
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import export, load
from distiq.runtimes.onnx_read import float_operations

KEPT = Scheme(float_modules=("frontend",))


@pytest.fixture(scope="module")
def clips() -> Tensor:
    """Noise that swells and fades, of many loudnesses."""
    generator = torch.Generator().manual_seed(0)
    loudness = 10 ** (-3 * torch.rand(96, 1, generator=generator))
    return torch.randn(96, 2000, generator=generator) * loudness * torch.hann_window(2000)


@pytest.fixture(scope="module")
def network(clips: Tensor) -> DSCNN:
    torch.manual_seed(0)
    model = DSCNN(4, front_end(8000, bands=20), stem=8, widths=(8, 8), strides=(1, 1))
    with torch.no_grad():
        for _ in range(20):
            model.train()(clips)
    return model.eval()


def test_nothing_is_quantized_inside(network: DSCNN, clips: Tensor):
    graph = quantize(network, clips, KEPT).reference().graph
    inside = [node for node in graph.nodes if is_within(node, ("frontend",))]
    pairs = [node for node in graph.nodes if "quantize" in str(node.target)]
    assert len(inside) > 10
    touched = {other for node in pairs for other in (*node.all_input_nodes, *node.users)}
    assert not touched & set(inside)
    assert pairs


def test_int8_in_the_front_end_would_cost_decibels(network: DSCNN, clips: Tensor):
    """The evidence for leaving it out: a power spectrum spans far more than the 48 dB of 8 bits."""
    with torch.no_grad():
        wanted = network(clips)
        everywhere, kept = (sqnr_db(wanted, quantize(network, clips, scheme)(clips)) for scheme in (Scheme(), KEPT))
    assert kept > everywhere + 10
    assert kept > 25


def test_the_file_computes_the_rest_in_integers_and_agrees(network: DSCNN, clips: Tensor, tmp_path: Path):
    quantized = quantize(network, clips, KEPT)
    path = export(quantized, tmp_path / "int8.onnx", clips[:2])
    left = float_operations(path)
    assert any(name.endswith("(Conv)") for name in left)
    assert all(name.startswith("frontend/") for name in left)
    with torch.no_grad():
        simulated = quantized(clips)
    deployed = load(path)(clips)
    assert float((simulated.argmax(1) == deployed.argmax(1)).double().mean()) > 0.98
    assert sqnr_db(simulated, deployed) > 35


def test_it_can_be_trained_quantized(network: DSCNN, clips: Tensor):
    from distiq.data.splits import from_tensors
    from distiq.recipe.training import QATSettings
    from distiq.training.fit import Losses

    labels = torch.arange(96) % 4
    data = from_tensors((clips[:64], labels[:64]), (clips[64:], labels[64:]), None, 16, 16, modality="audio", rate=8000)
    quantized = quantize(network, clips, KEPT)
    before = {name: value.clone() for name, value in quantized.state_dict().items() if "weight" in name}
    train_quantized(
        quantized,
        lambda logits, batch: Losses(task=torch.nn.functional.cross_entropy(logits, batch.labels)),
        data,
        QATSettings(epochs=1, batch_size=16, learning_rate=0.05),
    )
    after = quantized.state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_a_scheme_says_what_it_keeps():
    assert str(KEPT) == "static W8A8, mse, frontend in float32"


@pytest.mark.parametrize("path", ["front", "frontend.conv", ""])
def test_a_module_that_is_not_there_is_refused(path: str, network: DSCNN, clips: Tensor):
    with pytest.raises(UserError, match=r'has no ".*" that computes; it has blocks, classifier, frontend, pool, stem'):
        quantize(network, clips, Scheme(float_modules=(path,)))
