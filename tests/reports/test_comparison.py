"""Figures beside gold's spread: the interval, what is told from gold, and what came back."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rayunlearn.reports.comparison import (
    Interval,
    compare,
    comparison_table,
    returned_classes,
)
from rayunlearn.reports.terminal import LOG_WIDTH


def row(
    subject: str, value: float | None, measure: str = "probe_forget_recall", **columns: Any
) -> dict[str, Any]:
    """A row of the audits table, as far as comparisons look."""
    return {
        "subject": subject, "measure": measure, "split": "test", "classes": [3], "value": value,
        "censored": False, "parameters": "{}",
    } | columns  # fmt: skip


def never(subject: str, cap: int = 400) -> dict[str, Any]:
    """A model that did not relearn within the cap."""
    return row(subject, None, "relearn_steps", censored=True, parameters=f'{{"max_steps": {cap}}}')


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
    """0.57 among 0.5, 0.55, 0.6 is not; 0.99 is; without a spread or a figure nobody is."""
    rows = [*GOLD, row("unlearned", 0.57), row("mask_logit", 0.99), row("delete_head_row", 0.01)]
    (found,) = compare([*rows, row("mine", None)])
    assert found.gold == (0.5, 0.6, 0.55)
    assert found.told_from_gold("mine") is None is found.told_from_gold("nobody")
    (found,) = compare(rows)
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


def test_a_bound_tells_what_it_excludes() -> None:
    """Gold models take 40, 45 and 50 steps: beyond 400 is told from them, beyond 50 is not.

    An index that is known to be above 9 is told from gold ones about 1, one above 0.2 is not, though 0.2
    itself would be; below 0.2 is, below 0.9 is not.
    """
    golds = [row(name, v, "relearn_steps") for name, v in (("gold", 40), ("gold_2", 45), ("gold_3", 50))]
    (steps,) = compare([*golds, never("unlearned"), never("mask_logit", 50)])
    assert steps.told_from_gold("unlearned") is True and steps.told_from_gold("mask_logit") is False
    assert steps.values["unlearned"] is None and steps.bounds["unlearned"] == Interval(low=400)
    index = "anamnesis_index"
    golds = [row(name, v, index) for name, v in (("gold", 1.0), ("gold_2", 1.1), ("gold_3", 0.9))]
    for told, shown in (
        (True, row("unlearned", 9.0, index, censored=True)),
        (False, row("unlearned", 0.2, index, censored=True)),
        (True, row("unlearned", 0.2, index)),
        (True, row("unlearned", None, index, censored=True, parameters='{"upper_bound": 0.2}')),
        (False, row("unlearned", None, index, censored=True, parameters='{"upper_bound": 0.9}')),
        (None, row("unlearned", None, index, censored=True, parameters='{"upper_bound": null}')),
    ):
        (found,) = compare([*golds, shown])
        assert found.told_from_gold("unlearned") is told, shown


def test_gold_models_that_never_came_back_leave_no_upper_end() -> None:
    """40, 45, 50 and one beyond the cap: 400 is as gold's may be, 5 is not; negative control: without the
    one beyond, 400 is told from gold."""
    golds = [row(name, v, "relearn_steps") for name, v in (("gold", 40), ("gold_2", 45), ("gold_3", 50))]
    rows = [*golds, row("unlearned", 400.0, "relearn_steps"), row("mask_logit", 5.0, "relearn_steps")]
    (found,) = compare([*rows, never("gold_4")])
    assert found.gold == (40, 45, 50) and found.gold_bounds == (Interval(low=400),)
    assert found.interval is not None and found.interval.high == math.inf
    assert found.told_from_gold("unlearned") is False and found.told_from_gold("mask_logit") is True
    (without,) = compare(rows)
    assert without.told_from_gold("unlearned") is True


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


def printed(rows: list[dict[str, Any]], width: int = 110) -> str:
    """The table as a log shows it."""
    out = io.StringIO()
    Console(file=out, width=width).print(comparison_table(compare(rows), forget=[3]))
    return out.getvalue()


def test_the_table_tells_what_a_reader_asks() -> None:
    """Each subject has a column and gold its spread; what lies outside is marked, a cut one is a bound."""
    rows = [
        *GOLD, row("unlearned", 0.57), row("mask_logit", 0.99), row("mine", 0.5),
        row("gold", 40.0, "relearn_steps"), row("gold_2", 42.0, "relearn_steps"), never("gold_3"),
        row("unlearned", 150.0, "relearn_steps"), never("mask_logit"),
        row("gold", 1.0, "anamnesis_index"),
        row("unlearned", 10 / 3, "anamnesis_index", censored=True),
        row("mask_logit", None, "anamnesis_index", censored=True, parameters='{"upper_bound": 0.0375}'),
    ]  # fmt: skip
    lines = {" ".join(line.split()) for line in printed(rows).splitlines()}
    for said in (
        "Measure on gold unlearned logit mine",
        "Features",
        "probe forget recall, % D_f 55.0 ± 5.0 57.0 99.0* 50.0",
        "relearn steps D_f 41 ± 1, > 400 150 > 400 –",
        "anamnesis index D_f 1.00 > 3.33 < 0.04 –",
        "gold: mean ± standard deviation of 3 models retrained without D_f",
    ):
        assert said in lines, said
    assert "nothing is marked" not in " ".join(lines) and "nothing is marked" in printed(rows[-3:])


def test_mislabelled_samples_and_what_was_left_out() -> None:
    """Shares of D_e, marked where they are not as gold's; what could not be measured is said below."""
    of_samples = {"split": "train", "classes": []}
    rows = [
        row(subject, value, f"mislabelled_{name}", **of_samples)
        for name, values in (("accuracy", (0.40, 0.41, 0.90)), ("taught", (0.15, 0.16, 0.16)))
        for subject, value in zip(("gold", "gold_2", "unlearned"), values, strict=True)
    ]
    left_out = '{"left_out": "no class was forgotten"}'
    rows.append(row("unlearned", None, "probe", **of_samples, parameters=left_out))
    text = printed(rows)
    lines = {" ".join(line.split()) for line in text.splitlines()}
    for said in (
        "mislabelled accuracy, % D_e 40.5 ± 0.7 90.0*",
        "mislabelled taught, % D_e 15.5 ± 0.7 16.0",
        "D_e: the training samples with wrong labels",
        "probe: left out; no class was forgotten",
    ):
        assert said in lines, said
    assert "Features" not in text and "samples:" not in text


