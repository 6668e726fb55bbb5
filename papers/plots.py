"""The zero-shot paper's figures as PNG files, drawn from a page's results."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from statistics import mean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from papers.results import Result, name_of, of_row, percents_of
from papers.rows import Page, Row
from papers.tables import of_request
from rayunlearn.reports.audit_figures import audit_figures
from rayunlearn.reports.inverted_images import InvertedImages
from rayunlearn.reports.plot_style import FORGET_COLOUR, MUTED, RC, RETAIN_COLOUR, bare, saved

PANEL = (4.6, 3.0)
"""Width and height of a panel, inches."""


def draw(page: Page, results: Sequence[Result], inverted: InvertedImages | None = None) -> bytes | None:
    """The page's figure, or None where a table says it better.

    Progress: accuracy by cycle, a line a seed, real images drawn through and synthetic ones dotted.
    Sequence: accuracy after each request, means over seeds, Retrain dashed.
    Inversion: the images that were drawn of the class, where they are given.
    """
    if page.form == "inversion" and inverted is not None:
        (picture,) = audit_figures((), [inverted]).values()
        return picture
    rows = [row for row in page.rows if of_row(results, row.name)]
    if page.form not in ("progress", "sequence") or not rows:
        return None
    across = 2 if len(rows) == 4 else min(len(rows), 3)
    down = -(-len(rows) // across)
    with matplotlib.rc_context(RC):
        canvas = Canvas(figsize=(PANEL[0] * across, PANEL[1] * down + 0.3), layout="constrained")
        panels = canvas.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for axes, row in zip(panels.flat, rows, strict=False):
            (_progress if page.form == "progress" else _sequence)(axes, row, of_row(results, row.name))
            axes.set_ylim(-2, 102)  # a line at 0 is seen
            bare(axes)
        for axes in panels[:, 0]:
            axes.set_ylabel("accuracy, %")
        for axes in panels[-1]:
            axes.set_xlabel("cycle" if page.form == "progress" else "class forgotten, in order")
        for axes in panels.flat[len(rows) :]:
            axes.set_axis_off()
        handles, labels = panels[0, 0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside upper left", ncols=4, frameon=False, fontsize=9)
        return saved(canvas, "png")


def _progress(axes: Axes, row: Row, results: Sequence[Result]) -> None:
    for number, result in enumerate(results):
        steps = [point["step"] for point in result["curve"]]
        for part, colour in (("retain", RETAIN_COLOUR), ("forget", FORGET_COLOUR)):
            for prefix, style, data in (("", "-", "real"), ("synthetic_", ":", "synthetic")):
                axes.plot(
                    steps,
                    [100 * point[prefix + part] for point in result["curve"]],
                    style,
                    color=colour,
                    linewidth=1.3,
                    alpha=0.8,
                    label=f"{part}, {data}" if number == 0 else None,
                )
    axes.set_title(row.title, fontsize=9.5, color=MUTED)


def _sequence(axes: Axes, row: Row, results: Sequence[Result]) -> None:
    places = range(1, len(row.requests) + 1)
    lines = (
        ("gold", "retain_accuracy", "--", RETAIN_COLOUR, "retain, Retrain"),
        ("unlearned", "retain_accuracy", "-", RETAIN_COLOUR, "retain"),
        ("unlearned", "forget_accuracy", "-", FORGET_COLOUR, "forget"),
    )
    of = [of_request(results, target) for target in row.requests]
    for subject, measure, style, colour, label in lines:
        heights = [mean(percents_of(each, subject, measure) or [nan]) for each in of]  # it may end early
        axes.plot(places, heights, style, color=colour, marker="o", markersize=4, label=label, clip_on=False)
    axes.set_title(name_of(row.recipe.method), fontsize=9.5, color=MUTED)
    axes.set_xticks(list(places), [", ".join(map(str, target)) for target in row.requests])
