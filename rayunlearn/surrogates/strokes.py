"""Strokes of a pen on a plain ground: what handwriting and drawings look like."""

from __future__ import annotations

import torch
from torch import Tensor

from rayunlearn.surrogates.colours import palette
from rayunlearn.surrogates.draws import Draws
from rayunlearn.surrogates.exact import cosine, log_uniform, sine
from rayunlearn.surrogates.noise import power_law
from rayunlearn.surrogates.shapes import Frame, painted

STROKES = 4
NUMBERS = (0.5, 0.3, 0.13, 0.07)
"""Shares of pictures of one to four strokes."""
BENDS = 4
"""Parts of a stroke between which it bends otherwise."""
FINE = 64
"""Pixels of a picture's side from which on strokes are drawn of shorter pieces."""


def _paths(draws: Draws, pieces: int) -> Tensor:
    """Paths of a pen, `[N, STROKES, pieces + 1, 2]`: across and down, up to a scale.

    A pen's heading turns evenly within each part of a stroke and more or less in the next, or all at once at
    a corner, or round to where it began.
    """
    part = torch.arange(pieces, device=draws.keys.device) * BENDS // pieces
    # of whole turns: a letter's strokes seldom turn round more than once
    corners = draws.chance("corners", STROKES, 1, share=0.25)
    bends = draws.bell("bends", STROKES, BENDS) * torch.where(corners, 0.25, 0.16)
    turning = draws.bell("turning", STROKES, 1) * 0.13 + bends
    # a corner is a turn at the first piece of a part, a bend one that is spread over the whole part
    first = torch.cat([torch.ones_like(part[:1]), part[1:] - part[:-1]]) > 0
    share = torch.where(corners, first.to(torch.float32), BENDS / pieces)
    turns = turning[:, :, part] * share
    closed = draws.chance("closed", STROKES, 1, share=0.2)
    wobble = draws.bell("wobble", STROKES, 1) * 0.7
    number = torch.arange(pieces, device=part.device) / pieces
    loop = (sine(number * 2 + draws.uniform("loop", STROKES, 1)) * wobble + 1) / pieces
    turns = torch.where(closed, loop, turns)
    heading = draws.uniform("heading", STROKES, 1)
    steps = []
    for piece in range(pieces):
        heading = heading + turns[:, :, piece, None] * 0.5
        steps.append(torch.cat([cosine(heading), sine(heading)], dim=-1))
        heading = heading + turns[:, :, piece, None] * 0.5
    place = torch.zeros_like(steps[0])
    places = [place]
    for step in steps:
        place = place + step / pieces
        places.append(place)
    path = torch.stack(places, dim=2)
    # a loop ends where it began
    drift = path[:, :, -1:] * torch.linspace(0, 1, pieces + 1, device=path.device)[:, None]
    return torch.where(closed[..., None], path - drift, path)


