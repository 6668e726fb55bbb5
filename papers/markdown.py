"""A reproduced table or figure as a page of Markdown: the paper's figures, ours, and what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from types import MappingProxyType

from papers import few_shot_tables, tables
from papers import moons_page as moons
from papers.catalogue import claims
from papers.claims import Claim
from papers.incomplete_data import INCOMPLETE
from papers.results import Result, by_arithmetic, differing, duration, of_row
from papers.rows import Page, Row, reductions
from papers.shortfalls import section
from papers.tables import declared, table

FORMS = tables.FORMS | few_shot_tables.FORMS
"""Form of a page -> its table of a group of rows."""


def render(
    page: Page,
    results: Sequence[Result],
    writer: Mapping[str, str],
    *,
    missing: Sequence[str] = (),
    failed: Mapping[str, str] = MappingProxyType({}),
    picture: str | None = None,
) -> str:
    """The page: a table for each setup, what was reduced, what it was run on, what did not reproduce.

    Args:
        page: with the rows that were run.
        results: of its rows, each request of each seed by itself. Only those of one processor are averaged:
            a row's others come in tables of their own.
        writer: hardware and versions of the machine that writes the page, where a result has none of its own.
        missing: names of the rows that were not run.
        failed: row and seed that gave no figures -> why.
        picture: name of the page's figure, where it has one.
    """
    parts, every = [f"# {page.title}\n"], results
    results, others = by_arithmetic(every)
    if page.note:
        parts.append(f"{page.note}\n")
    if page.form == "declared":
        parts += [declared(), "Read off the methods' declarations; nothing is run.\n"]
    if page.form == "moons":
        parts.append(moons.shown(page, results))
    for group in dict.fromkeys(row.group for row in page.rows):
        rows = [row for row in page.rows if row.group == group]
        parts += [f"## {group}\n", FORMS[page.form](rows, results), _data(rows, results), _settings(rows)]
    for processor, of in others.items():
        parts += [f"## On {processor}\n", *_tables(page, of)]
    if picture is not None:
        parts.append(f"![{page.title}]({picture})\n")
    checked = claims(page, results)
    if checked:
        parts.append(_claims(checked))
    if results:
        counted = TRAINING_COUNTED if page.form == "moons" else UNLEARNING_COUNTED
        parts.append(_runs(every, counted, writer))
    parts.append(section(page, results, checked, missing, failed))
    return "\n".join(parts)


def _tables(page: Page, results: Sequence[Result]) -> Iterator[str]:
    """The page's tables of these results alone."""
    if page.form == "moons":
        yield moons.shown(page, results)
    there = [row for row in page.rows if of_row(results, row.name)]
    for group in dict.fromkeys(row.group for row in there):
        yield f"### {group}\n"
        yield FORMS[page.form]([row for row in there if row.group == group], results)


def _data(rows: Sequence[Row], results: Sequence[Result]) -> str:
    """How many images the group's figures are of, and what the data lacks."""
    of = [result for row in rows for result in of_row(results, row.name)]
    if not of:
        return ""
    counts = {
        split: sum(
            figure["count"]
            for figure in of[0]["figures"]
            if (figure["subject"], figure["measure"], figure["split"])
            == ("original", "class_accuracy", split)
        )
        for split in ("train", "test")
    }
    said = [INCOMPLETE[h].said for h in dict.fromkeys(r["dataset_hash"] for r in of) if h in INCOMPLETE]
    images = f"Trained on {counts['train']:,} images, measured on {counts['test']:,} others."
    return " ".join([images, *said]) + "\n"


def _settings(rows: Sequence[Row]) -> str:
    """What is smaller or otherwise than in the paper, setting by setting, of the methods on the page."""
    found = reductions(rows)
    if not found:
        return "Settings: the paper's.\n"
    return f"Settings that differ from the paper's, which are in brackets: {differing(found)}.\n"


def _claims(checked: Sequence[Claim]) -> str:
    lines = [[claim.said, claim.found, "yes" if claim.holds else "**no**"] for claim in checked]
    return "## What the paper says of it\n\n" + table(["claim", "here", "holds"], lines, left=3)


UNLEARNING_COUNTED = "Wall time of unlearning: {}; training and audits are not counted."
TRAINING_COUNTED = "Wall time of everything, training included: {}."


def _runs(results: Sequence[Result], counted: str, writer: Mapping[str, str]) -> str:
    """Seeds, wall time, and the machines with their versions."""
    seeds = [str(seed) for seed in sorted({result["seed"] for result in results})]
    several = f"Seeds {', '.join(seeds)}; ± is the standard deviation over them."
    seconds = [result["seconds"] for result in results]
    took = f"{duration(sum(seconds))} in {len(seconds)} runs, {duration(mean(seconds))} on average"
    parts = [
        "## Runs\n",
        f"{several if len(seeds) > 1 else f'Seed {seeds[0]}.'} {counted.format(took)}\n",
    ]
    machines: dict[str, int] = {}
    for result in results:
        facts = dict(result["machine"] or writer)
        facts.setdefault("instruction_set", "not recorded")
        said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
        if result["machine"] is None:
            said += " (not recorded by the run: what this page was written on)"
        machines[said] = machines.get(said, 0) + 1
    parts += [f"- {number} on {said}" for said, number in machines.items()]
    return "\n".join(parts) + "\n"
