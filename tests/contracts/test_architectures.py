"""Architectures of transformers in four runtimes, small and drawn: each file answers as its graph, or is refused before
a training would begin, since a run tries the files of the untrained student first.

`REFUSED` says what a runtime cannot hold. Where a sum stands on the verge of the next integer, a runtime that adds in
another order takes that one: such steps are in a few samples, so the median sample shows whether anything else differs.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.models.build import build
from distiq.models.create import Tokens
from distiq.numerics import sqnr_db
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import differences, export, load, require, runtime_named

pytestmark = pytest.mark.slow
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
RUNTIMES = ("onnxruntime", "openvino", "litert", "executorch")
VOCABULARY, LENGTH, COUNT = 60, 16, 32
LEAST_DB, LEAST_OF_ALL_DB = 60.0, 40.0
WIDTH: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
PATCHES = {**WIDTH, "image_size": 32, "patch_size": 8}
WINDOWS = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
BLOCKS = {"hidden_sizes": [16, 32], "depths": [1, 1]}
REDUCED = {"sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [2, 2]}
IMAGES: dict[str, tuple[int, dict[str, Any]]] = {
    "vit": (32, PATCHES),
    "deit": (32, PATCHES),
    "dinov2": (32, {**PATCHES, "mlp_ratio": 2}),
    "beit": (32, {**PATCHES, "use_relative_position_bias": True, "use_mask_token": False}),
    "swin": (32, WINDOWS),
    "swinv2": (32, WINDOWS),
    "convnext": (32, {**BLOCKS, "num_stages": 2, "patch_size": 4}),
    "resnet": (32, {**BLOCKS, "embedding_size": 16, "layer_type": "basic"}),
    "regnet": (32, {**BLOCKS, "embedding_size": 16, "groups_width": 8}),
    "mobilenet_v1": (32, {"depth_multiplier": 0.25, "min_depth": 8, "image_size": 32}),
    "mobilenet_v2": (32, {"depth_multiplier": 0.25, "min_depth": 8, "image_size": 32}),
    "segformer": (
        32,
        {**BLOCKS, **REDUCED, "num_encoder_blocks": 2, "num_attention_heads": [1, 2], "decoder_hidden_size": 16},
    ),
}
POSITIONS = {**WIDTH, "max_position_embeddings": 32}
NARROW, AS_WIDE = {**POSITIONS, "embedding_size": 16}, {**POSITIONS, "embedding_size": 32}
DISENTANGLED = {**POSITIONS, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 16}
TEXTS: dict[str, dict[str, Any]] = {
    "bert": POSITIONS,
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 32},
    "roberta": POSITIONS,
    "electra": NARROW,
    "albert": NARROW,
    "convbert": AS_WIDE,
    "mpnet": POSITIONS,
    "deberta-v2": DISENTANGLED,
    "modernbert": {**POSITIONS, "local_attention": 8, "global_attn_every_n_layers": 2},
    "roformer": AS_WIDE,
    "deberta": {**DISENTANGLED, "pos_att_type": ["c2p", "p2c"]},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
    "fnet": {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "max_position_embeddings": 32},
    "squeezebert": AS_WIDE,
}
REFUSED: dict[tuple[str, str], str] = {
    ("", "xlnet"): "the network computes otherwise at some sizes",  # "" is all runtimes: refused when it is traced
    ("openvino", "fnet"): "OpenVINO",  # its Fourier transform gives other values
    ("litert", "fnet"): "LiteRT cannot convert this network",  # complex numbers
    ("litert", "deberta-v2"): "LiteRT cannot convert this network",
    ("litert", "roformer"): "LiteRT cannot load this file",  # five dimensions, in XNNPACK
    ("litert", "swin"): "LiteRT cannot load this file",
    ("litert", "swinv2"): "LiteRT cannot convert this network",
    ("litert", "beit"): "LiteRT cannot convert this network",
    ("litert", "deberta"): "LiteRT cannot convert this network",
    ("executorch", "deberta"): "do not depend on the data's values",
    ("executorch", "gpt2"): "ExecuTorch cannot convert this network",
    ("executorch", "beit"): "ExecuTorch cannot run this file",
    ("executorch", "fnet"): "ExecuTorch cannot convert this network",
}


class Made(NamedTuple):
    name: str
    quantized: QuantizedModel
    inputs: Tensor


class Choice(NamedTuple):
    """What a recipe says of a student."""

    model: str
    options: dict[str, Any]
    weights: str = ""
    trust: bool = False


def images(size: int) -> Tensor:
    return torch.randn(COUNT, 3, size, size, generator=torch.Generator().manual_seed(1))


def texts() -> Tensor:
    generator = torch.Generator().manual_seed(LENGTH)
    tokens = torch.randint(2, VOCABULARY, (COUNT, LENGTH), generator=generator)
    return tokens * (torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (COUNT, 1), generator=generator))


def network(name: str) -> tuple[nn.Module, Tensor]:
    """The student of a recipe, as a run builds it, with weights and statistics that are not those of a fresh one."""
    torch.manual_seed(0)
    if name in IMAGES:
        size, options = IMAGES[name]
        inputs, tokens, classes = images(size), None, 5
    else:
        inputs, options, classes = texts(), TEXTS[name], 3
        tokens = Tokens(VOCABULARY, 0, 1, tuple(range(VOCABULARY)))
    model = build(Choice(f"transformers:{name}", options), classes, inputs[:1], "student", tokens).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    for parameter in model.parameters() if tokens else ():  # fresh heads are so small that their answers are all alike
        parameter.data *= 3
    return model, inputs


@pytest.fixture(scope="module", params=[*IMAGES, *TEXTS])
def made(request: pytest.FixtureRequest) -> Made:
    model, inputs = network(request.param)
    if said := REFUSED.get(("", request.param)):
        with pytest.raises(UserError, match=said):
            quantize(model, inputs, Scheme())
        pytest.skip(f"{request.param}: {said}")
    return Made(request.param, quantize(model, inputs, Scheme()), inputs)


@torch.no_grad()
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_file_answers_as_its_graph_or_is_refused(runtime: str, made: Made, tmp_path: Path):
    try:
        require(runtime_named(runtime), to_write=True)
    except UserError as error:
        pytest.skip(str(error))
    path = tmp_path / f"model{runtime_named(runtime).suffix}"
    if said := REFUSED.get((runtime, made.name)):
        with pytest.raises(UserError, match=said) as caught:
            export(made.quantized, path, made.inputs[:2])
        assert len(str(caught.value).splitlines()) == 1
        assert list(tmp_path.iterdir()) == []
        return
    deployed = load(export(made.quantized, path, made.inputs[:2]))(made.inputs)
    simulated = made.quantized(made.inputs)
    median = float(torch.tensor([sqnr_db(*pair) for pair in zip(simulated, deployed, strict=True)]).median())
    assert median > LEAST_DB
    assert sqnr_db(simulated, deployed) > LEAST_OF_ALL_DB
    assert differences(made.quantized, path) == ""
