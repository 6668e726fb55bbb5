"""The few-shot paper's figures as PNG files, drawn from a page's results and galleries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from papers.few_shot_tables import accuracies, durations
from papers.results import Result, name_of, of_row
from papers.rows import Page, Row
from papers.tables import of_request
from rayunlearn.reports.plot_style import FORGET_COLOUR, INK, MUTED, RC, RETAIN_COLOUR, RULE, bare, saved

ORACLE_COLOUR = "#2f7d4f"
NEAR, FAR = np.array([0.55, 0.15, 0.0]), np.array([0.98, 0.72, 0.50])
"""Colours of a box around a sample that is most like D_e, and at the threshold."""
GAP = 0.12
"""Between the images of a gallery, as a share of their size."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Gallery:
    """Samples of D' to look at.

    Attributes:
        images: `[K, n, C, H, W]`, pixels in [0, 1].
        scores: similarity to the examples, `[K, n]`; NaN where there is no sample.
        classes: that they were made for, K of them.
    """

    images: np.ndarray
    scores: np.ndarray
    classes: Sequence[int]


Galleries = Mapping[str, Gallery]
"""Row -> samples of its first seed's run."""


def draw(page: Page, results: Sequence[Result], galleries: Galleries) -> bytes | None:
    """The page's figure, or None where a table says it all or nothing was run.

    Samples: a row a class, the boxed ones like D_e, and (Fig. 4) the curve they were found by. Shares:
    accuracy by the share of D_e. Scatter: D_r against D_e. Time: bars, request by request.
    """
    rows = [row for row in page.rows if of_row(results, row.name)]
    of_samples: dict[bytes, Row] = {}  # rows that differ in what is done with the same samples show them once
    for row in rows:
        if row.name in galleries:
            of_samples.setdefault(galleries[row.name].images.tobytes(), row)
    drawn = [*of_samples.values()]
    with matplotlib.rc_context(RC):
        if page.form == "samples" and drawn:
            return _samples(drawn, results, galleries, curve=page.name == "figure-4")
        if page.form == "shares" and rows:
            return _shares(rows, results)
        if page.form == "scatter" and rows:
            return _scatter(rows, results)
        if page.form == "time" and rows:
            return _time(rows, results)
    return None


def _samples(rows: Sequence[Row], results: Sequence[Result], galleries: Galleries, *, curve: bool) -> bytes:
    shapes = [galleries[row.name].scores.shape for row in rows]
    widths = [4.0] * curve + [0.42 * across for _, across in shapes]
    canvas = Canvas(figsize=(sum(widths) + 0.5, 0.42 * max(k for k, _ in shapes) + 0.5), layout="constrained")
    panels = canvas.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    if curve:
        _curve(panels[0], of_row(results, rows[0].name)[0]["filtered"])
    for axes, row in zip(panels[int(curve) :], rows, strict=True):
        threshold = of_row(results, row.name)[0]["filtered"]["threshold"]
        _gallery(axes, galleries[row.name], threshold)
        setup = "" if row.called else f", {row.group.split(', ')[1]}"
        axes.set_title(name_of(row.title) + setup, fontsize=9.5, color=MUTED)
    return saved(canvas, "png")


def _curve(axes: Axes, found: Mapping[str, Any]) -> None:
    """Fig. 4a: similarity, sorted, and the threshold."""
    threshold = found["threshold"]
    axes.plot(np.linspace(0, 100, len(found["curve"])), found["curve"], color=RETAIN_COLOUR, linewidth=1.6)
    axes.axhline(threshold, color=FORGET_COLOUR, linewidth=1.1, linestyle="--")
    axes.annotate(
        f"threshold ({found['by']}):\n{found['selected']:,.0f} of {found['samples']:,} samples",
        (100, threshold), (0, 4), textcoords="offset points", ha="right", color=FORGET_COLOUR, fontsize=9,
    )  # fmt: skip
    axes.set_xlabel("samples of D', most like the examples first, %")
    axes.set_ylabel("similarity to the examples")
    bare(axes)


def _gallery(axes: Axes, gallery: Gallery, threshold: float) -> None:
    """Fig. 4b: a row a class; boxes around what is like the examples, lighter nearer the threshold."""
    above = gallery.scores.astype(np.float64)  # as the threshold is: no depth beyond 1 by rounding
    top = np.nanmax(above)
    for line, (images, scores) in enumerate(zip(gallery.images, above, strict=True)):
        for place, (image, score) in enumerate(zip(images, scores, strict=True)):
            if np.isnan(score):
                continue
            left, low = place * (1 + GAP), line * (1 + GAP)
            pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=(left, left + 1, low + 1, low))
            if score >= threshold:
                depth = (score - threshold) / (top - threshold) if top > threshold else 1.0
                axes.add_patch(
                    Rectangle((left, low), 1, 1, fill=False, linewidth=2, color=FAR + depth * (NEAR - FAR))
                )
    count, across = gallery.scores.shape
    axes.set_xlim(-GAP, across * (1 + GAP))
    axes.set_ylim(count * (1 + GAP), -GAP)
    axes.set_xticks([])
    axes.set_yticks([line * (1 + GAP) + 0.5 for line in range(count)], [str(c) for c in gallery.classes])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _level(axes: Axes, height: float, name: str, colour: str) -> None:
    axes.axhline(height, color=colour, linewidth=1.1, linestyle="--", label=name)


