"""Functions of single operations: near to the library's, and the same wherever in a tensor."""

from __future__ import annotations

import math

import torch

from rayunlearn.surrogates.exact import cosine, log_uniform, power_of_two, sine, stretched


def test_sine_and_cosine() -> None:
    """To 0.0011 over several turns."""
    turns = torch.linspace(-3, 3, 5001)
    assert float((sine(turns) - (2 * math.pi * turns).sin()).abs().max()) < 0.0011
    assert float((cosine(turns) - (2 * math.pi * turns).cos()).abs().max()) < 0.0011


def test_powers_of_two() -> None:
    """To one part in a million, over the whole range."""
    exponents = torch.linspace(-100, 100, 20_001)
    found = power_of_two(exponents).double() / exponents.double().exp2()
    assert float((found - 1).abs().max()) < 1e-6


def test_the_bits_do_not_depend_on_the_place() -> None:
    """Each number alone gives what it gives among many."""
    numbers = torch.rand(77, generator=torch.Generator().manual_seed(0)) * 9 - 4
    for function in (sine, cosine, power_of_two):
        rows = zip(numbers, function(numbers), strict=True)
        assert all(torch.equal(function(number[None])[0], value) for number, value in rows)


def test_octaves_are_equally_full() -> None:
    """From 1 to 8: a third of the numbers below 2, two thirds below 4."""
    found = log_uniform(torch.linspace(0, 1, 3001), 1.0, 8.0)
    assert abs(float((found < 2).double().mean()) - 1 / 3) < 1e-3
    assert abs(float((found < 4).double().mean()) - 2 / 3) < 1e-3


def test_a_stretched_picture_has_its_range() -> None:
    """Each its own; a plain one is at the lower end."""
    pictures = torch.tensor([[0.4, 0.5, 0.6], [0.3, 0.3, 0.3]]).view(2, 1, 1, 3)
    found = stretched(pictures, torch.tensor([0.1, 0.2]), torch.tensor([0.9, 0.8])).flatten(1)
    assert torch.allclose(found, torch.tensor([[0.1, 0.5, 0.9], [0.2, 0.2, 0.2]]))
