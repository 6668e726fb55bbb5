"""The conditional generator: sizes, range, what the label does, and its spec."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rayunlearn.errors import BadInput
from rayunlearn.models.conditional_generator import (
    ConditionalGenerator,
    ConditionalGeneratorSpec,
    build_conditional_generator,
)
from rayunlearn.models.weights import version_id

FIELDS: dict[str, Any] = {"channels": 1, "image_size": 8, "num_classes": 10, "low": -0.5, "high": 2.0}
SMALL = ConditionalGeneratorSpec(**FIELDS, z_dim=6, width=0.1)


def noise(n: int = 5, z_dim: int = 6) -> Tensor:
    """Normal numbers of a fixed seed, `[n, z_dim]`."""
    return torch.randn(n, z_dim, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("channels", "size", "count"), [(1, 8, 267_977), (1, 28, 1_419_977), (3, 32, 1_804_555)]
)
def test_parameters_at_width_1(channels: int, size: int, count: int) -> None:
    """By hand: the embedding, a linear layer without bias, three BatchNorms, two transposed convolutions
    without bias and the last convolution; the count stands in the docstring.
    """
    spec = ConditionalGeneratorSpec(**(FIELDS | {"channels": channels, "image_size": size}))
    by_hand = 10 * 100 + 200 * 128 * (size // 4) ** 2 + 2 * (128 + 64 + 32)
    by_hand += 128 * 64 * 16 + 64 * 32 * 16 + 32 * channels * 9 + channels
    model = build_conditional_generator(spec, seed=0)
    assert sum(p.numel() for p in model.parameters()) == by_hand == count
    assert f"| {count:,} |" in (ConditionalGenerator.__doc__ or "")


@pytest.mark.parametrize("size", [4, 8, 12, 16, 28, 32])
def test_images_have_the_size_asked_for(size: int) -> None:
    """Any multiple of 4."""
    spec = ConditionalGeneratorSpec(
        channels=3, image_size=size, num_classes=4, low=0.0, high=1.0, z_dim=6, width=0.1
    )
    images = build_conditional_generator(spec, seed=0)(noise(), torch.tensor([0, 1, 2, 3, 0]))
    assert images.shape == (5, 3, size, size)


def test_pixels_stay_in_the_range_and_start_well_inside() -> None:
    """No pixel starts near an end of [-0.5, 2]; with the last layer blown up they reach both ends exactly."""
    model = build_conditional_generator(SMALL, seed=0)
    y = torch.arange(5)
    assert (model(noise(), y) - 0.75).abs().max() < 1.0
    last = model.layers[-2]
    assert isinstance(last, nn.Conv2d)
    with torch.no_grad():
        last.weight.mul_(1e4)
    extreme = model(noise(), y)
    assert extreme.min().item() == -0.5
    assert extreme.max().item() == 2.0


def test_noise_and_label_both_matter() -> None:
    """In eval mode, each with the other held: the images differ. The same of both: the same image."""
    model = build_conditional_generator(SMALL, seed=0).eval()
    z = noise(1).expand(3, -1)
    one, other, again = model(z, torch.tensor([3, 4, 3]))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    first, second = model(noise(2), torch.tensor([3, 3]))
    assert not torch.equal(first, second)


def test_initialisation_is_the_seeds_alone() -> None:
    """Equal seeds, equal weights, global RNG untouched; another seed differs. Weights are N(0, 0.02)."""
    before = torch.get_rng_state()
    first = version_id(build_conditional_generator(SMALL, seed=0).state_dict())
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(9)
    assert version_id(build_conditional_generator(SMALL, seed=0).state_dict()) == first
    assert version_id(build_conditional_generator(SMALL, seed=1).state_dict()) != first
    wide = build_conditional_generator(ConditionalGeneratorSpec(**FIELDS), seed=0)
    weights = [p for p in wide.layers.parameters() if p.dim() > 1]
    assert len(weights) == 4
    assert all(0.018 < weight.std().item() < 0.022 for weight in weights)


@pytest.mark.parametrize(
    ("changes", "thing"),
    [
        ({"channels": 0}, "channels"),
        ({"image_size": 30}, "image_size"),
        ({"num_classes": 1}, "num_classes"),
        ({"num_classes": 10.0}, "num_classes"),
        ({"z_dim": 0}, "z_dim"),
        ({"width": float("nan")}, "width"),
        ({"low": None}, "low"),
        ({"low": 2.0}, "low"),
        ({"high": float("inf")}, "high"),
    ],
)
def test_bad_fields_are_named(changes: dict[str, Any], thing: str) -> None:
    """A field out of range is refused by its name."""
    with pytest.raises(BadInput) as error:
        ConditionalGeneratorSpec(**(FIELDS | changes))
    assert error.value.thing == thing
