"""Replayable augmentation: a view is a pure function of (seed, view number, sample index).

Random numbers come from a counter-based generator, so a sample's view is the same in any order, in any batch, on any
worker, process or device, and a teacher's stored output for it is exactly its output.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from distiq.data.audio import Audio
from distiq.data.images import Images
from distiq.data.labels import BOXES, MASK, SYMBOLS, LabelForm, form_of
from distiq.data.placed import placed_views
from distiq.data.preprocessing import Preprocessing
from distiq.data.samples import Split
from distiq.data.text import Text, Words
from distiq.data.voices import CURVES, revoiced
from distiq.data.waveforms import hushed, louder, moved, sounding, with_noise
from distiq.errors import UserError
from distiq.recipe.data import ViewSettings
from distiq.records.record import NOUNS

FLIP_DRAW = 24  # the number of the draw that mirrors an image from top to bottom

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10: four random 32-bit words for every counter.

    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3. Words are held in int64.

    Args:
        counter: four int64 tensors of one shape, words of 0..2^32-1. key: two such words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The product wraps in int64; its 64 bits are right, and the mask makes the shift a logical one.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _WORD) ^ c1 ^ k0, p1 & _WORD, ((p0 >> 32) & _WORD) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def uniform(seed: int, number: int, indices: Tensor, draws: int) -> Tensor:
    """Numbers in [0, 1), (len(indices), draws) float32: each depends on seed, view number, sample index and draw."""
    indices = indices.long()
    zero = torch.zeros_like(indices)
    words: list[Tensor] = []
    for block in range((draws + 3) // 4):
        words += philox((indices, zero + number, zero + block, zero), (seed & _WORD, seed >> 32))
    # 24 bits fill the mantissa of a float32; more could round up to 1.
    return torch.stack(words[:draws], 1).div(256, rounding_mode="floor").float() / 2**24


def white_noise(seed: int, number: int, indices: Tensor, length: int) -> Tensor:
    """Noise of mean 0 and power 1, (len(indices), length) float32, from counters that `uniform` never uses.

    Its values are uniform, its spectrum is flat. Each 32-bit word gives two values.
    """
    indices = indices.long().unsqueeze(1)
    blocks = torch.arange((length + 7) // 8, device=indices.device).expand(len(indices), -1)
    zero = torch.zeros_like(blocks)
    words = torch.cat(philox((zero + indices, zero + number, blocks, zero + 1), (seed & _WORD, seed >> 32)), 1)
    halves = torch.cat([words & 0xFFFF, words >> 16], 1)[:, :length]
    return ((halves.float() + 0.5) / 2**16 - 0.5) * 12**0.5


class Shown(NamedTuple):
    """Samples as they are shown: inputs (B, ...), labels (B,) and, where views mix, what they are mixed with.

    partners: labels (B,) of the other samples. shares: (B,) float32, how much of the own image is left; 1 is all.
    """

    inputs: Tensor
    labels: Tensor
    partners: Tensor | None = None
    shares: Tensor | None = None


def check_views(
    settings: ViewSettings,
    preprocessing: Preprocessing,
    words: Words | None,
    form: LabelForm | None = None,
    key: str = "views",
) -> None:
    """Raises UserError if samples cannot be shown as the settings say.

    Args:
        form: of their labels. key: what names the settings in a recipe.
    """
    is_placed = form is MASK or form is BOXES
    if not is_placed and (settings.scale or settings.mosaic):
        raise UserError(f"{key}.scale and {key}.mosaic are for images with masks or boxes; set both to 0")
    if form is not BOXES and settings.min_visibility != ViewSettings().min_visibility:
        raise UserError(f"{key}.min_visibility is for images with boxes; leave it out")
    if is_placed and (settings.mixup or settings.cutmix or settings.erase):
        raise UserError(
            f"{key}.mixup, {key}.cutmix and {key}.erase change what masks and boxes do not say; set all three to 0"
        )
    if not isinstance(preprocessing, Images) and (settings.mixup or settings.cutmix):
        noun = NOUNS[preprocessing.modality]
        raise UserError(f"{key}.mixup and {key}.cutmix blend images, but the data are {noun}; set both to 0")
    if words is not None and settings.text.mask and words.mask is None:
        raise UserError(f"{key}.text.mask: the tokenizer has no mask token [MASK] or <mask>; set it to 0")


@dataclass(frozen=True)
class Views:
    """Makes views of samples by the given settings and seed."""

    settings: ViewSettings
    seed: int

    def number(self, epoch: int) -> int:
        """The view shown in an epoch (from 0)."""
        return epoch % self.settings.distinct if self.settings.distinct else epoch

    def shown(
        self, split: Split, preprocessing: Preprocessing, number: int, indices: Tensor, words: Words | None = None
    ) -> Shown:
        """View `number` of samples `indices` (B,) of a split, mixed with their partners where the settings say so.

        Texts stay as they are without `words`.
        """
        samples, labels = split.fetch(indices), split.labels[indices]
        match preprocessing:
            case Text() if words is not None:
                return Shown(self.read(samples, number, indices, words), labels)
            case Audio():
                whole = form_of(labels) is SYMBOLS
                return Shown(self.heard(samples, number, indices, preprocessing.rate, whole), labels)
            case Images() if form_of(labels) in (MASK, BOXES):
                placed = placed_views(split, indices, self.settings, partial(uniform, self.seed, number))
                return Shown(self.recoloured(placed.images, number, indices), placed.labels)
            case Images():
                return self._mixed(split, self.view(samples, number, indices), number, indices)
        return Shown(samples, labels)

    def _mixed(self, split: Split, images: Tensor, number: int, indices: Tensor) -> Shown:
        """Views of images (B, C, H, W), blended with their partners where the settings say so.

        The partner is a view of another sample, drawn from the whole split: also a function of seed, number and index.
        """
        settings, labels = self.settings, split.labels[indices]
        if not (settings.mixup or settings.cutmix):
            return Shown(images, labels)
        draws = uniform(self.seed, number, indices, 18)[:, 12:]
        partners = (indices + 1 + (draws[:, 0] * (len(split) - 1)).long()) % len(split)
        others = self.view(split.fetch(partners), number, partners)
        mixed, shares = _mix(images, others, settings, draws[:, 1:])
        return Shown(mixed, labels, split.labels[partners], shares)

    def view(self, images: Tensor, number: int, indices: Tensor) -> Tensor:
        """View `number` of samples `indices`, whose images are given.

        Shapes: (B, C, H, W), (B,) -> (B, C, H, W), of the images' type.
        """
        settings = self.settings
        batch, _, height, width = images.shape
        draws = uniform(self.seed, number, indices.to(images.device), 12)
        if settings.crop < 1:
            images = _crop(images, settings.crop, draws[:, 8:12])
        rows = torch.arange(height, device=images.device).expand(batch, height)
        columns = torch.arange(width, device=images.device).expand(batch, width)
        if settings.shift:
            moves = (draws[:, :2] * (2 * settings.shift + 1)).long() - settings.shift
            rows, columns = rows + moves[:, :1], columns + moves[:, 1:]
        if settings.flip:
            columns = torch.where(draws[:, 2:3] < 0.5, columns.flip(1), columns)
        if settings.flip_vertical:
            upset = uniform(self.seed, number, indices.to(images.device), FLIP_DRAW + 1)[:, FLIP_DRAW:]
            rows = torch.where(upset < 0.5, rows.flip(1), rows)
        if settings.shift or settings.flip or settings.flip_vertical:
            images = _gather(images, rows, columns)
        if settings.erase:
            images = _erase(images, settings.erase, draws[:, 3:8])
        return self.recoloured(images, number, indices)

    def recoloured(self, images: Tensor, number: int, indices: Tensor) -> Tensor:
        """Views of images (B, C, H, W), darker or lighter, of more or less contrast."""
        if not self.settings.colour:
            return images
        draws = 1 + self.settings.colour * (2 * uniform(self.seed, number, indices, 22)[:, 20:] - 1)
        light, contrast = draws.view(-1, 2, 1, 1, 1).unbind(1)
        middle = images.float().mean((1, 2, 3), keepdim=True)
        changed = ((images.float() - middle) * contrast + middle) * light
        return changed.round().clamp(0, 255).to(images.dtype) if images.dtype == torch.uint8 else changed

    def read(self, tokens: Tensor, number: int, indices: Tensor, words: Words) -> Tensor:
        """View `number` of samples `indices`, whose texts are given.

        Every token but the special ones is masked or replaced by itself, as TinyBERT augments (Jiao et al. 2020,
        arXiv:1909.10351, algorithm 1) without its language model: a replacement is drawn as often as it occurs.

        Shapes: (B, L), (B,) -> (B, L).

        Raises:
            UserError: tokens are to be masked, but the tokenizer has no mask token.
        """
        settings, length = self.settings.text, tokens.shape[1]
        if not (settings.mask or settings.replace):
            return tokens
        if settings.mask and words.mask is None:
            raise UserError("views.text.mask: the tokenizer has no mask token [MASK] or <mask>; set it to 0")
        chance, drawn = uniform(self.seed, number, indices, 2 * length).split(length, 1)
        free = ~torch.isin(tokens, words.special)
        if settings.mask:
            tokens = tokens.masked_fill(free & (chance < settings.mask), words.mask or 0)
        replaced = free & (chance >= settings.mask) & (chance < settings.mask + settings.replace)
        return torch.where(replaced, words.pool[(drawn * len(words.pool)).long()], tokens)

    def heard(self, clips: Tensor, number: int, indices: Tensor, rate: int, whole: bool = False) -> Tensor:
        """View `number` of samples `indices`, whose clips are given.

        Args:
            rate: samples per second.
            whole: no sound leaves the window, since a text says what is in it.

        Shapes: (B, T), (B,) -> (B, T), of the clips' type.
        """
        settings, window = self.settings.audio, clips.shape[1]
        indices = indices.to(clips.device)
        draws = uniform(self.seed, number, indices, 16)
        both_ways = 2 * draws - 1
        waves = clips.float()
        begin, end = sounding(waves) if whole else (torch.full_like(draws[:, 0], (window - 1) / 2), None)
        if settings.stretch or settings.voice or settings.curve_db:
            tempo, pitch = 1 + both_ways[:, 8] * settings.stretch, 1 + both_ways[:, 9] * settings.voice
            if end is not None:
                tempo = torch.maximum(tempo, (end - begin) / (window - begin))
                end = begin + (end - begin) / tempo
            curve = both_ways[:, 10 : 10 + CURVES] * (settings.curve_db / CURVES)
            waves = revoiced(waves, rate, tempo, pitch, curve, begin)
        if settings.shift or settings.speed:
            shift, speed = (both_ways[:, 0] * settings.shift * window).round(), 1 + both_ways[:, 1] * settings.speed
            if end is not None:
                speed = torch.maximum(speed, (end - begin) / window)
                shift = shift.clamp(-begin, (window - begin - (end - begin) / speed).floor())
            waves = moved(waves, shift, speed, begin)
        low, high = settings.gains_db
        if low or high:
            waves = louder(waves, (low + high) / 2 + both_ways[:, 2] * ((high - low) / 2))
        if settings.mask:
            length = (draws[:, 3] * settings.mask * window).round()
            waves = hushed(waves, (draws[:, 4] * (window - length)).round(), length)
        if settings.noise:
            low, high = settings.snr_db
            noise = white_noise(self.seed, number, indices, window)
            waves = with_noise(waves, noise, low + draws[:, 6] * (high - low), draws[:, 5] < settings.noise)
        if clips.dtype == torch.int16:
            waves = waves.round().clamp(-32768, 32767)
        return waves.to(clips.dtype)


def _gather(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """images[b, :, rows[b, i], columns[b, j]], zero outside. Rows (B, H), columns (B, W)."""
    batch, channels, height, width = images.shape
    inside = ((rows >= 0) & (rows < height)).unsqueeze(2) & ((columns >= 0) & (columns < width)).unsqueeze(1)
    flat = rows.clamp(0, height - 1).unsqueeze(2) * width + columns.clamp(0, width - 1).unsqueeze(1)
    flat = flat.view(batch, 1, -1).expand(batch, channels, -1)
    moved = images.reshape(batch, channels, -1).gather(2, flat).view(batch, channels, rows.shape[1], columns.shape[1])
    return moved * inside.unsqueeze(1).to(images.dtype)


def _crop(images: Tensor, smallest: float, draws: Tensor) -> Tensor:
    """A random rectangle of `smallest`..1 of the area, aspect ratio 3/4..4/3, resized bilinearly to the full size."""
    _, _, height, width = images.shape
    area = smallest + (1 - smallest) * draws[:, 0]
    aspect = torch.exp((draws[:, 1] * 2 - 1) * torch.log(torch.tensor(4 / 3)))
    tall = (area / aspect).sqrt().clamp(max=1)
    wide = (area * aspect).sqrt().clamp(max=1)
    rows = _positions(height, tall, draws[:, 2])
    columns = _positions(width, wide, draws[:, 3])
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top).unsqueeze(1).unsqueeze(3), (columns - left).unsqueeze(1).unsqueeze(2)
    top, left = top.long(), left.long()
    below, beside = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    floats = images.float()
    upper = _gather(floats, top, left) * (1 - right) + _gather(floats, top, beside) * right
    lower = _gather(floats, below, left) * (1 - right) + _gather(floats, below, beside) * right
    blended = upper * (1 - down) + lower * down
    return blended.round().to(images.dtype) if images.dtype == torch.uint8 else blended


def _positions(size: int, share: Tensor, offset: Tensor) -> Tensor:
    """Source coordinates (B, size) of a window of `share` of the side that begins at `offset` of what is left."""
    steps = (torch.arange(size, device=share.device) + 0.5) / size
    start = offset * (1 - share)
    return ((start.unsqueeze(1) + steps * share.unsqueeze(1)) * size - 0.5).clamp(0, size - 1)


def _erase(images: Tensor, probability: float, draws: Tensor) -> Tensor:
    """Zeroes a rectangle of a quarter to half of each side, in `probability` of the images (Zhong et al. 2020)."""
    batch, _, height, width = images.shape
    chosen = draws[:, 0] < probability
    keep = torch.ones(batch, 1, height, width, dtype=torch.bool, device=images.device)
    spans = []
    for size, length_draw, offset_draw in ((height, draws[:, 1], draws[:, 2]), (width, draws[:, 3], draws[:, 4])):
        length = ((0.25 + 0.25 * length_draw) * size).long().clamp(min=1)
        start = (offset_draw * (size - length + 1)).long()
        position = torch.arange(size, device=images.device).expand(batch, size)
        spans.append((position >= start.unsqueeze(1)) & (position < (start + length).unsqueeze(1)))
    inside = spans[0].unsqueeze(2) & spans[1].unsqueeze(1) & chosen.view(-1, 1, 1)
    keep &= ~inside.unsqueeze(1)
    return images * keep.to(images.dtype)


def _mix(images: Tensor, others: Tensor, settings: ViewSettings, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Blends or patches images with others (B, C, H, W); returns them and the share (B,) that is left of the own.

    mixup (Zhang et al. 2018, arXiv:1710.09412) and cutmix (Yun et al. 2019, arXiv:1905.04899), with shares drawn
    uniformly (Beta(1, 1)), as function matching wants it (Beyer et al. 2022, arXiv:2106.05237).
    """
    height, width = images.shape[2:]
    blended = draws[:, 0] < settings.mixup
    patched = ~blended & (draws[:, 0] < settings.mixup + settings.cutmix)
    shares = torch.where(blended, draws[:, 1], torch.ones_like(draws[:, 1]))
    factor = shares.view(-1, 1, 1, 1)
    mixed = images.float() * factor + others.float() * (1 - factor)
    side = (1 - draws[:, 1]).sqrt()
    rows = _span(height, side, draws[:, 2])
    columns = _span(width, side, draws[:, 3])
    inside = rows.unsqueeze(2) & columns.unsqueeze(1) & patched.view(-1, 1, 1)
    mixed = torch.where(inside.unsqueeze(1), others.float(), mixed)
    shares = shares - inside.flatten(1).float().mean(1)
    return (mixed.round() if images.dtype == torch.uint8 else mixed).to(images.dtype), shares


def _span(size: int, share: Tensor, offset: Tensor) -> Tensor:
    """(B, size): true on a stretch of `share` of the size that begins at `offset` of what is left."""
    length = (share * size).round().long()
    start = (offset * (size - length + 1)).long().unsqueeze(1)
    position = torch.arange(size, device=share.device)
    return (position >= start) & (position < start + length.unsqueeze(1))
