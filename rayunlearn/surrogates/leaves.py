"""Pictures of shapes that hide one another: dead leaves, plain or textured, and objects on a ground."""

from __future__ import annotations

import torch
from torch import Tensor

from rayunlearn.surrogates.colours import palette, taken
from rayunlearn.surrogates.draws import Draws
from rayunlearn.surrogates.exact import log_uniform, stretched
from rayunlearn.surrogates.noise import power_law
from rayunlearn.surrogates.shapes import (
    DISTANCES,
    FILLINGS,
    Fillings,
    Frame,
    Shapes,
    covered,
    painted,
    radii,
)

LEAVES, TEXTURED_LEAVES, PARTS = 48, 24, 9
COLOURS = 5
"""Of a palette."""
FIELDS = 2
"""Of noise that a picture's textures are cut from."""


def _kinds(draws: Draws, count: int) -> Tensor:
    """Kinds of shapes, int64 `[N, count]`: mixed, in four of ten pictures all of one kind."""
    mixed = draws.whole("kind", count, below=len(DISTANCES))
    alone = draws.whole("one kind", 1, below=len(DISTANCES))
    return torch.where(draws.chance("of one kind", 1, share=0.4), alone, mixed)


def _scattered(draws: Draws, count: int, frame: Frame, sizes: tuple[float, float]) -> Shapes:
    """Leaves all over each picture, by the law r**-3.

    Args:
        draws: of N pictures.
        count: leaves of a picture.
        frame: its pixels.
        sizes: half a leaf's longer axis, from and to; a picture's own smallest leaf is up to four times that.
    """
    least = log_uniform(draws.uniform("smallest", 1), 1.0, 4.0) * sizes[0]
    least = least.clamp(min=1.2 * frame.pixel, max=0.5 * sizes[1])
    long = radii(draws.uniform("size", count), least, sizes[1])
    extent = torch.tensor(frame.extent, device=frame.device)
    middles = draws.uniform("middle", count, 2, low=-0.55, high=0.55) * extent
    return Shapes.drawn(draws, long, middles, _kinds(draws, count))


def _range(draws: Draws) -> tuple[Tensor, Tensor]:
    """The darkest and the brightest value of each picture, `[N]`."""
    return draws.uniform("darkest", high=0.25), draws.uniform("brightest", low=0.75)


def dead_leaves(draws: Draws, planes: int, frame: Frame, sizes: tuple[float, float]) -> Tensor:
    """Pictures `[N, planes, H, W]` of plain shapes that hide one another.

    Lee, Mumford and Huang 2001, "Occlusion models for natural images"; Baradad et al. 2021, section 3.1.
    """
    shapes = _scattered(draws, LEAVES, frame, sizes)
    colours = taken(palette(draws, COLOURS, planes), draws, "colour", LEAVES + 1)
    canvas = colours[:, LEAVES, :, None, None].repeat(1, 1, *frame.size)
    for step in range(LEAVES):
        cover = covered(shapes.distances(step, frame.x, frame.y), frame.pixel)
        painted(canvas, cover, colours[:, step, :, None, None])
    return stretched(canvas, *_range(draws))


def _textures(draws: Draws, count: int, frame: Frame, flat: float) -> Fillings:
    """Textures for so many shapes of each picture, a share of them flat; half of the others are noise."""
    exponents = draws.uniform("texture exponents", FIELDS, low=1.0, high=3.0)
    fields = (power_law(draws, "texture", exponents, frame.size) * 0.25 + 0.5).clamp_(0, 1)
    each = (1 - flat) / 2 / len(FILLINGS)
    kinds = draws.one_of("filling", [each] * len(FILLINGS) + [flat, (1 - flat) / 2], count)
    return Fillings.drawn(draws, kinds, fields, frame.pixel)


def _between(first: Tensor, second: Tensor, value: Tensor) -> Tensor:
    """Colours `[N, planes, H, W]` from `[N, planes]` at 0 to `[N, planes]` at 1, of values `[N, H, W]`."""
    return (second - first)[:, :, None, None] * value[:, None] + first[:, :, None, None]


