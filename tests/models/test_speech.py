"""transformers' CTC networks as teachers of texts: from a config or a folder, symbols matched with its vocabulary."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from distiq.errors import UserError
from distiq.models.build import build
from distiq.models.signature import OutputForm
from distiq.recipe.training import TeacherSettings

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

CLIPS = torch.randn(3, 2000, generator=torch.Generator().manual_seed(0)) / 4
SYMBOLS = ("<blank>", "b", "a", "|")
VOCABULARY = ("<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "C")
TINY: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "conv_dim": [8, 8],
    "conv_stride": [5, 4], "conv_kernel": [10, 8], "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip


def folder_of(folder: Path, name: str) -> Any:
    """A folder as transformers saves one; returns its network."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, vocab_size=len(VOCABULARY), pad_token_id=0, **TINY)
    model = transformers.AutoModelForCTC.from_config(config).eval()
    model.save_pretrained(folder)
    (folder / "own.json").write_text(json.dumps({token: number for number, token in enumerate(VOCABULARY)}))
    transformers.Wav2Vec2CTCTokenizer(str(folder / "own.json")).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return model


def teacher(name: str, folder: Path | str = "", names: tuple[str, ...] = SYMBOLS, **more: Any) -> Any:
    settings = TeacherSettings(model=f"transformers:{name}", weights=str(folder), **more)
    form = OutputForm(len(names), 1)
    return build(settings, len(names), CLIPS[:1], "teacher", names=names, form=form).eval()


@pytest.mark.parametrize("name", ["wav2vec2", "hubert"])
def test_a_folder_writes_as_transformers_does_in_the_data_s_order(name: str, tmp_path: Path):
    """The blank is its padding; b and a are its B and A."""
    model = folder_of(tmp_path, name)
    features = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)(
        list(CLIPS.numpy()), sampling_rate=16000, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(features["input_values"].float()).logits[..., [0, 6, 5, 4]].transpose(1, 2)
        found = teacher(name, tmp_path)(CLIPS)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_finished_network_that_lacks_a_symbol_is_refused(tmp_path: Path):
    folder_of(tmp_path, "wav2vec2")
    with pytest.raises(UserError, match=r"it cannot write 'ten'\. Its symbols: .*set teacher\.finetune = true"):
        teacher("wav2vec2", tmp_path, ("<blank>", "a", "ten"))


def test_one_that_is_trained_gets_a_new_head(tmp_path: Path):
    folder_of(tmp_path, "wav2vec2")
    assert teacher("wav2vec2", tmp_path, ("<blank>", "a", "ten"), finetune=True)(CLIPS).shape[:2] == (3, 3)


def test_by_config_it_has_the_data_s_symbols():
    assert teacher("hubert", options=TINY)(CLIPS).shape[:2] == (3, len(SYMBOLS))
