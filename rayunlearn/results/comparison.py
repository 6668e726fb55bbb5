"""An audit as a comparison with gold: each measure's figure for every subject, beside gold's own spread.

Gold models differ by their seeds. Where several were measured, their figures give the interval in which a
further gold model's would lie (Student's t); only a subject outside it can be told from gold by that
measure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from rich import box
from rich.table import Table
from scipy import stats

from rayunlearn.results.wording import ABSENT, SUBJECT_NAMES, classes

LEVEL = 0.95
"""Of the intervals."""

HIDING = ("mask_logit", "delete_head_row")
"""Subjects that hide a class behind the head, and keep all that the features know of it."""

_SHARES = ("accuracy", "agreement", "recall", "peak", "entropy_attack", "tpr", "confidence")


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Where a further model of the same kind would lie."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], level: float = LEVEL) -> Interval | None:
        """The prediction interval of some figures; None for fewer than two.

        >>> Interval.of([1.0])
        >>> round(Interval.of([1.0, 2.0, 3.0], 0.5).high, 3)
        2.943
        """
        n = len(values)
        if n < 2:
            return None
        half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * stdev(values) * (1 + 1 / n) ** 0.5
        return cls(low=mean(values) - half, high=mean(values) + half)

    def __contains__(self, value: float) -> bool:
        """Whether a figure lies in it, rounding aside."""
        slack = 1e-9 * max(1.0, abs(value))
        return self.low - slack <= value <= self.high + slack


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One measure on one set of classes.

    Attributes:
        measure, split: of the figures.
        classes: that they were measured on.
        values: subject -> figure, None where the measurement gave none.
        censored: subjects whose measurement was cut off.
        gold: figures of the gold models that have one, in order.
    """

    measure: str
    split: str
    classes: tuple[int, ...]
    values: Mapping[str, float | None]
    censored: frozenset[str]
    gold: tuple[float, ...]

    @property
    def interval(self) -> Interval | None:
        """Where a further gold model would lie."""
        return Interval.of(self.gold)

    def told_from_gold(self, subject: str) -> bool | None:
        """Whether the figure lies outside gold's interval; None where that cannot be said.

        A subject without a figure where gold models have one (it never relearned) is told from them.
        """
        if self.interval is None or subject not in self.values:
            return None
        value = self.values[subject]
        return value is None or value not in self.interval

    @property
    def separates(self) -> bool | None:
        """Whether it tells every model that hides the class from gold; None where that cannot be said."""
        told = [self.told_from_gold(subject) for subject in HIDING if subject in self.values]
        return None if not told or None in told else all(told)

    @property
    def gold_outside(self) -> int:
        """Gold models outside the interval of the other ones, which 5 % of them are by chance."""
        outside = 0
        for i, value in enumerate(self.gold):
            interval = Interval.of(self.gold[:i] + self.gold[i + 1 :])
            outside += interval is not None and value not in interval
        return outside


def compare(rows: Iterable[Mapping[str, Any]]) -> list[Comparison]:
    """The comparisons in an audit's rows, in the order of the rows; checkpoints are left out."""
    groups: dict[tuple[str, str, tuple[int, ...]], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if row["subject"] != "checkpoint":
            key = (row["measure"], row["split"], tuple(row["classes"]))
            groups.setdefault(key, {})[row["subject"]] = row
    found = []
    for (measure, split, of), by_subject in groups.items():
        golds = [row["value"] for subject, row in by_subject.items() if _is_gold(subject)]
        found.append(
            Comparison(
                measure=measure,
                split=split,
                classes=of,
                values={s: row["value"] for s, row in by_subject.items() if not _is_gold(s)},
                censored=frozenset(s for s, row in by_subject.items() if row["censored"]),
                gold=tuple(value for value in golds if value is not None),
            )
        )
    return found


def _is_gold(subject: str) -> bool:
    return subject == "gold" or subject.startswith("gold_")


def returned_classes(rows: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Forgotten classes of which the unlearned model recognises more test images than any gold model.

    Forgetting of an earlier request may reverse when a later one is served.

    Returns:
        Class -> share of its test images recognised.
    """
    forget: set[int] = set()
    shares: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["split"] == "test" and row["subject"] != "checkpoint":
            if row["measure"] == "forget_accuracy":
                forget |= set(row["classes"])
            if row["measure"] == "class_accuracy":
                shares.setdefault(row["subject"], {})[row["classes"][0]] = row["value"]
    golds = [of for subject, of in shares.items() if _is_gold(subject)]
    own = shares.get("unlearned", {})
    most = {c: max((of.get(c, 0.0) for of in golds), default=0.0) for c in forget}
    return {c: own[c] for c in sorted(forget & own.keys()) if own[c] > most[c]}


def comparison_table(comparisons: Sequence[Comparison], *, forget: Sequence[int]) -> Table:
    """Measure by measure each subject's figure; bold where it lies outside gold's interval."""
    known = [s for s in SUBJECT_NAMES if s != "gold"]
    subjects = dict.fromkeys(s for c in comparisons for s in c.values)
    order = [s for s in known if s in subjects] + [s for s in subjects if s not in known]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("Measure", no_wrap=True)
    table.add_column("on", no_wrap=True)
    table.add_column("gold", justify="right", no_wrap=True)
    for subject in order:
        table.add_column(SUBJECT_NAMES.get(subject, subject).replace(" ", "\n"), justify="right")
    for c in comparisons:
        part = "D_f" if set(c.classes) == set(forget) else "D_r" if len(c.classes) > 1 else classes(c.classes)
        cells = [_figure(c, subject) for subject in order]
        where = part if c.split == "test" else f"{part} {c.split}"
        table.add_row(c.measure.replace("_", " "), where, _spread(c), *cells)
    return table


def _figure(comparison: Comparison, subject: str) -> str:
    if subject not in comparison.values:
        return ABSENT
    value = comparison.values[subject]
    text = "never" if value is None else _number(comparison.measure, value)
    if value is not None and subject in comparison.censored:
        text = "> " + text
    return f"[bold]{text}[/]" if comparison.told_from_gold(subject) else text


def _spread(comparison: Comparison) -> str:
    gold = comparison.gold
    if not gold:
        return "never" if comparison.censored else ABSENT
    middle = _number(comparison.measure, mean(gold))
    return middle if len(gold) < 2 else f"{middle} ± {_number(comparison.measure, stdev(gold))}"


def _number(measure: str, value: float) -> str:
    """A share in per cent; a count of steps whole; anything else to three digits.

    >>> _number("retain_accuracy", 0.987), _number("relearn_steps", 41.0), _number("js_to_gold", 0.01234)
    ('98.7 %', '41', '0.0123')
    """
    if any(word in measure for word in _SHARES):
        return f"{100 * value:.1f} %"
    return f"{value:.0f}" if measure.endswith("steps") else f"{value:.3g}"
