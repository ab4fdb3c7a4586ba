"""A prepared graph as integer kernels compute it: layers add up whole numbers, and rescale them once.

In float32 the terms of a sum are rounded one by one. That moves a result by some 1e-4 of a quantization step, which
decides how values near the middle between two steps are rounded; layer by layer such differences spread, until of 500
pixels one has another class than in the file. Kernels add up integers without any error, and multiply the sum by
scale_x * scale_w / scale_y in float32 (Jacob et al. 2018, arXiv:1712.05877, section 2.2; XNNPACK and ONNX Runtime keep
the multiplier in float32). Here a float32 convolution adds up the integers, exactly, as long as sums stay below 2^24.
"""

from typing import Any

import torch
from torch import Tensor, fx

from distiq.quantization.fake_quantize import ActivationFakeQuantize, PerChannelWeightFakeQuantize, along
from distiq.quantization.operations import ACTIVATIONS, WEIGHTED, aten


class IntegerKernels(fx.Interpreter):
    """Runs a prepared graph whose ranges are frozen; layers with integer weights and inputs as integer kernels do."""

    def run_node(self, n: fx.Node) -> Any:
        reads = self._integer_inputs(n) if n.target in WEIGHTED else None
        if reads is None:
            return super().run_node(n)
        x, weight, *rest = self.fetch_args_kwargs_from_env(n)[0]
        return self._layer(n, x, weight, rest, *reads)

    def _integer_inputs(self, node: fx.Node) -> tuple[ActivationFakeQuantize, PerChannelWeightFakeQuantize] | None:
        """What quantizes a layer's input and its weights, where both do."""
        sources: Any = node.args[:2]
        modules = [self.fetch_attr(str(one.target)) for one in sources if one.op == "call_module"]
        match modules:
            case [ActivationFakeQuantize() as activation, PerChannelWeightFakeQuantize() as weight] if (
                activation.mode == "simulate" and activation.enabled and weight.enabled
            ):
                return activation, weight
        return None

    def _layer(
        self,
        node: fx.Node,
        x: Tensor,
        weight: Tensor,
        rest: list[Any],
        into: ActivationFakeQuantize,
        of_weight: PerChannelWeightFakeQuantize,
    ) -> Tensor:
        scale_x, scale_w = into.calculate_qparams()[0], of_weight.calculate_qparams()[0]
        whole_x = (x / scale_x).round_()
        whole_weight = (weight / along(scale_w, of_weight.ch_axis, weight)).round_()
        sums = node.target(whole_x, whole_weight, None, *rest[1:], **node.kwargs)  # type: ignore[operator]
        axis = -1 if node.target is aten.linear.default else 1
        scale = scale_x * scale_w
        scale = scale.repeat(sums.shape[axis] // len(scale))  # groups of a transposed convolution have the same scales
        if rest and rest[0] is not None:
            sums += _on_axis((rest[0] / scale).round_(), axis, sums)
        behind = self._quantized_by(node)
        if behind is None:
            return sums * _on_axis(scale, axis, sums)
        scale_y = behind.calculate_qparams()[0]
        return (sums * _on_axis(scale / scale_y, axis, sums)).round_() * scale_y

    def _quantized_by(self, node: fx.Node) -> ActivationFakeQuantize | None:
        """What quantizes a layer's result, behind its activation if it has one: these only limit values."""
        users = list(node.users)
        if len(users) == 1 and users[0].target in ACTIVATIONS:
            users = list(users[0].users)
        module = self.fetch_attr(str(users[0].target)) if len(users) == 1 and users[0].op == "call_module" else None
        simulates = isinstance(module, ActivationFakeQuantize) and module.mode == "simulate" and module.enabled
        return module if simulates else None


def _on_axis(values: Tensor, axis: int, like: Tensor) -> Tensor:
    return values if axis == -1 else values.view(-1, *[1] * (like.ndim - 2))


@torch.no_grad()
def run_in_integers(prepared: fx.GraphModule, *inputs: Tensor) -> Any:
    """The outputs of a prepared graph, as integer kernels give them; see the module."""
    return IntegerKernels(prepared).run(*inputs)