def textured_leaves(draws: Draws, planes: int, frame: Frame, sizes: tuple[float, float]) -> Tensor:
    """Pictures `[N, planes, H, W]` of dead leaves which are filled with textures, and so is their ground.

    Baradad et al. 2021, section 3.1 (dead leaves, textured).
    """
    shapes = _scattered(draws, TEXTURED_LEAVES, frame, (2 * sizes[0], sizes[1]))
    textures = _textures(draws, TEXTURED_LEAVES + 1, frame, flat=0.15)
    colours = palette(draws, COLOURS, planes)
    first = taken(colours, draws, "first colour", TEXTURED_LEAVES + 1)
    second = taken(colours, draws, "second colour", TEXTURED_LEAVES + 1)
    x, y = frame.x, frame.y
    ground = textures.values(TEXTURED_LEAVES, x, y)
    canvas = _between(first[:, TEXTURED_LEAVES], second[:, TEXTURED_LEAVES], ground)
    for step in range(TEXTURED_LEAVES):
        cover = covered(shapes.distances(step, x, y), frame.pixel)
        painted(canvas, cover, _between(first[:, step], second[:, step], textures.values(step, x, y)))
    return stretched(canvas, *_range(draws))


def _bodies(draws: Draws, frame: Frame) -> tuple[Shapes, Tensor, Tensor]:
    """Parts of one object or two: shapes, which of them there are `[N, PARTS]`, and pixels across for them.

    Half of the single objects are symmetric: what is left of their axis is drawn as what is right of it.
    """
    extent = torch.tensor(frame.extent, device=frame.device)
    pair = draws.chance("pair", 1, share=0.3)
    mirrored = draws.chance("mirrored", 1, share=0.5) & ~pair
    number = torch.arange(PARTS, device=frame.device)
    apart = draws.uniform("apart", 1, low=0.18, high=0.32) * pair * extent[0]
    side = torch.where(number % 2 == 0, apart, -apart)
    middle = draws.bell("middle", 1, 2) * 0.07 * extent
    spread = draws.uniform("spread", 1, 2, low=0.05, high=0.22)
    offsets = draws.bell("part", PARTS, 2) * spread
    # the parts in front are smaller than those behind them, and those behind are near the middle
    rank = number / PARTS
    offsets = offsets * (rank[:, None] + 0.4)
    middles = offsets + torch.stack([side, torch.zeros_like(side)], dim=-1) + middle
    size = draws.uniform("object", 1, low=0.26, high=0.5) / (pair * 0.5 + 1)
    sizes = size * log_uniform(draws.uniform("part size", PARTS), 0.6, 1.0) * (1.1 - rank)
    shapes = Shapes.drawn(draws, sizes, middles, _kinds(draws, PARTS), thin=0.35)
    present = number < draws.whole("parts", 1, below=PARTS - 2) + 3
    axis = middle[:, :, :1]
    x = torch.where(mirrored[:, :, None], (frame.x - axis).abs() + axis, frame.x)
    return shapes, present, x


def objects(draws: Draws, planes: int, frame: Frame, _sizes: tuple[float, float]) -> Tensor:
    """Pictures `[N, planes, H, W]` of one or two objects, each built of shaded parts, on a ground.

    The ground is smooth noise, in a quarter of the pictures a texture; it is darker or brighter than most of
    the object. No paper's law: it is made up here for what data sets of objects have in common.
    """
    shapes, present, x = _bodies(draws, frame)
    textures = _textures(draws, PARTS + 1, frame, flat=0.4)
    grounds = palette(draws.apart("ground"), 2, planes)
    bright = draws.chance("bright ground", 1, 1, share=0.5)
    grounds = grounds * 0.5 + torch.where(bright, 0.45, 0.05)
    smooth = power_law(draws, "ground", draws.uniform("smoothness", 1, low=2.5, high=5.0), frame.size)
    smooth = (smooth[:, 0] * 0.25 + 0.5).clamp_(0, 1)
    busy = draws.chance("textured ground", 1, 1, share=0.25)
    value = torch.where(busy, textures.values(PARTS, frame.x, frame.y), smooth)
    canvas = _between(grounds[:, 0], grounds[:, 1], value)
    colours = palette(draws, COLOURS, planes) * 0.75 + torch.where(bright, 0.0, 0.25)
    first = taken(colours, draws, "first colour", PARTS, 0.1)
    second = taken(colours, draws, "second colour", PARTS, 0.1)
    falloff = draws.uniform("falloff", 1, 1, low=0.0, high=0.5)
    for step in range(PARTS):
        far = shapes.distances(step, x, frame.y)
        # light falls off towards an edge, as on a body
        light = 1 - falloff * (far * 8 + 1).clamp(0, 1)
        value = textures.values(step, frame.x, frame.y)
        colour = _between(first[:, step], second[:, step], value) * light[:, None]
        painted(canvas, covered(far, frame.pixel) * present[:, step, None, None], colour)
    return stretched(canvas, *_range(draws))
