"""The knee of sorted similarities: where it is known, and what is done where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kneed import KneeLocator
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.inversion.knee import POINTS, Knee, knee_threshold
from rayunlearn.inversion.similarity import similarity


def cliff(n: int, share: float = 0.1, foot: float = 0.2) -> Tensor:
    """Scores that fall evenly from 1 to `foot` over a share of the samples, and from there to 0; shuffled."""
    level = np.interp(np.linspace(0, 1, n), [0, share, 1], [1, foot, 0])
    return torch.from_numpy(level)[torch.randperm(n, generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("n", [40, 1000, 50_000])
def test_a_known_knee_is_found_whatever_the_number_of_samples(n: int, share: float) -> None:
    """The foot of the cliff, 0.2, within the curve's spacing; so is the share of samples selected."""
    knee = knee_threshold(cliff(n, share))
    assert knee.method == "knee" and knee.reason == ""
    assert knee.threshold == pytest.approx(0.2, abs=0.8 / share / min(n, POINTS))
    assert float(knee.selects(cliff(n, share)).double().mean()) == pytest.approx(
        share, abs=2 / min(n, POINTS)
    )


def test_a_plateau_before_the_cliff_is_no_knee() -> None:
    """A tenth of the samples alike, the rest far: the knee is the foot of the cliff.

    Negative control: Kneedle's first knee on this curve is its first point, which selects next to nothing.
    """
    draws = torch.Generator().manual_seed(0)
    like, rest = 5 - 0.01 * torch.rand(100, generator=draws), 0.2 * torch.rand(900, generator=draws)
    scores = torch.cat([rest, like]).double()
    knee = knee_threshold(scores)
    assert knee.method == "knee"
    assert torch.equal(knee.selects(scores)[900:], torch.ones(100, dtype=torch.bool))
    assert int(knee.selects(scores)[:900].sum()) <= 1000 // POINTS
    first = KneeLocator(np.linspace(0, 1, POINTS), knee.curve, curve="convex", direction="decreasing")
    assert first.knee == 0.0


def test_the_threshold_moves_with_the_scores() -> None:
    """An affine change of all scores changes the threshold alike, and what is selected not at all."""
    scores = cliff(500)
    plain, changed = knee_threshold(scores), knee_threshold(-7 + 300 * scores)
    assert changed.threshold == pytest.approx(-7 + 300 * plain.threshold, rel=1e-9)
    assert torch.equal(plain.selects(scores), changed.selects(-7 + 300 * scores))


def test_what_is_most_alike_is_selected() -> None:
    """High scores are D'_e. The other reading of eq. 9, below the threshold, would select the other 90 %."""
    scores = cliff(1000)
    selected = knee_threshold(scores).selects(scores)
    assert float(scores[selected].min()) > float(scores[~selected].max())
    assert 0 < int(selected.sum()) < 150


