"""Pictures by their number: pure, in range, and of the families that were asked for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.surrogates.procedural import FAMILIES, ProceduralSettings, procedural_images

SHAPES = [(3, 32, 32), (1, 28, 28), (1, 8, 8), (5, 9, 21)]


def only(family: str, **settings: float) -> ProceduralSettings:
    """Settings that draw one family."""
    return ProceduralSettings(**{name: float(name == family) for name in FAMILIES} | settings)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_picture_is_a_function_of_its_number(shape: tuple[int, int, int]) -> None:
    """Bit for bit, in any order and batch; another seed, number or shape gives another picture."""
    pictures = procedural_images(40, shape=shape, seed=3)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(procedural_images(order, shape=shape, seed=3), pictures[order])
    for number in range(0, 40, 9):
        assert torch.equal(procedural_images([number], shape=shape, seed=3)[0], pictures[number])
    assert len(pictures.flatten(1).unique(dim=0)) == 40
    other = procedural_images(40, shape=shape, seed=4)
    assert not any(torch.equal(one, two) for one, two in zip(pictures, other, strict=True))


def test_one_generator_for_a_batch_is_found_not_to_be_pure() -> None:
    """The negative control: pictures that draw in turn from one stream change with their order."""

    def in_turn(numbers: Tensor) -> Tensor:
        return torch.rand(len(numbers), 3, 8, 8, generator=torch.Generator().manual_seed(3))

    order = torch.tensor([2, 0, 1])
    assert not torch.equal(in_turn(order), in_turn(torch.arange(3))[order])


def test_threads_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures drawn one at a time; or by three threads, bit for bit where there is no noise in them."""
    plain = ProceduralSettings(textured_leaves=0, noise=0, objects=0)
    chosen = (plain, ProceduralSettings())
    threads = torch.get_num_threads()

    def both(count: int) -> list[Tensor]:
        return [procedural_images(count, shape=(3, 32, 32), seed=0, settings=one) for one in chosen]

    (leaves, pictures) = both(40)
    try:
        torch.set_num_threads(3)
        other_leaves, other_pictures = both(40)
        grounds = (other_leaves == leaves).flatten(1).all(dim=1)
    finally:
        torch.set_num_threads(threads)
    assert float(grounds.double().mean()) > 0.8  # some papers are rough
    assert torch.allclose(other_leaves, leaves, atol=1e-5)
    assert torch.allclose(other_pictures, pictures, atol=1e-5)
    monkeypatch.setattr("rayunlearn.surrogates.procedural._CHUNK", 1)
    assert torch.equal(procedural_images(10, shape=(3, 32, 32), seed=0), pictures[:10])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 8, 384)])
def test_pixels_have_their_range_and_pictures_structure(family: str, shape: tuple[int, int, int]) -> None:
    """float32 from 0 to 1, none plain, in every channel; neighbours are more alike than strangers."""
    pictures = procedural_images(30, shape=shape, seed=0, settings=only(family, exponent_low=1.5))
    assert pictures.shape == (30, *shape) and pictures.dtype == torch.float32
    assert bool(pictures.isfinite().all()) and 0 <= float(pictures.min()) <= float(pictures.max()) <= 1
    assert float(pictures.flatten(1).std(dim=1).min()) > 0.02
    assert float(pictures.flatten(2).std(dim=2).mean(dim=0).min()) > 0.08
    centred = pictures - pictures.mean((2, 3), keepdim=True)
    alike = (centred[..., 1:] * centred[..., :-1]).sum() / centred.square().sum()
    assert float(alike) > 0.3


def test_channels() -> None:
    """One is grey, three are coloured, others are mixtures that differ."""
    settings = only("dead_leaves")
    coloured, more = (procedural_images(30, shape=(c, 16, 16), seed=0, settings=settings) for c in (3, 5))
    assert float((coloured[:, 0] - coloured[:, 2]).abs().mean()) > 0.03
    assert all(float((more[:, 0] - more[:, c]).abs().mean()) > 0.005 for c in range(1, 5))


def test_large_pictures() -> None:
    """The largest ones, as small ones: a plane of 384 by 384 pixels."""
    pictures = procedural_images(2, shape=(3, 384, 384), seed=0)
    assert torch.equal(procedural_images([1], shape=(3, 384, 384), seed=0)[0], pictures[1])


def test_weights_are_shares() -> None:
    """Of a thousand pictures as many are plain strokes on black or white as their weight says."""
    settings = ProceduralSettings(dead_leaves=0, textured_leaves=0, noise=3, strokes=1, objects=0)
    pictures = procedural_images(1000, shape=(1, 8, 8), seed=0, settings=settings)
    noise = procedural_images(1000, shape=(1, 8, 8), seed=0, settings=only("noise"))
    same = (pictures == noise).flatten(1).all(dim=1)
    assert float(same.double().mean()) == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 1000))


def test_none_is_none() -> None:
    """No picture asked for."""
    assert procedural_images(0, shape=(3, 8, 8), seed=0).shape == (0, 3, 8, 8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_another_device_draws_the_same_pictures() -> None:
    """Up to rounding, at almost every pixel: the numbers are the same."""
    here = procedural_images(50, shape=(3, 32, 32), seed=0)
    there = procedural_images(50, shape=(3, 32, 32), seed=0, device="cuda")
    assert there.is_cuda
    assert float(((here - there.cpu()).abs() > 1e-3).double().mean()) < 0.001


def test_the_device_is_the_one_that_is_named() -> None:
    """By a name or an object."""
    for device in ("cpu", torch.device("cpu")):
        assert procedural_images(2, shape=(1, 8, 8), seed=0, device=device).device == torch.device("cpu")


@pytest.mark.parametrize("shape", [(0, 32, 32), (3, 7, 32), (3, 32, 385), (32, 32), (3, 32.0, 32)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    """By name and with what is allowed."""
    with pytest.raises(BadInput, match=r"shape is .*; allowed: .*at least one channel, sides from 8 to 384"):
        procedural_images(1, shape=shape, seed=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strokes", -0.1),
        ("noise", math.nan),
        ("objects", math.inf),
        ("exponent_low", -1.0),
        ("exponent_high", 0.1),
        ("smallest", 0.0),
        ("largest", 0.001),
    ],
)
def test_other_settings_are_refused(field: str, value: float) -> None:
    """The field, its value and what is allowed."""
    with pytest.raises(BadInput, match=rf"procedural\.{field} is {value}; allowed: a finite number"):
        ProceduralSettings(**{field: value})


def test_some_family_has_a_weight() -> None:
    """Of no family there is no picture."""
    with pytest.raises(BadInput, match="a weight above 0 among dead_leaves"):
        ProceduralSettings(**dict.fromkeys(FAMILIES, 0.0))
