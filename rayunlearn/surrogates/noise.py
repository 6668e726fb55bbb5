"""Coloured noise with a power-law spectrum, as a picture and as a texture."""

from __future__ import annotations

import torch
from torch import Tensor

from rayunlearn.surrogates.draws import Draws
from rayunlearn.surrogates.exact import cosine, sine

ORIENTED = 0.3
"""Share of fields that are drawn out in one direction, as grain, waves and skies are."""


def power_law(draws: Draws, what: str, exponents: Tensor, size: tuple[int, int]) -> Tensor:
    """Fields of noise `[N, F, H, W]` of mean 0 and variance about 1, whose power falls as 1 / frequency**a.

    White noise, filtered by frequency**(-a / 2) (Baradad et al. 2021, "Learning to see by looking at noise",
    section 3.2). A field repeats beyond its edges.

    Args:
        draws: of N pictures.
        what: tells these fields from others.
        exponents: a, `[N, F]`.
        size: H, W.
    """
    draws = draws.apart(what)
    fields, (height, width) = exponents.shape[1], size
    device = exponents.device
    white = draws.uniform("white", fields, height, width, low=-1.0)
    turn = draws.uniform("orientation", fields, 1, 1)
    stretch = draws.uniform("stretch", fields, 1, 1, low=1.0, high=5.0)
    stretch = torch.where(draws.chance("oriented", fields, 1, 1, share=ORIENTED), stretch, 1.0)
    down = torch.fft.fftfreq(height, device=device)[:, None]
    across = torch.fft.rfftfreq(width, device=device)
    along, beside = cosine(turn), sine(turn)
    frequency = ((along * across + beside * down) * stretch).square()
    frequency += (along * down - beside * across).square()
    noise = torch.empty_like(white)
    # one after another and each from its own memory: a transform of many may round otherwise than one of one
    for field, source, squared, exponent in zip(noise, white, frequency, exponents, strict=True):
        gain = squared.pow(-exponent[:, None, None] / 4)
        gain[:, 0, 0] = 0
        filtered = torch.fft.irfft2(torch.fft.rfft2(source.clone()) * gain, s=size)
        field.copy_(filtered / filtered.flatten(1).std(dim=1).clamp(min=1e-6)[:, None, None])
    return noise


def coloured_noise(
    draws: Draws, planes: int, size: tuple[int, int], exponents: tuple[float, float]
) -> Tensor:
    """Pictures `[N, planes, H, W]` of noise alone; a picture's exponent is drawn from `exponents`.

    Its colours are mixed by a random matrix: brightness takes the most. Baradad et al. 2021, section 3.2.
    """
    low, high = exponents
    exponent = draws.uniform("exponent", 1, low=low, high=high)
    fields = power_law(draws, "noise", exponent.expand(-1, planes), size)
    if planes == 3:
        matrix = draws.bell("colours", 3, 3) * draws.uniform("saturation", 1, 1) * 0.5
        matrix[:, :, 0] += 1
        rows, columns = matrix[:, :, :, None, None], fields[:, None]
        fields = rows[:, :, 0] * columns[:, :, 0] + rows[:, :, 1] * columns[:, :, 1]
        fields = fields + rows[:, :, 2] * columns[:, :, 2]
    level = draws.uniform("level", planes, 1, 1, low=0.4, high=0.6)
    return (fields * draws.uniform("contrast", 1, 1, 1, low=0.12, high=0.22) + level).clamp_(0, 1)
