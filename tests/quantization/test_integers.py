import numpy as np
import pytest
import torch
from torch import nn

from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import export, load


def network(depth: int) -> nn.Sequential:
    layers = [nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU()) for _ in range(depth)]
    return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), *layers, nn.Conv2d(8, 4, 1)).eval()


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def test_a_layer_rounds_the_sum_of_integers_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1)).eval()
    quantized = quantize(model, images(8), Scheme())
    one, two = [module for name, module in quantized.prepared.named_modules() if hasattr(module, "histogram")][:2]
    weight = next(module for module in quantized.prepared.modules() if hasattr(module, "latest"))
    seen = {}
    two.register_forward_hook(lambda _, inputs, result: seen.update(result=result))
    quantized.in_integers(images(2))
    scale_x, scale_w, scale_y = float(one.scale), weight.calculate_qparams()[0].double().numpy(), float(two.scale)
    x = np.clip(np.round(images(2).numpy() / scale_x), -128 - int(one.zero_point), 127 - int(one.zero_point))
    kernel = np.round(model[0].weight.detach().double().numpy()[:, :, 0, 0] / scale_w[:, None])
    bias = np.round(model[0].bias.detach().double().numpy() / (scale_x * scale_w))
    sums = np.einsum("oi,bihw->bohw", kernel, x.astype(np.float64)) + bias[:, None, None]
    steps = np.clip(np.round(sums * (scale_x * scale_w / scale_y)[:, None, None]), 0, 127 - int(two.zero_point))
    np.testing.assert_allclose(seen["result"].numpy() / scale_y, steps, atol=1e-3)


@pytest.mark.slow
def test_of_many_layers_the_file_differs_in_no_step(tmp_path):
    torch.manual_seed(0)
    quantized = quantize(network(12), images(16), Scheme())
    export(quantized, tmp_path / "model.onnx", images(2))
    deployed = load(tmp_path / "model.onnx")(images(16))
    torch.testing.assert_close(quantized.in_integers(images(16)), deployed, rtol=0, atol=1e-5)


def test_it_differs_from_the_float_graph_by_a_few_steps_at_most():
    quantized = quantize(network(1), images(8), Scheme())
    with torch.no_grad():
        apart = (quantized.in_integers(images(2)) - quantized(images(2))).abs().max()
    assert float(apart) < 0.05


def test_a_scheme_without_integer_inputs_is_computed_as_ever():
    quantized = quantize(nn.Sequential(nn.Linear(4, 3)), torch.randn(8, 4), Scheme(mode="dynamic"))
    with torch.no_grad():
        assert torch.equal(quantized.in_integers(torch.ones(2, 4)), quantized(torch.ones(2, 4)))
