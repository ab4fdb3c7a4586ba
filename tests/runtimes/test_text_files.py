"""Files of networks over token numbers: any length, integer tables and products, the simulation's answers."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.models.text import EmbeddingBag, TextBiLSTM, TextCNN, factorize_embedding, trim_vocabulary
from distiq.models.transformer import TokenLogits, save_transformers
from distiq.numerics import sqnr_db
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes import lowering
from distiq.runtimes.export import differences, export, load, require, runtime_of
from distiq.runtimes.onnx_read import float_operations
from distiq.runtimes.onnx_runtime import with_mask
from distiq.runtimes.runtime import Runtime

VOCABULARY, LENGTH = 50, 12


def small_bert(layers: int = 1, separator: int | None = None) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32, vocab_size=VOCABULARY,
        max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    return TokenLogits(transformers.BertForSequenceClassification(config), 0, separator)


NETWORKS = {
    "text_bilstm": lambda: TextBiLSTM(3, VOCABULARY, 0, 8, 6, 5),
    "text_cnn": lambda: TextCNN(3, VOCABULARY, 0, 8, 8),
    "trimmed": lambda: trim_vocabulary(EmbeddingBag(3, 2 * VOCABULARY, 0, 8, 8), 2 * VOCABULARY, range(VOCABULARY), 1),
    "factorized": lambda: factorize_embedding(TextCNN(3, VOCABULARY, 0, 8, 8), VOCABULARY, 4),
    "embedding_bag": lambda: EmbeddingBag(3, VOCABULARY, 0, 8, 8),
    "bert": small_bert,
    "bert of pairs": lambda: small_bert(separator=7),
}


def installed(path: Path) -> Runtime:
    """The runtime of a file; without it the test is skipped."""
    runtime = runtime_of(path)
    try:
        require(runtime, to_write=True)
    except UserError as error:
        pytest.skip(str(error))
    return runtime


class Exported(NamedTuple):
    model: nn.Module
    quantized: QuantizedModel
    float_file: Path
    int8_file: Path


def texts(count: int, length: int = LENGTH) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    tokens = torch.randint(1, VOCABULARY, (count, length), generator=generator)
    lengths = torch.randint(2, length + 1, (count, 1), generator=generator)
    return tokens * (torch.arange(length) < lengths)


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request, tmp_path_factory) -> Exported:
    torch.manual_seed(0)
    model, folder = NETWORKS[request.param]().eval(), tmp_path_factory.mktemp(request.param)
    for parameter in model.parameters():  # fresh heads are so small that their answers are all alike
        parameter.data *= 3
    quantized = quantize(model, texts(64))
    files = [export(form, folder / f"{name}.onnx", texts(2)) for name, form in (("float", model), ("int8", quantized))]
    return Exported(model, quantized, *files)


@pytest.mark.parametrize("length", [2, 7, LENGTH])
def test_files_answer_texts_of_any_length(exported: Exported, length: int):
    tokens = texts(9, length)
    with torch.no_grad():
        torch.testing.assert_close(load(exported.float_file)(tokens), exported.model(tokens), atol=1e-4, rtol=1e-4)
        simulated, deployed = exported.quantized(tokens), load(exported.int8_file)(tokens)
    spread = float(simulated.max() - simulated.min())
    assert float((simulated - deployed).abs().max()) <= 0.02 * spread
    assert float((simulated.argmax(1) == deployed.argmax(1)).float().mean()) >= 8 / 9


def test_tables_and_weights_are_stored_as_integers(exported: Exported):
    graph = onnx.load(str(exported.int8_file)).graph
    matrices = [tensor for tensor in graph.initializer if len(tensor.dims) >= 2 and min(tensor.dims) > 1]
    learned = [tensor for tensor in matrices if tensor.data_type != onnx.TensorProto.INT64]
    assert {tensor.data_type for tensor in learned} == {onnx.TensorProto.INT8}
    stored = {tuple(sorted(tensor.dims)) for tensor in learned}
    assert {tuple(sorted(p.shape)) for p in exported.model.parameters() if p.ndim >= 2} == stored


def test_a_table_s_rows_are_scaled_after_they_are_read(exported: Exported):
    graph = onnx.load(str(exported.int8_file)).graph
    tables = {
        tensor.name: tensor for tensor in graph.initializer if VOCABULARY in tensor.dims and len(tensor.dims) == 2
    }
    readers = [node for node in graph.node if set(node.input) & set(tables)]
    assert Counter(node.op_type for node in readers) == {"Gather": len(tables)}
    (table,) = tables.values()
    weight = next(p for p in exported.model.parameters() if p.shape[0] == VOCABULARY)
    largest = weight.abs().amax(1, keepdim=True).clamp(min=1e-30)
    wanted = torch.round(weight / largest * 127).detach()
    found = torch.from_numpy(numpy_helper.to_array(table).copy()).float()
    assert float((found - wanted).abs().max()) <= 1  # a tie of rounding
    assert float((found == wanted).float().mean()) > 0.99


def test_products_are_computed_in_integers(exported: Exported, tmp_path: Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(exported.int8_file), options, providers=["CPUExecutionProvider"])
    counts = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    integer = counts["QGemm"] + counts["QLinearConv"] + counts["MatMulIntegerToFloat"] + counts["QLinearMatMul"]
    weighted = sum(isinstance(module, nn.Linear | nn.Conv1d) for module in exported.model.modules())
    assert integer == weighted


@pytest.fixture(scope="module")
def attentions() -> tuple[nn.Module, QuantizedModel, QuantizedModel]:
    """A network, quantized with attention in float32 and with attention in integers."""
    torch.manual_seed(0)
    model = small_bert().eval()
    for parameter in model.parameters():
        parameter.data *= 3
    return model, *(quantize(model, texts(64), Scheme(attention=on)) for on in (False, True))  # type: ignore[return-value]


@pytest.mark.parametrize("ending", [".onnx", ".xml", ".tflite", pytest.param(".pte", marks=pytest.mark.slow)])
def test_attention_multiplies_integers(ending: str, attentions, tmp_path: Path):
    runtime = installed(tmp_path / f"int8{ending}")
    model, plain, quantized = attentions
    path = export(quantized, tmp_path / f"att{ending}", texts(2))
    assert differences(quantized, path) == ""
    tokens = texts(9)
    with torch.no_grad():
        simulated, wanted = quantized(tokens), model(tokens)
    assert sqnr_db(wanted, simulated) > 20
    spread = float(simulated.max() - simulated.min())
    assert float((load(path)(tokens) - simulated).abs().max()) <= 0.02 * spread
    if ending in (".onnx", ".xml"):  # the others have products whose results are no integers in float32
        paths = export(plain, tmp_path / f"plain{ending}", texts(2)), path
        before, after = (Counter(name.rpartition("(")[2] for name in runtime.float_operations(one)) for one in paths)
        assert before["MatMul)"] == 2 or before["FusedMatMul)"]
        assert not {"MatMul)", "FusedMatMul)"} & set(after)


@pytest.mark.parametrize("scheme", [Scheme(), Scheme(4), Scheme(mode="dynamic"), Scheme(mode="weight_only")], ids=str)
def test_a_recurrence_is_computed_in_float_from_integer_weights(scheme: Scheme, tmp_path: Path):
    torch.manual_seed(0)
    model = NETWORKS["text_bilstm"]().eval()
    quantized = quantize(model, texts(32), scheme)
    path = export(quantized, tmp_path / "int8.onnx", texts(2))
    torch.testing.assert_close(load(path)(texts(9, 7)), quantized(texts(9, 7)), atol=1e-5, rtol=0)
    assert not differences(quantized, path)
    assert sum(name.endswith("(LSTM)") for name in float_operations(path)) == 1
    constants = onnx.load(str(path)).graph.initializer
    stored = [tensor for tensor in constants if sorted(tensor.dims) in ([8, 24], [6, 24])]
    assert {tensor.data_type for tensor in stored} <= {onnx.TensorProto.INT8, onnx.TensorProto.INT4}
    assert len(stored) == 4  # input and state of two directions


def test_a_recurrence_is_trained_quantized():
    model = NETWORKS["text_bilstm"]()
    quantized = quantize(model, texts(32))
    quantized(texts(8)).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in quantized.named_parameters()}
    assert all(value is not None and value.abs().sum() > 0 for name, value in gradients.items() if "weight" in name)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A classifier and its folder, with its float32 file, as a run leaves it."""
    torch.manual_seed(0)
    model, folder = small_bert().eval(), tmp_path_factory.mktemp("saved")
    save_transformers(model, folder, ["bad", "fair", "good"], {})
    with_mask(export(model, folder / "own.onnx", texts(2)), folder / "model.onnx", pad=0)
    return model, folder


