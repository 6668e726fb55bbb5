"""What did not reproduce: figures beyond a bound, claims that do not hold, cells that differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean

from rayunlearn.methods.catalogue import table_three
from rayunlearn.reproduction.claims import Claim
from rayunlearn.reproduction.incomplete_data import INCOMPLETE
from rayunlearn.reproduction.remarks import remark_on
from rayunlearn.reproduction.results import Result, name_of, of_row, percents_of
from rayunlearn.reproduction.tables import subjects
from rayunlearn.reproduction.zero_shot import Page, Row, reductions
from rayunlearn.reproduction.zero_shot_figures import TABLE_THREE, Printed

RETAIN_BELOW = 2.0
"""Points of D_r that a mean over seeds may be below the paper's figure."""
FORGET_ABOVE = 1.0
"""Points of D_f that it may be above."""

OF_ORIGINALS = ("data", "model", "train")
"""Sections of a recipe that an original depends on."""


@dataclass(frozen=True, kw_only=True)
class Shortfall:
    """What did not reproduce.

    Attributes:
        name: what a remark is found by.
        what: in words.
        found: ours and the paper's.
        settings: that differ, but for those of the audit: path -> ours, the paper's. None for a claim, which
            is about the page's setup as a whole.
    """

    name: str
    what: str
    found: str
    settings: Mapping[str, tuple[object, object]] = field(default_factory=dict)


def shortfalls(page: Page, results: Sequence[Result], claims: Sequence[Claim]) -> list[Shortfall]:
    """Everything on the page that did not reproduce, in the page's order."""
    if page.form == "declared":
        return list(_cells())
    figures = [fall for rows in _compared_groups(page, results) for fall in _figures(rows, results)]
    return figures + list(_claims(claims))


def _compared_groups(page: Page, results: Sequence[Result]) -> list[list[Row]]:
    """The rows of each setup whose accuracies the paper prints, of the same data."""
    if page.form != "comparison":
        return []
    groups = dict.fromkeys(row.group for row in page.rows)
    found = [[row for row in page.rows if row.group == group] for group in groups]
    return [rows for rows in found if compared(rows, results)]


def compared(rows: Sequence[Row], results: Sequence[Result]) -> bool:
    """Whether the rows' figures are of the paper's data, so that they can stand beside the paper's."""
    hashes = {result["dataset_hash"] for row in rows for result in of_row(results, row.name)}
    same = all(row.recipe.data.dataset == row.paper.data.dataset for row in rows)
    return same and all(INCOMPLETE[h].comparable for h in hashes if h in INCOMPLETE)


def _figures(rows: Sequence[Row], results: Sequence[Result]) -> Iterator[Shortfall]:
    stem = rows[0].name.partition(f"-{rows[0].recipe.method}")[0]
    by_method = {row.recipe.method: row for row in rows}
    for name, (retain, forget), printed in _beside_the_paper(rows, results):
        # the original has forgotten nothing: it may know D_f better than the paper's
        remembers = name != "original" and forget > printed.forget + FORGET_ABOVE
        if not remembers and retain >= printed.retain - RETAIN_BELOW:
            continue
        own = by_method.get(name)
        yield Shortfall(
            name=f"{stem}-{name}",
            what=f"{name_of(name)} on {rows[0].group}.",
            found=f"D_r {retain:.2f}, the paper's {printed.retain:.2f}; "
            f"D_f {forget:.2f}, the paper's {printed.forget:.2f}",
            settings={
                path: pair
                for path, pair in reductions([own or rows[0]]).items()
                if (section := path.split(".")[0]) in OF_ORIGINALS or own and section != "audit"
            },
        )


def _beside_the_paper(
    rows: Sequence[Row], results: Sequence[Result]
) -> Iterator[tuple[str, tuple[float, float], Printed]]:
    """Name, mean D_r and D_f here and the paper's, of what both have."""
    for name, subject, of in subjects(rows, results):
        if of and name in rows[0].printed:
            retain, forget = (mean(percents_of(of, subject, f"{p}_accuracy")) for p in ("retain", "forget"))
            yield name, (retain, forget), rows[0].printed[name]


def _better(page: Page, results: Sequence[Result]) -> list[str]:
    """What has a D_r as far above the paper's as would be a shortfall below: no reproduction either."""
    return [
        f"{name_of(name)} on {rows[0].group} ({retain - printed.retain:+.2f})"
        for rows in _compared_groups(page, results)
        for name, (retain, _), printed in _beside_the_paper(rows, results)
        if retain > printed.retain + RETAIN_BELOW
    ]


def _claims(claims: Sequence[Claim]) -> Iterator[Shortfall]:
    for claim in claims:
        if not claim.holds:
            yield Shortfall(name=claim.name, what=claim.said, found=claim.found)


def _cells() -> Iterator[Shortfall]:
    word = {True: "yes", False: "no"}
    for attribute, printed in TABLE_THREE.items():
        for method, there in printed.items():
            here = table_three()[method][attribute]
            if here != there:
                yield Shortfall(
                    name=f"table-III-{method}-{attribute}",
                    what=f"{method}, {attribute}.",
                    found=f"{word[here]}, the paper's {word[there]}",
                )


def section(page: Page, results: Sequence[Result], claims: Sequence[Claim], missing: Sequence[str]) -> str:
    """The section that a page ends with.

    Args:
        page: with the rows that were run.
        results: of these rows.
        claims: of the paper about the page.
        missing: names of the page's rows that were not run.
    """
    parts = ["## What did not reproduce, and why\n"]
    if page.form == "comparison":
        parts.append(
            f"Listed is what is more than {RETAIN_BELOW:g} points of D_r below the paper's figure or more "
            f"than {FORGET_ABOVE:g} point of D_f above it, on average over seeds, on the paper's data.\n"
        )
    found = shortfalls(page, results, claims)
    run = results or page.form == "declared"
    parts += [_line(fall) for fall in found] or [
        "Nothing of what was run." if run else "Nothing was run yet."
    ]
    if better := _better(page, results):
        parts.append(f"\nD_r more than {RETAIN_BELOW:g} points above the paper's: {', '.join(better)}.")
    if missing:
        parts.append("\nNot run: " + ", ".join(f"`{name}`" for name in missing) + ".")
    return "\n".join(parts) + "\n"


def _line(fall: Shortfall) -> str:
    settings = ", ".join(f"`{path}` {ours} ({paper})" for path, (ours, paper) in fall.settings.items())
    differ = f" Settings that differ from the paper's, in brackets: {settings}." if settings else ""
    return f"- **{fall.what}** Here: {fall.found}.{differ} Why: {remark_on(fall.name)}"
