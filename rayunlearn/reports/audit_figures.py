"""Figures of an audit as PNG files: relearning curves, the attack's ROC, and the images that were inverted.

Functions of an audit's rows and images alone: the same ones give the same bytes. A subject keeps its colour
in all of them; gold models share one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, NullLocator

from rayunlearn.reports.inverted_images import InvertedImages
from rayunlearn.reports.plot_style import FORGET_COLOUR, INK, MUTED, RC, RETAIN_COLOUR, RULE, bare, saved
from rayunlearn.reports.wording import SUBJECT_NAMES, of_each_class

FALSE_POSITIVES = 0.01
"""Rate at which the likelihood ratio attack's true positives are reported."""

GOLD_COLOUR = "#d19a00"
COLOURS = {
    "unlearned": FORGET_COLOUR,
    "gold": GOLD_COLOUR,
    "original": INK,
    "mask_logit": RETAIN_COLOUR,
    "delete_head_row": "#0f8a7e",
    "gaussian_head": "#7a5195",
}
OTHER_COLOURS = ("#b5547a", "#6b7f1a", "#4f5bb8")

RELEARNING = ("relearn_steps", "relearn_few_steps", "relearn_retain_peak")
"""Measures that have a curve."""

_PANEL = 2.2
"""Height of a panel of images, inches."""

_Row = Mapping[str, Any]


def audit_figures(rows: Sequence[_Row], inverted: Iterable[InvertedImages] = ()) -> dict[str, bytes]:
    """File name -> PNG of every figure for which the audit measured something."""
    with matplotlib.rc_context(RC):
        figures = {"relearning.png": _relearning(rows), "likelihood-ratio.png": _roc(rows)}
        figures |= {f"inversion-{found.class_id}.png": _inversion(found) for found in inverted}
        return {name: saved(canvas, "png") for name, canvas in figures.items() if canvas is not None}


def _curves_of(rows: Sequence[_Row], measure: str) -> dict[str, dict[str, Any]]:
    """Subject -> parameters of its row of a measure; the gold models first, so that others lie above."""
    found = {row["subject"]: json.loads(row["parameters"]) for row in rows if row["measure"] == measure}
    return dict(sorted(found.items(), key=lambda item: not _is_gold(item[0])))


def _is_gold(subject: str) -> bool:
    return subject == "gold" or subject.startswith("gold_")


