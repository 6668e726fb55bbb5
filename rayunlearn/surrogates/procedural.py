"""Pictures made by arithmetic alone, of five families, each picture by its number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.surrogates.colours import as_channels, planes_for
from rayunlearn.surrogates.draws import Draws, as_indices
from rayunlearn.surrogates.leaves import dead_leaves, objects, textured_leaves
from rayunlearn.surrogates.noise import coloured_noise
from rayunlearn.surrogates.shapes import Frame
from rayunlearn.surrogates.strokes import strokes

FAMILIES = ("dead_leaves", "textured_leaves", "noise", "strokes", "objects")
LEAST, MOST = 8, 384
"""Pixels of a picture's side."""
_CHUNK = 2**18
"""Pixels that are drawn at once: those of a plane stay in the processor's cache."""


@dataclass(frozen=True, kw_only=True)
class ProceduralSettings:
    """Which pictures are drawn.

    The default weights are for a data set of which nothing is known.
    """

    dead_leaves: float = 0.2
    """Weight of the family, as of those that follow; their sum is what each is a share of."""
    textured_leaves: float = 0.25
    noise: float = 0.1
    strokes: float = 0.2
    objects: float = 0.25
    exponent_low: float = 0.5
    """Of the noise's spectrum 1 / frequency**a, of which each picture draws its a."""
    exponent_high: float = 3.5
    smallest: float = 0.03
    """Half the longer axis of the smallest leaf, as a share of the picture's side."""
    largest: float = 0.5
    """That of the largest leaf."""

    def __post_init__(self) -> None:
        """Check every field."""
        for name in FAMILIES:
            if not 0 <= getattr(self, name) < math.inf:
                raise BadInput(f"procedural.{name}", getattr(self, name), "a number >= 0")
        if not any(self.weights):
            raise BadInput("procedural", self.weights, f"a weight above 0 among {', '.join(FAMILIES)}")
        if not 0 <= self.exponent_low <= 6:
            raise BadInput("procedural.exponent_low", self.exponent_low, "a number from 0 to 6")
        if not self.exponent_low <= self.exponent_high <= 6:
            allowed = f"a number from procedural.exponent_low, {self.exponent_low}, to 6"
            raise BadInput("procedural.exponent_high", self.exponent_high, allowed)
        if not 0 < self.smallest <= 1:
            raise BadInput("procedural.smallest", self.smallest, "a share above 0, at most 1")
        if not self.smallest <= self.largest <= 1:
            allowed = f"a share from procedural.smallest, {self.smallest}, to 1"
            raise BadInput("procedural.largest", self.largest, allowed)

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the families, in their order."""
        return tuple(getattr(self, name) for name in FAMILIES)


def check_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """C, H, W of pictures.

    Raises:
        BadInput: no channel, or a side that is not from 8 to 384 pixels.
    """
    allowed = f"(C, H, W): at least one channel, sides from {LEAST} to {MOST} pixels"
    if len(shape) != 3 or any(type(length) is not int for length in shape):
        raise BadInput("shape", tuple(shape), allowed)
    channels, height, width = shape
    if channels < 1 or not (LEAST <= height <= MOST and LEAST <= width <= MOST):
        raise BadInput("shape", tuple(shape), allowed)
    return channels, height, width


def procedural_images(
    indices: int | Sequence[int] | Tensor,
    *,
    shape: Sequence[int],
    seed: int,
    settings: ProceduralSettings | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Pictures `[N, C, H, W]`, float32 from 0 to 1, each a function of seed, number, shape and settings.

    Bit for bit with one number of threads: with another one, transforms of noise may round otherwise.

    Args:
        indices: numbers of pictures, or how many of them from 0 on.
        shape: C, H, W.
        seed: the run's.
        settings: which pictures.
        device: where they are made.

    Raises:
        BadInput: numbers below 0, or a shape out of range.
    """
    channels, height, width = check_shape(shape)
    settings = settings or ProceduralSettings()
    frame = Frame(height=height, width=width, device=torch.device(device))
    numbers = as_indices(indices).to(frame.device)
    draws = Draws.of(seed, "procedural", numbers)
    family = draws.one_of("family", settings.weights)
    pictures = torch.empty(len(numbers), channels, height, width, device=frame.device)
    at_once = max(1, _CHUNK // (height * width))
    for number, name in enumerate(FAMILIES):
        for which in (family == number).nonzero()[:, 0].split(at_once):
            some = draws[which]
            drawn = _drawn(name, some, planes_for(channels), frame, settings)
            pictures[which] = as_channels(drawn, channels, some)
    return pictures


def _drawn(name: str, draws: Draws, planes: int, frame: Frame, settings: ProceduralSettings) -> Tensor:
    """Pictures `[N, planes, H, W]` of one family."""
    if name == "noise":
        exponents = (settings.exponent_low, settings.exponent_high)
        return coloured_noise(draws, planes, frame.size, exponents)
    families: dict[str, Callable[..., Tensor]] = {
        "dead_leaves": dead_leaves,
        "textured_leaves": textured_leaves,
        "strokes": strokes,
        "objects": objects,
    }
    return families[name](draws, planes, frame, (settings.smallest, settings.largest))
