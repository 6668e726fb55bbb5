"""Random numbers by counting: uniform, independent, and a picture's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from rayunlearn.errors import BadInput
from rayunlearn.surrogates.draws import Draws, as_indices, hashed


def draws(count: int, seed: int = 0) -> Draws:
    """Those of pictures 0 to count - 1."""
    return Draws.of(seed, "test", torch.arange(count))


def splitmix(state: int) -> int:
    """The mixing in Python's whole numbers, as the paper has it."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        state = (state ^ (state >> shift)) * factor % 2**64
    return state


def test_the_mixing_is_splitmix() -> None:
    """Bit for bit, of numbers of either sign."""
    numbers = [0, 1, -1, 2**63 - 1, -(2**63), 123456789, -987654321]
    assert [number % 2**64 for number in hashed(torch.tensor(numbers)).tolist()] == [
        splitmix(number % 2**64) for number in numbers
    ]


def p_uniform(numbers: torch.Tensor) -> tuple[float, float]:
    """p of Kolmogorov and Smirnov's test, and of chi square over 256 cells."""
    flat = numbers.flatten().double().numpy()
    cells = np.bincount((flat * 256).astype(int), minlength=256)
    return float(stats.kstest(flat, "uniform").pvalue), float(stats.chisquare(cells).pvalue)


@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_numbers_are_uniform(seed: int) -> None:
    """Over pictures, over places within one, and over seeds; their power 1.1 is found not to be."""
    over_pictures = draws(50_000, seed).uniform("a")
    over_places = draws(1, seed).uniform("a", 50_000)
    over_seeds = torch.cat([draws(1, seed + more).uniform("a") for more in range(500)])
    for numbers in (over_pictures, over_places, over_seeds):
        assert min(p_uniform(numbers)) > 1e-3
        assert len(numbers) < 50_000 or max(p_uniform(numbers**1.1)) < 1e-3


def test_numbers_are_independent() -> None:
    """Of neighbouring places, pictures, seeds and purposes: no correlation, nor in their lowest bits."""
    count = 40_000
    one = draws(count).bits("a", 2)
    pairs = {
        "places": (one[:, 0], one[:, 1]),
        "pictures": (one[:-1, 0], one[1:, 0]),
        "seeds": (one[:, 0], draws(count, 1).bits("a", 2)[:, 0]),
        "purposes": (one[:, 0], draws(count).bits("b", 2)[:, 0]),
        "apart": (one[:, 0], draws(count).apart("x").bits("a", 2)[:, 0]),
    }
    for name, (left, right) in pairs.items():
        for bits in (2**24, 16):
            pair = torch.stack([(left % bits).double(), (right % bits).double()])
            assert abs(float(torch.corrcoef(pair)[0, 1])) < 4 / count**0.5, name
        table = torch.bincount((left >> 20) * 16 + (right >> 20), minlength=256).view(16, 16).numpy()
        assert stats.chi2_contingency(table).pvalue > 1e-3, name


def test_neighbouring_seeds_share_nothing() -> None:
    """No key of 20 seeds' pictures is another's, not even some steps on."""
    keys = torch.cat([draws(2_000, seed).keys for seed in range(20)])
    assert len(keys.unique()) == len(keys)
    numbers = torch.cat([draws(20, seed).bits("a", 100).view(-1, 100) for seed in range(20)])
    starts = {tuple(row) for row in numbers.unfold(1, 3, 1).flatten(0, 1).tolist()}
    assert len(starts) == numbers.shape[0] * 98


def test_a_number_depends_on_its_picture_and_place_alone() -> None:
    """Other pictures, other places asked for and their order change nothing."""
    order = torch.tensor([7, 3, 9])
    some = Draws.of(0, "test", order)
    assert torch.equal(some.uniform("a", 5), draws(10).uniform("a", 5)[order])
    assert torch.equal(some.uniform("a", 5), draws(10)[order].uniform("a", 9)[:, :5])
    assert torch.equal(some.uniform("a", 2, 3).flatten(1), some.uniform("a", 6))


def test_whole_numbers_and_choices() -> None:
    """Equally many of each, in proportion to weights; what has no weight is never chosen."""
    many = draws(60_000)
    assert stats.chisquare(torch.bincount(many.whole("a", below=5)).numpy()).pvalue > 1e-3
    chosen = torch.bincount(many.one_of("b", (0.0, 1.0, 3.0, 0.0)), minlength=4)
    assert chosen[[0, 3]].tolist() == [0, 0]
    assert float(chosen[1]) / 60_000 == pytest.approx(0.25, abs=0.01)
    assert float(many.chance("c", share=0.2).double().mean()) == pytest.approx(0.2, abs=0.01)
    assert float(many.bell("d").std()) == pytest.approx(1, abs=0.02)


def test_numbers_of_pictures() -> None:
    """A count, a list, a range and a tensor name the same pictures."""
    for given in (3, [0, 1, 2], range(3), torch.arange(3), torch.arange(3, dtype=torch.int32)):
        assert as_indices(given).tolist() == [0, 1, 2]
    assert as_indices(0).shape == as_indices([]).shape == (0,)


@pytest.mark.parametrize("given", [-1, True, [0, -2], [0.5], [True], torch.tensor([-1]), torch.rand(2)])
def test_other_numbers_are_refused(given: object) -> None:
    """By name and with what is allowed."""
    with pytest.raises(BadInput, match=r"indices is .*; allowed: a count, or a row of whole numbers >= 0"):
        as_indices(given)  # type: ignore[arg-type]
