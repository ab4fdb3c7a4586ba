"""The int8 files that other tools make of the same float network, for benchmarks; ImportError without a tool."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from distiq.models.signature import INPUT, Predict

CHUNK = 64  # calibration samples that are given at a time
MATRIX_PRODUCTS = ["MatMul", "Gemm"]


class Reader(CalibrationDataReader):
    """The calibration samples (N, ...), `CHUNK` at a time."""

    def __init__(self, samples: Tensor) -> None:
        self.chunks = iter(samples.split(CHUNK))

    def get_next(self) -> dict | None:
        chunk = next(self.chunks, None)
        return None if chunk is None else {INPUT: chunk.numpy()}


def is_tokens(calibration: Tensor) -> bool:
    return not calibration.dtype.is_floating_point


# ONNX Runtime and OpenVINO --------------------------------------------------------------------------------------------


def static_onnx(float_file: Path, calibration: Tensor, path: Path, reduce_range: bool = False) -> Path:
    """onnxruntime's quantize_static: QDQ, u8 activations, s8 weights per channel.

    Of transformers only products with weights are quantized, as its authors advise.
    """
    prepared = path.with_suffix(".pre.onnx")
    # Its symbolic inference of shapes gives up on the masks of transformers.
    quant_pre_process(str(float_file), str(prepared), skip_symbolic_shape=is_tokens(calibration))
    quantize_static(
        str(prepared),
        str(path),
        Reader(calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=reduce_range,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=MATRIX_PRODUCTS if is_tokens(calibration) else None,
        extra_options={"MatMulConstBOnly": True} if is_tokens(calibration) else None,
    )
    return path


def dynamic_onnx(float_file: Path, calibration: Tensor, path: Path) -> Path:
    """onnxruntime's quantize_dynamic, whose kernels are for matrix products alone.

    Raises:
        ValueError: the network is one of convolutions, which it makes many times slower.
    """
    from onnxruntime.quantization import quantize_dynamic

    if not is_tokens(calibration):
        raise ValueError("quantize_dynamic makes convolutions slower than float32")
    quantize_dynamic(str(float_file), str(path), per_channel=True, weight_type=QuantType.QInt8,
                     op_types_to_quantize=MATRIX_PRODUCTS, extra_options={"MatMulConstBOnly": True})  # fmt: skip
    return path


def nncf_onnx(float_file: Path, calibration: Tensor, path: Path) -> Path:
    """NNCF on the ONNX file, for ONNX Runtime."""
    import nncf
    import onnx

    feeds = nncf.Dataset(list(calibration.split(1)), lambda sample: {INPUT: sample.numpy()})
    onnx.save(nncf.quantize(onnx.load(str(float_file)), feeds, **_nncf_settings(calibration)), str(path))
    return path


def nncf_openvino(float_file: Path, calibration: Tensor, path: Path) -> Path:
    """NNCF on OpenVINO's graph."""
    import nncf
    import openvino

    feeds = nncf.Dataset(list(calibration.split(1)), lambda sample: sample.numpy())
    model = nncf.quantize(openvino.convert_model(float_file), feeds, **_nncf_settings(calibration))
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def _nncf_settings(calibration: Tensor) -> dict[str, Any]:
    import nncf

    settings: dict[str, Any] = {"preset": nncf.QuantizationPreset.MIXED, "subset_size": len(calibration)}
    return settings | ({"model_type": nncf.ModelType.TRANSFORMER} if is_tokens(calibration) else {})


def static_openvino(float_file: Path, calibration: Tensor, path: Path) -> Path:
    """quantize_static's ONNX file as OpenVINO's."""
    import openvino

    source = static_onnx(float_file, calibration, path.with_suffix(".onnx"))
    openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)
    return path


# LiteRT: a file of a fixed batch --------------------------------------------------------------------------------------


