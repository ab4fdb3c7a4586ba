"""What the kernels of TFLM and LiteRT make of an integer file: LiteRT's own, and their formulas once more in numpy.

Both rescale sums by an int32 multiplier and a shift, and round twice, as gemmlowp does: to the upper half of a product,
then in the shift. LiteRT's linear layers alone round once (found here: their values are those of that formula, and no
others are). Formulas: TFLite, kernels/internal/common.h and kernels/internal/reference (Apache 2.0).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from distiq.runtimes.litert_file import unpacked

SAME, RELU, RELU6 = 0, 1, 3  # of the schema
ADD_SHIFT = 20
Rescale = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def reference_kernels(content: bytes, taken: np.ndarray) -> np.ndarray:
    """The integers that LiteRT's reference kernels give, without XNNPACK.

    Args:
        content: a .tflite or .tflm file of one sample, one input and one output.
        taken: (N, ...) integers as the file takes them.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN_REF
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    results = []
    for row in taken:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], row[None])
        interpreter.invoke()
        results.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    return np.concatenate(results)


def rescaled_twice(values: np.ndarray, multiplier: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """values * multiplier * 2 ** (exponent - 31), rounded to the upper half of the product, then in the shift."""
    product = (values << np.maximum(exponent, 0)) * multiplier
    upper = _divided(product + np.where(product >= 0, 1 << 30, 1 - (1 << 30)), 31)
    shift = np.maximum(-exponent, 0)
    mask = (np.int64(1) << shift) - 1
    return (upper >> shift) + ((upper & mask) > (mask >> 1) + (upper < 0))


def rescaled_once(values: np.ndarray, multiplier: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """The same, rounded once: half a step is added before the shift."""
    return (values * multiplier + (np.int64(1) << (30 - exponent))) >> (31 - exponent)


def rescaled_exactly(values: np.ndarray, multiplier: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """The nearest integer to the product in float64, ties to the even one."""
    return np.rint(values * (multiplier * 2.0 ** (exponent.astype(np.float64) - 31))).astype(np.int64)


class Kernels(NamedTuple):
    """How linear layers and all other operations are rescaled."""

    linear: Rescale
    other: Rescale


TFLM = Kernels(rescaled_twice, rescaled_twice)
LITERT = Kernels(rescaled_once, rescaled_twice)
EXACT = Kernels(rescaled_exactly, rescaled_exactly)


def by_formulas(content: bytes, taken: np.ndarray, kernels: Kernels) -> np.ndarray:
    """The integers of an int8 file by the kernels' formulas; arguments as for `reference_kernels`.

    Args:
        kernels: TFLM, LITERT, or EXACT.
    """
    return np.concatenate([_Formulas(content, kernels).output(part) for part in np.array_split(taken, 20)])


def _divided(values: np.ndarray, power: int) -> np.ndarray:
    """Division by a power of two, towards zero as in C."""
    return np.where(values >= 0, values >> power, -(-values >> power))


def _fixed(ratio: Any) -> tuple[np.ndarray, np.ndarray]:
    """Multipliers of 31 bits and exponents of two."""
    fractions, exponents = np.frexp(np.asarray(ratio, np.float64))
    multipliers = np.round(fractions * 2.0**31).astype(np.int64)
    over = multipliers == 1 << 31
    return np.where(over, multipliers // 2, multipliers), (exponents + over).astype(np.int64)


class _Formulas:
    """The operations of a file as int64 arrays."""

    def __init__(self, content: bytes, kernels: Kernels) -> None:
        self.file = unpacked(content)
        self.graph = self.file.subgraphs[0]
        self.kernels, self.rescale = kernels, kernels.other
        self.values: dict[int, np.ndarray] = {}

    def output(self, taken: np.ndarray) -> np.ndarray:
        self.values[int(self.graph.inputs[0])] = taken.astype(np.int64)
        for operation in self.graph.operators:
            kind = self.file.operatorCodes[operation.opcodeIndex].builtinCode
            self.rescale = self.kernels.linear if KINDS[kind] == "fully_connected" else self.kernels.other
            self.values[int(operation.outputs[0])] = self._result(KINDS[kind], operation)
        return self.values[int(self.graph.outputs[0])].astype(np.int8)

    def _result(self, name: str, operation: Any) -> np.ndarray:
        first, options = self.values[int(operation.inputs[0])], operation.builtinOptions
        match name:
            case "reshape":
                shape = list(self.graph.tensors[int(operation.outputs[0])].shape)
                return first.reshape(len(first), *shape[1:])
            case "pad":
                widths = self._constant(operation.inputs[1]).reshape(-1, 2)
                return np.pad(first, widths, constant_values=self._zero(operation.outputs[0]))
            case "add":
                return self._sum(operation)
            case "mean":
                return self._mean(operation)
            case "fully_connected":
                return self._layer(operation, lambda x, w: x @ w.T)
            case "max_pool_2d":
                size, stride = (options.filterHeight, options.filterWidth), (options.strideH, options.strideW)
                pooled = F.max_pool2d(torch.from_numpy(first).double().permute(0, 3, 1, 2), size, stride)
                return pooled.permute(0, 2, 3, 1).long().numpy()
        is_depthwise = name == "depthwise_conv_2d"
        return self._layer(operation, lambda x, w: _convolved(x, w, options, is_depthwise))

    def _layer(self, operation: Any, multiplied: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        taken, weights, given = operation.inputs[0], operation.inputs[1], operation.outputs[0]
        shape = self.graph.tensors[int(weights)].shape
        sums = multiplied(self.values[int(taken)] - self._zero(taken), self._constant(weights).reshape(shape))
        if len(operation.inputs) > 2 and int(operation.inputs[2]) >= 0:
            sums = sums + self._constant(operation.inputs[2])
        ratio = self._scale(taken) * self._scale(weights) / self._scale(given)
        return self._clamped(self.rescale(sums, *_fixed(ratio)) + self._zero(given), operation)

    def _sum(self, operation: Any) -> np.ndarray:
        twice = 2 * max(float(self._scale(one)[0]) for one in operation.inputs)
        parts = [
            self.rescale((self.values[int(one)] - self._zero(one)) << ADD_SHIFT, *_fixed(self._scale(one) / twice))
            for one in operation.inputs
        ]
        given = operation.outputs[0]
        ratio = twice / ((1 << ADD_SHIFT) * self._scale(given))
        return self._clamped(self.rescale(parts[0] + parts[1], *_fixed(ratio)) + self._zero(given), operation)

    def _mean(self, operation: Any) -> np.ndarray:
        taken, given = operation.inputs[0], operation.outputs[0]
        values, axes = self.values[int(taken)], tuple(int(one) for one in self._constant(operation.inputs[1]))
        count = int(np.prod([values.shape[axis] for axis in axes]))
        multiplier, exponent = _fixed(self._scale(taken) / self._scale(given))
        shift = min(count.bit_length() - 1, 32, 31 + int(exponent[0]))
        multiplier, exponent = (multiplier << shift) // count, exponent - shift
        sums = (values - self._zero(taken)).sum(axes, keepdims=bool(operation.builtinOptions.keepDims))
        return np.clip(self.rescale(sums, multiplier, exponent) + self._zero(given), -128, 127)

    def _clamped(self, values: np.ndarray, operation: Any) -> np.ndarray:
        given, activation = operation.outputs[0], operation.builtinOptions.fusedActivationFunction
        low = self._zero(given) if activation in (RELU, RELU6) else -128
        high = round(6 / float(self._scale(given)[0])) + self._zero(given) if activation == RELU6 else 127
        return np.clip(values, max(low, -128), min(high, 127))

    def _scale(self, number: Any) -> np.ndarray:
        scale = self.graph.tensors[int(number)].quantization.scale
        return np.asarray(scale, np.float32).astype(np.float64)

    def _zero(self, number: Any) -> int:
        return int(self.graph.tensors[int(number)].quantization.zeroPoint[0])

    def _constant(self, number: Any) -> np.ndarray:
        tensor = self.graph.tensors[int(number)]
        kind = {9: np.int8, 2: np.int32}[tensor.type]
        return np.frombuffer(bytes(self.file.buffers[tensor.buffer].data), kind).astype(np.int64)


KINDS = {0: "add", 3: "conv_2d", 4: "depthwise_conv_2d", 9: "fully_connected", 17: "max_pool_2d", 22: "reshape",
         34: "pad", 40: "mean"}  # fmt: skip


def _convolved(values: np.ndarray, weights: np.ndarray, options: Any, is_depthwise: bool) -> np.ndarray:
    """(N, H, W, C) and (O, H, W, C), or (1, H, W, O) of a depthwise layer; sums of integers are exact in float64."""
    kernel = weights.transpose(3, 0, 1, 2) if is_depthwise else weights.transpose(0, 3, 1, 2)
    groups = values.shape[3] if is_depthwise else 1
    image = torch.from_numpy(values).double().permute(0, 3, 1, 2)
    strides, dilations = (options.strideH, options.strideW), (options.dilationHFactor, options.dilationWFactor)
    if options.padding == SAME:
        around: list[int] = []
        for size, length, stride, by in reversed(
            list(zip(image.shape[2:], kernel.shape[2:], strides, dilations, strict=True))
        ):
            total = max((-(-size // stride) - 1) * stride + (length - 1) * by + 1 - size, 0)
            around += [total // 2, total - total // 2]
        image = F.pad(image, around)
    made = F.conv2d(image, torch.from_numpy(kernel.copy()).double(), None, strides, 0, dilations, groups)
    return made.permute(0, 2, 3, 1).round().long().numpy()
