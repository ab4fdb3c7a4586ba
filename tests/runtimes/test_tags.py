"""Taggers of texts as files: the tags of the simulation, in the runtimes that take them."""

from pathlib import Path

import pytest
import torch

from distiq.errors import UserError
from distiq.models.transformer import TokenTags
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import export, load

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = pytest.mark.slow


def tagger() -> tuple[TokenTags, torch.Tensor]:
    """A small BERT of 5 tags, and 8 texts of 16 tokens, of which one has 9."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=200, num_labels=5,
        max_position_embeddings=32,
    )  # fmt: skip
    tokens = torch.randint(1, 200, (8, 16))
    tokens[0, 9:] = 0
    return TokenTags(transformers.AutoModelForTokenClassification.from_config(config).eval(), 0), tokens


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [(".onnx", "static"), (".onnx", "dynamic"), (".xml", "static"), (".tflite", "static"), (".pte", "static")],
)
def test_a_file_gives_the_tags_of_the_simulation(suffix: str, mode: str, tmp_path: Path):
    network, tokens = tagger()
    quantized = quantize(network, tokens, Scheme(mode=mode))
    with torch.no_grad():
        simulated = quantized(tokens)
        deployed = load(export(quantized, tmp_path / f"tags{suffix}", tokens))(tokens)
    assert torch.equal(deployed.argmax(1), simulated.argmax(1))
    assert not deployed[0, :, 9:].any(), "tags of padding are zero"


def test_ranges_of_each_text_are_refused_by_litert(tmp_path: Path):
    network, tokens = tagger()
    with pytest.raises(UserError, match=r'nearest: mode = "static", or runtime "onnxruntime"'):
        export(quantize(network, tokens, Scheme(mode="dynamic")), tmp_path / "tags.tflite", tokens)
