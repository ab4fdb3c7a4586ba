"""distiq quantize on files as other people export them, to the command's end: transformers, both exporters; OCR."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from distiq.cli.main import app
from distiq.records.run import OwnFileRecord

pytestmark = pytest.mark.slow
SAMPLES, LENGTH, TOKENS = 40, 24, 200
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


class Logits(nn.Module):
    """A network of transformers by position."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


def network(kind: str) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    match kind:
        case "bert":
            config = transformers.BertConfig(vocab_size=TOKENS, max_position_embeddings=64, **SMALL)
            return transformers.BertForSequenceClassification(config)
        case "distilbert":
            config = transformers.DistilBertConfig(vocab_size=TOKENS, dim=64, n_layers=2, n_heads=4, hidden_dim=128)
            return transformers.DistilBertForSequenceClassification(config)
        case "roberta":  # whose first position is behind that of the padding
            config = transformers.RobertaConfig(vocab_size=TOKENS, max_position_embeddings=66, pad_token_id=0, **SMALL)
            return transformers.RobertaForSequenceClassification(config)
        case "mpnet":
            config = transformers.MPNetConfig(vocab_size=TOKENS, max_position_embeddings=66, pad_token_id=0, **SMALL)
            return transformers.MPNetForSequenceClassification(config)
    config = transformers.Wav2Vec2Config(
        vocab_size=32, conv_dim=(32, 32), conv_stride=(5, 4), conv_kernel=(10, 8), num_feat_extract_layers=2,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, **SMALL,
    )  # fmt: skip
    return transformers.Wav2Vec2ForCTC(config)


def samples(kind: str) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    if kind == "wav2vec2":
        return {"input_values": generator.standard_normal((SAMPLES, 2000)).astype(np.float32)}
    mask = (np.arange(LENGTH) < generator.integers(8, LENGTH + 1, SAMPLES)[:, None]).astype(np.int64)
    tokens = {"input_ids": generator.integers(5, TOKENS, mask.shape) * mask, "attention_mask": mask}
    return tokens | ({"token_type_ids": np.zeros_like(mask)} if kind == "bert" else {})


def distiq(source: Path, data: Path, folder: Path) -> OwnFileRecord:
    out = folder / "out.onnx"
    result = CliRunner().invoke(app, ["quantize", *map(str, (source, "--data", data, "--out", out, "--json"))])
    assert result.exit_code == 0, result.output
    return OwnFileRecord.model_validate_json(result.stdout)


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "mpnet", "wav2vec2"])
def test_files_of_transformers(kind: str, dynamo: bool, tmp_path: Path):
    arrays = samples(kind)
    np.savez(tmp_path / "data.npz", **arrays)
    names, example = list(arrays), tuple(torch.from_numpy(array[:2]) for array in arrays.values())
    free = {0: "batch", 1: "length"}
    dynamic: dict = {"dynamic_axes": dict.fromkeys(names, free)}
    if dynamo:
        dynamic = {"dynamic_shapes": {"inputs": tuple(dict.fromkeys(free, torch.export.Dim.DYNAMIC) for _ in names)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits(network(kind).eval(), names), example, tmp_path / "net.onnx", input_names=names,
            output_names=["logits"], dynamo=dynamo, verbose=False, **dynamic,
        )  # fmt: skip
    record = distiq(tmp_path / "net.onnx", tmp_path / "data.npz", tmp_path)
    assert record.sqnr_db > 20
    before, after = record.bench.files
    went_back = any("stay in float32" in note for note in record.notes)  # so small a network can be slower in int8
    assert after.size_bytes < (1.0 if went_back else 0.6) * before.size_bytes


@pytest.mark.parametrize(
    ("name", "shape"), [("ch_ppocr_mobile_v2.0_cls_infer", (48, 192)), ("ch_PP-OCRv4_rec_infer", (48, 160))]
)
def test_files_of_an_ocr_package(name: str, shape: tuple[int, int], tmp_path: Path):
    found = importlib.util.find_spec("rapidocr_onnxruntime")
    if found is None or found.origin is None:
        pytest.skip("rapidocr-onnxruntime, whose models these are, is not installed")
    blurred = torch.nn.functional.interpolate(torch.rand(24, 3, 6, 20), shape, mode="bilinear") * 2 - 1
    np.save(tmp_path / "data.npy", blurred.numpy())
    record = distiq(Path(found.origin).parent / "models" / f"{name}.onnx", tmp_path / "data.npy", tmp_path)
    assert record.sqnr_db > 20
    before, after = record.bench.files
    assert after.size_bytes < before.size_bytes
