"""The moons example's Fig. 2 and 3 as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas

from papers.moons import (
    DOMAIN,
    ERASED_LABEL,
    Moons,
    MoonsSettings,
    bayesian,
    few_shot,
    log_of,
    prepare,
)
from rayunlearn.reports.plot_style import FORGET_COLOUR, INK, MUTED, RC, RETAIN_COLOUR, bare, saved

if TYPE_CHECKING:
    from papers.sparse_gp import SparseGP

UPPER_COLOUR, LOWER_COLOUR = RETAIN_COLOUR, "#d99a1c"
PROBABILITY = LinearSegmentedColormap.from_list("probability", [UPPER_COLOUR, "#ffffff", LOWER_COLOUR])
GRID = 120
NAMES = {"ours": "Ours", "eubo": "EUBO", "rkl": "RKL"}
COLOURS = {"ours": FORGET_COLOUR, "eubo": RETAIN_COLOUR, "rkl": MUTED}


def draw_moons(
    seed: int, rho: float = 0.25, value: float = 1e-9, settings: MoonsSettings | None = None
) -> bytes:
    """Fig. 2: probability over the domain of original and oracle, EUBO, RKL and ours, with the points.

    Args:
        seed: as of `run_moons`.
        rho: share of D_e that is given; EUBO is shown with all of it, too.
        value: lambda of EUBO and RKL.
        settings: None for the defaults.
    """
    settings = settings or MoonsSettings()
    moons = prepare(seed)
    models = {
        "Original": moons.original,
        "Oracle": moons.oracle,
        "EUBO with all of $D_e$": bayesian(moons, "eubo", 1.0, log_of(value), settings),
        f"EUBO with {rho:.0%}": bayesian(moons, "eubo", rho, log_of(value), settings),
        f"RKL with {rho:.0%}": bayesian(moons, "rkl", rho, log_of(value), settings),
        f"Ours with {rho:.0%}": few_shot(moons, rho, settings).model,
    }
    with matplotlib.rc_context(RC):
        canvas = Canvas(figsize=(9.6, 4.5), layout="constrained")
        panels = canvas.subplots(2, 3, sharex=True, sharey=True)
        for axes, (name, model) in zip(panels.flat, models.items(), strict=True):
            image = _prediction(axes, model)
            _points(axes, moons, rho)
            axes.set_title(name, fontsize=9.5, color=INK)
        bar = canvas.colorbar(image, ax=panels, shrink=0.6, ticks=[0, 0.5, 1], pad=0.01)
        bar.set_label("probability of $y_e$")
        bar.outline.set_visible(False)
        handles, labels = panels[0, 0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        return saved(canvas, "png")


def _prediction(axes: Axes, model: SparseGP) -> Any:
    """The probability of the erased label over the domain, and its line at one half."""
    (left, bottom), (right, top) = DOMAIN
    x, y = (torch.linspace(*ends, GRID, dtype=torch.float64) for ends in ((left, right), (bottom, top)))
    probabilities = model.probabilities(torch.cartesian_prod(x, y)).view(GRID, GRID).T.numpy()
    axes.contour(x.numpy(), y.numpy(), probabilities, levels=[0.5], colors=[INK], linewidths=0.8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return axes.imshow(
        probabilities,
        extent=(left, right, bottom, top),
        origin="lower",
        cmap=PROBABILITY,
        vmin=0,
        vmax=1,
        alpha=0.75,
        interpolation="bilinear",
    )


def _points(axes: Axes, moons: Moons, rho: float) -> None:
    """D by label, D_e as crosses, those of it that are given in heavier ones."""
    lower, given = moons.labels == ERASED_LABEL, torch.zeros_like(moons.erased)
    given[moons.examples(rho)] = True
    groups = (
        ("upper moon", ~lower & ~moons.erased, "o", 13, UPPER_COLOUR),
        ("lower moon", lower & ~moons.erased, "o", 13, LOWER_COLOUR),
        ("$D_e$, not given", moons.erased & ~given, "x", 16, FORGET_COLOUR),
        ("$D_e$, given", given, "X", 42, FORGET_COLOUR),
    )
    for label, mask, marker, size, colour in groups:
        x, y = moons.inputs[mask].numpy().T
        edge = None if marker == "x" else "white"
        axes.scatter(x, y, size, colour, marker=marker, edgecolors=edge, linewidths=0.7, label=label)


def draw_divergences(rows: Sequence[Mapping[str, Any]], value: float = 1e-9) -> bytes:
    """Fig. 3: KL divergence to the oracle against the share of examples, a line a system.

    Args:
        rows: of `run_moons`, of any number of seeds; lines are means over them, bands reach from the least to
            the most.
        value: lambda of EUBO and RKL.
    """
    with matplotlib.rc_context(RC):
        canvas = Canvas(figsize=(7.6, 3.1), layout="constrained")
        panels = canvas.subplots(1, 2)
        for axes, measure, title in zip(
            panels, ("vs_oracle", "vs_oracle_erased"), ("all data points", "points of $D_e$"), strict=True
        ):
            for method, name in NAMES.items():
                _line(axes, rows, method, name, measure, value)
            axes.set_title(title, fontsize=9.5, color=MUTED)
            axes.set_xlabel(r"share of $D_e$ given, $\rho$")
            axes.set_ylim(bottom=0)
            bare(axes)
        panels[0].set_ylabel("KL divergence from Oracle, nats")
        handles, labels = panels[0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False, fontsize=9)
        return saved(canvas, "png")


def _line(
    axes: Axes, rows: Sequence[Mapping[str, Any]], method: str, name: str, measure: str, value: float
) -> None:
    own = [row for row in rows if row["method"] == method and row["lambda"] in (None, value)]
    rhos = sorted({row["rho"] for row in own})
    heights = [[row[measure] for row in own if row["rho"] == rho] for rho in rhos]
    axes.fill_between(
        rhos, list(map(min, heights)), list(map(max, heights)), color=COLOURS[method], alpha=0.12, linewidth=0
    )
    axes.plot(
        rhos, list(map(mean, heights)), "o-", color=COLOURS[method], markersize=4, label=name, clip_on=False
    )
    axes.set_xticks(rhos)
