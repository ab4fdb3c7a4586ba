"""transformers' audio classifiers as teachers: from a config or a folder, labels matched by name."""

from pathlib import Path
from typing import Any

import pytest
import torch

from distiq.errors import UserError
from distiq.models.audio import check_rate
from distiq.models.audio_classifier import Waves
from distiq.models.build import build
from distiq.models.predictor import Predictor
from distiq.recipe.training import StudentSettings, TeacherSettings

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

EXAMPLE = torch.zeros(1, 2000)
CLIPS = torch.randn(3, 2000, generator=torch.Generator().manual_seed(0)) / 4
WORDS = ("no", "up", "yes")
TINY: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
WAVES = TINY | {
    "conv_dim": [8, 8], "conv_stride": [5, 4], "conv_kernel": [10, 8], "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8,
}  # fmt: skip
AST = TINY | {"max_length": 16, "num_mel_bins": 16}
AST_NAME = "audio-spectrogram-transformer"


def folder_of(folder: Path, name: str, labels: tuple[str, ...] = WORDS, normalize: bool = True) -> Any:
    """A folder as transformers saves one; returns its network."""
    torch.manual_seed(0)
    options = AST if name == AST_NAME else WAVES
    config = transformers.AutoConfig.for_model(name, id2label=dict(enumerate(labels)), **options)
    model = transformers.AutoModelForAudioClassification.from_config(config).eval()
    model.save_pretrained(folder)
    if name == AST_NAME:
        transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=16).save_pretrained(folder)
    else:
        transformers.Wav2Vec2FeatureExtractor(do_normalize=normalize).save_pretrained(folder)
    return model


def teacher(name: str, folder: Path | str = "", names: tuple[str, ...] = WORDS, **more: Any) -> Any:
    settings = TeacherSettings(model=f"transformers:{name}", weights=str(folder), **more)
    return build(settings, len(names), EXAMPLE, "teacher", names=names).eval()


def refusal(*arguments: Any, **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        teacher(*arguments, **more)
    return str(caught.value)


def expected(folder: Path, model: Any) -> torch.Tensor:
    """What transformers itself answers, by way of the folder's own feature extractor."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    features = extractor(list(CLIPS.numpy()), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        return model(features["input_values"].float()).logits


@pytest.mark.parametrize("name", ["wav2vec2", "hubert"])
def test_by_config_neither_loudness_nor_offset_is_heard(name: str):
    model = teacher(name, options=WAVES)
    with torch.no_grad():
        torch.testing.assert_close(model(3 * CLIPS + 0.1), model(CLIPS), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", ["wav2vec2", "hubert", AST_NAME])
def test_a_folder_answers_as_transformers_does(name: str, normalize: bool, tmp_path: Path):
    model = folder_of(tmp_path, name, normalize=normalize)
    loaded = teacher(name, tmp_path)
    assert isinstance(loaded, Predictor if name == AST_NAME else Waves)
    with torch.no_grad():
        torch.testing.assert_close(loaded(CLIPS), expected(tmp_path, model), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["hubert", AST_NAME])
def test_labels_are_matched_by_name(name: str, tmp_path: Path):
    model = folder_of(tmp_path, name, ("yes", "silence", "no", "up"))
    loaded = teacher(name, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(CLIPS), expected(tmp_path, model)[:, [2, 3, 0]], atol=1e-5, rtol=1e-4)
    if name == "hubert":
        assert loaded.model.config.id2label == dict(enumerate(WORDS))


def test_labels_without_names_are_taken_in_their_order(tmp_path: Path):
    model = folder_of(tmp_path, "wav2vec2", ("LABEL_0", "LABEL_1", "LABEL_2"))
    with torch.no_grad():
        torch.testing.assert_close(
            teacher("wav2vec2", tmp_path)(CLIPS), expected(tmp_path, model), atol=1e-5, rtol=1e-4
        )


def test_a_class_that_the_labels_lack_is_refused_or_learned(tmp_path: Path):
    folder_of(tmp_path, "wav2vec2", ("yes", "no", "down"))
    said = refusal("wav2vec2", tmp_path)
    assert "it does not know 'up'. Its labels: yes, no, down. The data's classes: no, up, yes" in said
    assert "set teacher.finetune = true" in said
    assert teacher("wav2vec2", tmp_path, ("a", "b", "c", "d"), finetune=True)(CLIPS).shape == (3, 4)
    student = StudentSettings(model="transformers:wav2vec2", weights=str(tmp_path))
    assert build(student, 3, EXAMPLE, "student", names=WORDS)(CLIPS).shape == (3, 3)


def test_an_encoder_without_a_head_does_not_teach(tmp_path: Path):
    folder_of(tmp_path, "hubert").hubert.save_pretrained(tmp_path)
    assert "holds no trained classifier" in refusal("hubert", tmp_path)
    assert teacher("hubert", tmp_path, finetune=True)(CLIPS).shape == (3, 3)


def test_another_rate_than_it_was_trained_on_is_refused(tmp_path: Path):
    for name in ("wav2vec2", AST_NAME):
        folder_of(tmp_path / name, name)
        loaded = teacher(name, tmp_path / name)
        check_rate(loaded, 16000, "teacher")
        with pytest.raises(
            UserError, match=r"made for 16000 Hz, the clips have 8000 Hz; set data\.audio\.rate = 16000"
        ):
            check_rate(loaded, 8000, "teacher")


def test_what_reads_spectrograms_is_a_finished_teacher_or_none(tmp_path: Path):
    folder_of(tmp_path, AST_NAME)
    said = "its feature extractor makes outside the network, so it is a finished teacher or none"
    assert said in refusal(AST_NAME, options=AST)
    assert said in refusal(AST_NAME, tmp_path, finetune=True)


def test_a_clip_shorter_than_a_frame_of_the_spectrogram_is_refused(tmp_path: Path):
    folder_of(tmp_path, AST_NAME)
    settings = TeacherSettings(model=f"transformers:{AST_NAME}", weights=str(tmp_path))
    with pytest.raises(UserError, match=r"teacher\.weights = .*: the callable fails"):
        build(settings, 3, torch.zeros(1, 100), "teacher")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    assert "teacher.model: transformers cannot build" in refusal("wav2vec2", tmp_path / "nowhere")
