"""Random crops of a few given photographs, or of a user's own unlabelled public images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.fields import Checked, Degrees, PositiveShare, Share
from rayunlearn.surrogates.colours import LUMA, as_channels
from rayunlearn.surrogates.draws import Draws, as_indices
from rayunlearn.surrogates.exact import cosine, log_uniform, power_of_two, sine
from rayunlearn.surrogates.procedural import check_shape

_LEVELS = 12
"""Halvings of a photograph, at most: more than 4,000 pixels become one."""


@dataclass(frozen=True, kw_only=True)
class CropSettings(Checked, section="crops"):
    """How crops vary."""

    area_low: PositiveShare = 0.01
    """A crop's share of the photograph's area, from this to `area_high`, equally many in each octave."""
    area_high: PositiveShare = 1.0
    proportion: Annotated[float, Ge(1), Le(4)] = 1.33
    """A crop is up to so many times wider or higher than pictures are."""
    rotation: Degrees = 30.0
    """Up to so many degrees, to either side."""
    flips: Share = 0.5
    """Share of crops that are mirrored, left for right."""
    brightness: Share = 0.2
    """Pixels are brighter or darker by up to this."""
    contrast: Share = 0.4
    """Differences grow or shrink by up to this share."""
    saturation: Share = 0.5
    """Colours grow or shrink by up to this share."""
    hue: Share = 0.1
    """Each channel grows or shrinks by up to this share."""

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        if self.area_high < self.area_low:
            allowed = f"a share from crops.area_low, {self.area_low}, to 1"
            raise BadInput("crops.area_high", self.area_high, allowed)


def _checked(photographs: Sequence[Tensor]) -> None:
    if not len(photographs):
        raise BadInput("photographs", len(photographs), "at least one")
    for number, photograph in enumerate(photographs):
        thing = f"photographs[{number}]"
        if photograph.ndim != 3 or photograph.shape[0] not in (1, 3) or 0 in photograph.shape:
            raise BadInput(thing, tuple(photograph.shape), "(C, H, W) of one channel or three")
        if photograph.dtype != torch.float32:
            raise BadInput(thing, photograph.dtype, "float32 pixels from 0 to 1")
        low, high = float(photograph.min()), float(photograph.max())
        if not 0 <= low <= high <= 1:
            raise BadInput(thing, (low, high), "pixels from 0 to 1")


def crops(
    photographs: Sequence[Tensor],
    indices: int | Sequence[int] | Tensor,
    *,
    shape: Sequence[int],
    seed: int,
    settings: CropSettings | None = None,
) -> Tensor:
    """Crops float32 `[N, C, H, W]` of pixels from 0 to 1, each a function of photographs, seed and number.

    Asano and Saeed 2023, "Extrapolating from a single image to a thousand classes using distillation".

    Args:
        photographs: each `[1 or 3, h, w]` of float32 pixels from 0 to 1, of any size, on one device.
        indices: numbers of crops, or how many of them from 0 on.
        shape: C, H, W.
        seed: the run's.
        settings: how crops vary.

    Raises:
        BadInput: numbers below 0, a shape out of range, no photograph, or one that is not as above.
    """
    channels, height, width = check_shape(shape)
    settings = settings or CropSettings()
    _checked(photographs)
    device = photographs[0].device
    numbers = as_indices(indices).to(device)
    draws = Draws.of(seed, "crops", numbers)
    source = draws.whole("photograph", below=len(photographs))
    pictures = torch.empty(len(numbers), channels, height, width, device=device)
    order = source.argsort(stable=True)
    counts = torch.bincount(source, minlength=len(photographs)).tolist()
    for photograph, mine in zip(photographs, order.split(counts), strict=True):
        if len(mine):
            cut = _cut(photograph, draws[mine], (height, width), settings)
            pictures[mine] = as_channels(_jittered(cut, draws[mine], settings), channels, draws[mine])
    return pictures


def _cut(photograph: Tensor, draws: Draws, size: tuple[int, int], settings: CropSettings) -> Tensor:
    """Crops `[N, C, H, W]` of one photograph `[C, h, w]`.

    Each is cut from the photograph halved so often that a pixel of the crop is about one of its pixels.
    """
    (high, wide), (height, width), device = photograph.shape[1:], size, photograph.device
    area = log_uniform(draws.uniform("area"), settings.area_low, settings.area_high) * (high * wide)
    # half sides of the crop, in the photograph's pixels, of at most the photograph's
    unit = (area / (height * width)).sqrt()
    stretch = math.log2(settings.proportion) / 2
    wider = power_of_two(draws.uniform("proportion", low=-stretch, high=stretch))
    half_x = (unit * wider * (width / 2)).clamp(max=wide / 2)
    half_y = (unit / wider * (height / 2)).clamp(max=high / 2)
    turn = draws.uniform("rotation", low=-1.0) * (settings.rotation / 360)
    mid_x = draws.uniform("across", low=-1.0) * (wide / 2 - half_x)
    mid_y = draws.uniform("down", low=-1.0) * (high / 2 - half_y)
    flip = torch.where(draws.chance("flip", share=settings.flips), -1.0, 1.0)

    across = ((torch.arange(width, device=device) + 0.5) * 2 / width - 1)[None, None, :]
    down = ((torch.arange(height, device=device) + 0.5) * 2 / height - 1)[None, :, None]
    right = across * (half_x * flip)[:, None, None]
    below = down * half_y[:, None, None]
    along, beside = cosine(turn)[:, None, None], sine(turn)[:, None, None]
    x = (right * along - below * beside + mid_x[:, None, None]) * (2 / wide)
    y = (right * beside + below * along + mid_y[:, None, None]) * (2 / high)
    grid = torch.stack([x, y], dim=-1)

    step = torch.maximum(half_x * 2 / width, half_y * 2 / height)
    level = torch.zeros_like(step, dtype=torch.int64)
    for halving in range(1, _LEVELS):
        level += (step > 2.0 ** (halving - 0.5)) & (min(high, wide) >> halving >= 1)
    cut = torch.empty(len(draws), photograph.shape[0], height, width, device=device)
    halved = photograph[None]
    for halving in range(int(level.max()) + 1):
        if halving:
            halved = F.avg_pool2d(halved, 2)
        which = (level == halving).nonzero()[:, 0]
        if len(which):
            # what a turned crop finds beyond the photograph is its reflection
            source = halved.expand(len(which), -1, -1, -1)
            cut[which] = F.grid_sample(source, grid[which], padding_mode="reflection", align_corners=False)
    return cut


def _jittered(pictures: Tensor, draws: Draws, settings: CropSettings) -> Tensor:
    """Pictures `[N, C, H, W]` with brightness, contrast and colours of a draw each."""

    def column(what: str, most: float, count: int = 1) -> Tensor:
        return draws.uniform(what, count, 1, 1, low=-most, high=most)

    darkest, brightest = pictures.amin((1, 2, 3), keepdim=True), pictures.amax((1, 2, 3), keepdim=True)
    middle = (darkest + brightest) / 2
    pictures = (pictures - middle) * (column("contrast", settings.contrast) + 1) + middle
    if pictures.shape[1] == 3:
        red, green, blue = pictures.split(1, dim=1)
        grey = red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]
        pictures = (pictures - grey) * (column("saturation", settings.saturation) + 1) + grey
        pictures = pictures * (column("hue", settings.hue, 3) + 1)
    return (pictures + column("brightness", settings.brightness)).clamp_(0, 1)