def masked(network: nn.Module, tokens: Tensor, mask: Tensor) -> Tensor:
    with torch.no_grad():
        return network.model(input_ids=tokens, attention_mask=mask).logits


def test_the_file_for_optimum_takes_what_it_feeds(saved: tuple[nn.Module, Path]):
    import onnxruntime

    model, folder = saved
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    known = [(entry.name, entry.type, len(entry.shape)) for entry in session.get_inputs()]
    assert known == [("input_ids", "tensor(int64)", 2), ("attention_mask", "tensor(int64)", 2)]
    assert not any(isinstance(size, int) for entry in session.get_inputs() for size in entry.shape)
    assert [entry.name for entry in session.get_outputs()] == ["logits"]
    tokens, mask = torch.randint(1, VOCABULARY, (4, 7)), torch.ones(4, 7, dtype=torch.int64)
    mask[1, 4:] = 0  # behind it stand tokens, not padding
    found = session.run(None, {"input_ids": tokens.numpy(), "attention_mask": mask.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), masked(model, tokens, mask), atol=1e-5, rtol=1e-4)


def test_optimum_loads_the_folder(saved: tuple[nn.Module, Path]):
    why = "optimum-onnx is not installed; its 0.1.0 wants transformers < 4.58"
    optimum = pytest.importorskip("optimum.onnxruntime", reason=why)
    model, folder = saved
    loaded = optimum.ORTModelForSequenceClassification.from_pretrained(folder, file_name="model.onnx")
    tokens = texts(4)
    mask = (tokens != 0).long()
    found = loaded(input_ids=tokens, attention_mask=mask).logits
    torch.testing.assert_close(found, masked(model, tokens, mask), atol=1e-5, rtol=1e-4)
    assert loaded.config.id2label == {0: "bad", 1: "fair", 2: "good"}