def _lines(subjects: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Subject -> how its line looks, and its name in the legend, where gold models are one entry."""
    subjects, others = list(subjects), cycle(OTHER_COLOURS)
    golds = sum(map(_is_gold, subjects))
    lines: dict[str, dict[str, Any]] = {}
    for subject in subjects:
        kind = "gold" if _is_gold(subject) else subject
        name = SUBJECT_NAMES.get(kind, kind.replace("_", " "))
        if kind == "gold" and golds > 1:
            name = f"{golds} gold models" if subject == "gold" else "_"  # a legend leaves out what begins so
        lines[subject] = {
            "color": COLOURS.get(kind) or next(others),
            "linewidth": 2.2 if kind == "unlearned" else 1.5,
            "label": name,
        }
    return lines


def _relearning(rows: Sequence[_Row]) -> Canvas | None:
    """Accuracy on the forget classes by mini-batch, one panel for each kind of data shown."""
    shown = {measure: found for measure in RELEARNING if (found := _curves_of(rows, measure))}
    if not shown:
        return None
    canvas = Canvas(figsize=(1.0 + 4.2 * len(shown), 4.2), layout="constrained")
    panels = canvas.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, found in zip(panels, shown.values(), strict=True):
        _relearning_panel(axes, found)
        axes.set_title(_shown_data(next(iter(found.values()))), fontsize=9.5, color=MUTED)
    panels[0].set_ylabel("accuracy on the forget classes, %")
    handles, labels = panels[0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside upper left", ncols=6, frameon=False, fontsize=9)
    return canvas


def _shown_data(settings: Mapping[str, Any]) -> str:
    """What a model relearned from, by the settings of the measurement; nothing where they are not recorded.

    >>> _shown_data({"forget_per_class": 5, "retain_data": True})
    'from the retain data and 5 forget images of each class'
    >>> _shown_data({"forget_per_class": None, "retain_data": True})
    'from the full training set'
    """
    if "forget_per_class" not in settings:
        return ""
    number, retain = settings["forget_per_class"], settings["retain_data"]
    if number == 0:
        return "from the retain data alone"
    if number is None:
        return "from the full training set" if retain else "from the forget images alone"
    forget = of_each_class(number, "forget image")
    return f"from the retain data and {forget}" if retain else f"from {forget} alone"


def _relearning_panel(axes: Axes, found: Mapping[str, Mapping[str, Any]]) -> None:
    """A curve for each subject, with a dot where it has relearned; early mini-batches have more room."""
    for subject, line in _lines(found).items():
        told = found[subject]
        accuracy = [100 * correct / told["count"] for correct in told["curve"]]
        ends = [len(accuracy) - 1] if told["curve"][-1] >= told["needed"] else []
        axes.plot(accuracy, marker="o", markersize=5, markevery=ends, **line)
    target = 100 * told["needed"] / told["count"]
    axes.axhline(target, color=INK, linewidth=1.0, linestyle="--")
    axes.annotate("relearned", (0, target), xytext=(4, 3), textcoords="offset points", fontsize=8.5)
    longest = max(len(told["curve"]) for told in found.values()) - 1
    axes.set_xscale("symlog", linthresh=10, linscale=0.9)
    axes.set_xlim(0, 1.1 * longest)
    axes.set_xticks([step for step in (0, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if step <= longest])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(ylim=(-2, 102), xlabel="mini-batches")
    bare(axes)


def _roc(rows: Sequence[_Row]) -> Canvas | None:
    """True against false positive rate of the likelihood ratio attack, both logarithmic."""
    found = _curves_of(rows, "lira_auc")
    if not found:
        return None
    canvas = Canvas(figsize=(6.2, 5.0), layout="constrained")
    axes = canvas.subplots()
    told = next(iter(found.values()))
    # left of one false positive the rate is that at none, which no logarithm reaches
    left = min(FALSE_POSITIVES, 1 / told["non_members"]) / 4
    lowest = 1 / told["members"] / 2
    for subject, line in _lines(found).items():
        told = found[subject]
        counts = [*told["roc"], (told["non_members"], told["members"])]
        rates = [max(fp / told["non_members"], left) for fp, _ in counts]
        axes.step(rates, [tp / told["members"] for _, tp in counts], where="post", **line)
    diagonal = np.geomspace(left, 1, 100)
    axes.plot(diagonal, diagonal, linestyle=":", color=MUTED, linewidth=1.2, label="chance")
    axes.axvline(FALSE_POSITIVES, color=INK, linewidth=1.0, linestyle="--")
    axes.annotate(
        f"{FALSE_POSITIVES:.0%} false positives".replace("%", " %"), (FALSE_POSITIVES, 1), xytext=(4, -4),
        textcoords="offset points", va="top", fontsize=8.5,
    )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=(left, 1), ylim=(lowest, 1))
    axes.set(xlabel="false positive rate, %", ylabel="true positive rate, %")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
        axis.set_minor_locator(NullLocator())
    bare(axes)
    axes.grid(axis="x", color=RULE, linewidth=0.7)
    canvas.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    return canvas


def _inversion(found: InvertedImages) -> Canvas:
    """The attacks on a class (zero-shot paper, Fig. 3): a panel of images for each model, the mean beside."""
    panels = {"mean image": found.mean[None]}
    panels |= {SUBJECT_NAMES.get(s, s.replace("_", " ")): images for s, images in found.attacks.items()}
    grids = {name: _grid(images) for name, images in panels.items()}
    widths = [grid.shape[1] / grid.shape[0] for grid in grids.values()]
    size = (_PANEL * sum(widths) + 0.4 * len(widths), _PANEL + 0.75)
    canvas = Canvas(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.15))
    title = f"Class {found.class_id}: what a model inversion attack draws from the weights"
    canvas.suptitle(title, fontsize=11)
    every = canvas.subplots(1, len(grids), width_ratios=widths, squeeze=False)[0]
    for axes, (name, grid) in zip(every, grids.items(), strict=True):
        axes.imshow(grid, interpolation="nearest")
        axes.set_title(name, fontsize=9.5, color=MUTED)
        axes.set_axis_off()
    return canvas


def _grid(images: np.ndarray) -> np.ndarray:
    """Images [A, C, H, W] as one picture [H', W', 3], about as wide as 4 to 3, white between them."""
    count, channels, height, width = images.shape
    columns = min(count, math.ceil(math.sqrt(count * 4 / 3)))
    rows = -(-count // columns)
    gap = max(1, height // 12)
    grid = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    for i, image in enumerate(np.nan_to_num(images).clip(0.0, 1.0)):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        grid[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return grid
