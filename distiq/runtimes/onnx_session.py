"""Sessions of ONNX Runtime, and the graph that it makes of a file."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from distiq.errors import UserError


def optimized(path: Path, target: Path, level: str) -> ModelProto:
    """A file's graph after ONNX Runtime's own optimization of that level; it writes the graph to `target` for it."""
    import onnxruntime

    options = session_options(1, {"graph_optimization_level": level})
    options.optimized_model_filepath = str(target)
    try:
        with quiet():
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(str(target))
    finally:
        target.unlink(missing_ok=True)


def matrix_product(size: int, of_integers: bool) -> Callable[[], object]:
    """A call that multiplies two matrices (size, size) on one thread, the second one constant, as a layer does."""
    import onnxruntime

    generator = np.random.default_rng(0)
    kind, operation = (np.int8, "MatMulInteger") if of_integers else (np.float32, "MatMul")
    constant = numpy_helper.from_array(generator.integers(-64, 65, (size, size)).astype(kind), "constant")
    variable = generator.integers(0, 129, (size, size)).astype(np.uint8 if of_integers else np.float32)
    inputs = [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(variable.dtype), variable.shape)]
    outputs = [onnx.ValueInfoProto(name="y")]
    graph = helper.make_graph([helper.make_node(operation, ["x", "constant"], ["y"])], "product", inputs, outputs)
    graph.initializer.append(constant)
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    session = onnxruntime.InferenceSession(content, session_options(1), providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": variable})


def session_options(threads: int, asked: Mapping[str, str] = MappingProxyType({})):  # type: ignore[no-untyped-def]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for name, value in asked.items():
        if name == "graph_optimization_level":
            level = "DISABLE_ALL" if value == "disable" else f"ENABLE_{value.upper()}"
            options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
        else:
            options.add_session_config_entry(name, value)
    return options


def open_session(  # type: ignore[no-untyped-def]
    model: Path | bytes, threads: int, options: Mapping[str, str] = MappingProxyType({}), name: str = ""
):
    """Opens a file, or its bytes, which `name` then stands for in messages.

    Raises:
        UserError: there is none, it does not load, or an output is no tensor of numbers.
    """
    import onnxruntime

    if not isinstance(model, bytes) and not Path(model).is_file():
        raise UserError(f"{model}: no such file")
    content, place = (model, name) if isinstance(model, bytes) else (str(model), str(model))
    try:
        session = onnxruntime.InferenceSession(
            content, session_options(threads, options), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions share no public base
        raise UserError(f"{place}: ONNX Runtime cannot load this file: {error}") from error
    for one in session.get_outputs():
        if not one.type.startswith("tensor(") or one.type == "tensor(string)":
            raise UserError(
                f'{place}: the output "{one.name}" is {one.type}; distiq reads tensors of numbers: leave it out'
                ' of the file (of skl2onnx, export with options={"zipmap": False})'
            )
    return session


class quiet:
    """Holds back what torch.onnx logs while it exports."""

    def __enter__(self) -> None:
        self.level = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self.level)
