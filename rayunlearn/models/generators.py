"""Generators of images from Gaussian noise: the zero-shot paper's Table V."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from rayunlearn.errors import BadInput
from rayunlearn.fields import Checked
from rayunlearn.seeds import derive_seed, seeded_default_generators
from rayunlearn.task import height_and_width


@dataclass(frozen=True, kw_only=True)
class GeneratorSpec(Checked, where="generator spec"):
    """All that rebuilds a generator's architecture.

    Attributes:
        channels: channels of an image.
        image_size: height and width of an image, pixels, one number where they are the same; multiples of 4.
        z_dim: length of the noise vector (paper: 128).
        width: multiplier of the hidden channels 128 and 64 (paper: 1).
        output: "batchnorm": the last BatchNorm's output is the image, unbounded (paper);
            "pixel_range": it goes through a sigmoid onto [low, high].
        low: normalised value of a pixel 0 (`ClassifierSpec.pixel_range`); needed by "pixel_range".
        high: normalised value of a pixel 1; needed by "pixel_range".
    """

    channels: PositiveInt
    image_size: PositiveInt | tuple[PositiveInt, PositiveInt]
    z_dim: PositiveInt = 128
    width: PositiveFloat = 1.0
    output: Literal["batchnorm", "pixel_range"] = "batchnorm"
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        if any(side % 4 for side in height_and_width(self.image_size)):
            raise BadInput("image_size", self.image_size, "a multiple of 4", where=self.where)
        for field in ("low", "high"):
            if getattr(self, field) is None and self.output == "pixel_range":
                allowed = 'a number (output="pixel_range" needs both)'
                raise BadInput(field, None, allowed, where=self.where)
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise BadInput("low", self.low, f"a number below high, {self.high}", where=self.where)


class Generator(nn.Module):
    """Images from noise: zero-shot paper (arXiv 2201.05629), Table V.

    Linear to 128 maps of a quarter of the image's size, two upsamplings (nearest) by 2 each followed
    by a 3x3 convolution, BatchNorm and LeakyReLU 0.2, a 3x3 convolution to the image's channels, and
    BatchNorm last. For 28x28 the paper's reference code is followed: it makes 32x32 maps and ends in a
    7x7 convolution with padding 1, which gives 28x28.

    | parameters at width 1, z_dim 128 | |
    |---|---|
    | 28x28, 1 channel | 1,281,923 |
    | 32x32, 3 channels | 1,280,521 |
    """

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.spec = spec
        wide, narrow = max(1, round(128 * spec.width)), max(1, round(64 * spec.width))
        as_reference = spec.image_size == 28
        high, across = (8, 8) if as_reference else (n // 4 for n in height_and_width(spec.image_size))
        last = nn.Conv2d(narrow, spec.channels, 7 if as_reference else 3, padding=1)
        self.layers = nn.Sequential(
            nn.Linear(spec.z_dim, wide * high * across),
            nn.Unflatten(1, (wide, high, across)),
            nn.BatchNorm2d(wide),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(wide, wide, 3, padding=1),
            nn.BatchNorm2d(wide),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(wide, narrow, 3, padding=1),
            nn.BatchNorm2d(narrow),
            nn.LeakyReLU(0.2),
            last,
            nn.BatchNorm2d(spec.channels),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Normalised images `[B, C, H, W]` of noise `[B, z_dim]`."""
        x: Tensor = self.layers(z)
        if self.spec.output == "pixel_range":
            low, high = self.spec.low, self.spec.high
            assert low is not None and high is not None  # __post_init__ checked them
            return low + (high - low) * torch.sigmoid(x)
        return x


def build_generator(spec: GeneratorSpec, seed: int) -> Generator:
    """A freshly initialised generator on CPU, a function of `spec` and `seed` alone.

    The global random number generators are left as they were.
    """
    with seeded_default_generators(derive_seed(seed, "init", "generator")):
        return Generator(spec)
