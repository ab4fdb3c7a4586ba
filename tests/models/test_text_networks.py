"""Networks over token numbers: padding changes nothing, transformers come by config or from a folder."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from distiq.data.splits import from_tensors
from distiq.data.text import Text
from distiq.data.tokenizer import TextEncoder, train_tokenizer
from distiq.distillation.distil import check_losses
from distiq.errors import UserError
from distiq.models.build import build, cut, space_of_cuts
from distiq.models.create import Tokens
from distiq.models.signature import OutputForm
from distiq.models.spaces import spread
from distiq.models.text import EmbeddingBag, TextCNN
from distiq.models.transformer import TokenLogits, check_saved, save_transformers
from distiq.recipe.distil import DistilSettings, KnowledgeLoss
from distiq.recipe.training import StudentSettings, TeacherSettings
from distiq.run.forecast import drawn

PAD, UNKNOWN = 1, 2
TOKENS = Tokens(20, PAD, UNKNOWN, used=(1, 2, 3, 5, 8, 13))
SMALL_BERT = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 16,
}  # fmt: skip
SMALL_DISTILBERT = {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 16}
SMALL = {
    "transformers:bert": SMALL_BERT | {"intermediate_size": 24},
    "transformers:distilbert": SMALL_DISTILBERT,
    "transformers:roberta": SMALL_BERT | {"intermediate_size": 24, "type_vocab_size": 1},
}


def made(model: str, weights: str = "", **options):
    torch.manual_seed(0)
    settings = StudentSettings(model=model, options=options, weights=weights)
    example = torch.zeros(1, 10, dtype=torch.int64)
    return build(settings, 2, example, "student", TOKENS).eval()


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("text_bilstm", {}), ("text_bilstm", {"layer": 0}), ("text_cnn", {}), ("embedding_bag", {}),
        ("embedding_bag", {"hidden": 0}), *SMALL.items(),
    ],
)  # fmt: skip
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
    with pytest.raises(UserError, match=r'"resnet" is unknown; built in for texts are text_bilstm, text_cnn, em'):
        made("resnet")


def test_a_hub_name_without_its_architecture_is_refused_with_the_spelling():
    wanted = r'a hub name is written model = "transformers:NAME" \(such as bert\), weights = "someone/minilm"'
    with pytest.raises(UserError, match=wanted):
        made("someone/minilm")


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    made("transformers:bert", **SMALL_BERT).model.save_pretrained(tmp_path)
    return tmp_path


def test_weights_come_from_a_folder(folder):
    tokens = torch.randint(2, 20, (3, 6))
    loaded = made("transformers:bert", weights=str(folder))
    torch.testing.assert_close(loaded(tokens), made("transformers:bert", **SMALL_BERT)(tokens))


def teacher(weights, names=("bad", "good"), **more):
    settings = TeacherSettings(model="transformers:bert", weights=str(weights), **more)
    return build(settings, len(names), torch.zeros(1, 10, dtype=torch.int64), "teacher", TOKENS, names).eval()


def test_labels_of_a_finished_teacher_are_matched_by_name(folder):
    model, tokens = made("transformers:bert", str(folder)), torch.randint(2, 20, (3, 6))
    torch.testing.assert_close(teacher(folder)(tokens), model(tokens))  # LABEL_0 and LABEL_1 are in order
    model.model.config.id2label = {0: "good", 1: "bad"}
    model.model.save_pretrained(folder)
    torch.testing.assert_close(teacher(folder)(tokens), model(tokens)[:, [1, 0]])
    with pytest.raises(
        UserError, match=r"does not know 'fair'\. Its labels: good, bad\. .*set teacher\.finetune = true"
    ):
        teacher(folder, ("bad", "fair"))
    assert teacher(folder, ("bad", "fair", "good"), finetune=True)(tokens).shape == (3, 3)


def test_an_encoder_without_a_head_teaches_only_after_training(folder):
    made("transformers:bert", str(folder)).model.bert.save_pretrained(folder)
    with pytest.raises(UserError, match=r"holds no trained classifier \(classifier\..*set teacher\.finetune = true"):
        teacher(folder)
    assert teacher(folder, finetune=True)(torch.randint(2, 20, (3, 6))).shape == (3, 2)


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
    ("model", "options"),
    [("text_bilstm", {}), ("text_cnn", {}), ("embedding_bag", {}), ("transformers:bert", SMALL_BERT)],
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


def part_of(teacher, model="transformers:bert", samples=None, **options):
    settings = StudentSettings(model=model, weights="teacher", options=options)
    example = torch.zeros(1, 10, dtype=torch.int64)
    return cut(teacher, settings, OutputForm(2), example, TOKENS, samples=samples).eval()


@pytest.mark.parametrize("model", SMALL)
def test_a_search_draws_parts_of_the_teacher(model):
    pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("optuna", reason="optuna is not installed")
    teacher = made(model, **SMALL[model])
    space = space_of_cuts(teacher, model, is_text=True)
    assert space is not None
    counts = set()
    for name, options in drawn(space, 12, seed=0):
        student = part_of(teacher, name, **options)
        assert name == model
        assert student(torch.randint(2, 20, (3, 6))).shape == (3, 2)
        counts.add(sum(p.numel() for p in student.parameters()))
    assert len(counts) > 6
    assert max(counts) <= sum(p.numel() for p in teacher.parameters())
    assert space_of_cuts(made("text_cnn"), "text_cnn", is_text=True) is None, "it has no parts that are known"


def test_layers_that_stay_are_spread():
    assert [spread(6, count) for count in (1, 2, 4, 6)] == [[0], [0, 5], [0, 2, 3, 5], [0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("model", SMALL)
def test_neurons_and_heads_that_weigh_nothing_are_cut_without_a_change(model):
    pytest.importorskip("transformers", reason="transformers is not installed")
    teacher = made(model, **SMALL[model])
    for name, weight in teacher.named_parameters():
        if name.endswith(("intermediate.dense.weight", "lin1.weight", "value.weight", "v_lin.weight")):
            weight.data[: len(weight) // 2] = 0
        if name.endswith(("intermediate.dense.bias", "lin1.bias", "value.bias", "v_lin.bias")):
            weight.data.zero_()
    student = part_of(teacher, model, feed_forward=12, heads=1)
    tokens = torch.randint(2, 20, (3, 6))
    torch.testing.assert_close(student(tokens), teacher(tokens))
    saved = 3 * (2 * 12 * 16 + 12 + 4 * 8 * 16 + 3 * 8)  # per layer: half the neurons, half of q, k, v and the output
    assert sum(p.numel() for p in teacher.parameters()) - sum(p.numel() for p in student.parameters()) == saved


@pytest.mark.parametrize("model", SMALL)
def test_neurons_that_never_change_are_cut_and_their_share_goes_into_the_bias(model):
    pytest.importorskip("transformers", reason="transformers is not installed")
    teacher = made(model, **SMALL[model]).eval()
    for name, weight in teacher.named_parameters():
        if name.endswith(("intermediate.dense.bias", "lin1.bias")):
            weight.data[:4] = 5.0
        if name.endswith(("intermediate.dense.weight", "lin1.weight")):
            weight.data[:4] = 0
    tokens = torch.randint(2, 20, (3, 6))
    tokens[0, 4:] = PAD
    student, by_weights = (part_of(teacher, model, samples, feed_forward=12) for samples in (tokens, None))
    moved, moved_by_weights = ((one(tokens) - teacher(tokens)).abs().max() for one in (student, by_weights))
    assert moved < 0.05 * moved_by_weights  # rounding alone


def test_a_student_trains_but_its_teacher_stays():
    pytest.importorskip("transformers", reason="transformers is not installed")
    teacher = made("transformers:bert", **SMALL_BERT).requires_grad_(False)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = part_of(teacher, keep_layers=[0, 2], feed_forward=4)
    assert all(weight.requires_grad for weight in student.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feed_forward": 17}, "feed_forward = 17: a layer has 16 neurons; take 1 to 16"),
        ({"heads": 0}, "heads = 0: a layer has 2 heads; take 1 to 2"),
        ({"embedding_width": 16}, "embedding_width = 16: the table is 20 x 16; take 1 to 15"),
        ({"hidden_size": 8}, 'has no option "hidden_size" for that; it has keep_layers, feed_forward, heads,'),
    ],
)
def test_what_cannot_be_cut_is_refused(options, message):
    pytest.importorskip("transformers", reason="transformers is not installed")
    with pytest.raises(UserError, match=message):
        part_of(made("transformers:bert", **SMALL_BERT), **options)


@pytest.mark.parametrize("trimmed", [False, True])
def test_a_table_of_low_rank_is_factorized_without_a_change(trimmed):
    teacher = made("text_cnn", width=8)
    teacher.embedding.weight.data = torch.randn(20, 3) @ torch.randn(3, 8)
    teacher.embedding.weight.data[PAD] = 0
    student = part_of(teacher, "text_cnn", embedding_width=3, trim_vocabulary=trimmed)
    tokens = torch.tensor([[3, 5, 13, 13, PAD], [8, 2, 5, PAD, PAD]])
    torch.testing.assert_close(student(tokens), teacher(tokens))
    assert [tuple(p.shape) for p in student.embedding.parameters()] == [(6 if trimmed else 20, 3), (8, 3)]


def test_its_tokenizer_comes_along(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    encoder = TextEncoder(train_tokenizer(["a fine film", "a dull film"], 40), 8)
    text, tokens = Text.of(encoder).to_json(), encoder.encode(["a fine film, dull"], "the text", to_longest=True).inputs
    save_transformers(made("transformers:bert", **SMALL_BERT), tmp_path, ["bad", "good"], text)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(["a fine film, dull"])["input_ids"] == tokens.tolist()
    assert loaded.pad_token_id == encoder.pad


def test_a_student_that_answers_a_number_is_a_regression_in_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    settings = StudentSettings(model="transformers:bert", options=SMALL_BERT)
    student = build(settings, 1, torch.zeros(1, 10, dtype=torch.int64), "student", TOKENS).eval()
    target = {"mean": 2.5, "std": 1.5}
    save_transformers(student, tmp_path, ["score"], {}, "number", target)
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    config, tokens = loaded.config, torch.tensor([[3, 19, 13, 7, PAD]])
    assert (config.problem_type, config.id2label, config.target) == ("regression", {0: "score"}, target)
    answers = loaded(input_ids=tokens, attention_mask=(tokens != PAD).long()).logits
    torch.testing.assert_close(answers, student(tokens))


def test_a_student_in_the_format_of_transformers_answers_the_same(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    options = {"keep_layers": [2, 0], "feed_forward": 6, "heads": 1, "trim_vocabulary": True, "embedding_width": 4}
    student = part_of(made("transformers:bert", **SMALL_BERT), **options)
    save_transformers(student, tmp_path, ["bad", "good"], {})
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokens = torch.tensor([[3, 19, 13, 7, PAD], [8, 2, 5, PAD, PAD]])
    answers = loaded(input_ids=tokens, attention_mask=(tokens != PAD).long()).logits
    torch.testing.assert_close(answers, student(tokens))
    assert loaded.config.id2label == {0: "bad", 1: "good"}


OTHERS = {
    "bert": SMALL_BERT,
    "albert": SMALL_BERT | {"embedding_size": 8},
    "mobilebert": SMALL_BERT | {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "convbert": SMALL_BERT | {"embedding_size": 16},
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_student_of_any_architecture_loads_again(name, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    student, tokens = made(f"transformers:{name}", **OTHERS[name]), torch.tensor([[3, 19, 13, 7, PAD, PAD, PAD, PAD]])
    save_transformers(student, tmp_path, ["bad", "good"], {})
    check_saved(student, tmp_path, tokens)


def test_a_saved_student_that_lost_weights_is_found(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    student, tokens = made("transformers:bert", **SMALL_BERT), torch.tensor([[3, 19, 13, 7]])
    save_transformers(student, tmp_path, ["bad", "good"], {})
    weights = load_file(tmp_path / "model.safetensors")
    other = {**weights, "classifier.bias": weights["classifier.bias"] + 1}
    save_file(other, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="loaded again, it gives other logits"):
        check_saved(student, tmp_path, tokens)
    del weights["classifier.bias"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"1 tensors are missing or of another shape, classifier.bias among them"):
        check_saved(student, tmp_path, tokens)


def test_padding_is_moved_in_front_of_what_reads_it_there():
    class Seen(nn.Module):
        config = SimpleNamespace(type_vocab_size=2)

        def forward(self, input_ids, attention_mask, token_type_ids):
            return SimpleNamespace(logits=torch.stack([input_ids, attention_mask, token_type_ids], 1))

    tokens = torch.tensor([[5, 6, 3, 8, 3, 0, 0], [5, 6, 7, 3, 8, 9, 3], [5, 3, 7, 3, 0, 0, 0]])
    found = TokenLogits(Seen(), pad=0, separator=3, pads_left=True)(tokens)
    assert found[:, 0].tolist() == [[0, 0, 5, 6, 3, 8, 3], [5, 6, 7, 3, 8, 9, 3], [0, 0, 0, 5, 3, 7, 3]]
    assert torch.equal(found[:, 1], (found[:, 0] != 0).long())
    assert found[:, 2].tolist() == [[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]]


def test_a_teacher_that_pads_in_front_has_no_layers_to_compare_by_place():
    rows = (torch.randint(2, 9, (40, 6)), torch.arange(40) % 2)
    data = from_tensors(rows, rows, validation=8, calibration=8, modality="text")
    network = made("transformers:bert", **SMALL_BERT)
    network.pads_left = True
    path = "model.bert.encoder.layer.0"
    loss = KnowledgeLoss(name="hidden_mse", student=(path,), teacher=(path,))
    with pytest.raises(UserError, match="the teacher's tokenizer pads in front"):
        check_losses(network, network, DistilSettings(teacher="live", losses=(loss,)), data)
