"""What rows gave, figure by figure, and how a page writes it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

Result = Mapping[str, Any]
"""One request of one row and seed as plain data; `papers.run.results_of` makes them."""

NAMES = {
    "original": "original",
    "gold": "Retrain (gold)",
    "mask_logit": "masked logit",
    "delete_head_row": "deleted row",
    "gaussian_head": "Gaussian head",
    "gkt": "GKT",
    "gated_inversion": "gated inversion (this project)",
    "min_max": "Min-Max",
    "unsir": "UNSIR",
    "amnesiac_relabel": "Amnesiac (relabel)",
    "amnesiac_rollback": "Amnesiac (rollback)",
    "bad_teacher": "Bad Teacher",
    "fisher": "Fisher",
    "ispf": "ISPF",
    "delete": "DELETE",
    "few_shot": "Ours",
    "few_shot_pretrained": "Ours+",
    "few_shot-examples": "Ours and the examples (this project)",
    "few_shot_pretrained-every": "Ours+, the class in no label (this project)",
    "few_shot-every": "Ours, the class in no label (this project)",
    "ours": "Ours",
    "oracle": "Oracle",
    "eubo": "EUBO",
    "rkl": "RKL",
    "fisher_1": "Fisher_1",
    "fisher_2": "Fisher_2",
}
"""Subjects and methods as a page calls them."""


def name_of(subject: str) -> str:
    """A subject or method as a page calls it."""
    return NAMES.get(subject, subject)


def of_row(results: Sequence[Result], row: str) -> list[Result]:
    """The results of the row of this name."""
    return [result for result in results if result["row"] == row]


def arithmetic_of(result: Result) -> str:
    """The processor and its instruction set, on which a result's rounding hangs."""
    machine = result["machine"] or {}
    named = [machine.get(name, "none") for name in ("cpu", "instruction_set", "gpu")]
    return ", ".join(value for value in named if value != "none") or "a machine that the run did not record"


def by_arithmetic(results: Sequence[Result]) -> tuple[list[Result], dict[str, list[Result]]]:
    """Results that may be averaged, of each row those of the processor with most; the others by processor.

    >>> one, other = ({"row": "a", "machine": {"cpu": cpu}} for cpu in ("one", "other"))
    >>> by_arithmetic([other, one, one]) == ([one, one], {"other": [other]})
    True
    """
    counts: dict[object, Counter[str]] = defaultdict(Counter)
    for result in results:
        counts[result.get("row")][arithmetic_of(result)] += 1
    most = {row: count.most_common(1)[0][0] for row, count in counts.items()}
    together: list[Result] = []
    others: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        own = arithmetic_of(result)
        (together if own == most[result.get("row")] else others[own]).append(result)
    return together, dict(others)


def values_of(results: Sequence[Result], subject: str, measure: str) -> list[float | None]:
    """One figure a result: on all classes to retain or to forget; on test images, where there are two."""
    found = []
    for result in results:
        rows = [f for f in result["figures"] if f["subject"] == subject and f["measure"] == measure]
        rows = [f for f in rows if f["split"] == "test"] or rows
        if rows:
            found.append(max(rows, key=lambda f: len(f["classes"]))["value"])
    return found


def figures_of(results: Sequence[Result], subject: str, measure: str) -> list[float]:
    """A subject's figure in each result that has one."""
    return [v for v in values_of(results, subject, measure) if v is not None]


def percents_of(results: Sequence[Result], subject: str, measure: str) -> list[float]:
    """The same of a share, in per cent."""
    return [100 * value for value in figures_of(results, subject, measure)]


def number(value: float | None, digits: int = 2) -> str:
    """One figure; blank where there is none."""
    return "" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # no minus before a zero


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and standard deviation over seeds.

    >>> spread([1.0, 2.0]), spread([1.0]), spread([])
    ('1.50 ± 0.71', '1.00', '')
    """
    if not values:
        return ""
    middle = number(mean(values), digits)
    return middle if len(values) < 2 else f"{middle} ± {stdev(values):.{digits}f}"


def difference(values: Sequence[float], paper: float | None, digits: int = 2) -> str:
    """Our mean less the paper's figure; blank where there is none."""
    return "" if paper is None or not values else f"{mean(values) - paper:+.{digits}f}"


def setting(value: object) -> str:
    """The value of a setting.

    >>> setting(("rotate_left", "zoom_in")), setting(()), setting(0.5)
    ('rotate_left, zoom_in', 'none', '0.5')
    """
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def differing(settings: Mapping[str, tuple[object, object]]) -> str:
    """Settings by path, ours and the paper's in brackets."""
    return ", ".join(
        f"`{path}` {setting(ours)} ({setting(paper)})" for path, (ours, paper) in settings.items()
    )


def duration(seconds: float) -> str:
    """A wall time.

    >>> duration(7.2), duration(95), duration(7200)
    ('7.2 s', '1.6 min', '2.0 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
