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
    least = least.clamp(min=0.7 * frame.pixel, max=0.5 * sizes[1])
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


def objects(draws: Draws, planes: int, frame: Frame, _sizes: tuple[float, float]) -> Tensor:
    """Pictures `[N, planes, H, W]` of an object or two, each built of shaded parts, on a ground.

    The ground is a smooth gradient or smooth noise, sometimes a texture. Objects are larger than leaves and
    near the middle, and half of them are symmetric, as much of what is photographed is. No paper's law:
    it is made up here.
    """
    pairs = draws.chance("two objects", 1, share=0.35)
    second_object = (torch.arange(PARTS, device=frame.device) >= PARTS // 2) & pairs
    mirrored = draws.chance("mirrored", 1, share=0.5) & ~pairs
    extent = torch.tensor(frame.extent, device=frame.device)
    axis = draws.bell("axis", 2, 2) * 0.08 * extent
    apart = torch.where(pairs, draws.uniform("apart", 1, low=0.15, high=0.3), 0.0)
    side = torch.where(second_object, apart, -apart) * extent[0]
    middles = draws.bell("part", PARTS, 2) * draws.uniform("spread", 1, 2, low=0.04, high=0.2)
    middles = middles + axis[:, :1] + torch.stack([side, torch.zeros_like(side)], dim=-1)
    # the parts in front are smaller than those behind them
    sizes = log_uniform(draws.uniform("size", PARTS), 0.5, 1.0)
    order = torch.arange(PARTS, device=frame.device) % (PARTS // 2 + 1)
    sizes = sizes * draws.uniform("largest", 1, low=0.22, high=0.42) / (order * 0.35 + 1)
    shapes = Shapes.drawn(draws, sizes, middles, _kinds(draws, PARTS), thin=0.3)
    present = torch.arange(PARTS, device=frame.device) < draws.whole("parts", 1, below=PARTS - 2) + 3

    textures = _textures(draws, PARTS + 1, frame, flat=0.3)
    colours = palette(draws, COLOURS + 1, planes)
    # the ground has colours of its own, next to each other; the object takes the others
    ground = draws.whole("ground", below=COLOURS)
    first_ground = colours.gather(1, ground[:, None, None].expand(-1, 1, planes))[:, 0]
    second_ground = colours.gather(1, ((ground + 1) % COLOURS)[:, None, None].expand(-1, 1, planes))[:, 0]
    smooth = power_law(draws, "ground", draws.uniform("smoothness", 1, low=2.5, high=4.0), frame.size)
    smooth = (smooth[:, 0] * 0.2 + 0.5).clamp_(0, 1)
    busy = draws.chance("textured ground", 1, 1, share=0.25)
    x, y = frame.x, frame.y
    canvas = _between(
        first_ground, second_ground, torch.where(busy, textures.values(PARTS, x, y), smooth)
    )
    first = taken(colours, draws, "first colour", PARTS, 0.1)
    second = taken(colours, draws, "second colour", PARTS, 0.1)
    folded = torch.where(mirrored[:, :, None], (x - axis[:, :1, :1]).abs() + axis[:, :1, :1], x)
    for step in range(PARTS):
        far = shapes.distances(step, folded, y)
        cover = covered(far, frame.pixel) * present[:, step, None, None]
        # light falls off towards an edge, as on a body
        depth = (far * -6).clamp_(0, 1)
        light = (depth * 0.5 + 0.6)[:, None]
        colour = _between(first[:, step], second[:, step], textures.values(step, x, y)) * light
        painted(canvas, cover, colour)
    return stretched(canvas, *_range(draws))
