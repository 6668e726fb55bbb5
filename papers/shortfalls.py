"""What did not reproduce: figures beyond a bound, claims that do not hold, cells that differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean

from papers import moons_page as moons
from papers.claims import Claim
from papers.incomplete_data import INCOMPLETE
from papers.remarks import remark_on
from papers.results import Result, differing, name_of, of_row, percents_of
from papers.rows import Page, Printed, Row, reductions
from papers.tables import Subject, subjects
from papers.zero_shot_figures import TABLE_THREE
from rayunlearn.methods.catalogue import table_three

RETAIN_BELOW = 2.0
"""Points of D_r that a mean over seeds may be below the paper's figure."""
FORGET_ABOVE = 1.0
"""Points of D_f that it may be above."""

ERASED_OFF = 2.0
"""Points of D_e, where right answers are counted: an original may be above, any other below."""

COMPARED = ("comparison", "shots", "samples")
"""Forms of pages on which accuracies stand beside the paper's."""

OF_ORIGINALS = ("data", "model", "train")
"""Sections of a recipe that an original depends on."""


@dataclass(frozen=True, kw_only=True)
class Shortfall:
    """What did not reproduce.

    Attributes:
        name: what a remark is found by.
        what: in words.
        found: ours and the paper's.
        settings: that differ, but for those of the audit: path -> ours, the paper's. Empty for a claim, which
            is about the page's setup as a whole.
        reduced: what was run has other settings than the paper.
    """

    name: str
    what: str
    found: str
    settings: Mapping[str, tuple[object, object]] = field(default_factory=dict)
    reduced: bool


def shortfalls(page: Page, results: Sequence[Result], claims: Sequence[Claim]) -> list[Shortfall]:
    """Everything on the page that did not reproduce, in the page's order."""
    if page.form == "declared":
        return list(_cells())
    if page.name == "table-1":
        return [*_moons(results), *_claims(claims, page)]
    figures = [fall for rows in _compared_groups(page, results) for fall in _figures(rows, results)]
    return figures + list(_claims(claims, page))


def _compared_groups(page: Page, results: Sequence[Result]) -> list[list[Row]]:
    """The rows of each setup whose accuracies the paper prints, of the same data and classifier."""
    if page.form not in COMPARED:
        return []
    groups = dict.fromkeys(row.group for row in page.rows)
    found = [[row for row in page.rows if row.group == group] for group in groups]
    return [rows for rows in found if compared(rows, results)]


def compared(rows: Sequence[Row], results: Sequence[Result]) -> bool:
    """Whether the rows' figures are of the paper's data, so that they can stand beside the paper's."""
    hashes = {result["dataset_hash"] for row in rows for result in of_row(results, row.name)}
    same = all(
        (row.recipe.data.dataset, row.recipe.model.name) == (row.paper.data.dataset, row.paper.model.name)
        for row in rows
    )
    return same and all(INCOMPLETE[h].comparable for h in hashes if h in INCOMPLETE)


def _figures(rows: Sequence[Row], results: Sequence[Result]) -> Iterator[Shortfall]:
    stem = rows[0].name.partition(f"-{rows[0].recipe.method}")[0]
    for each, (retain, forget), printed in _beside_the_paper(rows, results):
        own = each.row if each.subject == "unlearned" else None
        if not _off(each, forget, printed.forget) and retain >= printed.retain - RETAIN_BELOW:
            continue
        called = "D_f" if each.row.kind == "classes" else "D_e"
        settings = {
            path: pair
            for path, pair in reductions([each.row]).items()
            if (section := path.split(".")[0]) in OF_ORIGINALS or own and section != "audit"
        }
        yield Shortfall(
            name=own.name if own else f"{stem}-{each.title}",
            what=f"{name_of(each.title)}{each.given} on {rows[0].group}.",
            found=f"D_r {retain:.2f}, the paper's {printed.retain:.2f}; "
            f"{called} {forget:.2f}, the paper's {printed.forget:.2f}",
            settings=settings,
            reduced=bool(settings),
        )


