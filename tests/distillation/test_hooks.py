"""Activations by module path; no hook stays behind."""

import pytest
import torch
from torch import nn

from distiq.distillation.hooks import feature_hooks
from distiq.errors import UserError


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_outputs_of_the_named_modules(student: nn.Module):
    images = torch.randn(3, 1, 12, 12)
    student.eval()
    with torch.no_grad(), feature_hooks(student, ["stem", "stages.1", "stem"]) as features:
        student(images)
    assert set(features) == {"stem", "stages.1"}
    torch.testing.assert_close(features["stem"], student.stem(images))
    assert features["stages.1"].shape == (3, 8, 6, 6)
    assert hooks(student) == 0


def test_of_several_outputs_the_first_is_kept():
    model = nn.Sequential(nn.GRU(3, 4, batch_first=True))
    with feature_hooks(model, ["0"]) as features:
        outputs, _ = model(torch.randn(2, 5, 3))
    assert features["0"] is outputs


def test_each_run_leaves_its_own_values(student: nn.Module):
    with feature_hooks(student, ["classifier"]) as features:
        for _ in range(2):
            logits = student(torch.randn(4, 1, 12, 12))
            assert features["classifier"] is logits


def test_hooks_go_when_the_model_fails(student: nn.Module):
    with pytest.raises(RuntimeError, match="channels"), feature_hooks(student, ["stem", "stages.0"]):
        student(torch.randn(1, 3, 12, 12))
    assert hooks(student) == 0


def test_unknown_path_names_near_ones_and_leaves_no_hook(student: nn.Module):
    with (
        pytest.raises(UserError, match=r'no module "stages\.2"; near it: .*stages\.1'),
        feature_hooks(student, ["stem", "stages.2"]),
    ):
        pass
    assert hooks(student) == 0


def test_a_path_like_nothing_names_the_model_s_parts(student: nn.Module):
    with pytest.raises(UserError, match="near it: stem, stages, pool, classifier"), feature_hooks(student, ["xyzxyz"]):
        pass
