"""Crops of photographs: pure, of the size and place that settings allow, as bright as the photograph."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.surrogates.photographs import CropSettings, crops

STILL = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
UPRIGHT = {"rotation": 0.0, "flips": 0.0, "proportion": 1.0}


def photograph(channels: int = 3, height: int = 60, width: int = 90) -> Tensor:
    """Random pixels."""
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(channels))


def map_of_places(height: int = 128, width: int = 192) -> Tensor:
    """A photograph whose red is the place across, and green the place down, both from 0 to 1."""
    down = ((torch.arange(height) + 0.5) / height)[:, None].expand(height, width)
    across = ((torch.arange(width) + 0.5) / width).expand(height, width)
    return torch.stack([across, down, torch.zeros(height, width)])


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (4, 8, 13)])
def test_a_crop_is_a_function_of_its_number(shape: tuple[int, int, int]) -> None:
    """Bit for bit, in any order and batch; float32 from 0 to 1; another seed cuts elsewhere."""
    given = [photograph(), photograph(1, 17, 33), photograph(3, 8, 8)]
    found = crops(given, 40, shape=shape, seed=1)
    assert found.shape == (40, *shape) and found.dtype == torch.float32
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(crops(given, order, shape=shape, seed=1), found[order])
    for number in range(0, 40, 9):
        assert torch.equal(crops(given, [number], shape=shape, seed=1)[0], found[number])
    assert not torch.equal(crops(given, 40, shape=shape, seed=2), found)
    assert len(found.flatten(1).unique(dim=0)) == 40


def spans(settings: CropSettings, count: int = 2000) -> tuple[Tensor, Tensor]:
    """How much of a map of places crops see, across and down, as shares of it, `[count]` each; signed."""
    found = crops([map_of_places()], count, shape=(3, 16, 16), seed=0, settings=settings)
    across = (found[:, 0, 8, 15] - found[:, 0, 8, 0]) * 16 / 15
    return across, (found[:, 1, 15, 8] - found[:, 1, 0, 8]) * 16 / 15


def test_areas_are_log_uniform() -> None:
    """A square crop of a share a of a map 3 by 2 sees sqrt(2a / 3) across; equally many in each octave."""
    across, down = spans(CropSettings(**STILL, **UPRIGHT, area_low=0.04, area_high=0.64))
    area = across * down
    assert float(area.min()) > 0.035 and float(area.max()) < 0.68
    for octave, share in ((0.08, 0.25), (0.16, 0.5), (0.32, 0.75)):
        assert float((area < octave).double().mean()) == pytest.approx(share, abs=0.05)
    assert torch.allclose(across * 192, down * 128, rtol=0.1)


def test_a_crop_of_everything_is_the_photograph() -> None:
    """At its own size, to rounding."""
    given = photograph(3, 24, 24)
    settings = CropSettings(**STILL, **UPRIGHT, area_low=1.0)
    found = crops([given], 3, shape=(3, 24, 24), seed=0, settings=settings)
    assert torch.allclose(found, given.expand(3, -1, -1, -1), atol=1e-4)


def test_flips_mirror_their_share() -> None:
    """Three in ten, left for right and never upside down."""
    across, down = spans(CropSettings(**STILL, **UPRIGHT | {"flips": 0.3}))
    assert float((across < 0).double().mean()) == pytest.approx(0.3, abs=0.04)
    assert float(down.min()) > 0


def test_rotations_are_within_their_degrees() -> None:
    """By the direction in which the map's red grows, to either side."""
    settings = CropSettings(**STILL, **UPRIGHT | {"rotation": 40.0}, area_low=0.02, area_high=0.1)
    given = map_of_places(192, 192)
    found = crops([given], 1000, shape=(3, 16, 16), seed=0, settings=settings)
    red = found[:, 0]
    turn = torch.atan2(red[:, 12, 8] - red[:, 4, 8], red[:, 8, 12] - red[:, 8, 4]).rad2deg()
    inside = (red.amin((1, 2)) > 0.1) & (red.amax((1, 2)) < 0.9)
    assert 30 < float(turn[inside].max()) < 41 and -41 < float(turn[inside].min()) < -30