def _glyphs(draws: Draws, paths: Tensor, present: Tensor, frame: Frame) -> Tensor:
    """The paths of each picture put together, in a frame's lengths.

    A stroke after the first one begins on the first, as those of letters do, or beside it.
    """
    lengths = draws.uniform("length", STROKES, low=0.35)
    lengths[:, 0] = 1
    paths = paths * lengths[:, :, None, None]
    on = draws.whole("touching", STROKES, below=paths.shape[2])
    touched = paths[:, 0].gather(1, on[:, :, None].expand(-1, -1, 2))
    beside = draws.bell("beside", STROKES, 2) * 0.25
    touched = torch.where(draws.chance("touch", STROKES, 1, share=0.7), touched, touched + beside)
    # it begins there or crosses with its middle
    anchor = paths[:, :, paths.shape[2] // 2]
    crossing = draws.chance("crossing", STROKES, 1, share=0.4)
    touched = touched - torch.where(crossing, anchor, torch.zeros_like(anchor))
    touched[:, 0] = 0
    paths = paths + touched[:, :, None]
    # the whole glyph fills its share of the picture
    here = torch.where(present[:, :, None, None], paths, paths[:, :1])
    low, high = here.amin((1, 2)), here.amax((1, 2))
    extent = torch.tensor(frame.extent, device=paths.device)
    size = draws.uniform("size", 1, low=0.45, high=0.88) * extent
    size = size * torch.stack([draws.uniform("narrow", low=0.55), torch.ones_like(size[:, 0])], dim=-1)
    span = (high - low).clamp(min=1e-3)
    scale = (size / span).amin(1, keepdim=True)
    # a little wider or higher than drawn, but no stroke is blown up to a square
    scale = torch.minimum(size / span, scale * draws.uniform("squeeze", 1, low=1.0, high=1.8))
    middle = draws.bell("middle", 2) * 0.05 * extent
    return (paths - ((low + high) / 2)[:, None, None]) * scale[:, None, None] + middle[:, None, None]


def _distances(path: Tensor, half: Tensor, frame: Frame) -> Tensor:
    """Signed distances `[n, H, W]` from strokes along `[n, pieces + 1, 2]`, half as thick as `half`."""
    x, y = frame.x, frame.y
    nearest: Tensor | None = None
    for piece in range(path.shape[1] - 1):
        x_0, y_0, x_1, y_1 = path[:, piece : piece + 2].flatten(1)[:, :, None, None].unbind(1)
        along_x, along_y = x_1 - x_0, y_1 - y_0
        right, down = x - x_0, y - y_0
        squared = (along_x.square() + along_y.square()).clamp(min=1e-12)
        share = (right * (along_x / squared) + down * (along_y / squared)).clamp_(0, 1)
        far = (right - share * along_x).square() + (down - share * along_y).square()
        far = far.sqrt_() - half[:, piece, None, None]
        nearest = far if nearest is None else torch.minimum(nearest, far)
    assert nearest is not None, "a path has at least one piece"
    return nearest


def strokes(draws: Draws, planes: int, frame: Frame, _sizes: tuple[float, float]) -> Tensor:
    """Pictures `[N, planes, H, W]` of one to four strokes of a pen, bright on dark or dark on bright.

    After the pen strokes of Lake, Salakhutdinov and Tenenbaum 2015, "Human-level concept learning through
    probabilistic program induction", without their learned parts.
    """
    pieces = BENDS * (3 if max(frame.size) < FINE else 8)
    number = draws.one_of("strokes", NUMBERS, 1) + 1
    present = torch.arange(STROKES, device=frame.device) < number
    glyphs = _glyphs(draws, _paths(draws, pieces), present, frame)
    half = log_uniform(draws.uniform("thickness", 1, 1), 0.018, 0.075).clamp(min=0.45 * frame.pixel)
    swing = draws.uniform("swing", STROKES, 1) + torch.linspace(0, 1, pieces + 1, device=frame.device)
    half = half * (sine(swing) * draws.uniform("pressure", 1, 1, high=0.35) + 1)
    soft = draws.uniform("softness", 1, 1, low=1.0, high=2.2) * frame.pixel

    ground, ink = _ground_and_ink(draws, planes, frame)
    for stroke in range(STROKES):
        which = (present[:, stroke]).nonzero()[:, 0]
        if len(which):
            far = _distances(glyphs[which, stroke], half[which, stroke], frame)
            cover = (0.5 - far / soft[which]).clamp_(0, 1)
            canvas = ground[which]
            painted(canvas, cover, ink[which, stroke][:, :, None, None])
            ground[which] = canvas
    return ground


def _ground_and_ink(draws: Draws, planes: int, frame: Frame) -> tuple[Tensor, Tensor]:
    """The ground `[N, planes, H, W]` and each stroke's colour `[N, STROKES, planes]`, far from it."""
    bright = draws.chance("bright ink", 1, 1, share=0.6)
    plain = draws.chance("plain", 1, 1, share=0.5)
    # of brightness from dark, 0, to bright, 1; half of the grounds are black or white
    dark = torch.where(plain, 0.0, draws.uniform("dark", 1, 1, high=0.3))
    tint = palette(draws, 2, planes)
    tint = tint - tint.amin(2, keepdim=True) if planes > 1 else tint * 0
    ground = dark + tint[:, :1] * draws.uniform("ground tint", 1, 1) * ~plain
    level = draws.uniform("ink", 1, 1, low=0.65, high=1.0) + draws.bell("inks", STROKES, 1) * 0.04
    ink = level - tint[:, 1:] * draws.uniform("ink tint", 1, 1)
    if planes > 1:
        hues = draws.bell("hues", STROKES, planes) * 0.25
        ink = ink + torch.where(draws.chance("many inks", 1, 1, share=0.3), hues, torch.zeros_like(hues))
    canvas = ground[:, 0, :, None, None].repeat(1, 1, *frame.size)
    kind = draws.one_of("ground", (0.7, 0.15, 0.15), 1)[:, :, None, None]
    slope = draws.uniform("slope", 2, 1, 1, low=-0.4, high=0.4)
    gradient = frame.x * slope[:, 0] + frame.y * slope[:, 1]
    canvas += torch.where(kind == 1, gradient[:, None], 0.0)
    noisy = (kind == 2).flatten().nonzero()[:, 0]
    if len(noisy):
        some = draws[noisy]
        paper = power_law(some, "paper", some.uniform("paper", 1, low=0.5, high=2.5), frame.size)
        canvas[noisy] += paper * some.uniform("roughness", 1, 1, 1, low=0.02, high=0.08)
    bright = bright[..., None]
    canvas = torch.where(bright, canvas.clamp_(0, 1), 1 - canvas.clamp_(0, 1))
    return canvas, torch.where(bright[..., 0], ink.clamp(0, 1), 1 - ink.clamp(0, 1))
