"""Budgets: from text, and what is left of them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayunlearn.errors import BadInput
from rayunlearn.scheduling.budget import Budget, Spent, parse_budget


@pytest.mark.parametrize(
    ("text", "of", "amount"),
    [
        ("16 trials", "trials", 16),
        ("1 trial", "trials", 1),
        ("2 cpu-hours", "cpu_s", 7200),
        ("0.5 GPU-hours", "gpu_s", 1800),
        ("30 minutes", "wall_s", 1800),
        ("1.5 hours", "wall_s", 5400),
        (" 90seconds ", "wall_s", 90),
        ("1e3 seconds", "wall_s", 1000),
    ],
)
def test_a_budget_from_text(text: str, of: str, amount: float) -> None:
    """Hours and minutes are seconds; the case and the plural make no difference."""
    assert parse_budget(text) == Budget(of, amount)


@pytest.mark.parametrize(
    "text",
    [
        "", "16", "trials", "0 trials", "2.5 trials", "-3 trials", "many trials", "2 days", "1.2.3 hours",
        "nan hours", "inf hours", "1e999 hours", "2 cpu hours", "2 hours 30 minutes", ". hours",
    ],
)  # fmt: skip
def test_what_is_no_budget_is_refused(text: str) -> None:
    """The error names the text and every form that is allowed."""
    with pytest.raises(BadInput) as refused:
        parse_budget(text)
    assert repr(text) in str(refused.value)
    for form in ("trials", "cpu-hours", "gpu-hour", "minutes", "hours"):
        assert form in str(refused.value)


def test_spending_is_counted_by_what_is_reserved() -> None:
    """By hand: 100 s on 2 CPUs and a quarter of a GPU, then 50 s on 1 CPU; the clock is the caller's."""
    spent = Spent().and_trial(100, cpus=2, gpus=0.25).and_trial(50, cpus=1, gpus=0)
    assert spent == Spent(trials=2, cpu_s=250, gpu_s=25, wall_s=0)
    spent = replace(spent, wall_s=120)  # they ran side by side
    lefts = [
        parse_budget(text).left(spent) for text in ("16 trials", "1 cpu-hour", "1 gpu-hour", "3 minutes")
    ]
    assert lefts == [14, 3350, 3575, 60]


@given(st.integers(1, 50), st.lists(st.floats(0, 1e4), max_size=60))
def test_a_budget_of_trials_ends_with_the_last(trials: int, seconds: list[float]) -> None:
    """It is spent exactly from that number of trials on, however long they took; none is owed."""
    budget, spent = Budget("trials", trials), Spent()
    for count, each in enumerate(seconds):
        assert budget.is_spent(spent) == (count >= trials)
        assert budget.left(spent) == max(0, trials - count)
        spent = spent.and_trial(each, cpus=1, gpus=0)


def test_figures_that_cannot_be_are_refused() -> None:
    """Negative or undefined spending, and a budget of something else."""
    for name, value in (("cpu_s", -1.0), ("wall_s", float("nan")), ("trials", -1), ("gpu_s", float("inf"))):
        with pytest.raises(BadInput, match=f"spent.{name}"):
            Spent(**{name: value})
    with pytest.raises(BadInput, match="cpu_s, gpu_s, trials, wall_s"):
        Budget("days", 1)
    for amount in (0, -1, 1.5, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="--budget"):
            Budget("trials", amount)
