"""Raw pixels and labels: what every reader of files gives."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Part(NamedTuple):
    """The training or the test part of a dataset, in the publisher's order.

    Attributes:
        pixels: `[N, C, H, W]` uint8; need not be contiguous.
        labels: `[N]` int64.
    """

    pixels: Tensor
    labels: Tensor


Parts = tuple[Part, Part | None]
"""Training part, and test part where there is one."""


def channel_statistics(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation of pixel / 255, per channel.

    Made from whole-number sums, so that they are the same on every machine and at any number of threads.

    Args:
        pixels: `[N, C, H, W]` uint8, not empty.

    >>> channel_statistics(torch.tensor([[0, 51], [255, 51]], dtype=torch.uint8).view(2, 2, 1, 1))
    ((0.5, 0.2), (0.5, 0.0))
    """
    means, deviations = [], []
    for channel in pixels.unbind(1):
        counts = torch.bincount(channel.flatten(), minlength=256).tolist()
        count = sum(counts)
        total = sum(level * n for level, n in enumerate(counts))
        squares = sum(level * level * n for level, n in enumerate(counts))
        means.append(total / (255 * count))
        deviations.append(math.sqrt(count * squares - total * total) / (255 * count))
    return tuple(means), tuple(deviations)
