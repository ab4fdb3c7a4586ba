import contextlib
import io

import numpy as np
import pytest
import torch
from torch import Tensor

from distiq.tasks.average_precision import average_precision, interval, matches, mean_precision, weighted


def row(label: float, x0: float, y0: float, x1: float, y1: float, last: float = 0.0) -> list[float]:
    return [label, x0, y0, x1, y1, last]


def boxes(*images: list[list[float]]) -> Tensor:
    most = max(1, *map(len, images))
    return torch.tensor([[*image, *[[-1.0] * 6] * (most - len(image))] for image in images])


def by_ruler(kept: Tensor, targets: Tensor, classes: int) -> tuple[float, float]:
    """mAP and mAP50 of faster-coco-eval."""
    coco = pytest.importorskip("faster_coco_eval")
    truth, found = [], []
    for image, (own, right) in enumerate(zip(kept.double().numpy(), targets.double().numpy(), strict=True), start=1):
        for rows, into, last in ((right, truth, "iscrowd"), (own, found, "score")):
            for label, x0, y0, x1, y1, value in rows[rows[:, 0] >= 0]:
                into.append({
                    "image_id": image, "category_id": int(label) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "id": len(into) + 1, "area": (x1 - x0) * (y1 - y0), last: value if last == "score" else int(value),
                })  # fmt: skip
    images = [{"id": number + 1, "width": 100, "height": 100} for number in range(len(targets))]
    kinds = [{"id": number + 1, "name": str(number)} for number in range(classes)]
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO({"images": images, "annotations": truth, "categories": kinds})
        ruler = coco.COCOeval_faster(known, known.loadRes(found), "bbox")
        ruler.evaluate()
        ruler.accumulate()
        ruler.summarize()
    return ruler.stats[0], ruler.stats[1]


def drawn(seed: int, classes: int) -> tuple[Tensor, Tensor]:
    """Predictions near to the objects of a few images, with ties, crowds and, sometimes, a class without any."""
    generator = np.random.default_rng(seed)
    kept, targets = [], []
    for _ in range(generator.integers(1, 8)):
        truth = []
        for _ in range(generator.integers(0, 8)):
            corner, side = generator.integers(0, 60, 2), generator.integers(1, 40, 2)
            label = generator.integers(0, classes - (seed % 3 == 0))
            truth.append(row(label, *corner, *(corner + side), float(generator.random() < 0.2)))
        own = []
        for _ in range(generator.integers(1, 20)):
            near = truth[generator.integers(len(truth))] if truth else row(0, 5, 5, 20, 20)
            corners = np.array(near[1:5]) + generator.integers(-2, 3, 4)
            corners[2:] = np.maximum(corners[2:], corners[:2] + 1)
            own.append(row(near[0], *corners, round(float(generator.random()), 1)))
        kept.append(own)
        targets.append(truth)
    return boxes(*kept), boxes(*targets)


@pytest.mark.parametrize("seed", range(11))
def test_it_is_that_of_the_reference_code(seed: int):
    kept, targets = drawn(seed, 3)
    values = mean_precision(matches(kept, targets, 3))[0]
    expected = by_ruler(kept, targets, 3)
    assert values.mean() == pytest.approx(expected[0], abs=1e-6)
    assert values[0] == pytest.approx(expected[1], abs=1e-6)


def test_by_hand():
    one = row(0, 0, 0, 10, 10)
    found = matches(boxes([row(0, 0, 0, 10, 10, 0.9), row(0, 50, 50, 60, 60, 0.8)]), boxes([one]), 1)
    assert mean_precision(found)[0].mean() == pytest.approx(1.0), "what comes behind all objects costs nothing"
    found = matches(boxes([row(0, 0, 0, 10, 10, 0.7), row(0, 50, 50, 60, 60, 0.8)]), boxes([one]), 1)
    assert mean_precision(found)[0].mean() == pytest.approx(0.5), "one of the two likeliest is right"
    found = matches(boxes([row(0, 0, 0, 10, 8, 0.9)]), boxes([one]), 1)
    assert mean_precision(found)[0].tolist() == pytest.approx([1] * 7 + [0] * 3), "they overlap by 0.8"


def test_a_crowd_swallows_boxes_and_counts_for_nothing():
    targets = boxes([row(0, 0, 0, 10, 10), row(0, 20, 0, 60, 40, 1)])
    inside = [row(0, 20 + 5 * number, 5, 24 + 5 * number, 9, 0.95) for number in range(4)]
    found = matches(boxes([row(0, 0, 0, 10, 10, 0.5), *inside]), targets, 1)
    assert mean_precision(found)[0].mean() == pytest.approx(1.0)


def test_a_class_without_objects_has_no_precision():
    found = matches(boxes([row(1, 0, 0, 10, 10, 0.9)]), boxes([row(0, 0, 0, 10, 10)]), 2)
    assert np.isnan(average_precision(found[1])).all()
    assert mean_precision(found)[0].mean() == 0


def test_the_interval_is_that_of_images_drawn_again():
    one = row(0, 0, 0, 10, 10)
    right, wrong = [row(0, 0, 0, 10, 10, 0.9)], [row(0, 50, 50, 60, 60, 0.8)]
    found = matches(boxes(*[right] * 15, *[wrong] * 15), boxes(*[[one]] * 30), 1)
    low, high = interval(found, 30)
    assert low < mean_precision(found)[0].mean() < high
    assert interval(matches(boxes(*[right] * 5), boxes(*[[one]] * 5), 1), 5) == (1.0, 1.0)


def test_an_image_that_counts_twice_is_two_images():
    kept, targets = drawn(4, 3)
    kept[:, :, 5] += torch.linspace(0, 0.09, kept[:, :, 5].numel()).view(kept.shape[:2])  # no ties
    times = torch.arange(len(kept)) % 3
    repeated = mean_precision(matches(kept.repeat_interleave(times, 0), targets.repeat_interleave(times, 0), 3))
    value = weighted(kept, targets, 3)(times.double().unsqueeze(0))
    assert value.tolist() == [pytest.approx(repeated.mean(), abs=1e-12)]
