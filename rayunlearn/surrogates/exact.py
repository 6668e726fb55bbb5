"""Functions that are made of single operations, each of which IEEE 754 rounds in one way.

torch's own sine and power may round otherwise in the middle of a tensor than at its end, and on other
machines. A picture drawn with those would depend on where in a batch it stands. For the same reason nothing
that runs over a batch of pictures sums over pixels, multiplies matrices or uses fused operations (`lerp`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LEAST, _MOST = -100, 100
_SERIES = tuple(math.log(2) ** n / math.factorial(n) for n in range(8))
"""Of 2**x, which for x from -0.5 to 0.5 is exact to a part in a hundred million."""


def sine(turns: Tensor) -> Tensor:
    """sin(2 pi turns) to 0.0011: a parabola for each half of the wave, and one more of the parabola.

    >>> sine(torch.tensor([0.25, 0.75, 1.25])).tolist()
    [1.0, -1.0, 1.0]
    """
    place = turns - turns.floor() - 0.5
    wave = place * (16 * place.abs() - 8)
    return wave * (wave.abs() * 0.225 + 0.775)


def cosine(turns: Tensor) -> Tensor:
    """cos(2 pi turns) to 0.0011."""
    return sine(turns + 0.25)


def power_of_two(exponents: Tensor) -> Tensor:
    """2 to the power of float32 exponents from -100 to 100, to one part in a million.

    >>> power_of_two(torch.tensor([-3.0, 0.0, 5.0])).tolist()
    [0.125, 1.0, 32.0]
    """
    whole = exponents.round()
    table = torch.tensor([2.0**n for n in range(_LEAST, _MOST + 1)], device=exponents.device)
    rest, value = exponents - whole, torch.full_like(exponents, _SERIES[-1])
    for coefficient in reversed(_SERIES[:-1]):
        value = value * rest + coefficient
    return table[whole.to(torch.int64) - _LEAST] * value


def log_uniform(numbers: Tensor, low: float, high: float) -> Tensor:
    """Numbers from 0 to 1 as numbers from `low` to `high`, both above 0: equally many in each octave."""
    first, last = math.log2(low), math.log2(high)
    return power_of_two(numbers * (last - first) + first)


def stretched(pictures: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Pictures `[N, C, H, W]`, the darkest pixel of each at `low` and the brightest at `high`, both `[N]`.

    A picture of one value becomes `low`.
    """
    flat = pictures.flatten(1)
    darkest, brightest = flat.amin(1), flat.amax(1)
    gain = (high - low) / (brightest - darkest).clamp(min=1e-6)
    spread = (pictures - darkest[:, None, None, None]) * gain[:, None, None, None]
    return (spread + low[:, None, None, None]).clamp_(0, 1)
