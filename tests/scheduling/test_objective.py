"""The objective: the order of trials, its invariants, and how far synthetic scores can be trusted."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rayunlearn.errors import BadInput
from rayunlearn.scheduling.objective import TrialResult, best, pareto_front, regret, spearman, trial_result
from rayunlearn.scheduling.stopping import CheckpointRecord, StoppingSettings, choose, first_stop

COUNT = 20
PLAIN = StoppingSettings(
    forget_tolerance=0.05, leak=0.5, smooth=1, min_retain=0.5, min_delta=0.0, patience=None
)


def row(*points, count=COUNT):
    """Records from (retain, forget) right of `count`, a checkpoint every ten cycles."""
    return [
        CheckpointRecord(10 * (i + 1), retain, count, forget, count, 0.0, 0.9)
        for i, (retain, forget) in enumerate(points)
    ]


RECORDS = st.lists(
    st.tuples(st.integers(0, COUNT), st.sampled_from([0, 0, 0, 1, 2, 10, COUNT])), max_size=10
).map(lambda points: row(*points))
SETTINGS = st.builds(
    StoppingSettings,
    forget_tolerance=st.sampled_from([0.0, 0.05]),
    leak=st.sampled_from([0.1, 0.5]),
    guard=st.integers(1, 3),
    smooth=st.sampled_from([1, 3]),
    min_retain=st.sampled_from([0.0, 0.5, 1.0]),
    patience=st.sampled_from([None, 2]),
)


def result(trial, score, step=10, **other):
    """A result with a chosen checkpoint, or with none where `step` is None."""
    return TrialResult(trial=trial, score=score, step=step, cycles=100, reason="", **other)


def test_every_checkpoint_is_a_candidate() -> None:
    """The score is the best admissible checkpoint's, neither the last one's nor the highest of all."""
    records = row((12, 0), (16, 1), (14, 0), (19, 4), (13, 0))  # 19 retains most, with 20 % of the class
    found = trial_result("a", records, PLAIN)
    assert (found.score, found.step, found.cycles, found.admissible) == (0.8, 20, 50, True)


@given(RECORDS, SETTINGS)
def test_the_score_agrees_with_the_stopping_rule(records, settings) -> None:
    """Admissible exactly where `choose` has a step, with that record's retain accuracy."""
    choice, found = choose(records, settings), trial_result("a", records, settings)
    assert (found.step, found.reason) == (choice.step, choice.reason)
    if choice.step is None:
        assert -3 <= found.score <= -1
    else:
        chosen = next(r for r in records if r.step == choice.step)
        assert found.score == chosen.retain_accuracy >= 0
        assert chosen.forget_accuracy <= settings.forget_tolerance


@given(RECORDS, RECORDS, SETTINGS)
def test_every_admissible_trial_beats_every_other(one, other, settings) -> None:
    """Whatever the accuracies of the two."""
    a, b = (trial_result("a", records, settings) for records in (one, other))
    if a.admissible and not b.admissible:
        assert a.score > b.score


@given(RECORDS, RECORDS, SETTINGS)
def test_records_after_the_stop_change_nothing(records, later, settings) -> None:
    """A trial that an audit let run on scores as the one that stopped."""
    stop = first_stop(records, settings)
    if stop:
        more = records[: stop.records] + [
            CheckpointRecord(
                records[-1].step + r.step, r.retain_correct, COUNT, r.forget_correct, COUNT, 0.0, 0.9
            )
            for r in later
        ]
        assert trial_result("a", more, settings).score == trial_result("a", records, settings).score


def test_inadmissible_trials_are_ordered_by_how_far_off_they_are() -> None:
    """By hand, tolerance 0.05, min_retain 0.5.

    Of a student that has learned, the forget accuracy above the tolerance; before, also what it lacks.
    """
    rows = {
        "nothing yet": ([], -3),
        "all of the class, nothing else": (row((0, 20)), -1 - 0.5 - 0.95),
        "nothing learned, class gone": (row((1, 0)), -1 - 0.45),
        "learned a little, class gone": (row((6, 0)), -1 - 0.2),
        "learned, 45 % of the class": (row((19, 9)), -1 - 0.40),
        "learned, 10 % of the class": (row((19, 2)), -1 - 0.05),
        "the nearest of two": (row((19, 9), (19, 2)), -1 - 0.05),
    }
    scores = {name: trial_result("a", records, PLAIN).score for name, (records, _) in rows.items()}
    assert scores == {name: pytest.approx(score) for name, (_, score) in rows.items()}


def test_a_clean_checkpoint_that_the_guard_refuses_is_nearest_to_admissible() -> None:
    """It lacks nothing itself: -1, the highest of those that are not admissible."""
    guarded = StoppingSettings(guard=3, smooth=1, min_retain=0.5, patience=None)
    found = trial_result("a", row((19, 0), (19, 0)), guarded)
    assert not found.admissible and found.score == -1


def test_the_winner_is_the_highest_then_the_earliest_then_the_first() -> None:
    """In every order of the trials; one that is not admissible never wins."""
    trials = [
        result("c", 0.9, step=20), result("b", 0.9, step=10), result("a", 0.9, step=30),
        result("d", 0.9, step=10), result("e", 0.8, step=1), result("f", -1.0, step=None),
    ]  # fmt: skip
    for seed in range(20):
        random.Random(seed).shuffle(trials)
        assert best(trials).trial == "b"
    assert best([result("f", -1.0, step=None)]) is None
    assert best([]) is None
    with pytest.raises(BadInput, match="each id once"):
        best([result("a", 0.5), result("a", 0.6)])


