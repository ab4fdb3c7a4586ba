"""A light encoder-decoder for segmentation, of operations that integer kernels have."""

from collections.abc import Sequence

from torch import Tensor, nn

from distiq.models.pyramid import Pyramid, draw, make_encoder, separable


class Segmenter(nn.Module):
    """A pyramid, and on its finest map a layer that gives every pixel its classes.

    The last layer predicts the stride x stride pixels of a position at once, which are then put in their places
    (Shi et al. 2016, arXiv:1609.05158): that moves values, where bilinear enlargement would compute in float32.

    Args:
        classes: number of classes.
        channels: channels of the image.
        encoder: "mobilenet", "resnet" or "efficientnet_lite0"; published weights fit the last one.
        stem, stages, blocks: of the encoder; 0 and empty take its own. See `pyramid.make_encoder`.
        width: channels of the decoder.
        stride: of the finest map that is decoded.
        depth: layers behind that map.

    Shapes: (B, channels, H, W) -> (B, classes, H, W) logits.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        encoder: str = "mobilenet",
        stem: int = 0,
        stages: Sequence[Sequence[int]] = (),
        blocks: int = 0,
        width: int = 32,
        stride: int = 4,
        depth: int = 1,
    ) -> None:
        super().__init__()
        self.pyramid = Pyramid(make_encoder(encoder, channels, stem, stages, blocks), width, stride)
        self.head = nn.Sequential(*(separable(width, width, 5) for _ in range(depth)))
        self.pixels = nn.Conv2d(width, classes * stride**2, 1)
        self.stride = stride
        draw(self.head)
        nn.init.zeros_(self.pixels.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        finest = self.pyramid(images)[self.stride]
        return pixels_of(self.pixels(self.head(finest)), self.stride)[:, :, :height, :width]

    @property
    def new_parts(self) -> tuple[str, ...]:
        """What weights of the encoder alone leave as it was drawn."""
        return *(f"pyramid.{part}" for part in self.pyramid.new_parts), "head.", "pixels."

    def published_names(self) -> dict[str, str]:
        """Of the encoder, where it has published weights."""
        names = self.pyramid.published_names()
        return {published: f"pyramid.{name}" if name else "" for published, name in names.items()}


def pixels_of(maps: Tensor, stride: int) -> Tensor:
    """Puts the stride x stride pixels of each position in their places.

    As `pixel_shuffle`, but channels are ordered by row, column, class: what lies side by side in memory, with channels
    last, is moved as one piece, which is twice as fast.

    Shapes: (B, stride * stride * classes, H, W) -> (B, classes, stride * H, stride * W).
    """
    batch, channels, height, width = maps.shape
    rows = maps.permute(0, 2, 3, 1).reshape(batch, height, width, stride, channels // stride)
    pixels = rows.transpose(2, 3).reshape(batch, height * stride, width * stride, channels // stride**2)
    return pixels.permute(0, 3, 1, 2)
