"""What each family of pictures is known by, and another family is not."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from rayunlearn.surrogates.colours import as_channels, palette
from rayunlearn.surrogates.draws import Draws
from rayunlearn.surrogates.noise import power_law
from rayunlearn.surrogates.procedural import FAMILIES, ProceduralSettings, procedural_images
from rayunlearn.surrogates.shapes import DISTANCES, ellipse, line, polygon, radii, rectangle

CPU = torch.device("cpu")


@functools.cache
def grey(family: str, size: int = 32) -> Tensor:
    """200 pictures `[200, size, size]` of one family."""
    settings = ProceduralSettings(**{name: float(name == family) for name in FAMILIES})
    return procedural_images(200, shape=(1, size, size), seed=0, settings=settings)[:, 0]


def kurtosis(pictures: Tensor) -> Tensor:
    """Of the differences of neighbours in each picture `[N]`; a Gaussian's is 3."""
    steps = (pictures[:, :, 1:] - pictures[:, :, :-1]).flatten(1)
    steps = steps - steps.mean(dim=1, keepdim=True)
    return steps.pow(4).mean(dim=1) / steps.square().mean(dim=1).square()


def test_leaves_have_edges_between_even_parts() -> None:
    """Differences of neighbours are mostly small, seldom large, as in photographs; those of noise are not."""
    medians = {family: float(kurtosis(grey(family)).median()) for family in FAMILIES}
    assert medians["dead_leaves"] > 6 and medians["strokes"] > 6
    assert medians["textured_leaves"] > 4 and medians["objects"] > 5
    assert medians["noise"] < 3.4


def slope(pictures: Tensor) -> float:
    """Of the logarithm of the power on that of the frequency, over pictures `[N, H, W]`."""
    power = torch.fft.rfft2(pictures - pictures.mean((1, 2), keepdim=True)).abs().square().mean(dim=0)
    size = pictures.shape[1]
    frequency = (torch.fft.fftfreq(size)[:, None].square() + torch.fft.rfftfreq(size).square()).sqrt()
    kept = (frequency > 1.5 / size) & (frequency < 0.45)
    x, y = frequency[kept].log().double(), power[kept].log().double()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


@pytest.mark.parametrize("exponent", [0.5, 2.0, 3.5])
def test_noise_has_the_spectrum_that_was_asked_for(exponent: float) -> None:
    """Fields to 0.1, pictures, whose ends are cut off, to 0.35."""
    draws = Draws.of(0, "test", torch.arange(300))
    fields = power_law(draws, "a", torch.full((300, 1), exponent), (32, 32))[:, 0]
    assert slope(fields) == pytest.approx(-exponent, abs=0.1)
    weights = {name: float(name == "noise") for name in FAMILIES}
    settings = ProceduralSettings(**weights, exponent_low=exponent, exponent_high=exponent)
    pictures = procedural_images(200, shape=(1, 32, 32), seed=0, settings=settings)[:, 0]
    assert slope(pictures) == pytest.approx(-exponent, abs=0.35)


def test_noise_is_centred_and_of_unit_variance() -> None:
    """Each field; two fields of a picture are not alike."""
    fields = power_law(Draws.of(0, "test", torch.arange(50)), "a", torch.ones(50, 2), (16, 24))
    assert torch.allclose(fields.mean((2, 3)), torch.zeros(50, 2), atol=1e-5)
    assert torch.allclose(fields.flatten(2).std(dim=2), torch.ones(50, 2), atol=1e-5)
    assert abs(float((fields[:, 0] * fields[:, 1]).mean())) < 0.1


def test_strokes_stand_on_a_plain_ground() -> None:
    """Where it is plain, most pixels have the ground's value to the bit; of leaves none do so."""

    def share_of_commonest(pictures: Tensor) -> Tensor:
        commonest = pictures.flatten(1).mode(dim=1).values
        return (pictures.flatten(1) == commonest[:, None]).double().mean(dim=1)

    share = share_of_commonest(grey("strokes", 28))
    assert float((share > 0.5).double().mean()) > 0.6
    assert float((share_of_commonest(grey("textured_leaves", 28)) > 0.5).double().mean()) < 0.05


def test_strokes_are_bright_on_dark_and_dark_on_bright() -> None:
    """In six pictures of ten the ground, which the corners show, is dark; and ink covers a part of each."""
    pictures = grey("strokes", 28)
    corners = pictures[:, [0, 0, -1, -1], [0, -1, 0, -1]].median(dim=1).values
    assert 0.5 < float((corners < 0.5).double().mean()) < 0.7
    ink = ((pictures - corners[:, None, None]).abs() > 0.25).double().mean((1, 2))
    assert float(ink.min()) > 0.005 and 0.08 < float(ink.mean()) < 0.35 and float(ink.max()) < 0.75