def ai_edge(model: nn.Module, calibration: Tensor, path: Path, batch: int, recipe_name: str) -> Path:
    """ai-edge-quantizer on litert-torch's float file, by one of its recipes."""
    import litert_torch
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    source = path.with_suffix(".float.tflite")
    litert_torch.convert(model, (calibration[:batch].contiguous(),)).export(str(source))
    tool = quantizer.Quantizer(str(source))
    tool.load_quantization_recipe(getattr(recipe, recipe_name)())
    if not tool.need_calibration:
        tool.quantize().export_model(str(path), overwrite=True)
        return path
    (name,) = Interpreter(model_path=str(source)).get_signature_list()["serving_default"]["inputs"]
    kind = np.int32 if is_tokens(calibration) else np.float32
    samples = [{name: part.numpy().astype(kind)} for part in _full(calibration, batch)]
    tool.quantize(tool.calibrate({"serving_default": samples})).export_model(str(path), overwrite=True)
    return path


def load_fixed_tflite(path: Path, threads: int) -> Predict:
    """Runs a .tflite file of a fixed batch. Inputs are turned to its type at no cost: it may take integers."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    entry, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]["index"]
    known: dict[int, np.ndarray] = {}

    def predict(inputs: Tensor) -> Tensor:
        if id(inputs) not in known:
            known.clear()
            known[id(inputs)] = inputs.numpy().astype(entry["dtype"])
        interpreter.set_tensor(entry["index"], known[id(inputs)])
        interpreter.invoke()
        return torch.from_numpy(interpreter.get_tensor(result))

    return predict


def load_integer_tflite(path: Path) -> Predict:
    """Runs a .tflite file of a single sample; where its input and output are integers, floats are quantized for it."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    entry, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def quantized(sample: np.ndarray) -> np.ndarray:
        scale, zero_point = entry["quantization"]
        if scale:
            bounds = np.iinfo(entry["dtype"])
            sample = np.clip(np.round(sample / scale) + zero_point, bounds.min, bounds.max)
        return sample.astype(entry["dtype"])

    def run(sample: np.ndarray) -> Tensor:
        interpreter.set_tensor(entry["index"], quantized(sample))
        interpreter.invoke()
        answer, (scale, zero_point) = interpreter.get_tensor(result["index"]), result["quantization"]
        return torch.from_numpy((answer.astype(np.float32) - zero_point) * (scale or 1.0))

    return lambda inputs: torch.cat([run(sample.numpy()) for sample in inputs.split(1)])


# ExecuTorch and Inductor: PT2E, of a fixed batch ----------------------------------------------------------------------


def xnnpack(model: nn.Module, calibration: Tensor, path: Path, batch: int) -> Path:
    """XNNPACK's PT2E quantizer; of transformers it quantizes linear layers."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower

    config = get_symmetric_quantization_config(is_per_channel=True)
    tool = XNNPACKQuantizer()
    if is_tokens(calibration):
        tool.set_operator_type(torch.ops.aten.linear.default, config)
    else:
        tool.set_global(config)
    graph = torch.export.export(_pt2e(model, tool, calibration, batch), (calibration[:batch].contiguous(),))
    path.write_bytes(to_edge_transform_and_lower(graph, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)
    return path


def x86_inductor(model: nn.Module, calibration: Tensor, path: Path, batch: int) -> Path:
    """X86Inductor's PT2E quantizer, compiled ahead of time with its weights frozen; needs a C++ compiler."""
    import torch._inductor.config
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    tool = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    model = _pt2e(model, tool, calibration, batch)
    with torch.no_grad(), torch._inductor.config.patch(freezing=True):
        exported = torch.export.export(model, (calibration[:batch].contiguous(),))
        torch._inductor.aoti_compile_and_package(exported, package_path=str(path))
    return path


def load_compiled(path: Path, threads: int) -> Predict:
    """Runs a .pt2 file."""
    loader = torch._inductor.aoti_load_package(str(path)).loader

    def run(inputs: Tensor) -> Tensor:
        torch.set_num_threads(threads)
        return loader.boxed_run([inputs])[0]

    return run


def _pt2e(model: nn.Module, tool: Any, calibration: Tensor, batch: int) -> nn.Module:
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    prepared = prepare_pt2e(torch.export.export(model.eval(), (calibration[:batch].contiguous(),)).module(), tool)
    with torch.no_grad():
        for part in _full(calibration, batch):
            prepared(part)
    return move_exported_model_to_eval(convert_pt2e(prepared))


def _full(calibration: Tensor, batch: int) -> Sequence[Tensor]:
    """The samples in whole batches; what is left over is not used."""
    return [part.contiguous() for part in calibration.split(batch) if len(part) == batch]
