"""Pictures made by arithmetic alone, of five families, each picture by its number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from pydantic import NonNegativeFloat
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.fields import Checked, PositiveShare
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
class ProceduralSettings(Checked, section="partial_restart.procedural"):
    """Which pictures are drawn.

    The default weights are for a data set of which nothing is known.
    """

    dead_leaves: NonNegativeFloat = 0.2
    """Weight of the family, as of those that follow; their sum is what each is a share of."""
    textured_leaves: NonNegativeFloat = 0.25
    noise: NonNegativeFloat = 0.1
    strokes: NonNegativeFloat = 0.2
    objects: NonNegativeFloat = 0.25
    exponent_low: Annotated[float, Ge(0), Le(6)] = 0.5
    """Of the noise's spectrum 1 / frequency**a, of which each picture draws its a."""
    exponent_high: Annotated[float, Ge(0), Le(6)] = 3.5
    smallest: PositiveShare = 0.03
    """Half the longer axis of the smallest leaf, as a share of the picture's side."""
    largest: PositiveShare = 0.5
    """That of the largest leaf."""

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        if not any(self.weights):
            allowed = f"a weight above 0 among {', '.join(FAMILIES)}"
            raise BadInput(self.section, self.weights, allowed)
        for low, high in (("exponent_low", "exponent_high"), ("smallest", "largest")):
            if getattr(self, high) < (least := getattr(self, low)):
                allowed = f"a finite number >= {self.section}.{low}, {least}"
                raise BadInput(f"{self.section}.{high}", getattr(self, high), allowed)

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
