"""Shapes and what fills them: signed distances and textures over all pixels of a batch of pictures.

Lengths are in sides of a square that has a picture's area, so that a picture's area is 1 at every size and
proportion; the origin is its middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rayunlearn.surrogates.draws import Draws
from rayunlearn.surrogates.exact import cosine, log_uniform, sine

SIDES = 5
"""Of a polygon, at most."""
NOWHERE = 9.0
"""Distance of a side that a polygon does not have."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The pixels of pictures."""

    height: int
    width: int
    device: torch.device

    @property
    def size(self) -> tuple[int, int]:
        """H, W."""
        return self.height, self.width

    @property
    def pixel(self) -> float:
        """A pixel's length."""
        return 1 / math.sqrt(self.height * self.width)

    @property
    def extent(self) -> tuple[float, float]:
        """Length of a picture across and down."""
        return self.width * self.pixel, self.height * self.pixel

    @property
    def x(self) -> Tensor:
        """Middles of pixels across, `[1, 1, W]`."""
        across = (torch.arange(self.width, device=self.device) + 0.5 - self.width / 2) * self.pixel
        return across[None, None]

    @property
    def y(self) -> Tensor:
        """Middles of pixels down, `[1, H, 1]`."""
        down = (torch.arange(self.height, device=self.device) + 0.5 - self.height / 2) * self.pixel
        return down[None, :, None]


def radii(numbers: Tensor, smallest: Tensor, largest: float) -> Tensor:
    """Radii by the law r**-3 from `smallest` to `largest`, of numbers uniform from 0 to 1.

    The one law under which pictures look alike at every scale (Lee, Mumford and Huang 2001, "Occlusion models
    for natural images", section 3): shapes of each octave of sizes cover the same area.

    >>> radii(torch.tensor([0.0, 0.8, 1.0]), torch.tensor(1.0), 4.0).tolist()
    [1.0, 2.0, 4.0]
    """
    first = 1 / smallest.square()
    return 1 / (first - numbers * (first - largest**-2)).sqrt()


# Signed distances [n, H, W] of pixels u along a shape and v across it, in float32 columns [n, 1, 1].


def ellipse(u: Tensor, v: Tensor, long: Tensor, short: Tensor, _sides: Sequence[Tensor]) -> Tensor:
    """Of an ellipse with these half axes, by its gradient: exact at the edge."""
    along, across = u / long, v / short
    far = (along.square() + across.square()).sqrt()
    slope = ((along / long).square() + (across / short).square()).sqrt().clamp_(min=1e-9)
    return (far - 1) * torch.maximum(far / slope, short)


def rectangle(u: Tensor, v: Tensor, long: Tensor, short: Tensor, _sides: Sequence[Tensor]) -> Tensor:
    """Of a rectangle with these half sides, up to its corners."""
    return torch.maximum(u.abs() - long, v.abs() - short)


def polygon(u: Tensor, v: Tensor, _long: Tensor, _short: Tensor, sides: Sequence[Tensor]) -> Tensor:
    """Of a convex polygon, up to its corners; a side is a direction (two columns) and its distance."""
    far = u * sides[0] + v * sides[1] - sides[2]
    for side in range(3, len(sides), 3):
        far = torch.maximum(far, u * sides[side] + v * sides[side + 1] - sides[side + 2])
    return far


def line(u: Tensor, v: Tensor, long: Tensor, short: Tensor, _sides: Sequence[Tensor]) -> Tensor:
    """Of a line with round ends: half its length is `long`, half its thickness a fifth of `short`."""
    beyond = (u.abs() - long).clamp_(min=0)
    return (beyond.square() + v.square()).sqrt() - short * 0.2


DISTANCES: tuple[Callable[..., Tensor], ...] = (ellipse, rectangle, polygon, line)


# What fills a shape: [n, H, W] from 0 to 1 between its two colours.


def gradient(along: Tensor, _across: Tensor, _rate: Tensor, phase: Tensor, sharp: Tensor) -> Tensor:
    """From one colour to the other, in a straight line."""
    return (along * sharp + phase).clamp_(0, 1)


def grating(along: Tensor, _across: Tensor, rate: Tensor, phase: Tensor, sharp: Tensor) -> Tensor:
    """Waves, or stripes where they are sharp."""
    return (sine(along * rate + phase) * sharp * 0.5 + 0.5).clamp_(0, 1)


def checks(along: Tensor, across: Tensor, rate: Tensor, phase: Tensor, sharp: Tensor) -> Tensor:
    """Two gratings that cross."""
    waves = sine(along * rate + phase) * sine(across * rate - phase)
    return (waves * sharp + 0.5).clamp_(0, 1)


