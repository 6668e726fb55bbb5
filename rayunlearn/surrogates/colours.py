"""Colours of pictures: palettes, and planes of colour as channels."""

from __future__ import annotations

import torch
from torch import Tensor

from rayunlearn.surrogates.draws import Draws

LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue in what the eye takes for brightness (ITU-R BT.601)."""


def planes_for(channels: int) -> int:
    """Planes that pictures of so many channels are drawn in: grey, or red, green and blue."""
    return 1 if channels == 1 else 3


def as_channels(pictures: Tensor, channels: int, draws: Draws) -> Tensor:
    """Pictures `[N, 1 or 3, H, W]` in so many channels: grey by luma, others a picture's own mixtures."""
    planes = pictures.shape[1]
    if planes == channels:
        return pictures
    if planes == 1:
        return pictures.repeat(1, channels, 1, 1)
    if channels == 1:
        red, green, blue = pictures.split(1, dim=1)
        return red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]
    shares = draws.uniform("mixture", channels, planes) + 2.0**-30
    shares = shares / (shares[..., 0] + shares[..., 1] + shares[..., 2])[..., None]
    mixed = torch.zeros(len(pictures), channels, *pictures.shape[2:], device=pictures.device)
    for plane in range(planes):
        mixed += shares[:, :, plane, None, None] * pictures[:, plane, None]
    return mixed.clamp_(0, 1)


def palette(draws: Draws, colours: int, planes: int) -> Tensor:
    """A few colours for each picture, `[N, colours, planes]` from 0 to 1: bright and dark, of related hues.

    Brightness varies more than hue, as in photographs (Ruderman, Cronin and Chiao 1998, "Statistics of cone
    responses to natural images").
    """
    # one colour from each part of the range, in random order: no palette is without contrast
    order = draws.uniform("order", colours).argsort(dim=1, stable=True)
    brightness = (order + draws.uniform("brightness", colours)) / colours
    brightness = (brightness - 0.5) * draws.uniform("contrast", 1, low=0.6, high=1.0)
    brightness = brightness + draws.uniform("level", 1, low=0.35, high=0.65)
    if planes == 1:
        return brightness[..., None].clamp_(0, 1)
    saturation = draws.uniform("saturation", 1, 1).square() * 0.4
    variety = draws.uniform("variety", 1, 1, high=1.5)
    hue = draws.bell("hue", 1, 3) * 0.8 + draws.bell("hues", colours, 3) * variety
    hue = hue - (hue[..., 0] * LUMA[0] + hue[..., 1] * LUMA[1] + hue[..., 2] * LUMA[2])[..., None]
    return (brightness[..., None] + hue * saturation).clamp_(0, 1)


def taken(colours: Tensor, draws: Draws, what: str, count: int, variation: float = 0.06) -> Tensor:
    """`[N, count, planes]` of palettes `[N, colours, planes]`, each a little brighter or darker."""
    which = draws.whole(what, count, below=colours.shape[1])
    chosen = colours.gather(1, which[..., None].expand(-1, -1, colours.shape[2]))
    return (chosen + draws.bell(f"{what} varied", count, 1) * variation).clamp_(0, 1)