def test_the_curve_is_the_sorted_scores() -> None:
    """`POINTS` values in descending order from maximum to minimum; with as many scores, the scores."""
    scores = torch.randn(POINTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    curve = knee_threshold(scores).curve
    assert torch.allclose(torch.tensor(curve, dtype=torch.float64), scores.sort(descending=True).values)
    many = knee_threshold(cliff(12_345)).curve
    assert len(many) == POINTS and list(many) == sorted(many, reverse=True)
    assert (many[0], many[-1]) == (1.0, 0.0)


@pytest.mark.parametrize(
    "scores",
    [
        torch.linspace(-3, 5, 400),
        1 - torch.linspace(0, 1, 400) ** 4,
        torch.rand(1000, generator=torch.Generator().manual_seed(0)),
    ],
    ids=["straight", "concave", "noise"],
)
def test_a_curve_without_a_knee_is_cut_halfway(scores: Tensor) -> None:
    """A straight line, a curve that bends the other way, noise about a line: midrange, and why."""
    knee = knee_threshold(scores)
    assert knee.method == "midrange" and "no knee is 10% of the range" in knee.reason
    assert knee.threshold == pytest.approx(float(scores.min() + scores.max()) / 2, abs=1e-6)


def test_a_few_scores_are_cut_halfway() -> None:
    """Nine scores have no knee, by their number; ten have."""
    few = torch.tensor([0.9, 0.95, 0.1, 0.05, 0.0, 0.0, 0.02, 0.04, 0.01])
    knee = knee_threshold(few)
    assert knee.method == "midrange" and knee.reason.startswith("9 scores")
    assert knee.selects(few).tolist() == [True, True] + 7 * [False]
    assert knee_threshold(torch.cat([few, few[-1:]])).method == "knee"


@pytest.mark.parametrize("value", [0.0, -3.5, 1e9])
def test_of_equal_scores_none_stands_out(value: float) -> None:
    """Nothing is selected, and the reason is recorded; so for a single score."""
    for n in (1, 500):
        scores = torch.full((n,), value, dtype=torch.float64)
        knee = knee_threshold(scores)
        assert knee.method == "none" and "equal" in knee.reason
        assert math.isfinite(knee.threshold) and not bool(knee.selects(scores).any())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    """One among a hundred is counted and refused."""
    scores = cliff(100)
    scores[17] = bad
    with pytest.raises(BadInput) as error:
        knee_threshold(scores)
    assert error.value.value == 1


@pytest.mark.parametrize("shape", [(0,), (3, 2), ()])
def test_scores_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    """No score, or no row of them."""
    with pytest.raises(BadInput) as error:
        knee_threshold(torch.zeros(shape))
    assert error.value.thing == "shape of the scores"


# ties: what is at the foot of the curve is the rest


def steps(*levels: tuple[float, int], dtype: torch.dtype = torch.float64) -> Tensor:
    """So many scores of each level, shuffled."""
    scores = torch.cat([torch.full((count,), level, dtype=dtype) for level, count in levels])
    return scores[torch.randperm(len(scores), generator=torch.Generator().manual_seed(0))]


def at_the_foot(scores: Tensor) -> Tensor:
    """Negative control: what the foot's own score as a threshold selects, `[N]` bool."""
    shares = np.linspace(0, 1, POINTS)
    curve = np.quantile(scores.double().numpy(), 1 - shares)
    found = KneeLocator(shares, curve, curve="convex", direction="decreasing", online=True)
    return scores >= min(found.all_knees_y)


@pytest.mark.parametrize(("like", "n"), [(500, 1000), (60, 1000), (10, 20), (1, 1000), (1, 50_000)])
def test_scores_that_tie_at_the_foot_are_the_rest(like: int, n: int) -> None:
    """Of two levels the upper one is selected, of whatever size; the foot's score would select all."""
    scores = steps((1.0, like), (0.0, n - like))
    knee = knee_threshold(scores)
    assert knee.method == "knee" and torch.equal(knee.selects(scores), scores == 1)
    assert int(at_the_foot(scores).sum()) == n


def test_samples_that_share_no_feature_with_the_examples_are_the_rest() -> None:
    """Features after a ReLU: 60 of 1,000 samples have those of the examples, the others have others.

    The cosines of the others are 0, all of them; those of the 60 differ.
    """
    draws = torch.Generator().manual_seed(0)
    samples = torch.zeros(1000, 16)
    samples[:60, :8] = torch.randn(60, 8, generator=draws).relu() + 0.1
    samples[60:, 8:] = torch.randn(940, 8, generator=draws).relu() + 0.1
    examples = torch.zeros(5, 16)
    examples[:, :8] = torch.randn(5, 8, generator=draws).relu() + 0.1
    scores = similarity(samples, examples, kernel="cosine")
    assert len(scores[:60].unique()) > 50 and bool((scores[60:] == 0).all())
    selected = knee_threshold(scores).selects(scores)
    assert selected.nonzero()[:, 0].tolist() == list(range(60))
    assert int(at_the_foot(scores).sum()) == 1000


def test_of_three_levels_none_is_cut_in_two_nor_is_the_lowest_selected() -> None:
    """The knee is where the first tie below it begins: 100 of 1,000, not the 400 that a tie adds."""
    scores = steps((1.0, 100), (0.1, 300), (0.0, 600))
    knee = knee_threshold(scores)
    assert knee.method == "knee" and torch.equal(knee.selects(scores), scores == 1)


LEVELS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None)
@given(
    levels=st.lists(LEVELS, min_size=2, max_size=2, unique_by=lambda level: level + 0.0),
    upper=st.integers(1, 3000),
    lower=st.integers(1, 3000),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_of_any_two_levels_the_upper_one_is_selected(
    levels: list[float], upper: int, lower: int, dtype: torch.dtype
) -> None:
    """Whatever the levels, their sizes and the type, and though no number lies between them."""
    scores = steps((max(levels), upper), (min(levels), lower), dtype=dtype)
    knee = knee_threshold(scores)
    assert torch.equal(knee.selects(scores), scores == max(levels))
    assert knee.method == "knee" or knee.reason


@settings(deadline=None)
@given(st.lists(st.tuples(LEVELS, st.integers(1, 400)), min_size=1, max_size=8))
def test_the_lowest_scores_are_never_selected(levels: list[tuple[float, int]]) -> None:
    """Not one sample at the minimum, whatever ties there are; of different scores some are selected."""
    scores = steps(*levels)
    selected = knee_threshold(scores).selects(scores)
    assert not bool(selected[scores == scores.min()].any())
    assert bool(selected.any()) == (len(scores.unique()) > 1)


@settings(deadline=None)
@given(st.integers(40, 2000), st.floats(0.05, 0.4), st.integers(0, 10_000))
def test_scores_without_ties_keep_their_knee(n: int, share: float, seed: int) -> None:
    """No tie, no change: the threshold is the score at the knee, one of the curve's points."""
    noise = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    knee = knee_threshold(cliff(n, share) + 1e-6 * noise)
    assert knee.method == "knee" and knee.threshold in knee.curve


@pytest.mark.parametrize("value", [1.0, -0.1])
def test_the_threshold_is_not_rounded_to_the_scores(value: float) -> None:
    """Above equal scores of 32 bits nothing is selected, though the next number of 64 bits rounds to them."""
    scores = torch.full((500,), value)
    knee = knee_threshold(scores)
    assert knee.method == "none" and not bool(knee.selects(scores).any())
    assert bool((scores >= knee.threshold).all())


def test_a_knee_selects_by_at_or_above() -> None:
    """Its own threshold is in, the next number below is not."""
    knee = Knee(threshold=0.5, curve=(), method="knee", reason="")
    assert knee.selects(torch.tensor([0.5, math.nextafter(0.5, 0)], dtype=torch.float64)).tolist() == [
        True,
        False,
    ]