FILLINGS: tuple[Callable[..., Tensor], ...] = (gradient, grating, checks)
FLAT, NOISE = len(FILLINGS), len(FILLINGS) + 1


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """K shapes of each of N pictures, from the back to the front."""

    kinds: Tensor
    """int64 `[N, K]`, places in `DISTANCES`."""
    geometry: Tensor
    """`[N, K, 6 + 3 * SIDES]`: middle, direction, half axes; sides."""

    @classmethod
    def drawn(cls, draws: Draws, sizes: Tensor, middles: Tensor, kinds: Tensor, thin: float = 0.35) -> Shapes:
        """Shapes of random direction and proportion.

        Args:
            draws: of N pictures.
            sizes: half the longer axis, `[N, K]`.
            middles: across and down, `[N, K, 2]`.
            kinds: places in `DISTANCES`, int64 `[N, K]`.
            thin: the least proportion of short to long.
        """
        count = sizes.shape[1]
        turn = draws.uniform("direction", count)
        # some pictures are of upright shapes, as rooms and streets are
        turn = torch.where(draws.chance("upright", 1, share=0.3), (turn * 4).floor() / 4, turn)
        short = sizes * draws.uniform("proportion", count, low=thin)
        columns = [middles, torch.stack([cosine(turn), sine(turn), sizes, short], dim=-1)]
        sides = draws.whole("sides", count, 1, below=SIDES - 2) + 3
        number = torch.arange(SIDES, device=sizes.device)
        towards = (number + draws.uniform("corners", count, SIDES, low=-0.25, high=0.25)) / sides
        far = sizes[..., None] * draws.uniform("distances", count, SIDES, low=0.45, high=0.85)
        far = torch.where(number < sides, far, NOWHERE)
        polygons = torch.stack([cosine(towards), sine(towards), far], dim=-1)
        return cls(kinds=kinds, geometry=torch.cat([*columns, polygons.flatten(2)], dim=2))

    def distances(self, step: int, x: Tensor, y: Tensor) -> Tensor:
        """Signed distances `[N, H, W]` of pixels from shape `step` of each picture, below 0 inside.

        Args:
            step: 0 to K - 1.
            x, y: of pixels, `[1 or N, 1, W]` and `[1 or N, H, 1]`.
        """
        kinds = self.kinds[:, step]
        far = torch.empty(len(kinds), y.shape[1], x.shape[2], device=x.device)
        for kind, distance in enumerate(DISTANCES):
            which = (kinds == kind).nonzero()[:, 0]
            if len(which):
                columns = self.geometry[which, step][:, :, None, None].unbind(1)
                mid_x, mid_y, along, beside, long, short, *sides = columns
                right = (x if len(x) == 1 else x[which]) - mid_x
                down = (y if len(y) == 1 else y[which]) - mid_y
                u, v = right * along + down * beside, down * along - right * beside
                far[which] = distance(u, v, long, short, sides)
        return far


@dataclass(frozen=True, kw_only=True)
class Fillings:
    """What fills the K shapes of each of N pictures."""

    kinds: Tensor
    """int64 `[N, K]`: a place in `FILLINGS`, `FLAT` or `NOISE`."""
    columns: Tensor
    """`[N, K, 5]`: direction, rate in waves per length, phase, sharpness."""
    fields: Tensor
    """Noise `[N, F, H, W]` from 0 to 1."""
    moves: Tensor
    """int64 `[N, K, 3]`: which field, and how far it is moved down and across."""

    @classmethod
    def drawn(cls, draws: Draws, kinds: Tensor, fields: Tensor, pixel: float) -> Fillings:
        """Textures of random direction, rate (up to a wave in 2.5 pixels), phase and sharpness."""
        count, (height, width) = kinds.shape[1], fields.shape[2:]
        turn = draws.uniform("texture direction", count)
        rate = log_uniform(draws.uniform("rate", count), 1.5, max(3.0, 0.4 / pixel))
        phase = draws.uniform("phase", count)
        sharp = log_uniform(draws.uniform("sharpness", count), 0.7, 4.0)
        below = (fields.shape[1], height, width)
        moves = [draws.whole(f"move {axis}", count, below=length) for axis, length in enumerate(below)]
        columns = torch.stack([cosine(turn), sine(turn), rate, phase, sharp], dim=-1)
        return cls(kinds=kinds, columns=columns, fields=fields, moves=torch.stack(moves, dim=-1))

    def values(self, step: int, x: Tensor, y: Tensor) -> Tensor:
        """From the first colour, 0, to the second one, 1, of filling `step`: `[N, H, W]`."""
        kinds, (height, width) = self.kinds[:, step], self.fields.shape[2:]
        value = torch.zeros(len(kinds), height, width, device=x.device)
        for kind, filling in enumerate(FILLINGS):
            which = (kinds == kind).nonzero()[:, 0]
            if len(which):
                along, beside, rate, phase, sharp = self.columns[which, step][:, :, None, None].unbind(1)
                value[which] = filling(
                    x * along + y * beside, y * along - x * beside, rate, phase, sharp
                )
        which = (kinds == NOISE).nonzero()[:, 0]
        if len(which):
            field, down, across = self.moves[which, step].unbind(1)
            rows = (torch.arange(height, device=x.device) + down[:, None]) % height
            columns = (torch.arange(width, device=x.device) + across[:, None]) % width
            places = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
            value[which] = self.fields[which, field].flatten(1).gather(1, places).view(-1, height, width)
        return value


def covered(distances: Tensor, pixel: float) -> Tensor:
    """Share of each pixel that a shape covers, of its signed distances: a step of one pixel at the edge."""
    return (0.5 - distances / pixel).clamp_(0, 1)


def painted(canvas: Tensor, cover: Tensor, colours: Tensor) -> None:
    """Lay colours `[N, planes, 1 or H, 1 or W]` over a canvas `[N, planes, H, W]` by a cover `[N, H, W]`."""
    canvas += (colours - canvas) * cover[:, None]
