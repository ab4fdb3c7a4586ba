"""one_input(): a mask beside token numbers is worked out from them; any other file is left as it is."""

import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, save
from torch import Tensor, nn

from distiq.models.from_onnx import read_onnx
from distiq.models.onnx_inputs import one_input

VOCABULARY, LENGTH = 30, 6


class Reader(nn.Module):
    """The masked mean of embeddings, with one for each segment."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.segments, self.last = nn.Embedding(VOCABULARY, 8), nn.Embedding(2, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        read = self.table(input_ids)
        if token_type_ids is not None:
            read = read + self.segments(token_type_ids)
        weights = attention_mask.to(read.dtype).unsqueeze(2)
        return self.last((read * weights).sum(1) / weights.sum(1))


def of_texts(path: Path, segments: bool, dynamo: bool) -> Path:
    torch.manual_seed(0)
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if segments else [])]
    example = tuple(torch.ones(2, LENGTH, dtype=torch.int64) for _ in names)
    free = (
        {"dynamic_shapes": ({0: "b", 1: "l"},) * len(names)}
        if dynamo
        else {"dynamic_axes": {name: {0: "b", 1: "l"} for name in names}}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Reader().eval(), example, str(path), input_names=names, dynamo=dynamo, verbose=False, **free)
    return path


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("segments", [True, False])
def test_a_masked_file_takes_token_numbers_alone(segments: bool, dynamo: bool, tmp_path: Path):
    path = of_texts(tmp_path / "reader.onnx", segments, dynamo)
    before = path.read_bytes()
    tokens = torch.randint(1, VOCABULARY, (5, LENGTH), generator=torch.Generator().manual_seed(0))
    tokens[1:4, 3:], tokens[2, 1:] = 7, 7
    (tmp_path / "copy").mkdir()
    taken = one_input(path, tmp_path / "copy", pad=7)
    assert taken == tmp_path / "copy" / "reader.onnx" and path.read_bytes() == before
    feed = {"input_ids": tokens.numpy(), "attention_mask": (tokens != 7).long().numpy()}
    feed |= {"token_type_ids": np.zeros_like(feed["input_ids"])} if segments else {}
    (expected,) = onnxruntime.InferenceSession(str(path)).run(None, feed)
    session = onnxruntime.InferenceSession(str(taken))
    assert [entry.name for entry in session.get_inputs()] == ["input_ids"]
    np.testing.assert_allclose(session.run(None, {"input_ids": tokens.numpy()})[0], expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(read_onnx(taken, tokens[:1])(tokens), torch.from_numpy(expected))


def test_other_files_are_left_as_they_are(tmp_path: Path):
    for names in (["x"], ["input_ids"], ["input_ids", "attention_mask", "pixels"]):
        ends = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", 4]) for name in names]
        result = helper.make_tensor_value_info("y", TensorProto.INT64, None)
        graph = helper.make_graph([helper.make_node("Neg", names[:1], ["y"])], "own", ends, [result])
        save(helper.make_model(graph), str(tmp_path / "own.onnx"))
        assert one_input(tmp_path / "own.onnx", tmp_path / "none", 0) == tmp_path / "own.onnx"
    (tmp_path / "own.onnx").write_bytes(b"no model")
    for path in (tmp_path / "own.onnx", tmp_path / "missing.onnx"):
        assert one_input(path, tmp_path / "none", 0) == path
