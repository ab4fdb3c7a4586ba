"""transformers' classifiers by folder: images as texts and sound; labels by name or number; no head in silence."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from distiq.errors import UserError
from distiq.models.build import build
from distiq.models.pretrained import revision_of, rows_of
from distiq.progress import Silent
from distiq.recipe.training import StudentSettings, TeacherSettings, TrainingSettings
from distiq.training.schedule import make_optimizer

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SMALL: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
                         "image_size": 8, "patch_size": 4}  # fmt: skip
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}


def folder_of(folder: Path, labels: tuple[str, ...], name: str = "vit", dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    options = RESNET if name == "resnet" else SMALL
    config = transformers.AutoConfig.for_model(name, id2label=dict(enumerate(labels)), **options)
    kind = (
        transformers.DeiTForImageClassificationWithTeacher
        if name == "deit"
        else transformers.AutoModelForImageClassification
    )
    model = (kind(config) if name == "deit" else kind.from_config(config)).eval().to(dtype)
    model.save_pretrained(folder)
    return model.float()


def teacher(folder: Path, names: tuple[str, ...], name: str = "vit", watch=None, **more: Any) -> Any:
    settings = TeacherSettings(model=f"transformers:{name}", weights=str(folder), **more)
    return build(settings, len(names), IMAGES[:1], "teacher", names=names, watch=watch).eval()


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_image_teachers_are_matched_by_name(name: str, tmp_path: Path):
    model = folder_of(tmp_path, ("owl", "fox", "cat", "dog"), name)
    found = teacher(tmp_path, ("cat", "dog", "owl"), name)
    with torch.no_grad():
        torch.testing.assert_close(found(IMAGES), model(IMAGES).logits[:, [2, 3, 0]], atol=1e-5, rtol=1e-4)
    assert found.model.config.id2label == {0: "cat", 1: "dog", 2: "owl"}


def test_loaded_weights_are_told_from_a_new_head(tmp_path: Path):
    folder_of(tmp_path, ("owl", "fox", "cat"))
    found = teacher(tmp_path, ("red", "blue"), finetune=True)
    optimizer = make_optimizer(found, TrainingSettings(pretrained_rate=0.1))
    new = {parameter for group in optimizer.param_groups if group["share"] == 1 for parameter in group["params"]}
    assert new == {*found.model.classifier.parameters()}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len([*found.parameters()])


def test_both_heads_of_a_distilled_transformer_are_put_in_order(tmp_path: Path, monkeypatch):
    model = folder_of(tmp_path, ("owl", "fox", "cat"), "deit")
    monkeypatch.setattr(  # the library's own choice has one head
        transformers, "AutoModelForImageClassification", transformers.DeiTForImageClassificationWithTeacher
    )
    found = teacher(tmp_path, ("cat", "owl"), "deit")
    with torch.no_grad():
        torch.testing.assert_close(found(IMAGES), model(IMAGES).logits[:, [2, 0]], atol=1e-5, rtol=1e-4)


def test_an_image_encoder_without_a_head_does_not_teach(tmp_path: Path):
    folder_of(tmp_path, ("a", "b")).vit.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"holds no trained classifier \(classifier\."):
        teacher(tmp_path, ("a", "b"))
    assert teacher(tmp_path, ("a", "b", "c"), finetune=True)(IMAGES).shape == (3, 3)


def test_weights_of_another_network_are_refused(tmp_path: Path):
    folder_of(tmp_path, ("a", "b"), "resnet")
    (tmp_path / "config.json").write_text(transformers.ViTConfig(**SMALL).to_json_string())
    student = StudentSettings(model="transformers:vit", weights=str(tmp_path))
    with pytest.raises(UserError, match=r"weights of its encoder are missing, .* weights of another network than ViT"):
        build(student, 2, IMAGES[:1], "student", names=("a", "b"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_are_brought_to_float32(dtype: torch.dtype, tmp_path: Path):
    model, watch, notes = folder_of(tmp_path, ("a", "b"), dtype=dtype), Silent(), list[str]()
    watch.note = notes.append  # type: ignore[method-assign]
    found = teacher(tmp_path, ("a", "b"), watch=watch)
    with torch.no_grad():
        torch.testing.assert_close(found(IMAGES), model(IMAGES).logits, atol=1e-5, rtol=1e-4)
    assert [note.endswith("; brought to float32") for note in notes] == [True]


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (("b", "a"), ("a", "b"), (1, 0)),
        (("LABEL_0", "LABEL_1"), ("bad", "good"), (0, 1)),
        (("LABEL_1", "LABEL_0"), ("bad", "good"), (1, 0)),
        (tuple(f"LABEL_{n}" for n in range(11)), tuple(f"LABEL_{n}" for n in (0, 1, 10, 2)), (0, 1, 10, 2)),
        (tuple(f"LABEL_{n}" for n in range(6)), ("1", "2", "5"), (1, 2, 5)),
        (tuple(f"LABEL_{n}" for n in range(5)), ("1", "2", "3", "4", "5"), (0, 1, 2, 3, 4)),
        (("a", "b"), ("a", "c"), ()),
        (("LABEL_0", "LABEL_1"), ("a", "b", "c"), ()),
    ],
)
def test_labels_go_by_name_or_by_number(labels, names, expected):
    assert rows_of(labels, names, finished=False) == expected


def test_nameless_labels_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"does not know 'a', 'b', 'c'.*teacher\.preprocessing\.labels"):
        rows_of(("LABEL_0", "LABEL_1"), ("a", "b", "c"), finished=True)
    with pytest.raises(ValueError, match=r"Its labels: n0, .*, n7, \.\.\. \(1,000 in all\)\. The data's classes: a\."):
        rows_of(tuple(f"n{n}" for n in range(1000)), ("a",), finished=True)


def test_the_commit_of_the_hub_is_found_within_a_network():
    inner = nn.Linear(2, 2)
    inner.config = SimpleNamespace(_commit_hash="a" * 40)
    assert revision_of(nn.Sequential(nn.ReLU(), inner)) == "a" * 40
    assert revision_of(nn.Linear(2, 2)) == ""