def _off(each: Subject, forget: float, printed: float) -> bool:
    """Whether a model's D_f, or D_e, is worse than the paper's.

    Of an original that was taught wrong labels: whether it shows less of them than the paper's. One that has
    forgotten nothing may know D_f better than the paper's.
    """
    if each.title == "original":
        return each.row.wanted_high and forget > printed + ERASED_OFF
    return forget < printed - ERASED_OFF if each.row.wanted_high else forget > printed + FORGET_ABOVE


def _beside_the_paper(
    rows: Sequence[Row], results: Sequence[Result]
) -> Iterator[tuple[Subject, tuple[float, float], Printed]]:
    """A model with its mean D_r and D_f here and the paper's, of all that both have."""
    for each in subjects(rows, results):
        if each.results and each.printed is not None:
            retain, forget = (
                mean(percents_of(each.results, each.subject, measure))
                for measure in ("retain_accuracy", each.row.erased)
            )
            yield each, (retain, forget), each.printed


def _better(page: Page, results: Sequence[Result]) -> list[str]:
    """What has a D_r as far above the paper's as would be a shortfall below: no reproduction either."""
    return [
        f"{name_of(each.title)}{each.given} on {rows[0].group} ({retain - printed.retain:+.2f})"
        for rows in _compared_groups(page, results)
        for each, (retain, _), printed in _beside_the_paper(rows, results)
        if retain > printed.retain + RETAIN_BELOW
    ]


def _claims(claims: Sequence[Claim], page: Page) -> Iterator[Shortfall]:
    reduced = bool(reductions(page.rows))
    for claim in claims:
        if not claim.holds:
            yield Shortfall(name=claim.name, what=claim.said, found=claim.found, reduced=reduced)


def _moons(results: Sequence[Result]) -> Iterator[Shortfall]:
    for method, found in moons.off_the_paper(results) if results else ():
        what = f"{name_of(method)}, divergence from the oracle over all data points, nats."
        yield Shortfall(name=f"table-1-{method}", what=what, found=found, reduced=False)


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
                    reduced=False,
                )


def section(
    page: Page, results: Sequence[Result], claims: Sequence[Claim], missing: Sequence[str],
    failed: Mapping[str, str],
) -> str:  # fmt: skip
    """The section that a page ends with.

    Args:
        page: with the rows that were run.
        results: of these rows.
        claims: of the paper about the page.
        missing: names of the page's rows that were not run.
        failed: row and seed of the page that gave no figures -> why.
    """
    parts = ["## What did not reproduce, and why\n"]
    if page.form in COMPARED:
        parts.append(
            f"Listed is what is more than {RETAIN_BELOW:g} points of D_r below the paper's figure or more "
            f"than {FORGET_ABOVE:g} point of D_f above it, on average over seeds, on the paper's data.\n"
        )
    if any(row.wanted_high for row in page.rows):
        parts.append(
            f"Where right answers to D_e are counted, it is what is more than {ERASED_OFF:g} points below, "
            "and an original that is as much above: what was not misled has nothing to unlearn.\n"
        )
    found = [_line(fall) for fall in shortfalls(page, results, claims)]
    found += [f"- **`{what}` failed.** {why}." for what, why in failed.items()]
    run = results or page.form == "declared"
    parts += found or [
        "Nothing of what was run." if run else "Nothing was run yet."
    ]
    if better := _better(page, results):
        parts.append(f"\nD_r more than {RETAIN_BELOW:g} points above the paper's: {', '.join(better)}.")
    if missing:
        parts.append("\nNot run: " + ", ".join(f"`{name}`" for name in missing) + ".")
    return "\n".join(parts) + "\n"


def _line(fall: Shortfall) -> str:
    settings = differing(fall.settings)
    differ = f" Settings that differ from the paper's, in brackets: {settings}." if settings else ""
    why = remark_on(fall.name, reduced=fall.reduced)
    return f"- **{fall.what}** Here: {fall.found}.{differ} Why: {why}"
