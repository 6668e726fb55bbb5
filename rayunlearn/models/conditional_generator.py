"""Generators of images of a wanted class: the few-shot paper's G(z, y)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from rayunlearn.fields import AtLeastTwo, Checked
from rayunlearn.models.generators import GeneratorSpec
from rayunlearn.seeds import derive_seed, seeded_default_generators
from rayunlearn.task import height_and_width


@dataclass(frozen=True, kw_only=True)
class ConditionalGeneratorSpec(Checked, where="generator spec"):
    """All that rebuilds a conditional generator's architecture.

    Attributes:
        channels: channels of an image.
        image_size: height and width of an image, pixels, one number where they are the same; multiples of 4.
        num_classes: labels that it can be asked for, at least 2.
        low: normalised value of a pixel 0 (`ClassifierSpec.pixel_range`).
        high: normalised value of a pixel 1.
        z_dim: length of the noise vector.
        width: multiplier of the hidden channels 128, 64 and 32.
    """

    channels: int
    image_size: int | tuple[int, int]
    num_classes: AtLeastTwo
    low: float
    high: float
    z_dim: int = 100
    width: float = 1.0

    def __post_init__(self) -> None:
        """Check every field, those that an unconditional generator has too as it does."""
        super().__post_init__()
        shared = asdict(self)
        del shared["num_classes"]
        GeneratorSpec(**shared, output="pixel_range")


class ConditionalGenerator(nn.Module):
    """Images from noise and a label: DCGAN's body, conditional as in conditional GANs.

    The few-shot paper (section 4.2) names DCGAN (Radford et al., arXiv 1511.06434) and conditional GANs
    (Mirza and Osindero, arXiv 1411.1784) and gives no layers. Here the label is embedded and enters beside
    the noise; a linear layer makes 128 maps of a quarter of the image's size, two transposed convolutions
    (4x4, stride 2) double it with 64 and 32 maps, BatchNorm and ReLU follow each of the three, and a 3x3
    convolution and tanh make the image, on to [low, high]. The channel counts are those of the authors'
    published code, which upsamples and convolves instead. Weights start as DCGAN's, from N(0, 0.02).

    The embedding has as many numbers as the noise, from N(0, 1). One-hot, as in that code, the label is a
    hundredth of the input's variance, and model inversion can settle on a generator that ignores it: on
    digits 14 % of the images then had the label asked for after 450 steps, 57 % with the embedding.

    | parameters at width 1, z_dim 100, 10 classes | |
    |---|---|
    | 8x8, 1 channel | 267,977 |
    | 28x28, 1 channel | 1,419,977 |
    | 32x32, 3 channels | 1,804,555 |
    """

    def __init__(self, spec: ConditionalGeneratorSpec) -> None:
        super().__init__()
        self.spec = spec
        first, second, third = (max(1, round(channels * spec.width)) for channels in (128, 64, 32))
        high, across = (side // 4 for side in height_and_width(spec.image_size))
        self.embedding = nn.Embedding(spec.num_classes, spec.z_dim)
        self.layers = nn.Sequential(
            nn.Linear(2 * spec.z_dim, first * high * across, bias=False),
            nn.Unflatten(1, (first, high, across)),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.ConvTranspose2d(first, second, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.ConvTranspose2d(second, third, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(third),
            nn.ReLU(),
            nn.Conv2d(third, spec.channels, 3, padding=1),
            nn.Tanh(),
        )
        for layer in self.layers:
            if isinstance(layer, (nn.Linear, nn.ConvTranspose2d, nn.Conv2d)):
                nn.init.normal_(layer.weight, std=0.02)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Normalised images `[B, C, H, W]` of noise `[B, z_dim]` and labels `[B]` int64."""
        image: Tensor = self.layers(torch.cat([z, self.embedding(y)], dim=1))
        return self.spec.low + (self.spec.high - self.spec.low) * (image + 1) / 2


def build_conditional_generator(
    spec: ConditionalGeneratorSpec, seed: int, *, label_std: float = 1.0
) -> ConditionalGenerator:
    """A freshly initialised generator on CPU, a function of its arguments alone.

    The global random number generators are left as they were.

    Args:
        spec: of the generator.
        seed: of its weights.
        label_std: standard deviation of the embedding's numbers; the noise's is 1.
    """
    with seeded_default_generators(derive_seed(seed, "init", "conditional generator")):
        built = ConditionalGenerator(spec)
    with torch.no_grad():
        built.embedding.weight.mul_(label_std)
    return built
