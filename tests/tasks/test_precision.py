"""Every loss is computed in float32 or wider, and its gradient reaches the student."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distiq.distillation import losses
from distiq.tasks.precision import full_precision, refuse_unless, widened

SHAPES = {
    (5, 4): (
        "kd", "soft_cross_entropy", "logit_mse", "dkd", "dist", "logit_standardization_kd", "multi_level_kd",
        "bernoulli_kd",
    ),
    (4, 3, 6, 6): (
        "hint_mse", "attention_transfer", "fsp", "nst_poly", "nst_gaussian", "reviewkd_hcl", "VID", "MGD", "ReviewKD",
        "channel_kd",
    ),
    (5, 8): (
        "similarity_preserving", "rkd", "pkt", "correlation_congruence", "embedding_cosine", "CRD", "SimilarityQueue",
    ),
    (3, 5, 9): ("sequence_kd",),
    (2, 4, 12): ("hidden_mse", "hidden_cosine", "pkd_cls", "gram_token_mse", "minilm_relation"),
    (2, 3, 4, 4): ("attention_mse", "attention_ce"),
}  # fmt: skip
MODULES = {
    "VID": lambda: losses.VID(3, 3),
    "MGD": lambda: losses.MGD(3, 3),
    "ReviewKD": lambda: losses.ReviewKD([3, 3], [3, 3], width=4),
    "CRD": lambda: losses.CRD(8, 8, 20, width=4, negatives=6),
    "SimilarityQueue": lambda: losses.SimilarityQueue(8, 8, size=16),
}
TWO_LAYERS = ("fsp", "gram_token_mse", "ReviewKD")
NAMES = sorted(name for names in SHAPES.values() for name in names)
FUNCTIONS = [name for name in NAMES if name not in MODULES]


def inputs(name: str, dtype: torch.dtype) -> list[Any]:
    """What the loss takes; the values are those that bfloat16 can hold, in every type."""
    torch.manual_seed(0)
    shape = next(shape for shape, names in SHAPES.items() if name in names)
    student, teacher, *more = torch.randn(4, *shape).bfloat16().to(dtype).unbind(0)
    student.requires_grad_()
    given: list[Any] = [(student, more[0]), (teacher, more[1])] if name in TWO_LAYERS else [student, teacher]
    if name == "dkd":
        given.append(torch.tensor([0, 3, 1, 2, 0]))
    if name == "CRD":
        given.append(torch.tensor([7, 3, 19, 0, 11]))
    if name in FUNCTIONS and "mask" in inspect.signature(getattr(losses, name)).parameters:
        given.append(torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).to(dtype))
    return given


def computed(name: str, given: list[Any], autocast: bool = False) -> Tensor:
    torch.manual_seed(1)  # weights, masks and negatives alike at every call
    loss = MODULES[name]() if name in MODULES else getattr(losses, name)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return loss(*given)


def test_no_loss_is_left_out():
    assert set(NAMES) == set(losses.__all__) - {"attention_map"}


@pytest.mark.parametrize("name", NAMES)
def test_autocast_with_bfloat16_inputs_gives_the_value_of_float32(name: str):
    found = computed(name, inputs(name, torch.bfloat16), autocast=True)
    expected = computed(name, inputs(name, torch.float32))
    assert found.dtype == torch.float32 and found.shape == () and found.isfinite()
    # Modules have layers of their own, which autocast runs in bfloat16: eight bits, over a few layers.
    assert found.item() == pytest.approx(expected.item(), rel=0.01 if name in MODULES else 1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("given", "kept"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)]
)
def test_functions_compute_in_float32_or_wider(name: str, given: torch.dtype, kept: torch.dtype):
    value = computed(name, inputs(name, given))
    assert value.dtype == kept
    assert value.item() == pytest.approx(computed(name, inputs(name, torch.float64)).item(), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("autocast", [False, True])
def test_gradient_reaches_the_student(name: str, autocast: bool):
    given = inputs(name, torch.bfloat16 if autocast else torch.float32)
    student = given[0][0] if name in TWO_LAYERS else given[0]
    (gradient,) = torch.autograd.grad(computed(name, given, autocast), student)
    assert gradient.shape == student.shape
    assert gradient.isfinite().all() and gradient.any()


@pytest.mark.parametrize("name", MODULES)
def test_gradient_reaches_every_parameter(name: str):
    torch.manual_seed(1)
    module: nn.Module = MODULES[name]()
    module(*inputs(name, torch.float32)).backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in module.parameters())


def test_widened_reaches_into_tuples_and_leaves_the_rest():
    half, whole, number = torch.zeros(1, dtype=torch.float16), torch.zeros(1, dtype=torch.float64), torch.zeros(1).int()
    (first, (second,)), third, other = (widened(value) for value in ((half, [half.bfloat16()]), number, "text"))
    assert first.dtype == second.dtype == torch.float32
    assert third is number and other == "text" and widened(whole) is whole


def test_full_precision_switches_autocast_off_for_the_loss_alone():
    product = full_precision(lambda student, teacher: student @ teacher)
    one = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert product(one, one).dtype == torch.float32
        assert (one @ one).dtype == torch.bfloat16


def test_refusal_names_the_loss_both_shapes_and_the_remedy():
    refuse_unless(True, "kd", torch.zeros(1), torch.zeros(2), "unused")
    with pytest.raises(ValueError, match=r"^kd: student \(1,\) and teacher \(2, 3\) do not fit; do this$"):
        refuse_unless(False, "kd", torch.zeros(1), torch.zeros(2, 3), "do this")


def test_tensors_given_by_name_are_widened_too():
    student, teacher = torch.randn(2, 4, 3).bfloat16().unbind(0)
    assert losses.kd(student=student, teacher=teacher).dtype == torch.float32
