"""Transformations that leave an image's class as it is: phi_1 to phi_L of the few-shot paper.

The paper trains its classifiers under them (eq. 1), wants generated images to be answered alike under them
(eq. 4), and drops those that are not (eq. 8). It names rotation, crop and flip and gives no list. These are
fixed, so that an image either passes or does not; none is a flip, which gives most digits another meaning.

Real test images that pass eq. 8 (0.5 nats) under one of them alone, in %:

| classifier | none | rotations | zoom | shifts |
|---|---|---|---|---|
| MNIST, LeNet5 with BatchNorm, trained under all of them | 98 | 96, 96 | 97 | 96 to 97 |
| the same, trained under none | 97 | 94, 95 | 96 | 84 to 93 |
| digits 8x8, AllCNN at width 0.125, trained under none | 94 | 85, 86 | 92 | 61 to 74 |

So `DEFAULT` leaves the shifts out: they are for classifiers that were trained under them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rayunlearn.errors import BadInput, nearest

TRANSFORMATIONS: dict[str, dict[str, float]] = {
    "rotate_left": {"degrees": 10.0},
    "rotate_right": {"degrees": -10.0},
    "zoom_in": {"zoom": 1.1},
    "shift_left": {"right": -1 / 14},
    "shift_right": {"right": 1 / 14},
    "shift_up": {"down": -1 / 14},
    "shift_down": {"down": 1 / 14},
}
"""By name, the fields of a `Transformation`."""

DEFAULT = ("rotate_left", "rotate_right", "zoom_in")


@dataclass(frozen=True, kw_only=True)
class Transformation:
    """One affine map of images: turned and enlarged about the centre, then shifted.

    Attributes:
        background: pixel value where the image does not reach.
        degrees: turn, anticlockwise.
        zoom: enlargement.
        right: shift, as a share of the width.
        down: shift, as a share of the height.
    """

    background: float
    degrees: float = 0.0
    zoom: float = 1.0
    right: float = 0.0
    down: float = 0.0

    def __call__(self, images: Tensor) -> Tensor:
        """The transformed images, `[B, C, H, W]` as they were; bilinear, with their graph."""
        cos = math.cos(math.radians(self.degrees)) / self.zoom
        sin = math.sin(math.radians(self.degrees)) / self.zoom
        flat = images.shape[-2] / images.shape[-1]  # height by width: a step down is as long as one across
        # Where a pixel of the result comes from: the inverse map. The image spans [-1, 1], y points down.
        x, y = -2 * self.right, -2 * self.down
        inverse = torch.tensor(
            [[cos, -sin * flat, cos * x - sin * flat * y], [sin / flat, cos, sin / flat * x + cos * y]]
        )
        theta = inverse.to(images).expand(len(images), 2, 3)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        # outside the image grid_sample gives 0, which is the background of what is sampled
        return F.grid_sample(images - self.background, grid, align_corners=False) + self.background


def transformations(names: Sequence[str], *, background: float) -> tuple[Transformation, ...]:
    """The transformations of these names, in this order.

    Args:
        names: keys of `TRANSFORMATIONS`.
        background: `ClassifierSpec.pixel_range[0]`, a normalised pixel 0.

    Raises:
        BadInput: an unknown name, or one twice.
    """
    check_names("transformations", names)
    return tuple(Transformation(background=background, **TRANSFORMATIONS[name]) for name in names)


def check_names(thing: str, names: Sequence[str]) -> None:
    """Refuse unknown names and repeated ones, under the name of the setting that holds them."""
    for name in names:
        if name not in TRANSFORMATIONS:
            raise BadInput(thing, name, nearest(str(name), TRANSFORMATIONS))
    if len(set(names)) < len(names):
        raise BadInput(thing, tuple(names), "each name once")