def test_the_second_set_is_reported_beside_and_decides_nothing() -> None:
    """The gap is by hand; a second set that contradicts the first does not move the winner."""
    second = CheckpointRecord(10, 12, COUNT, 3, COUNT, 0.0, 0.9)
    searched = result("a", 0.9, second=second)
    assert searched.second_score == 0.6 and searched.gap == pytest.approx(0.3)
    assert best([searched, result("b", 0.7)]) == searched
    assert result("a", 0.9).gap is None and result("a", 0.9).second_score is None
    for step in (20, None):
        with pytest.raises(BadInput, match="second set"):
            result("a", 0.9, step=step, second=second)


POINTS = st.lists(st.tuples(st.integers(0, 5).map(lambda n: n / 5), st.integers(0, 5).map(lambda n: n / 5)))


@given(POINTS)
def test_the_front_is_what_no_point_beats(points) -> None:
    """Against the definition, pair by pair; equal points stand once."""

    def beats(a, b):
        return a != b and a[0] >= b[0] and a[1] <= b[1]

    front = [points[i] for i in pareto_front(points)]
    assert set(front) == {p for p in points if not any(beats(q, p) for q in points)}
    assert len(front) == len(set(front))
    assert front == sorted(front, key=lambda p: p[1])


SCORES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=15)


@given(SCORES)
def test_spearman_is_scipys(pairs) -> None:
    """With ties and without; undefined exactly where a side is all the same."""
    synthetic, real = ({str(i): pair[side] for i, pair in enumerate(pairs)} for side in (0, 1))
    found = spearman(synthetic, real)
    if len(set(synthetic.values())) == 1 or len(set(real.values())) == 1:
        assert found.rho is None and found.low is None
    else:
        expected = stats.spearmanr([p[0] for p in pairs], [p[1] for p in pairs]).statistic
        assert found.rho == pytest.approx(expected, abs=1e-12)
    assert found.n == len(pairs)


def test_the_interval_of_the_rank_correlation_by_hand() -> None:
    """rho = 1 - 6 * 2 / (5 * 24) = 0.9; atanh 0.9 -+ 1.959964 sqrt((1 + 0.405) / 2).

    Pearson's variance, 1 / (n - 3), would be narrower by a factor sqrt(1.405).
    """
    found = spearman(
        dict(zip("abcde", [1, 2, 3, 4, 5], strict=True)), dict(zip("abcde", [1, 2, 3, 5, 4], strict=True))
    )
    half = 1.959964 * math.sqrt(1.405 / 2)
    assert found.rho == pytest.approx(0.9)
    assert (found.low, found.high) == pytest.approx(
        (math.tanh(math.atanh(0.9) - half), math.tanh(math.atanh(0.9) + half))
    )
    assert found.low < math.tanh(math.atanh(0.9) - 1.959964 * math.sqrt(1 / 2))  # negative control


def test_the_interval_holds_the_true_value_as_often_as_it_says() -> None:
    """2000 samples of 16 pairs: 95 % within 1.5 points, 80 % within 3.

    From a normal with r = 0.706, of which rho_S = 6 / pi asin(r / 2) = 0.689 exactly.
    """
    rng, r, n, trials = random.Random(0), 0.706, 16, 2000
    truth = 6 / math.pi * math.asin(r / 2)
    held = {0.95: 0, 0.8: 0}
    for _ in range(trials):
        x = [rng.gauss(0, 1) for _ in range(n)]
        y = [r * a + math.sqrt(1 - r * r) * rng.gauss(0, 1) for a in x]
        sides = [{str(i): value for i, value in enumerate(side)} for side in (x, y)]
        for confidence in held:
            found = spearman(*sides, confidence=confidence)
            held[confidence] += found.low <= truth <= found.high
    assert held[0.95] / trials == pytest.approx(0.95, abs=0.015)
    assert held[0.8] / trials == pytest.approx(0.8, abs=0.03)


def test_where_the_correlation_or_its_interval_is_undefined() -> None:
    """A saturated score, too few pairs, and perfect agreement give None rather than a figure."""
    trials = "abcdef"
    rising = {t: i / 10 for i, t in enumerate(trials)}
    saturated = spearman(dict.fromkeys(trials, 1.0), rising)
    assert (saturated.rho, saturated.low, saturated.high, saturated.n) == (None, None, None, 6)
    for sign in (1, -1):
        perfect = spearman(rising, {t: sign * v**3 for t, v in rising.items()})
        assert perfect.rho == pytest.approx(sign) and perfect.low is None
    few = spearman({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3, "c": 2})
    assert few.rho == pytest.approx(0.5) and few.low is None
    assert spearman({"a": 1.0}, {"b": 1.0}) == spearman({}, {})
    with pytest.raises(BadInput, match="score of trial a"):
        spearman({"a": math.nan, "b": 1}, {"a": 1, "b": 2})
    for confidence in (0, 1, math.nan):
        with pytest.raises(BadInput, match="confidence"):
            spearman(rising, rising, confidence=confidence)


def test_only_trials_with_both_scores_count() -> None:
    """One that was not audited, or not searched, is left out."""
    synthetic = {"a": 1, "b": 2, "c": 3, "x": -99}
    assert spearman(synthetic, {"a": 1, "b": 3, "c": 2, "y": 99}).rho == pytest.approx(0.5)


def test_regret_is_what_the_best_trial_has_more() -> None:
    """By hand; 0 of the best itself."""
    real = {"a": 0.9, "b": 0.95, "c": 0.5}
    assert regret("a", real) == pytest.approx(0.05)
    assert regret("b", real) == 0
    with pytest.raises(BadInput, match="winner is 'd'"):
        regret("d", real)
