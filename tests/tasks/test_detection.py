import math

import numpy as np
import pytest
import torch

from distiq.data.labels import BOXES, Labels
from distiq.device.run import detected, joined_heads
from distiq.errors import UserError
from distiq.models.detector import joined
from distiq.tasks.detection import agreement, detection, read
from distiq.tasks.score import kept

SIZE = (32, 32)
TASK = detection(Labels(BOXES, ("cat", "dog"), size=SIZE))


def heads(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{kind}_{stride}": torch.randn(2, channels, 32 // stride, 32 // stride, generator=generator)
        for stride in (8, 16)
        for kind, channels in (("classes", 2), ("boxes", 4))
    }


def test_heads_are_joined_alike_here_and_on_the_device():
    ours = joined(heads())
    theirs = joined_heads({name: one.numpy() for name, one in heads().items()})
    assert ours.shape == (2, 6, 20) and np.allclose(ours.numpy(), theirs, atol=1e-5)
    distance = torch.nn.functional.softplus(heads()["boxes_8"][0, 0, 1, 2]) * 8
    assert float(ours[0, 0, 4 + 2]) == pytest.approx(20 - float(distance), rel=1e-5), "left of the third in row two"
    assert torch.equal(read(ours, SIZE), ours)


def placed(*rows: tuple[int, float, float, float, float, float]) -> torch.Tensor:
    """Outputs of one image: class, corners and score of the first positions, nothing elsewhere."""
    outputs = torch.full((1, 6, 20), -20.0)
    outputs[:, :4] = 0
    for number, (label, *corners, score) in enumerate(rows):
        outputs[0, :4, number] = torch.tensor(corners)
        outputs[0, 4 + label, number] = torch.logit(torch.tensor(score))
    return outputs


def test_the_likelier_of_two_boxes_of_a_class_is_kept():
    outputs = placed((0, 0, 0, 10, 10, 0.8), (0, 1, 0, 11, 10, 0.9), (1, 0, 0, 10, 10, 0.7), (0, 20, 20, 40, 30, 0.6))
    rows = detected(outputs.numpy(), SIZE)[0]
    found = rows[rows[:, 0] >= 0]
    assert found[:, 0].tolist() == [0, 1, 0]
    surer = 1 - 0.1 ** (1 + math.log(1 + 0.8))  # another says the same
    assert found[:, 5] == pytest.approx([surer, 0.7, 0.6], abs=1e-5)
    assert found[2, 1:5] == pytest.approx([20, 20, 32, 30], abs=1e-4), "boxes are cut off at the image's sides"


def test_boxes_on_which_many_agree_come_first():
    agreed = [(0, 0, 0, 10, 10, score) for score in (0.6, 0.5, 0.5)]
    found = detected(placed((0, 18, 0, 28, 10, 0.7), *agreed).numpy(), SIZE)[0, :3]
    assert found[:, 1].tolist() == [0, 18, 0], "the rest is padding"
    assert found[:2, 5] == pytest.approx([1 - 0.4 ** (1 + math.log(2)), 0.7], abs=1e-5)
    assert found[2, 0] == -1


def test_a_box_lies_where_those_like_it_lie_in_mean():
    outputs = placed((0, 0, 0, 10, 10, 0.8), (0, 2, 0, 12, 10, 0.4), (0, 5, 0, 15, 10, 0.3), (0, 20, 20, 20, 25, 0.2))
    rows = detected(outputs.numpy(), SIZE)[0]
    found = rows[rows[:, 0] >= 0]
    weight = 0.4 * (80 / 120) ** 2  # the third overlaps the first by a third: another object
    share = weight / (0.8 + weight)
    assert found[0, 1:5] == pytest.approx([2 * share, 0, 10 + 2 * share, 10], abs=1e-4)
    assert found[-1, 1:] == pytest.approx([20, 20, 20, 25, 0.2], abs=1e-4), "without an area it stays where it is"


def test_the_loss_falls_where_boxes_and_scores_are_right():
    targets = torch.tensor([[[0, 0, 0, 16, 16, 0.0], [-1, 0, 0, 0, 0, 0]]])
    right, wrong = placed((0, 0, 0, 16, 16, 0.95)), placed((1, 16, 16, 32, 32, 0.95))
    assert float(TASK.loss(right, targets)) < float(TASK.loss(wrong, targets))
    empty = torch.full((1, 2, 6), -1.0)
    assert float(TASK.loss(placed(), empty)) == pytest.approx(0.0, abs=1e-4)


def test_distillation_is_nothing_where_both_are_alike_and_sees_what_the_teacher_is_sure_of():
    teacher = placed((0, 0, 0, 16, 16, 0.9), (0, 4, 4, 8, 8, 0.01))
    assert float(TASK.distillation(teacher, teacher.clone(), temperature=1.0)) == pytest.approx(0.0, abs=1e-4)
    sure, unsure = teacher.clone(), teacher.clone()
    sure[0, 2:4, 0] += 8
    unsure[0, 2:4, 1] += 8
    assert float(TASK.distillation(sure, teacher)) > 20 * float(TASK.distillation(unsure, teacher))
    with pytest.raises(ValueError, match="same classes and strides"):
        TASK.distillation(teacher[:, :, :4], teacher)


def test_agreement_asks_for_the_same_class_and_nearly_the_same_box():
    one = kept(TASK, placed((0, 0, 0, 20, 20, 0.9), (1, 5, 5, 30, 30, 0.8)))
    assert agreement(one, one) == 1.0
    moved = kept(TASK, placed((0, 0, 0, 20, 20, 0.9), (1, 7, 5, 32, 30, 0.8)))
    assert agreement(one, moved) == 0.5
    relabelled = kept(TASK, placed((1, 0, 0, 20, 20, 0.9), (1, 5, 5, 30, 30, 0.8)))
    assert agreement(one, relabelled) == 0.5


def test_noise_is_measured_in_boxes_and_in_scores():
    outputs = placed((0, 0, 0, 16, 16, 0.9))
    noisy = outputs.clone()
    noisy[:, 4:] *= 0.9
    parts = TASK.sqnr_db(outputs, noisy)
    assert parts["scores"] == pytest.approx(20, abs=0.1) and parts["boxes"] > 100


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ((torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, 4)), "gives output_0, output_1; a detector gives a dict of"),
        (
            {"classes_4": torch.zeros(1, 2, 4, 4), "boxes_4": torch.zeros(1, 4, 4, 4)},
            r"classes_4 is of the shape \(1, 2, 4, 4\), but at a stride of 4, images of 32 x 32 have 8 x 8 positions",
        ),
    ],
)
def test_outputs_that_say_no_stride_or_another_are_refused(outputs, said: str):
    with pytest.raises(UserError, match=said):
        read(outputs, SIZE)
