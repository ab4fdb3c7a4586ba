"""Encoders of texts as files: four runtimes give the vectors of the simulation."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distiq.models.vectors import StaticVectors, TokenVectors
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import export, load

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = pytest.mark.slow


def encoder() -> nn.Module:
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=200,
        max_position_embeddings=32,
    )  # fmt: skip
    return TokenVectors(transformers.BertModel(config, add_pooling_layer=False), 0)


NETWORKS = {"transformer": encoder, "static": lambda: StaticVectors(torch.randn(200, 16), (0, 1, 2))}


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".tflite", ".pte"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_file_gives_the_vectors_of_the_simulation(kind: str, suffix: str, tmp_path: Path):
    torch.manual_seed(0)
    network, tokens = NETWORKS[kind]().eval(), torch.randint(3, 200, (8, 16))
    tokens[0, 9:] = 0
    quantized = quantize(network, tokens, Scheme(mode="static"))
    with torch.no_grad():
        simulated = quantized(tokens)
        deployed = load(export(quantized, tmp_path / f"vectors{suffix}", tokens))(tokens)
    assert float(F.cosine_similarity(deployed, simulated).min()) > 0.999
