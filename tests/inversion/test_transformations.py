"""Transformations: against exact turns, shifts and enlargements, and what they leave alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rayunlearn.errors import BadInput
from rayunlearn.inversion.transformations import (
    DEFAULT,
    TRANSFORMATIONS,
    Transformation,
    transformations,
)
from rayunlearn.models.classifiers import Classifier

LOW = -0.75


def pixels(size: int = 14, channels: int = 2) -> Tensor:
    """Random images `[3, channels, size, size]` above the background."""
    draws = torch.Generator().manual_seed(0)
    return LOW + torch.rand(3, channels, size, size, generator=draws)


def test_a_quarter_turn_is_anticlockwise() -> None:
    """Four quarters: `torch.rot90` once, twice, thrice and not at all. Clockwise would be another image."""
    x = pixels()
    for quarters in range(4):
        turned = Transformation(background=LOW, degrees=90.0 * quarters)(x)
        torch.testing.assert_close(turned, torch.rot90(x, quarters, (2, 3)), rtol=0, atol=1e-5)
    assert not torch.allclose(torch.rot90(x, 1, (2, 3)), torch.rot90(x, -1, (2, 3)), atol=0.1)


def test_a_shift_of_whole_pixels_moves_them_and_fills_with_the_background() -> None:
    """1/14 to the right and 2/14 up of a 14x14 image: a column and two rows of background come in."""
    x = pixels()
    moved = Transformation(background=LOW, right=1 / 14, down=-2 / 14)(x)
    expected = torch.full_like(x, LOW)
    expected[..., :-2, 1:] = x[..., 2:, :-1]
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-5)


def test_a_zoom_by_two_enlarges_the_centre() -> None:
    """It is the middle quarter, resized bilinearly; the half-pixel rim of that sees its neighbours."""
    x = pixels(size=16)
    enlarged = Transformation(background=LOW, zoom=2.0)(x)
    expected = F.interpolate(x[..., 4:12, 4:12], scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarged[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=0, atol=1e-5)


def test_the_image_is_turned_before_it_is_shifted() -> None:
    """A turn with a shift is the turn, then the shift; the other order gives another image."""
    x = pixels()
    turn, shift = Transformation(background=LOW, degrees=90.0), Transformation(background=LOW, right=1 / 14)
    both = Transformation(background=LOW, degrees=90.0, right=1 / 14)(x)
    torch.testing.assert_close(both, shift(turn(x)), rtol=0, atol=1e-5)
    assert not torch.allclose(both, turn(shift(x)), atol=0.1)


@pytest.mark.parametrize("size", [8, 28])
def test_shape_and_background_are_kept(size: int) -> None:
    """Images of background alone stay so, exactly. Without its value the corners of a turn would be 0."""
    empty = torch.full((2, 3, size, size), LOW)
    for phi in transformations(tuple(TRANSFORMATIONS), background=LOW):
        assert torch.equal(phi(empty), empty)
    turned = Transformation(background=0.0, degrees=10.0)(empty)
    assert turned.max().item() > LOW + 0.1


def test_each_is_another_image_and_a_linear_map_with_a_gradient() -> None:
    """All differ from the image and from each other, are the same when repeated, and pass gradcheck."""
    x = pixels(size=6, channels=1)[:1].double().requires_grad_(True)
    made = [x.detach()]
    for phi in transformations(tuple(TRANSFORMATIONS), background=LOW):
        assert torch.equal(phi(x), phi(x))
        assert torch.autograd.gradcheck(phi, x)
        made.append(phi(x).detach())
    assert len({tuple(image.flatten().tolist()) for image in made}) == len(TRANSFORMATIONS) + 1


@pytest.mark.learned
def test_digits_keep_their_meaning_unlike_upside_down(
    version: Classifier, digits_data: object, digits_version: Callable[[], Classifier]
) -> None:
    """Under each default a classifier that never saw one answers over 90 % of test digits as before.

    Upside down, the control, under 60 %.
    """
    x = digits_data.images[1::2]  # type: ignore[attr-defined]
    low = version.spec.pixel_range[0]

    def unchanged(phi: Callable[[Tensor], Tensor]) -> float:
        with torch.no_grad():
            same = version(phi(x)).argmax(1) == version(x).argmax(1)
        return float(same.float().mean())

    assert all(unchanged(phi) > 0.9 for phi in transformations(DEFAULT, background=low))
    assert unchanged(Transformation(background=low, degrees=180.0)) < 0.6


@pytest.mark.parametrize("names", [("flip",), ("zoom_in", "zoom_in"), (1,)])
def test_unknown_and_repeated_names_are_refused(names: tuple[str, ...]) -> None:
    """By name; in the order asked for otherwise."""
    with pytest.raises(BadInput, match="transformations is"):
        transformations(names, background=LOW)
    first, second = transformations(("zoom_in", "rotate_left"), background=LOW)
    assert (first.zoom, second.degrees) == (1.1, 10.0)
