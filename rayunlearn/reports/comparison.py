"""An audit as a comparison with gold: each measure's figure for every subject, beside gold's own spread.

Gold models differ by their seeds. Where several were measured, their figures give the interval in which a
further gold model's would lie (Student's t); only a subject outside it can be told from gold by that
measure. A measurement that was cut off leaves a bound, and only what the bound excludes can be told.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from rich import box
from rich.table import Table
from scipy.special import stdtrit

from rayunlearn.reports.wording import ABSENT, SUBJECT_NAMES, above, below, classes

LEVEL = 0.95
"""Of the intervals."""

HIDING = ("mask_logit", "delete_head_row")
"""Subjects that hide a class behind the head, and keep all that the features know of it."""

OUTSIDE = "*"
"""Marks a figure outside gold's interval, also where bold cannot be seen."""

_SHARES = ("accuracy", "agreement", "recall", "peak", "entropy_attack", "tpr", "confidence", "taught")

_GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Answers", ("retain_accuracy", "forget_accuracy", "class_accuracy", "mislabelled", "calibration")),
    ("Distance to gold", ("kl", "js", "tv", "agreement", "class_membership")),
    ("Features", ("probe", "knn")),
    ("Relearning", ("relearn", "anamnesis")),
    ("Attacks", ("entropy", "lira", "inversion")),
    ("Others", ("",)),
)
"""Headings of the table, and how the names of the measures below each begin."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Where a further model of the same kind would lie, or what is known of a figure."""

    low: float = -math.inf
    high: float = math.inf

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
        half = float(stdtrit(n - 1, 0.5 + level / 2)) * stdev(values) * (1 + 1 / n) ** 0.5
        return cls(low=mean(values) - half, high=mean(values) + half)

    def __contains__(self, value: float) -> bool:
        """Whether a figure lies in it, rounding aside."""
        return not self.apart(Interval(low=value, high=value))

    def apart(self, other: Interval) -> bool:
        """Whether the two have no value in common, rounding aside.

        >>> Interval(low=1.0, high=2.0).apart(Interval(low=2.5)), Interval(high=2.0).apart(Interval(low=1.0))
        (True, False)
        """
        below, above = (self, other) if self.high < other.low else (other, self)
        return below.high + 1e-9 * max(1.0, abs(above.low)) < above.low


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One measure on one set of classes.

    Attributes:
        measure, split: of the figures.
        classes: that they were measured on; none: on the forgotten or the mislabelled samples.
        values: subject -> figure, None where the measurement gave none.
        bounds: subject -> what is known of a figure whose measurement was cut off.
        gold: figures of the gold models whose measurement was not cut off, in order.
        gold_bounds: what is known of the others'.
        left_out: why the audit did not make the measure; empty where it did.
    """

    measure: str
    split: str
    classes: tuple[int, ...]
    values: Mapping[str, float | None]
    gold: tuple[float, ...]
    bounds: Mapping[str, Interval] = field(default_factory=dict)
    gold_bounds: tuple[Interval, ...] = ()
    left_out: str = ""

    @property
    def interval(self) -> Interval | None:
        """Where a further gold model would lie; open on the side of those of which a bound alone is known."""
        inner = Interval.of(self.gold)
        if inner is None:
            return None
        return Interval(
            low=-math.inf if any(b.low == -math.inf for b in self.gold_bounds) else inner.low,
            high=math.inf if any(b.high == math.inf for b in self.gold_bounds) else inner.high,
        )

    def told_from_gold(self, subject: str) -> bool | None:
        """Whether the figure, or all that its bound leaves, lies outside gold's interval.

        None where that cannot be said.
        """
        value, known = self.values.get(subject), self.bounds.get(subject)
        if known is None and value is not None:
            known = Interval(low=value, high=value)
        return None if self.interval is None or known is None else self.interval.apart(known)

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
        known = {subject: bound for subject, row in by_subject.items() if (bound := _bound(row))}
        found.append(
            Comparison(
                measure=measure,
                split=split,
                classes=of,
                values={s: row["value"] for s, row in by_subject.items() if not _is_gold(s)},
                bounds={s: bound for s, bound in known.items() if not _is_gold(s)},
                gold=tuple(
                    row["value"]
                    for s, row in by_subject.items()
                    if _is_gold(s) and s not in known and row["value"] is not None
                ),
                gold_bounds=tuple(bound for s, bound in known.items() if _is_gold(s)),
                left_out=next(filter(None, map(_left_out, by_subject.values())), ""),
            )
        )
    return found


def _bound(row: Mapping[str, Any]) -> Interval | None:
    """What is known of a measurement that was cut off; None for any other, or where nothing is."""
    if not row["censored"]:
        return None
    if row["value"] is not None:
        return Interval(low=row["value"])
    told = json.loads(row["parameters"])
    if told.get("upper_bound") is not None:
        return Interval(high=told["upper_bound"])
    return Interval(low=told["max_steps"]) if row["measure"].endswith("steps") else None


def _left_out(row: Mapping[str, Any]) -> str:
    return str(json.loads(row["parameters"]).get("left_out", ""))


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
    """Measure by measure each subject's figure, marked where it lies outside gold's interval.

    At most 110 columns wide with the subjects of an audit; gold models, of whatever number, are one column.
    """
    left_out = [f"{c.measure}: left out; {c.left_out}" for c in comparisons if c.left_out]
    comparisons = [c for c in comparisons if not c.left_out]
    known = [s for s in SUBJECT_NAMES if s != "gold"]
    subjects = dict.fromkeys(s for c in comparisons for s in c.values)
    order = [s for s in known if s in subjects] + [s for s in subjects if s not in known]
    table = Table(
        box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, header_style="bold",
        caption=_legend(
            max((len(c.gold) + len(c.gold_bounds) for c in comparisons), default=0),
            {_part(c, forget) for c in comparisons},
            left_out,
        ),
        caption_justify="left",
    )  # fmt: skip
    table.add_column("Measure")
    table.add_column("on", no_wrap=True)
    table.add_column("gold", justify="right", no_wrap=True)
    for subject in order:
        name = SUBJECT_NAMES.get(subject, subject.replace("_", " "))
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    for heading, beginnings in _GROUPS:
        group = [c for c in comparisons if _group(c.measure) == beginnings]
        if group:
            table.add_section()
            table.add_row(f"[bold]{heading}[/]")
        for c in group:
            unit = ", %" if _is_share(c.measure) else ""
            name = f"  {c.measure.replace('_', ' ')}{unit}"
            table.add_row(name, _part(c, forget), _spread(c), *[_figure(c, subject) for subject in order])
    return table


_SAMPLES = {
    "samples": "the single training samples that were forgotten",
    "D_e": "the training samples with wrong labels",
}
"""Parts of the training set, as the table names them."""


def _legend(golds: int, parts: Collection[str], left_out: Sequence[str]) -> str:
    """What is to be known of the table, for somebody who sees it for the first time."""
    if golds > 1:
        gold = f"mean ± standard deviation of {golds} models retrained without D_f"
        mark = f"{OUTSIDE}: outside the interval in which a further gold model would lie with {LEVEL:.0%}"
    else:
        gold, mark = "a model retrained without D_f", "nothing is marked: one gold model has no spread"
    lines = [
        "D_r, D_f: images of the classes to keep and of those forgotten, to test unless it says train",
        *(f"{name}: {meaning}" for name, meaning in _SAMPLES.items() if name in parts),
        f"gold: {gold}",
        mark.replace("%", " %"),
        "<, >: the measurement was cut off there",
        *left_out,
    ]
    return "\n".join(lines)


def _group(measure: str) -> tuple[str, ...]:
    return next(beginnings for _, beginnings in _GROUPS if measure.startswith(beginnings))


def _part(comparison: Comparison, forget: Sequence[int]) -> str:
    """The images that it was measured on."""
    ids = comparison.classes
    if not ids:
        return "D_e" if comparison.measure.startswith("mislabelled") else "samples"
    part = "D_f" if set(ids) == set(forget) else "D_r" if len(ids) > 1 else classes(ids)
    return part if comparison.split == "test" else f"{part} {comparison.split}"


def _figure(comparison: Comparison, subject: str) -> str:
    value, bound = comparison.values.get(subject), comparison.bounds.get(subject)
    if bound is not None:
        text = _bounded(comparison, bound)
    else:
        text = ABSENT if value is None else _number(comparison, value)
    return f"[bold]{text}{OUTSIDE}[/]" if comparison.told_from_gold(subject) else f"{text} "


def _spread(comparison: Comparison) -> str:
    """Mean and standard deviation of the gold models, and what is known of those that were cut off."""
    gold, cut_off = comparison.gold, comparison.gold_bounds
    said = [_number(comparison, mean(gold))] if gold else []
    if len(gold) > 1:
        said[0] += f" ± {_number(comparison, stdev(gold))}"
    if cut_off:
        hull = Interval(low=min(b.low for b in cut_off), high=max(b.high for b in cut_off))
        several = f"{len(cut_off)} " if gold and len(cut_off) > 1 else ""
        said.append(several + _bounded(comparison, hull))
    return ", ".join(said) or ABSENT


def _bounded(comparison: Comparison, bound: Interval) -> str:
    scale, decimals = _format(comparison)
    if bound.high == math.inf:
        return above(scale * bound.low, decimals)
    return below(scale * bound.high, decimals)


def _number(comparison: Comparison, value: float) -> str:
    scale, decimals = _format(comparison)
    return f"{scale * value:.{decimals}f}"


def _is_share(measure: str) -> bool:
    return any(word in measure for word in _SHARES)


def _format(comparison: Comparison) -> tuple[float, int]:
    """Factor and decimals of a row's figures: shares in per cent, steps whole, others by gold's spread.

    Of a spread two digits are shown, of one gold model's figure three; two to four decimals.
    """
    if _is_share(comparison.measure):
        return 100.0, 1
    if comparison.measure.endswith("steps"):
        return 1.0, 0
    gold, digits = comparison.gold, 2
    size = stdev(gold) if len(gold) > 1 else 0.0
    if size == 0.0 and gold:
        size, digits = abs(mean(gold)), 3
    wanted = digits - 1 - math.floor(math.log10(size)) if size > 0 else 3
    return 1.0, min(max(wanted, 2), 4)
