"""Networks that tag tokens: an answer for each, which padding never changes."""

import pytest
import torch
from torch import nn

from distiq.models.text_tags import TagBiLSTM, TagCNN
from distiq.models.transformer import TokenTags, cut_encoder, text_classifier

TOKENS = torch.tensor([[5, 6, 7, 0, 0], [5, 3, 0, 0, 0]])


def small_bert() -> nn.Module:
    pytest.importorskip("transformers", reason="transformers is not installed")
    options = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    return TokenTags(text_classifier(TokenTags, "bert", "", 3, 10, 0, options), 0)


NETWORKS = {"bert": small_bert, "bilstm": lambda: TagBiLSTM(3, 10, width=4, hidden=4), "cnn": lambda: TagCNN(3, 10)}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_padding_changes_no_answer_and_has_none(make):
    torch.manual_seed(0)
    network = make().eval()
    logits = network(TOKENS)
    assert logits.shape == (2, 3, 5)
    assert not logits[0, :, 3:].any()
    assert not logits[1, :, 2:].any()
    assert logits[0, :, :3].any(0).all()
    torch.testing.assert_close(network(TOKENS[:1, :3]), logits[:1, :, :3])


def test_a_student_is_cut_from_it():
    network = small_bert()
    cut_encoder(network.model, {"keep_layers": [1], "feed_forward": 4})
    assert network(TOKENS).shape == (2, 3, 5)


def test_encoder_decoder_networks_are_refused():
    pytest.importorskip("transformers", reason="transformers is not installed")
    with pytest.raises(ValueError, match="t5 is an encoder-decoder network, which writes token by token; distiq takes"):
        text_classifier(TokenTags, "t5", "", 3, 10, 0, {})