@pytest.mark.parametrize(
    "ending", [".xml", *(pytest.param(each, marks=pytest.mark.slow) for each in (".tflite", ".pte"))]
)
def test_a_transformer_s_linear_layers_are_of_the_graph_s_integers(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lowering, "FEWEST_WIDENED", 1)
    runtime = installed(tmp_path / f"model{ending}")
    torch.manual_seed(0)
    model = small_bert(layers=2).eval()
    for parameter in model.parameters():
        parameter.data *= 3
    quantized, tokens = quantize(model, texts(64)), texts(40)
    path = export(quantized, tmp_path / f"model{ending}", tokens[:2])
    assert differences(quantized, path) == ""
    held = Counter(weight.integers.shape for weight in runtime.quantization_parameters(path).weights)
    assert not Counter(tuple(one.weight.shape) for one in model.modules() if isinstance(one, nn.Linear)) - held
    with torch.no_grad():
        simulated = quantized(tokens)
    step, predict = 0.02 * float(simulated.max() - simulated.min()), load(path)
    torch.testing.assert_close(predict(tokens), simulated, atol=step, rtol=0)
    torch.testing.assert_close(torch.cat([predict(one) for one in tokens.split(1)]), simulated, atol=step, rtol=0)


@pytest.mark.parametrize("ending", [".onnx", ".xml", ".tflite", ".pte"])
def test_a_file_takes_texts_of_every_length_or_says_which_one(ending: str, tmp_path: Path):
    runtime = installed(tmp_path / f"model{ending}")
    torch.manual_seed(0)
    quantized = quantize(NETWORKS["embedding_bag"]().eval(), texts(32))
    path = export(quantized, tmp_path / f"model{ending}", texts(2))
    predict, own = load(path), runtime.signature(path).inputs[0].shape[1]
    assert own in (-1, LENGTH)
    for length in (2, 7, LENGTH):
        tokens = texts(5, length)
        # Padding changes no answer, so a fixed length takes every shorter text.
        fed = torch.nn.functional.pad(tokens, (0, own - length)) if own > 0 else tokens
        with torch.no_grad():
            expected = quantized(tokens)
            step = 0.02 * float(expected.max() - expected.min())
            torch.testing.assert_close(predict(fed), expected, atol=step, rtol=0)
