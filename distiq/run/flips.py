"""The test images whose right prediction was lost with quantization, for the report."""

import base64
import io

import torch
from torch import Tensor

from distiq.data.images import Images
from distiq.data.splits import Data
from distiq.records.quality import FlipRecord
from distiq.tasks.choose import task_of

WORST_FLIPS = 12


def worst_flips(data: Data, before: Tensor, after: Tensor) -> tuple[FlipRecord, ...]:
    """The lost images, beginning with those of which the float network was most certain.

    Args:
        before, after: logits of the test set (N, classes), float and quantized.
    """
    if not isinstance(data.preprocessing, Images) or task_of(data).decoding != "softmax":
        return ()
    labels = data.test.labels
    probabilities = torch.softmax(before, 1)
    lost = (before.argmax(1) == labels) & (after.argmax(1) != labels)
    order = sorted(lost.nonzero().flatten().tolist(), key=lambda index: -float(probabilities[index].max()))
    return tuple(
        FlipRecord(
            index=index,
            label=int(labels[index]),
            before=int(before[index].argmax()),
            after=int(after[index].argmax()),
            confidence_before=float(probabilities[index].max()),
            image_png=png_of(data.test.fetch(torch.tensor([index]))[0]),
        )
        for index in order[:WORST_FLIPS]
    )


def png_of(image: Tensor) -> str:
    """A (C, H, W) image as base64 PNG; float images are stretched to 0..255."""
    from PIL import Image

    if image.dtype != torch.uint8:
        low, high = image.min(), image.max()
        image = ((image - low) / (high - low + 1e-12) * 255).byte()
    array = image[0].numpy() if image.shape[0] != 3 else image.permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
