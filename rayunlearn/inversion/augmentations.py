"""Random variation of images that are learned from, each image by a draw of its own."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CELLS = 3
"""Of a mask, in each direction: the parts that it cuts are large and few."""


def moved(images: Tensor, pixels: int, moves: Tensor, *, background: float | None = None) -> Tensor:
    """Images `[N, C, H, W]`, each moved by up to so many pixels in each direction.

    Args:
        images: what comes in at an edge is `background`, or where that is None the image's own reflection.
        pixels: at least 1; without a background below H and W.
        moves: int64 `[2, N]`, down and across, each in 0 to 2 * pixels; `pixels` leaves an image where it is.
        background: a pixel's value.

    >>> moved(torch.arange(3.0).view(1, 1, 1, 3), 1, torch.tensor([[1], [2]]), background=9.0).tolist()
    [[[[1.0, 2.0, 9.0]]]]
    """
    mode = "reflect" if background is None else "constant"
    padded = F.pad(images, (pixels,) * 4, mode=mode, value=background)
    height, width = images.shape[-2:]
    moves = moves.to(images.device)
    down = torch.arange(height, device=images.device) + moves[0][:, None]
    across = torch.arange(width, device=images.device) + moves[1][:, None]
    which = torch.arange(len(images), device=images.device)[:, None, None]
    # the channels come last where indices are on both sides of them
    return padded[which, :, down[:, :, None], across[:, None, :]].movedim(-1, 1)


def turned(
    images: Tensor, rotation: float, scaling: float, shift: float, draws: torch.Generator
) -> Tensor:
    """Images `[N, C, H, W]`, each turned, scaled and moved by a draw of its own.

    Args:
        images: what comes in at an edge is the edge's own pixel.
        rotation: by up to so many degrees, to either side.
        scaling: by up to this share, larger or smaller.
        shift: by up to this share of the image's size, in each direction.
        draws: uniform, four for each image.
    """
    turn, scale, across, down = 2 * torch.rand((4, len(images)), generator=draws) - 1
    angle, zoom = turn * math.radians(rotation), 1 + scale * scaling
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    # positions run from -1 to 1 along an image, which is twice its size
    flat = images.shape[-2] / images.shape[-1]  # height by width: a step down is as long as one across
    rows = [cosine, -sine * flat, 2 * shift * across, sine / flat, cosine, 2 * shift * down]
    moves = torch.stack(rows, dim=1).view(-1, 2, 3).to(images)
    grid = F.affine_grid(moves, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def cut_together(images: Tensor, others: Tensor, draws: torch.Generator) -> Tensor:
    """Images `[N, C, H, W]`, each cut together with another one along a smooth random mask.

    Two halves in the mean. After CutMix (Yun et al. 2019, arXiv 1905.04899), whose masks are rectangles.
    """
    cells = torch.randn((len(images), 1, CELLS, CELLS), generator=draws)
    mask = F.interpolate(cells, size=images.shape[-2:], mode="bilinear") > 0
    return torch.where(mask.to(images.device), images, others)
