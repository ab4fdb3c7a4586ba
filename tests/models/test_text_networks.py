"""Networks over token numbers: padding changes nothing, transformers come by config or from a folder."""

import pytest
import torch

from distiq.errors import UserError
from distiq.models.build import Tokens, build
from distiq.models.text import EmbeddingBag, TextCNN
from distiq.recipe import StudentSettings

PAD, UNKNOWN = 1, 2
TOKENS = Tokens(20, PAD, UNKNOWN, used=(1, 2, 3, 5, 8, 13))
SMALL_BERT = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 16,
}  # fmt: skip


def made(model: str, weights: str = "", **options):
    torch.manual_seed(0)
    settings = StudentSettings(model=model, options=options, weights=weights)
    example = torch.zeros(1, 10, dtype=torch.int64)
    return build(settings, 2, example, "student", TOKENS).eval()


@pytest.mark.parametrize(
    ("model", "options"),
    [("text_cnn", {}), ("embedding_bag", {}), ("embedding_bag", {"hidden": 0}), ("transformers:bert", SMALL_BERT)],
)
def test_padding_never_changes_an_answer(model, options):
    if "transformers" in model:
        pytest.importorskip("transformers", reason="transformers is not installed")
    network = made(model, **options)
    tokens = torch.randint(2, 20, (3, 6))
    padded = torch.cat([tokens, torch.full((3, 4), PAD)], 1)
    torch.testing.assert_close(network(padded), network(tokens))


def test_a_bag_is_the_mean_of_its_words():
    model = EmbeddingBag(2, 20, PAD, width=4, hidden=0).eval()
    tokens = torch.tensor([[5, 7, 7, PAD]])
    mean = (model.embedding.weight[5] + 2 * model.embedding.weight[7]) / 3
    torch.testing.assert_close(model(tokens)[0], model.classifier(mean))


def test_a_cnn_finds_its_largest_window_anywhere():
    model = TextCNN(2, 20, PAD, width=4, filters=6, kernels=(1,)).eval()
    words = model.embedding.weight[[5, 9, 3]]
    largest = torch.relu(words @ model.convolutions[0].weight[:, :, 0].T + model.convolutions[0].bias).amax(0)
    torch.testing.assert_close(model(torch.tensor([[5, 9, 3]]))[0], model.classifier(largest))


def test_an_even_kernel_is_refused():
    with pytest.raises(UserError, match="an even width has no middle token"):
        made("text_cnn", kernels=[2])


def test_a_network_for_images_is_refused_with_those_for_texts():
    with pytest.raises(UserError, match=r'"resnet" is unknown; built in for texts are text_cnn, embedding_bag;'):
        made("resnet")


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    made("transformers:bert", **SMALL_BERT).model.save_pretrained(tmp_path)
    return tmp_path


def test_weights_come_from_a_folder(folder):
    tokens = torch.randint(2, 20, (3, 6))
    loaded = made("transformers:bert", weights=str(folder))
    torch.testing.assert_close(loaded(tokens), made("transformers:bert", **SMALL_BERT)(tokens))


def test_a_student_is_cut_from_the_weights(folder):
    whole, cut = made("transformers:bert", str(folder)), made("transformers:bert", str(folder), keep_layers=[0, 2])
    kept, layers = cut.model.bert.encoder.layer, whole.model.bert.encoder.layer
    assert len(kept) == cut.model.config.num_hidden_layers == 2
    for ours, theirs in zip(kept, (layers[0], layers[2]), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert cut(torch.full((1, 3), 5)).shape == (1, 2)


def test_layers_that_are_not_there_are_refused(folder):
    with pytest.raises(UserError, match=r"keep_layers = \[3\]: the encoder has the layers 0 to 2"):
        made("transformers:bert", str(folder), keep_layers=[3])


def test_a_tokenizer_of_other_weights_is_refused(folder):
    settings = StudentSettings(model="transformers:bert", weights=str(folder))
    with pytest.raises(UserError, match="knows 20 tokens, but the tokenizer has 21: they do not belong together"):
        build(settings, 2, torch.zeros(1, 10, dtype=torch.int64), "teacher", TOKENS._replace(vocabulary=21))


@pytest.mark.parametrize(
    ("model", "options"), [("text_cnn", {}), ("embedding_bag", {}), ("transformers:bert", SMALL_BERT)]
)
def test_a_trimmed_vocabulary_changes_no_answer_to_texts_of_its_tokens(model, options):
    if "transformers" in model:
        pytest.importorskip("transformers", reason="transformers is not installed")
    whole, trimmed = made(model, **options), made(model, **options, trim_vocabulary=True)
    tokens = torch.tensor([[3, 5, 13, 13, PAD], [8, 2, 5, PAD, PAD]])
    assert torch.equal(trimmed(tokens), whole(tokens))
    strange = torch.tensor([[3, 19, 13, 13, PAD]])
    assert torch.equal(trimmed(strange), whole(strange.where(strange != 19, UNKNOWN)))
    assert 6 in [parameter.shape[0] for parameter in trimmed.parameters()]
    assert 20 not in [parameter.shape[0] for parameter in trimmed.parameters()]
