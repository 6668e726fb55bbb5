"""Figures beside gold's spread: the interval, what is told from gold, and what came back."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rayunlearn.results.comparison import (
    Interval,
    compare,
    comparison_table,
    returned_classes,
)


def row(
    subject: str, value: float | None, measure: str = "probe_forget_recall", **columns: Any
) -> dict[str, Any]:
    """A row of the audits table, as far as comparisons look."""
    return {
        "subject": subject, "measure": measure, "split": "test", "classes": [3], "value": value,
        "censored": False,
    } | columns  # fmt: skip


GOLD = [row(name, value) for name, value in (("gold", 0.5), ("gold_2", 0.6), ("gold_3", 0.55))]


def test_the_interval_holds_a_further_value_as_often_as_it_says() -> None:
    """Of 4,000 draws of five normal values and one more, the 90 % interval holds the one more in 90 %.

    The standard error is 0.5 points. Negative control: an interval without the room for the mean's own
    error (1 instead of sqrt(1 + 1/n)) would hold fewer than 88 %.
    """
    draws = np.random.default_rng(0).normal(size=(4000, 6))
    held, narrow = 0, 0
    for *values, further in draws.tolist():
        interval = Interval.of(values, 0.9)
        assert interval is not None
        held += further in interval
        middle, half = (interval.low + interval.high) / 2, (interval.high - interval.low) / 2
        narrow += abs(further - middle) <= half / (1 + 1 / 5) ** 0.5
    assert 0.885 < held / 4000 < 0.915
    assert narrow / 4000 < 0.88


def test_equal_gold_values_hold_their_own_value_alone() -> None:
    """Without a spread the interval is a point, rounding aside."""
    interval = Interval.of([0.1 + 0.2, 0.3, 0.3])
    assert interval is not None and 0.3 in interval and 0.301 not in interval
    assert Interval.of([0.3]) is None


def test_who_is_told_from_gold() -> None:
    """0.57 among 0.5, 0.55, 0.6 is not; 0.99 is; one that never relearned is; without a spread nobody is."""
    rows = [*GOLD, row("unlearned", 0.57), row("mask_logit", 0.99), row("delete_head_row", None)]
    (found,) = compare(rows)
    assert found.gold == (0.5, 0.6, 0.55)
    assert set(found.values) == {"unlearned", "mask_logit", "delete_head_row"}
    assert found.told_from_gold("unlearned") is False
    assert found.told_from_gold("mask_logit") is found.told_from_gold("delete_head_row") is True
    assert found.separates is True and found.gold_outside == 0
    (inside,) = compare([*GOLD, row("mask_logit", 0.56), row("delete_head_row", 0.99)])
    assert inside.separates is False
    (alone,) = compare([GOLD[0], row("mask_logit", 0.99)])
    assert alone.told_from_gold("mask_logit") is None and alone.separates is None
    (unhidden,) = compare([*GOLD, row("unlearned", 0.57)])
    assert unhidden.separates is None and unhidden.told_from_gold("mask_logit") is None


def test_a_gold_model_apart_from_the_others() -> None:
    """Four alike and one far off: that one lies outside the others' interval, and none of the four does."""
    golds = [row("gold" if i == 0 else f"gold_{i + 1}", v) for i, v in enumerate((0.5, 0.51, 0.49, 0.5, 0.9))]
    (found,) = compare(golds)
    assert found.gold_outside == 1


def test_comparisons_keep_measures_splits_and_classes_apart() -> None:
    """One comparison a measure, split and set of classes, in the rows' order, without checkpoints."""
    rows = [
        row("original", 0.9, "retain_accuracy", classes=[0, 1]),
        row("original", 0.8, "retain_accuracy", classes=[0, 1], split="train"),
        row("original", 0.1),
        row("checkpoint", 0.7, "retain_accuracy", classes=[0, 1]),
    ]
    found = compare(rows)
    assert [(c.measure, c.split, c.classes) for c in found] == [
        ("retain_accuracy", "test", (0, 1)),
        ("retain_accuracy", "train", (0, 1)),
        ("probe_forget_recall", "test", (3,)),
    ]
    assert [c.values for c in found] == [{"original": 0.9}, {"original": 0.8}, {"original": 0.1}]


def test_forgetting_that_came_back() -> None:
    """Class 3, forgotten earlier, at 20 % where gold has 0 %; class 0 is as in a gold model, 5 was kept."""
    rows = [
        row("unlearned", 0.1, "forget_accuracy", classes=[0, 3]),
        row("unlearned", 0.02, "class_accuracy", classes=[0]),
        row("gold", 0.0, "class_accuracy", classes=[0]),
        row("gold_2", 0.02, "class_accuracy", classes=[0]),
        row("unlearned", 0.2, "class_accuracy", classes=[3]),
        row("gold", 0.0, "class_accuracy", classes=[3]),
        row("unlearned", 0.99, "class_accuracy", classes=[5]),
        row("gold", 0.5, "class_accuracy", classes=[5]),
        row("unlearned", 0.9, "class_accuracy", classes=[0], split="train"),
    ]
    assert returned_classes(rows) == {3: 0.2}
    assert returned_classes([r for r in rows if r["value"] != 0.2]) == {}


def test_the_table_tells_what_a_reader_asks() -> None:
    """Each subject has a column and gold its spread; what never came back says so, a cut one is a bound."""
    rows = [
        *GOLD, row("unlearned", 0.57), row("mask_logit", 0.99), row("mine", None),
        row("gold", 40.0, "relearn_steps"), row("unlearned", 150.0, "relearn_steps", censored=True),
    ]  # fmt: skip
    out = io.StringIO()
    Console(file=out, width=120, force_terminal=False).print(comparison_table(compare(rows), forget=[3]))
    text = out.getvalue()
    for said in ("55.0 % ± 5.0 %", "57.0 %", "99.0 %", "never", "> 150", "40", "D_f", "mine"):
        assert said in text, said


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_a_wider_level_is_a_wider_interval(level: float) -> None:
    """The interval grows with its level and is centred on the mean."""
    interval, wider = Interval.of([1.0, 2.0, 4.0], level), Interval.of([1.0, 2.0, 4.0], level + 0.04)
    assert interval is not None and wider is not None
    assert wider.low < interval.low < 7 / 3 < interval.high < wider.high
    assert interval.low + interval.high == pytest.approx(14 / 3)
