"""A reproduced table or figure as Markdown: the paper's figures, ours over seeds, and the difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import correlation, mean, stdev
from typing import Any

from rayunlearn.methods.registry import METHODS
from rayunlearn.reproduction.zero_shot import Page, Row, differences
from rayunlearn.reproduction.zero_shot_figures import TABLE_SEVEN, Printed

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
        show = {
            "comparison": _table, "attack": _attack, "inversion": _inversion, "progress": _progress,
            "sequence": _sequence,
        }[page.form]  # fmt: skip
        parts += [f"## {group}\n", show(rows, results), _reductions(rows)]
    parts.append("Run on " + ", ".join(f"{name} {value}" for name, value in facts.items()) + ".\n")
    return "\n".join(parts)


def _table(rows: Sequence[Row], results: Sequence[Result]) -> str:
    printed = rows[0].printed
    lines = [
        "| model | D_r paper | D_r here | diff. | D_f paper | D_f here | diff. | AIN paper | AIN here "
        "| probe D_f | seeds | seconds | refused |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name, subject, of in _subjects(rows, results):
        lines.append(_line(name, subject, of, printed.get(name), own=subject == "unlearned"))
    return "\n".join(lines) + "\n"


def _line(
    name: str, subject: str, results: Sequence[Result], printed: Printed | None, *, own: bool = False
) -> str:
    cells = [NAMES.get(name, name)]
    for measure, there in (("retain_accuracy", "retain"), ("forget_accuracy", "forget")):
        values = [100 * v for v in figures_of(results, subject, measure)]
        paper = None if printed is None else float(getattr(printed, there))
        cells += [_number(paper), _spread(values), _difference(values, paper)]
    indices = _values(results, subject, "anamnesis_index")
    known = [v for v in indices if v is not None]
    cells.append(_number(None if printed is None else printed.index))
    cells.append(_spread(known) + (f" ({len(known)} of {len(indices)})" if len(known) < len(indices) else ""))
    cells.append(_spread([100 * v for v in figures_of(results, subject, "probe_forget_recall")]))
    cells.append(str(len(results)))
    cells.append(_spread([r["seconds"] for r in results], digits=0) if own else "")
    refused = sum(r["refused"] is not None for r in results)
    cells.append(f"{refused} of {len(results)}" if own and refused else "")
    return "| " + " | ".join(cells) + " |"


def _attack(rows: Sequence[Row], results: Sequence[Result]) -> str:
    """Table VII: the share of each set that the entropy attack calls members."""
    sets = ("train", "test", "retain", "forget")
    lines = ["| model | " + " | ".join(f"{s} paper | {s} here" for s in sets) + " | seeds |"]
    lines.append("|---|" + "--:|" * (2 * len(sets) + 1))
    for name, subject, of in _subjects(rows, results):
        cells = [NAMES.get(name, name)]
        for part in sets:
            printed = TABLE_SEVEN.get(name, {}).get(part)
            cells += ["" if printed is None else f"{printed:.3f}"]
            cells += [_spread(figures_of(of, subject, f"entropy_attack_{part}"), digits=3)]
        lines.append("| " + " | ".join([*cells, str(len(of))]) + " |")
    return "\n".join(lines) + "\n"


def _inversion(rows: Sequence[Row], results: Sequence[Result]) -> str:
    """Fig. 3 in figures: what twelve attacks on the forget class reach."""
    measures = ("confidence", "correlation", "specific")
    lines = ["| model | " + " | ".join(measures) + " | seeds |", "|---|" + "--:|" * (len(measures) + 1)]
    for name, subject, of in _subjects(rows, results):
        cells = [_spread(figures_of(of, subject, f"inversion_{m}"), digits=3) for m in measures]
        lines.append("| " + " | ".join([NAMES.get(name, name), *cells, str(len(of))]) + " |")
    return "\n".join(lines) + "\n"


def _progress(rows: Sequence[Row], results: Sequence[Result]) -> str:
    """Figs. 4 to 8 in figures: where each run ended, and how synthetic progress goes with real."""
    lines = [
        "| run | best D_r with D_f 0 | D_r at the end | D_f at the end | least pass rate "
        "| correlation of D_r, synthetic and real | of D_f | seeds |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for each in rows:
        curves = [r["curve"] for r in results if r["row"] == each.name]
        clean = [max((p["retain"] for p in c if p["forget"] == 0), default=None) for c in curves]
        cells = [
            each.name,
            _spread([100 * v for v in clean if v is not None]),
            *(_spread([100 * c[-1][part] for c in curves]) for part in ("retain", "forget")),
            _spread([min(p["pass_rate"] for p in c) for c in curves], digits=3),
            *(_spread(_correlations(curves, part), digits=3) for part in ("retain", "forget")),
            str(len(curves)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _sequence(rows: Sequence[Row], results: Sequence[Result]) -> str:
    """Fig. 9 in figures: after each request, beside a model retrained for it."""
    lines = [
        "| method | request | forget | D_r Retrain | D_r here | D_f here | probe D_f Retrain | probe here "
        "| seeds |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for each in rows:
        for number, target in enumerate(each.requests, start=1):
            of = [r for r in results if r["row"] == each.name and tuple(r["target"]) == target]
            shown = [
                ("gold", "retain_accuracy"), ("unlearned", "retain_accuracy"),
                ("unlearned", "forget_accuracy"), ("gold", "probe_forget_recall"),
                ("unlearned", "probe_forget_recall"),
            ]  # fmt: skip
            cells = [NAMES.get(each.recipe.method, each.recipe.method), str(number)]
            cells += [", ".join(map(str, target))]
            cells += [_spread([100 * v for v in figures_of(of, *which)]) for which in shown]
            lines.append("| " + " | ".join([*cells, str(len(of))]) + " |")
    return "\n".join(lines) + "\n"


def _subjects(
    rows: Sequence[Row], results: Sequence[Result]
) -> Iterator[tuple[str, str, Sequence[Result]]]:
    """Name, subject and results: what is measured beside every row once, then each row's own."""
    of_row = {row.name: [r for r in results if r["row"] == row.name] for row in rows}
    most = max(of_row.values(), key=len)
    for subject in SUBJECTS:
        yield subject, subject, most
    for row in rows:
        yield row.recipe.method, "unlearned", of_row[row.name]


def _correlations(curves: Sequence[Sequence[Result]], part: str) -> list[float]:
    """Pearson's correlation of synthetic and real accuracy over each curve; none where one is constant."""
    pairs = [([p[f"synthetic_{part}"] for p in c], [p[part] for p in c]) for c in curves]
    return [correlation(a, b) for a, b in pairs if len(set(a)) > 1 and len(set(b)) > 1]


def figures_of(results: Sequence[Result], subject: str, measure: str) -> list[float]:
    """A subject's figure in each result that has one."""
    return [v for v in _values(results, subject, measure) if v is not None]


def _values(results: Sequence[Result], subject: str, measure: str) -> list[float | None]:
    """One figure a result: on all classes to retain or to forget; on test images, where there are two."""
    found = []
    for result in results:
        rows = [f for f in result["figures"] if f["subject"] == subject and f["measure"] == measure]
        rows = [f for f in rows if f["split"] == "test"] or rows
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
