"""The zero-shot paper's figures as PNG files, drawn from a page's results."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from rayunlearn.reproduction.markdown import NAMES, Result, figures_of
from rayunlearn.reproduction.zero_shot import Page, Row
from rayunlearn.results.plot_style import FORGET_COLOUR, MUTED, RC, RETAIN_COLOUR, bare, saved

PANEL = (4.6, 3.0)
"""Width and height of a panel, inches."""


def draw(page: Page, results: Sequence[Result]) -> bytes | None:
    """The page's figure, or None where a table says it better.

    Progress: accuracy by step, a line a seed, real images drawn through and synthetic ones dotted.
    Sequence: accuracy after each request, means over seeds, Retrain dashed.
    """
    if page.form not in ("progress", "sequence"):
        return None
    rows = [row for row in page.rows if any(r["row"] == row.name for r in results)]
    if not rows:
        return None
    with matplotlib.rc_context(RC):
        canvas = Canvas(figsize=(PANEL[0] * len(rows), PANEL[1]), layout="constrained")
        panels = canvas.subplots(1, len(rows), sharey=True, squeeze=False)[0]
        for axes, row in zip(panels, rows, strict=True):
            own = [r for r in results if r["row"] == row.name]
            (_progress if page.form == "progress" else _sequence)(axes, row, own)
            axes.set_ylim(0, 100)
            bare(axes)
        panels[0].set_ylabel("accuracy, %")
        handles, labels = panels[0].get_legend_handles_labels()
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
    axes.set_title(row.name.partition("-curve")[2].strip("-") or "default", fontsize=9.5, color=MUTED)
    axes.set_xlabel("cycle")


def _sequence(axes: Axes, row: Row, results: Sequence[Result]) -> None:
    places = range(1, len(row.requests) + 1)
    lines = (
        ("gold", "retain_accuracy", "--", RETAIN_COLOUR, "retain, Retrain"),
        ("unlearned", "retain_accuracy", "-", RETAIN_COLOUR, "retain"),
        ("unlearned", "forget_accuracy", "-", FORGET_COLOUR, "forget"),
    )
    for subject, measure, style, colour, label in lines:
        heights = [
            100 * mean(figures_of([r for r in results if tuple(r["target"]) == target], subject, measure))
            for target in row.requests
        ]
        axes.plot(places, heights, style, color=colour, marker="o", markersize=4, label=label, clip_on=False)
    axes.set_title(NAMES.get(row.recipe.method, row.recipe.method), fontsize=9.5, color=MUTED)
    axes.set_xticks(list(places), [", ".join(map(str, target)) for target in row.requests])
    axes.set_xlabel("class forgotten, in order")
