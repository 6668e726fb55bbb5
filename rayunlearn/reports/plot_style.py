"""How every plot looks: colours, fonts, bare axes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

RETAIN_COLOUR = "#0b62a4"
FORGET_COLOUR = "#c2410c"
INK, MUTED, RULE = "#1c2127", "#5d6672", "#d9dde3"

RC: dict[Any, Any] = {
    "svg.hashsalt": "rayunlearn",
    "font.size": 9.5,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}
"""For `matplotlib.rc_context`."""


def bare(axes: Axes) -> None:
    """Leave horizontal rules and the lower edge alone."""
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(which="both", length=0)


def mark_step(
    axes: Axes,
    name: str,
    step: int,
    steps: Sequence[int],
    *,
    height: float,
    colour: str = INK,
    style: str = "-",
) -> None:
    """A labelled vertical line at one of the steps; the label stands on its left where there is room."""
    axes.axvline(step, color=colour, linewidth=1.2, linestyle=style)
    left = step > min(steps) + 0.4 * (max(steps) - min(steps))
    axes.annotate(
        f"{name}: cycle {step}",
        (step, height),
        xytext=(-6 if left else 6, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="center",
        fontsize=9,
        color=colour,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )


def saved(canvas: Canvas, kind: str) -> bytes:
    """The canvas as a file ("svg" or "png") that says neither when nor by what it was made."""
    file = io.BytesIO()
    nothing = {"Date": None} if kind == "svg" else {"Software": None}
    canvas.savefig(file, format=kind, dpi=160, metadata=nothing)
    return file.getvalue()