def test_objects_are_near_the_middle() -> None:
    """Edges are in the middle half more often than in the rest; those of leaves are everywhere."""

    def middle_share(family: str) -> float:
        pictures = grey(family)
        edges = (pictures[:, 1:, 1:] - pictures[:, :-1, :-1]).square()
        inner = edges[:, 8:24, 8:24].sum((1, 2)) / edges.sum((1, 2))
        return float(inner.median())

    assert middle_share("objects") > 0.4
    assert middle_share("dead_leaves") < 0.32


def test_half_of_the_single_objects_are_symmetric() -> None:
    """A third or so of all pictures are nearly their own mirror image about some axis; of leaves none are."""

    def mirrored(family: str) -> float:
        pictures = grey(family)
        best = torch.zeros(len(pictures))
        for axis in range(-4, 5):
            turned = pictures.flip(2).roll(axis, dims=2)
            middle = slice(6, 26)
            one, two = pictures[:, middle, middle].flatten(1), turned[:, middle, middle].flatten(1)
            one, two = one - one.mean(1, keepdim=True), two - two.mean(1, keepdim=True)
            best = torch.maximum(best, (one * two).sum(1) / (one.norm(dim=1) * two.norm(dim=1)))
        return float((best > 0.8).double().mean())

    assert mirrored("objects") > 3 * mirrored("dead_leaves") + 0.1


def test_radii_follow_the_law() -> None:
    """Density r**-3: the share above r is (r**-2 - R**-2) / (s**-2 - R**-2), each octave covers one area."""
    smallest, largest = 0.01, 0.64
    found = radii(Draws.of(0, "test", torch.arange(200_000)).uniform("r"), torch.tensor(smallest), largest)
    assert smallest * 0.999 <= float(found.min()) and float(found.max()) <= largest * 1.001
    for radius in (0.015, 0.03, 0.1):
        share = (radius**-2 - largest**-2) / (smallest**-2 - largest**-2)
        assert float((found > radius).double().mean()) == pytest.approx(share, rel=0.06)

    def area(of: Tensor, low: float) -> float:
        return float(of[(of >= low) & (of < 2 * low)].double().square().sum())

    areas = [area(found, low) for low in (0.01, 0.02, 0.04)]
    assert max(areas) / min(areas) < 1.1
    # the negative control: the law r**-2 covers twice the area in each next octave
    other = 1 / (1 / smallest - torch.linspace(0, 1, 200_000) * (1 / smallest - 1 / largest))
    assert area(other, 0.02) / area(other, 0.01) == pytest.approx(2, rel=0.05)


SIDES = ((1, 0, 0.25), (0, 1, 0.25), (-1, 0, 0.25), (0, -1, 0.25))
SQUARE = [torch.tensor(float(value)) for side in SIDES for value in side]


@pytest.mark.parametrize(
    ("distance", "area"),
    [
        (ellipse, math.pi * 0.4 * 0.15),
        (rectangle, 4 * 0.4 * 0.15),
        (line, math.pi * 0.03**2 + 4 * 0.4 * 0.03),
        (polygon, 0.5**2),
    ],
)
def test_shapes_have_their_areas_and_slopes(distance: object, area: float) -> None:
    """Of pixels inside, in closed form; and near the edge a distance grows by as much as one moves away."""
    assert distance in DISTANCES
    place = (torch.arange(400) + 0.5) / 200 - 1
    far = distance(place[None], place[:, None], torch.tensor(0.4), torch.tensor(0.15), SQUARE)  # type: ignore[operator]
    assert float((far < 0).double().sum()) / 200**2 == pytest.approx(area, rel=0.01)
    down, across = torch.gradient(far, spacing=1 / 200)
    slopes = (down.square() + across.square()).sqrt()[far.abs() < 0.01]
    assert float(slopes.median()) == pytest.approx(1, abs=0.03)


def test_palettes_have_contrast() -> None:
    """Colours from 0 to 1; the brightest and the darkest of a picture are far apart, hues nearer together."""
    found = palette(Draws.of(0, "test", torch.arange(500)), 5, 3)
    assert found.shape == (500, 5, 3) and 0 <= float(found.min()) <= float(found.max()) <= 1
    brightness = found.mean(dim=2)
    assert float((brightness.amax(1) - brightness.amin(1)).min()) > 0.15
    assert float(brightness.std(dim=1).mean()) > float((found - brightness[..., None]).std(dim=1).mean())


def test_channels_are_made_of_planes() -> None:
    """Three to one by luma, one to three as they are, three to four by shares that add up to one."""
    draws = Draws.of(0, "test", torch.arange(2))
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(2, 3, 2, 2)
    assert torch.allclose(as_channels(red, 1, draws), torch.full((2, 1, 2, 2), 0.299))
    assert torch.equal(as_channels(red[:, :1], 3, draws), torch.ones(2, 3, 2, 2))
    assert torch.equal(as_channels(red, 3, draws), red)
    assert torch.allclose(as_channels(torch.ones(2, 3, 2, 2), 4, draws), torch.ones(2, 4, 2, 2))
    mixed = as_channels(red, 4, draws)
    assert len(mixed.unique()) == 8