def test_figures_of_a_row_have_the_decimals_that_golds_spread_bears() -> None:
    """Two digits of the spread, of one gold figure three; two to four decimals, and a step is whole."""
    for gold, shown, expected in (
        ([0.001234], 0.5, "0.0012 0.5000"),
        ([0.0301, 0.0311, 0.0322], 0.5, "0.0311 ± 0.0011 0.5000*"),
        ([0.31, 0.35, 0.38], 0.5, "0.347 ± 0.035 0.500"),
        ([11.0, 31.0, 51.0], 40.04, "31.00 ± 20.00 40.04"),
        ([0.0, 0.0], 0.25, "0.000 ± 0.000 0.250*"),
        ([], 0.25, "– 0.250"),
    ):
        names = ("gold", "gold_2", "gold_3")
        rows = [row(name, v, "js_to_gold") for name, v in zip(names, gold, strict=False)]
        text = " ".join(printed([*rows, row("unlearned", shown, "js_to_gold")]).split())
        assert f"js to gold D_f {expected} " in text, text


def test_an_audit_fits_into_a_log() -> None:
    """All measures of six subjects, the longest names and three gold models: no wider than a log's 110
    columns, and no figure and no name is cut or broken over lines."""
    subjects = ("unlearned", "original", "mask_logit", "delete_head_row", "gaussian_head")
    measures = {
        "entropy_attack_train": 1.0, "lira_tpr_at_1_percent_fpr": 1.0, "class_membership_tv_of_means": 0.1234,
        "inversion_correlation": -0.1234, "kl_from_gold": 12.345,
    }  # fmt: skip
    rows = [
        row(subject, value, measure, split="train")
        for measure, value in measures.items()
        for subject in (*subjects, "gold", "gold_2", "gold_3")
    ] + [never(subject) for subject in (*subjects, "gold", "gold_2", "gold_3")]
    lines = printed(rows).splitlines()
    assert max(map(len, lines)) <= LOG_WIDTH and "…" not in "".join(lines)
    for measure in measures:
        assert sum(measure.replace("_", " ") in line for line in lines) == 1
    assert sum("> 400" in line for line in lines) == 1


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_a_wider_level_is_a_wider_interval(level: float) -> None:
    """The interval grows with its level and is centred on the mean."""
    interval, wider = Interval.of([1.0, 2.0, 4.0], level), Interval.of([1.0, 2.0, 4.0], level + 0.04)
    assert interval is not None and wider is not None
    assert wider.low < interval.low < 7 / 3 < interval.high < wider.high
    assert interval.low + interval.high == pytest.approx(14 / 3)
