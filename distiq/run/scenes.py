"""What the delivered file finds in the test images, for the report: the worst ones drawn, confusion, precision."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distiq.data.images import Images
from distiq.data.labels import VOID
from distiq.data.splits import Data
from distiq.device.run import COLOURS, SHOWN_SCORE, coloured, overlaps, with_boxes
from distiq.records.scenes import SceneRecord, ScenesRecord
from distiq.run.flips import png_of
from distiq.tasks.average_precision import matches, precision_at_recalls
from distiq.tasks.choose import task_of
from distiq.tasks.segmentation import confusion, mean_union

WORST = 6
HALF = 0.5
MISSED, NOTHING = "missed", "nothing there"


def scenes_of(data: Data, kept: Tensor) -> ScenesRecord | None:
    """What the report shows; None for tasks that find neither boxes nor masks.

    Args:
        kept: the delivered file's outputs for the test set, as the task keeps them.
    """
    if not isinstance(data.preprocessing, Images):
        return None
    match task_of(data).decoding:
        case "mask":
            return _of_masks(data, kept)
        case "boxes":
            return _of_boxes(data, kept)
    return None


def _of_masks(data: Data, kept: Tensor) -> ScenesRecord:
    counts = confusion(kept, data.test.labels, len(data.classes))
    unions = mean_union(counts.double())
    worst = [
        SceneRecord(
            index=index,
            said=f"{100 * float(unions[index]):.1f} % mIoU",
            truth_png=_painted(data, index, data.test.labels[index]),
            found_png=_painted(data, index, kept[index]),
        )
        for index in unions.argsort()[:WORST].tolist()
    ]
    total = tuple(tuple(row) for row in counts.sum(0).tolist())
    return ScenesRecord(
        worst=tuple(worst), rows=data.classes, columns=data.classes, confusion=total, colours=_colours(data.classes)
    )


def _colours(classes: Sequence[str]) -> dict[str, str]:
    """What each class is drawn in."""
    return {name: "#{:02x}{:02x}{:02x}".format(*COLOURS[n % len(COLOURS)]) for n, name in enumerate(classes)}


def _painted(data: Data, index: int, mask: Tensor) -> str:
    """The image blended half and half with its classes' colours, except where it is void."""
    image = _pixels(data, index).float()
    colours = torch.from_numpy(coloured(mask.numpy())).permute(2, 0, 1).float()
    if colours.shape[1:] != image.shape[1:]:
        colours = torch.nn.functional.interpolate(colours.unsqueeze(0), image.shape[1:], mode="nearest")[0]
    labelled = (mask != VOID) if mask.shape == image.shape[1:] else torch.ones(image.shape[1:], dtype=torch.bool)
    return png_of(torch.where(labelled, (image + colours) / 2, image).byte())


def _pixels(data: Data, index: int) -> Tensor:
    """A test image in colour, (3, H, W) uint8."""
    image = data.test.fetch(torch.tensor([index]))[0]
    if image.dtype != torch.uint8:
        low, high = image.min(), image.max()
        image = ((image - low) / (high - low + 1e-12) * 255).byte()
    return image if len(image) == 3 else image[:1].expand(3, -1, -1)


def _of_boxes(data: Data, kept: Tensor) -> ScenesRecord:
    names, targets = data.classes, data.test.labels
    table = np.zeros((len(names) + 1, len(names) + 1), np.int64)
    wrong = []
    for own, right in zip(kept.numpy(), targets.numpy(), strict=True):
        shown, there = (
            own[(own[:, 0] >= 0) & (own[:, 5] >= SHOWN_SCORE)],
            right[(right[:, 0] >= 0) & (right[:, 5] == 0)],
        )
        pairs = _pairs(shown, there)
        for row, column in pairs:
            table[int(there[row, 0]), int(shown[column, 0])] += 1
        missed = [row for row in range(len(there)) if row not in {one for one, _ in pairs}]
        extra = [column for column in range(len(shown)) if column not in {one for _, one in pairs}]
        for row in missed:
            table[int(there[row, 0]), -1] += 1
        for column in extra:
            table[-1, int(shown[column, 0])] += 1
        mixed = sum(there[row, 0] != shown[column, 0] for row, column in pairs)
        wrong.append((len(missed), len(extra), int(mixed)))
    order = sorted((index for index in range(len(wrong)) if sum(wrong[index])), key=lambda index: -sum(wrong[index]))
    worst = [
        SceneRecord(
            index=index,
            said="{} missed, {} where nothing is, {} of another class".format(*wrong[index]),
            truth_png=_outlined(data, index, targets[index]),
            found_png=_outlined(data, index, kept[index]),
        )
        for index in order[:WORST]
    ]
    by_class = matches(kept, targets, len(names))
    return ScenesRecord(
        worst=tuple(worst),
        rows=(*names, NOTHING),
        columns=(*names, MISSED),
        confusion=tuple(tuple(row) for row in table.tolist()),
        precision={name: tuple(precision_at_recalls(one)) for name, one in zip(names, by_class, strict=True)},
        colours=_colours(names),
    )


def _pairs(shown: np.ndarray, there: np.ndarray) -> list[tuple[int, int]]:
    """Objects paired with boxes that overlap them by at least half, of any class, each once, largest overlap first."""
    shared = overlaps(there[:, 1:5], shown[:, 1:5])
    pairs: list[tuple[int, int]] = []
    while shared.size and shared.max() >= HALF:
        row, column = (int(one) for one in np.unravel_index(shared.argmax(), shared.shape))
        pairs.append((row, column))
        shared[row], shared[:, column] = 0, 0
    return pairs


def _outlined(data: Data, index: int, boxes: Tensor) -> str:
    """The image with boxes (M, 6), whose last column marks a crowd, or is a score, of which low ones are not drawn."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(_pixels(data, index).permute(1, 2, 0).numpy()))
    is_found = len(boxes) and boxes[:, 0].max() >= 0 and bool(((boxes[:, 5] > 0) & (boxes[:, 5] < 1)).any())
    rows = [row for row in boxes.tolist() if row[0] >= 0 and (not is_found or row[5] >= SHOWN_SCORE)]
    things = [{"label": data.classes[int(row[0])], "box": row[1:5]} for row in rows]
    with_boxes(picture, things, data.classes)
    return png_of(torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1))
