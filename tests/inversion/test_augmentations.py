"""Random variation of images: each by a draw of its own, of the size that was asked for."""

from __future__ import annotations

import math

import pytest
import torch

from rayunlearn.inversion.augmentations import turned


def draws(seed: int = 0) -> torch.Generator:
    """A generator of a seed."""
    return torch.Generator().manual_seed(seed)


def discs(count: int, size: int = 33, radius: float = 6.0, at: tuple[float, float] = (0, 0)) -> torch.Tensor:
    """Images `[count, 1, size, size]` of a disc, so many pixels down and across from the middle."""
    line = torch.arange(size) - (size - 1) / 2
    far = (line[:, None] - at[0]).square() + (line[None, :] - at[1]).square()
    return torch.sigmoid(radius - far.sqrt()).expand(count, 1, size, size).clone()


def middle(images: torch.Tensor) -> torch.Tensor:
    """Centre of mass `[N, 2]`, pixels down and across from the middle."""
    line = torch.arange(images.shape[-1]) - (images.shape[-1] - 1) / 2
    mass = images.sum(dim=(1, 2, 3))
    down = (images.sum(dim=(1, 3)) * line).sum(dim=1) / mass
    across = (images.sum(dim=(1, 2)) * line).sum(dim=1) / mass
    return torch.stack([down, across], dim=1)


def test_nothing_asked_for_is_nothing_done() -> None:
    """Up to the rounding of the interpolation; the draws are taken all the same."""
    images = torch.rand(4, 2, 9, 9, generator=draws())
    assert torch.allclose(turned(images, 0, 0, 0, draws()), images, atol=1e-5)


def test_a_rotation_turns_about_the_middle() -> None:
    """A disc beside the middle keeps its distance and goes by up to the angle, to either side."""
    found = middle(turned(discs(200, at=(0, 8)), 30, 0, 0, draws()))
    assert torch.allclose(found.norm(dim=1), torch.full((200,), 8.0), atol=0.3)
    angles = torch.atan2(found[:, 0], found[:, 1]).rad2deg()
    assert -30.5 < float(angles.min()) < -25 and 25 < float(angles.max()) < 30.5


def test_a_scale_changes_size_by_up_to_its_share() -> None:
    """A disc's mass goes as the square of its size: a scale of 0.2 gives sizes of 1/1.2 to 1/0.8."""
    images = discs(200)
    sizes = (turned(images, 0, 0.2, 0, draws()).sum(dim=(1, 2, 3)) / images.sum(dim=(1, 2, 3))).sqrt()
    assert 1 / 1.2 - 0.01 < float(sizes.min()) < 0.86 and 1.2 < float(sizes.max()) < 1 / 0.8 + 0.01


def test_a_shift_is_a_share_of_the_size() -> None:
    """Up to a tenth of 33 pixels in each direction, which are drawn apart."""
    found = middle(turned(discs(200), 0, 0, 0.1, draws()))
    for direction in (0, 1):
        assert 3.0 < float(found[:, direction].max()) < 3.35
        assert -3.35 < float(found[:, direction].min()) < -3.0
    assert abs(float(torch.corrcoef(found.T)[0, 1])) < 4 / math.sqrt(200)


@pytest.mark.parametrize("asked", [(20, 0, 0), (0, 0.2, 0), (0, 0, 0.2)])
def test_the_draws_are_the_seeds(asked: tuple[float, float, float]) -> None:
    """Equal images become different ones, the same for the same seed; a plain image stays as it is."""
    images = discs(5, at=(3, 5))
    found = turned(images, *asked, draws(1))
    assert torch.equal(found, turned(images, *asked, draws(1)))
    assert not torch.allclose(found, turned(images, *asked, draws(2)), atol=0.01)
    assert not torch.allclose(found[0], found[1], atol=0.01)
    plain = torch.full((3, 1, 8, 8), 0.7)
    assert torch.allclose(turned(plain, *asked, draws()), plain)
