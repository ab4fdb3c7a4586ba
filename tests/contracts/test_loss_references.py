"""Every loss with published reference values gives that value and that gradient, to 1e-6 in float64."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from distiq.distillation import losses

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "distillation_losses.npz"
LAYERS = (("feature_student_0", "feature_teacher_0"), ("feature_student_1", "feature_teacher_1"))
WIDE_LAYER = (("feature_student_0", "feature_teacher_wide"),)
LOGITS = (("logits_student", "logits_teacher"),)
EMBEDDINGS = (("embedding_student", "embedding_teacher"),)
HIDDEN = (("hidden_student_0", "hidden_teacher_0"),)
ATTENTION = (("attention_scores_student", "attention_scores_teacher"),)
PAIRS = {
    "attention_transfer": LAYERS,
    "attention_transfer_wide_teacher": WIDE_LAYER,
    "similarity_preserving": LAYERS,
    "similarity_preserving_wide_teacher": WIDE_LAYER,
    "nst_poly": LAYERS,
    "reviewkd_hcl": LAYERS,
    "hint_mse": LAYERS[:1],
    "fsp": LAYERS,
    "rkd": EMBEDDINGS,
    "rkd_wide_teacher": (("embedding_student", "embedding_teacher_wide"),),
    "pkt": EMBEDDINGS,
    "correlation_congruence": EMBEDDINGS,
    "hidden_mse_masked": HIDDEN,
    "hidden_cosine_masked": HIDDEN,
    "pkd_cls": HIDDEN,
    "attention_mse_masked": ATTENTION,
    "attention_ce_masked": ATTENTION,
    "gram_token_mse_masked": (*HIDDEN, ("hidden_student_1", "hidden_teacher_1")),
}
TWO_LAYERS = {"fsp", "gram_token_mse"}
OPTIONS = {"T": "temperature", "p": "power"}
KEYS = [
    "kd[T=1]", "kd[T=4]", "dkd[alpha=1,beta=8,T=4]", "dkd[alpha=1,beta=2,T=1]", "dist[beta=1,gamma=1,T=1]",
    "logit_standardization_kd[T=2]", "logit_standardization_kd[T=4]", "attention_transfer[p=2]",
    "attention_transfer_wide_teacher[p=2]", "similarity_preserving", "similarity_preserving_wide_teacher",
    "rkd[distance=25,angle=50]", "rkd_wide_teacher[distance=25,angle=50]", "pkt", "correlation_congruence", "nst_poly",
    "fsp", "hint_mse", "reviewkd_hcl", "logit_mse", "soft_cross_entropy[T=8]", "hidden_mse_masked",
    "attention_mse_masked", "attention_ce_masked", "hidden_cosine_masked", "pkd_cls", "gram_token_mse_masked",
]  # fmt: skip


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    if not REFERENCE.is_file():
        pytest.skip(f"no reference values at {REFERENCE}")
    with np.load(REFERENCE) as file:
        return dict(file)


def test_no_reference_is_left_out(reference: dict[str, np.ndarray]):
    assert {key.split("/")[1] for key in reference if key.startswith("out/")} == set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_value_and_gradient(key: str, reference: dict[str, np.ndarray]):
    name, bracket = re.fullmatch(r"(\w+)(?:\[(.*)\])?", key).groups()
    function = name.removesuffix("_masked").removesuffix("_wide_teacher")
    settings = dict(item.split("=") for item in bracket.split(",")) if bracket else {}
    options = {OPTIONS.get(option, option): float(value) for option, value in settings.items()}

    def given(input_name: str) -> Tensor:
        return torch.from_numpy(reference[f"in/{input_name}"])

    pairs = PAIRS.get(name, LOGITS)
    ours = [given(student).double().requires_grad_() for student, _ in pairs]
    theirs = [given(teacher).double() for _, teacher in pairs]
    extra = [given("labels")] if function == "dkd" else [given("mask")] if name.endswith("_masked") else []
    loss = getattr(losses, function)
    if function in TWO_LAYERS:
        value = loss(tuple(ours), tuple(theirs), *extra, **options)
    else:
        value = torch.stack([loss(*pair, *extra, **options) for pair in zip(ours, theirs, strict=True)]).sum()
    assert value.shape == ()
    assert value.item() == pytest.approx(float(reference[f"out/{key}/value"]), rel=1e-6)
    for number, gradient in enumerate(torch.autograd.grad(value, ours)):
        expected = torch.from_numpy(reference[f"out/{key}/grad{number}"])
        assert ((gradient - expected).norm() / expected.norm()).item() < 1e-6
