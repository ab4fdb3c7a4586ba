"""Networks that give vectors: of length 1, the same whatever padding stands behind; a table made of a teacher."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from distiq.models.vectors import StaticVectors, TokenVectors, static_vectors, text_encoder

TOKENS = torch.tensor([[2, 5, 6, 7, 3, 0, 0], [2, 5, 3, 0, 0, 0, 0]])
OPTIONS = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}


def encoder(**options) -> TokenVectors:
    pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    return text_encoder("bert", "", 10, 0, {**OPTIONS, **options}).eval()


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_padding_changes_no_vector(pooling: str):
    network = encoder(pooling=pooling)
    vectors = network(TOKENS)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(network(TOKENS[1:, :3]), vectors[1:])
    states = network.model(input_ids=TOKENS[1:, :3]).last_hidden_state[0]
    pooled = {"mean": states.mean(0), "cls": states[0], "max": states.amax(0)}[pooling]
    torch.testing.assert_close(vectors[1], pooled / pooled.norm())


def test_the_pooling_is_that_of_the_folder(tmp_path: Path):
    encoder().model.save_pretrained(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    assert text_encoder("bert", str(tmp_path), 10, 0, {}).pooling == "cls"
    assert text_encoder("bert", str(tmp_path), 10, 0, {"pooling": "max"}).pooling == "max"


def test_what_gives_no_vectors_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match='pooling = "median" is none of mean, cls, max'):
        encoder(pooling="median")
    with pytest.raises(ValueError, match="t5 is an encoder-decoder network"):
        text_encoder("t5", "", 10, 0, {})


def test_a_table_sums_rows_without_special_tokens():
    table = torch.arange(20.0).view(10, 2)
    vectors = StaticVectors(table, (0, 2, 3))(TOKENS)
    expected = (table[5] + table[6] + table[7]) / (table[5] + table[6] + table[7]).norm()
    torch.testing.assert_close(vectors[0], expected)
    assert not StaticVectors(table, (0, 2, 3))(torch.tensor([[2, 3]])).any(), "nothing is left, and nothing is NaN"


def test_a_table_is_made_of_the_teachers_vectors():
    """The teacher gives e_0 for token 5, e_1 for token 6 and e_2 for all else: three corners of a triangle."""

    class Teacher(nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            assert (tokens[:, 0] == 2).all()
            assert (tokens[:, -1] == 3).all()
            place = torch.where(tokens[:, 1] == 5, 0, torch.where(tokens[:, 1] == 6, 1, 2))
            return torch.eye(4)[place]

    network = static_vectors(Teacher(), 10, (0, 1, 2, 3), ((2,), (3,)), torch.zeros(10), 2)
    rows = network.embedding.weight
    assert not rows[:4].any()
    sides = [(rows[one] / rows[one].norm() - rows[two] / rows[two].norm()).norm() for one, two in ((5, 6), (5, 7))]
    assert min(sides) > 0.5
    torch.testing.assert_close(rows[7] / rows[7].norm(), rows[9] / rows[9].norm())
    with pytest.raises(ValueError, match="width = 5: the teacher's vectors have 4"):
        static_vectors(Teacher(), 10, (0, 1, 2, 3), ((2,), (3,)), torch.zeros(10), 5)
