"""A reproduced table as Markdown: the paper's figure, ours over seeds, and the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from rayunlearn.methods.registry import METHODS
from rayunlearn.reproduction.zero_shot import Page, Row, differences
from rayunlearn.reproduction.zero_shot_figures import Printed

SUBJECTS = ("original", "gold", "mask_logit", "delete_head_row", "gaussian_head")
"""Measured beside every row's own result, in the order of the page."""

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
}

Result = Mapping[str, Any]


def render(page: Page, results: Sequence[Result], facts: Mapping[str, str]) -> str:
    """The page: a table for each setup, what was reduced, and what it was run on.

    Args:
        page: the table.
        results: of its rows, each request of each seed by itself; a row without results says so.
        facts: hardware and versions.
    """
    parts = [f"# {page.title}\n"]
    if page.note:
        parts.append(f"{page.note}\n")
    for group in dict.fromkeys(row.group for row in page.rows):
        rows = [row for row in page.rows if row.group == group]
        parts += [f"## {group}\n", _table(rows, results)]
        parts.append(_reductions(rows))
    parts.append("Run on " + ", ".join(f"{name} {value}" for name, value in facts.items()) + ".\n")
    return "\n".join(parts)


def _table(rows: Sequence[Row], results: Sequence[Result]) -> str:
    printed = rows[0].printed
    lines = [
        "| model | D_r paper | D_r here | diff. | D_f paper | D_f here | diff. | AIN paper | AIN here "
        "| probe D_f | seeds | seconds | refused |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    of_row = {row.name: [r for r in results if r["row"] == row.name] for row in rows}
    most = max(of_row.values(), key=len)
    lines += [_line(subject, subject, most, printed.get(subject)) for subject in SUBJECTS]
    for row in rows:
        method = row.recipe.method
        lines.append(_line(method, "unlearned", of_row[row.name], printed.get(method), own=True))
    return "\n".join(lines) + "\n"


def _line(
    name: str, subject: str, results: Sequence[Result], printed: Printed | None, *, own: bool = False
) -> str:
    cells = [NAMES.get(name, name)]
    for measure, there in (("retain_accuracy", "retain"), ("forget_accuracy", "forget")):
        values = [100 * v for v in _values(results, subject, measure) if v is not None]
        paper = None if printed is None else float(getattr(printed, there))
        cells += [_number(paper), _spread(values), _difference(values, paper)]
    indices = _values(results, subject, "anamnesis_index")
    known = [v for v in indices if v is not None]
    cells.append(_number(None if printed is None else printed.index))
    cells.append(_spread(known) + (f" ({len(known)} of {len(indices)})" if len(known) < len(indices) else ""))
    probes = _values(results, subject, "probe_forget_recall")
    cells.append(_spread([100 * v for v in probes if v is not None]))
    cells.append(str(len(results)))
    cells.append(_spread([r["seconds"] for r in results], digits=0) if own else "")
    refused = sum(r["refused"] is not None for r in results)
    cells.append(f"{refused} of {len(results)}" if own and refused else "")
    return "| " + " | ".join(cells) + " |"


def _values(results: Sequence[Result], subject: str, measure: str) -> list[float | None]:
    """One figure a result: on all classes to retain or to forget, on test images."""
    found = []
    for result in results:
        rows = [
            f for f in result["figures"]
            if f["subject"] == subject and f["measure"] == measure and f["split"] == "test"
        ]  # fmt: skip
        if rows:
            found.append(max(rows, key=lambda f: len(f["classes"]))["value"])
    return found


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and standard deviation over seeds.

    >>> _spread([1.0, 2.0]), _spread([1.0]), _spread([])
    ('1.50 ± 0.71', '1.00', '')
    """
    if not values:
        return ""
    middle = f"{mean(values):.{digits}f}"
    return middle if len(values) < 2 else f"{middle} ± {stdev(values):.{digits}f}"


def _difference(values: Sequence[float], paper: float | None) -> str:
    return "" if paper is None or not values else f"{mean(values) - paper:+.2f}"


def _reductions(rows: Sequence[Row]) -> str:
    """What is smaller or otherwise than in the paper, setting by setting, of the methods on the page."""
    own = {METHODS[each.recipe.method].section for each in rows} | {"train"}
    others = {method.section for method in METHODS.values()} - own
    found = {
        path: (ours, paper)
        for each in rows
        for path, ours, paper in differences(each.recipe, each.paper)
        if path.split(".")[0] not in others
    }
    if not found:
        return "Settings: the paper's.\n"
    said = ", ".join(f"`{path}` {ours} ({paper})" for path, (ours, paper) in found.items())
    return f"Settings that differ from the paper's, which are in brackets: {said}.\n"