def _shares(rows: Sequence[Row], results: Sequence[Result]) -> bytes:
    canvas = Canvas(figsize=(8.4, 3.1), layout="constrained")
    panels = canvas.subplots(1, 2)
    systems = {"few_shot": ("Ours", FORGET_COLOUR), "eubo": ("EUBO, tuned", RETAIN_COLOUR)}
    for place, (axes, part) in enumerate(zip(panels, ("$D_r$", "$D_e$"), strict=True)):
        _level(axes, accuracies(rows[0], results, "original")[place], "Original", MUTED)
        for row in rows:
            if row.title == "oracle":
                _level(axes, accuracies(row, results)[place], "Oracle", ORACLE_COLOUR)
        for method, (name, colour) in systems.items():
            own = sorted((row for row in rows if row.recipe.method == method), key=lambda row: row.share)
            heights = [accuracies(row, results)[place] for row in own]
            axes.plot(
                [row.share for row in own],
                heights,
                "o-",
                color=colour,
                markersize=4,
                label=name,
                clip_on=False,
            )
        axes.set_xscale("log")
        ticks = sorted({row.share for row in rows if row.recipe.method in systems})
        axes.set_xticks(ticks, [f"{share:g}" for share in ticks])
        axes.minorticks_off()
        axes.set_xlabel(r"share of $D_e$ given, $\rho$")
        axes.set_ylabel(f"accuracy on {part}, %")
        axes.set_ylim(-2, 102)
        bare(axes)
    handles, labels = panels[0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    return saved(canvas, "png")


def _scatter(rows: Sequence[Row], results: Sequence[Result]) -> bytes:
    canvas = Canvas(figsize=(5.6, 4.2), layout="constrained")
    axes = canvas.subplots()
    swept = [row for row in rows if row.recipe.method == "fisher"]
    points = [accuracies(row, results) for row in swept]
    axes.plot(
        [forget for _, forget in points], [retain for retain, _ in points], "o-", color=RETAIN_COLOUR,
        markersize=4, linewidth=1, label="Fisher, by λ",
    )  # fmt: skip
    for row, (retain, forget) in list(zip(swept, points, strict=True))[:: max(1, len(swept) - 1)]:
        axes.annotate(
            f"{row.recipe.fisher.alpha:g}", (forget, retain), (6, -11), textcoords="offset points",
            color=MUTED, fontsize=8.5,
        )  # fmt: skip
    others = [(accuracies(rows[0], results, "original"), "Original", MUTED)]
    colours = {"oracle": ORACLE_COLOUR, "few_shot": FORGET_COLOUR}
    others += [
        (accuracies(row, results), name_of(row.title), colours[row.title])
        for row in rows
        if row.title in colours
    ]
    for (retain, forget), name, colour in others:
        axes.scatter([forget], [retain], 52, colour, marker="D", label=name, zorder=3, clip_on=False)
    axes.set_xlim(-2, 102)
    axes.set_ylim(-2, 102)
    axes.set_xlabel("accuracy on $D_e$, %")
    axes.set_ylabel("accuracy on $D_r$, %")
    bare(axes)
    canvas.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    return saved(canvas, "png")


def _time(rows: Sequence[Row], results: Sequence[Result]) -> bytes:
    steps = (
        ("training_seconds", "training of the original", RULE),
        ("generator_seconds", "generator", RETAIN_COLOUR),
        ("seconds", "D' and relearning", FORGET_COLOUR),
    )
    bars = []
    for row in rows:
        for place, target in enumerate(row.requests, start=1):
            of = of_request(of_row(results, row.name), target)
            of_step = [mean(durations(of, step) or [0.0]) for step, _, _ in steps]
            several = f", request {place}" if len(row.requests) > 1 else ""
            bars.append(
                (
                    f"labels {', '.join(map(str, target))}{several}",
                    of_step if place == 1 else [0.0, *of_step[1:]],
                )
            )
    canvas = Canvas(figsize=(7.4, 0.42 * len(bars) + 1.1), layout="constrained")
    axes = canvas.subplots()
    left = [0.0] * len(bars)
    for index, (_, name, colour) in enumerate(steps):
        lengths = [found[index] for _, found in bars]
        axes.barh(range(len(bars)), lengths, left=left, height=0.55, color=colour, label=name)
        left = [a + b for a, b in zip(left, lengths, strict=True)]
    axes.set_yticks(range(len(bars)), [name for name, _ in bars])
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    bare(axes)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=RULE, linewidth=0.7)
    axes.tick_params(axis="y", colors=INK)
    canvas.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    return saved(canvas, "png")