def test_a_small_crop_of_a_large_photograph_is_smooth() -> None:
    """Pixels are means of what they cover: a fine chequerboard becomes grey, its plain samples do not."""
    board = ((torch.arange(512)[:, None] + torch.arange(512)) % 2).float().expand(1, -1, -1)
    settings = CropSettings(**STILL, area_low=0.5)
    found = crops([board], 20, shape=(1, 16, 16), seed=0, settings=settings)
    assert torch.allclose(found, torch.full_like(found, 0.5), atol=1e-3)
    assert float(board[0, ::30, ::31].std()) > 0.4


def test_jitter_changes_colours_and_not_places() -> None:
    """As far as each setting says; without any, crops of a plain photograph stay as it is."""
    plain = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1).expand(3, 20, 20)

    def of(**settings: float) -> Tensor:
        chosen = CropSettings(**STILL | settings)
        return crops([plain], 500, shape=(3, 8, 8), seed=0, settings=chosen)

    assert torch.allclose(of()[:, :, 0, 0], plain[:, 0, 0].expand(500, 3), atol=1e-5)
    brighter = of(brightness=0.2)[:, :, 0, 0] - plain[:, 0, 0]
    assert torch.allclose(brighter[:, 0], brighter[:, 2], atol=1e-5)
    assert -0.2001 < float(brighter.min()) < -0.18 and 0.18 < float(brighter.max()) < 0.2001
    hues = of(hue=0.1)[:, :, 0, 0] / plain[:, 0, 0]
    assert 0.8999 < float(hues.min()) < 0.91 and 1.09 < float(hues.max()) < 1.1001
    spread = of(saturation=0.5)[:, 0, 0, 0] - of(saturation=0.5)[:, 2, 0, 0]
    assert 0.0999 < float(spread.min()) < 0.11 and 0.29 < float(spread.max()) < 0.3001


def test_channels_follow_luma() -> None:
    """A green photograph in grey; a grey one in colour."""
    green = torch.zeros(3, 9, 9)
    green[1] = 1
    settings = CropSettings(**STILL)
    grey = crops([green], 4, shape=(1, 8, 8), seed=0, settings=settings)
    assert torch.allclose(grey, torch.full_like(grey, 0.587), atol=1e-5)
    three = crops([photograph(1)], 4, shape=(3, 8, 8), seed=0, settings=settings)
    assert torch.equal(three[:, 0], three[:, 1]) and torch.equal(three[:, 0], three[:, 2])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "photographs is 0; allowed: at least one"),
        ([torch.zeros(2, 9, 9)], r"photographs\[0\] is \(2, 9, 9\); allowed: \(C, H, W\) of one"),
        ([torch.zeros(3, 9, 9), torch.zeros(9, 9)], r"photographs\[1\] is \(9, 9\)"),
        ([torch.zeros(3, 9, 9, dtype=torch.uint8)], r"photographs\[0\] is torch.uint8; allowed: float32"),
        ([torch.full((3, 9, 9), 1.5)], r"photographs\[0\] is \(1.5, 1.5\); allowed: pixels from 0 to 1"),
        ([torch.full((3, 9, 9), math.nan)], r"photographs\[0\] is \(nan, nan\)"),
    ],
)
def test_other_photographs_are_refused(given: list[Tensor], message: str) -> None:
    """Which one, what it is and what is allowed."""
    with pytest.raises(BadInput, match=message):
        crops(given, 1, shape=(3, 8, 8), seed=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("area_low", 0.0),
        ("area_high", 0.001),
        ("proportion", 0.5),
        ("rotation", 181.0),
        ("flips", -0.1),
        ("brightness", 1.1),
        ("hue", math.nan),
    ],
)
def test_other_settings_are_refused(field: str, value: float) -> None:
    """The field, its value and what is allowed."""
    with pytest.raises(BadInput, match=rf"crops\.{field} is {value}; allowed: (a|degrees)"):
        CropSettings(**{field: value})
