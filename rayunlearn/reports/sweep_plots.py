"""The plots of a sweep's report, as SVG data URIs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rayunlearn.ledger.sweeps import SweepView, TrialView
from rayunlearn.reports.page import picture
from rayunlearn.reports.plot_style import FORGET_COLOUR, INK, MUTED, RC, RETAIN_COLOUR, RULE, bare, mark_step
from rayunlearn.scheduling.objective import pareto_front
from rayunlearn.scheduling.space import RANGES, Value, as_text

_Row = Mapping[str, Any]

LOST_COLOUR = "#a3200f"
_STEPS = [1, 2, 5, 10]
"""Between ticks, by powers of ten."""


def score_panels(sweep: SweepView, own: Mapping[str, Value], words: Mapping[str, str]) -> dict[str, str]:
    """Searched setting -> the score of every trial against it; empty where none came to a checkpoint.

    What has no place on the scale is in a band below it: trials without an admissible checkpoint, and those
    that ended without any. Where no trial is admissible, the scale is how far they are from it.

    Args:
        sweep: the sweep.
        own: the recipe's own values, drawn as dashed lines where the space has them.
        words: "retain": what the score is called.
    """
    found = [(trial, trial.result) for trial in sweep.trials if trial.result and trial.result.cycles]
    if not found:
        return {}
    admissible = [(trial, 100 * result.score) for trial, result in found if result.admissible]
    # the score is -1 less the distance
    others = [(trial, 100 * (result.score + 1)) for trial, result in found if not result.admissible]
    if admissible:
        shown, apart, label = admissible, [trial for trial, _ in others], f"{words['retain']}, %"
    else:
        shown, apart, label = others, [], "short of admissible by, points"
    reached = {trial.trial for trial, _ in found}
    nowhere = [trial for trial in sweep.trials if trial.trial not in reached and trial.status != "running"]
    low, high = min(y for _, y in shown), max(y for _, y in shown)
    room = max(1.0, 0.1 * (high - low))
    pictures = {}
    for key in sorted(sweep.space):
        with matplotlib.rc_context(RC):
            canvas = Canvas(figsize=(3.9, 2.75), layout="constrained")
            if apart or nowhere:
                axes, band = canvas.subplots(2, sharex=True, height_ratios=[7, 1])
            else:
                axes = band = canvas.subplots()
            place = _setting_axis(axes, sweep, key)
            axes.scatter(
                [place(trial.settings[key], trial) for trial, _ in shown], [y for _, y in shown],
                s=22, color=RETAIN_COLOUR if admissible else MUTED, alpha=0.8, linewidths=0, gid="trials",
            )  # fmt: skip
            for trial, y in shown:
                if trial.trial == sweep.winner:
                    _ring(axes, place(trial.settings[key], trial), y)
            axes.set(ylim=(low - room, high + room), ylabel=label)
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{abs(y):g}"))
            bare(axes)
            if band is not axes:
                circles, crosses = ([place(t.settings[key], t) for t in part] for part in (apart, nowhere))
                _fill_band(band, circles, crosses)
                axes.spines["bottom"].set_visible(False)
                axes.tick_params(labelbottom=False)
            if key in own and math.isfinite(at := place(own[key])):
                for part in canvas.axes:
                    part.axvline(at, color=MUTED, linewidth=1.0, linestyle="--", zorder=1, gid="own")
            band.set_xlabel(key)
            pictures[key] = picture(canvas)
    return pictures


def _fill_band(band: Axes, circles: Sequence[float], crosses: Sequence[float]) -> None:
    """Trials without an admissible checkpoint, and those without any, at these places."""
    band.scatter(
        circles, [0.0] * len(circles), s=20, facecolors="none", edgecolors=MUTED, linewidths=1.0, gid="apart"
    )
    band.scatter(
        crosses, [0.0] * len(crosses), s=20, marker="x", color=LOST_COLOUR, linewidths=1.0, gid="nowhere"
    )
    band.set(ylim=(-1, 1), facecolor="#eef0f3")
    band.set_yticks([0], ["none"])
    bare(band)
    band.grid(visible=False)


def _setting_axis(axes: Axes, sweep: SweepView, key: str) -> Callable[..., float]:
    """Make an axis for what the space says of a setting.

    Returns:
        Where a value stands on it; NaN outside of the space. Trials that share a listed value stand side by
        side, in the order in which they were begun.
    """
    kind, _, rest = sweep.space[key].partition("(")
    written = rest.rstrip(")").split(",")
    if kind in RANGES:
        low, high = (float(end) for end in written[:2])
        if kind == "loguniform":
            axes.set_xscale("log")
            axes.set_xticks(_log_ticks(low, high))
            axes.set_xticks([], minor=True)
            room = (high / low) ** 0.04
            axes.set_xlim(low / room, high * room)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, steps=_STEPS, integer=kind == "randint"))
            room = 0.04 * (high - low)
            axes.set_xlim(low - room, high + room)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))

        def along(value: Value, trial: TrialView | None = None) -> float:
            return value if isinstance(value, int | float) and low <= value <= high else math.nan

        return along
    among: dict[str, list[str]] = {text: [] for text in written}
    for trial in sweep.trials:
        among[as_text(trial.settings[key])].append(trial.trial)

    def beside(value: Value, trial: TrialView | None = None) -> float:
        text = as_text(value)
        if text not in among:
            return math.nan
        side = (among[text].index(trial.trial) + 0.5) / len(among[text]) if trial else 0.5
        return written.index(text) + 0.6 * (side - 0.5)

    axes.set_xticks(range(len(written)), written)
    axes.set_xlim(-0.5, len(written) - 0.5)
    return beside


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, at most six of them; with their doubles and fives where there are too few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 2, 5)):
        ticks = [d * 10.0**p for p in powers for d in digits]
        ticks = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(ticks) >= 3:
            return ticks[:: -(-len(ticks) // 6)]
    return [low, high]


def _ring(axes: Axes, x: float, y: float, label: str | None = None) -> None:
    """Mark the winner."""
    axes.scatter(
        [x], [y], s=110, facecolors="none", edgecolors=INK, linewidths=1.5, clip_on=False, gid="winner",
        label=label,
    )  # fmt: skip


def front_plot(sweep: SweepView, checkpoints: Sequence[_Row], words: Mapping[str, str]) -> str:
    """Every checkpoint by what it keeps and what it has not forgotten, and those that no other beats."""
    points = sorted({_shares(row) for row in checkpoints})  # many are alike: shares of a few images
    front = [points[index] for index in pareto_front([(keeps, knows) for knows, keeps in points])]
    with matplotlib.rc_context(RC):
        canvas = Canvas(figsize=(6.0, 3.9), layout="constrained")
        axes = canvas.subplots()
        axes.scatter(
            [knows for knows, _ in points], [keeps for _, keeps in points],
            s=9, color=MUTED, alpha=0.5, linewidths=0, clip_on=False, gid="checkpoints",
        )  # fmt: skip
        axes.plot(
            [knows for knows, _ in front], [keeps for _, keeps in front],
            color=FORGET_COLOUR, linewidth=1.6, marker="o", markersize=4, drawstyle="steps-post",
            label="none better in both", clip_on=False, gid="front",
        )  # fmt: skip
        best = sweep.best()
        for row in checkpoints:
            if best and best.result and (row["trial"], row["step"]) == (best.trial, best.result.step):
                _ring(axes, *_shares(row), label="the winner's choice")
        axes.set(xlabel=f"{words['forget']}, % (less is better)", ylabel=f"{words['retain']}, %")
        axes.set(xlim=(0, max(5.0, points[-1][0])), ylim=(0, 100))
        bare(axes)
        canvas.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9, handlelength=1.9)
        return picture(canvas)


def _shares(row: _Row) -> tuple[float, float]:
    """What a checkpoint has not forgotten and what it keeps, in percent."""
    return (
        100 * row["forget_correct"] / row["forget_count"],
        100 * row["retain_correct"] / row["retain_count"],
    )


def curves_plot(rows: Sequence[_Row], chosen: int | None, words: Mapping[str, str]) -> str:
    """Accuracies and forget mass of one trial over its cycles, in order, with the chosen checkpoint."""
    steps = [row["step"] for row in rows]
    forget, retain = zip(*map(_shares, rows), strict=True)
    mass = [100 * row["forget_mass"] for row in rows]
    with matplotlib.rc_context(RC):
        canvas = Canvas(figsize=(6.0, 3.9), layout="constrained")
        axes = canvas.subplots()
        for name, shares, colour, style in (
            (words["retain"], retain, RETAIN_COLOUR, "-"),
            (words["forget"], forget, FORGET_COLOUR, "-"),
            ("forget mass", mass, FORGET_COLOUR, ":"),
        ):
            axes.plot(
                steps, shares, style, color=colour, linewidth=1.9, label=name, clip_on=False,
                marker="o" if len(steps) == 1 else None,
            )  # fmt: skip
        if chosen is not None:
            mark_step(axes, "chosen", chosen, steps, height=57)
        axes.set(ylim=(0, 100), xlabel="cycle", ylabel="share, %")
        axes.margins(x=0.02)
        bare(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        canvas.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9, handlelength=1.9)
        return picture(canvas)


def real_plot(
    scores: Mapping[str, float],
    real: Mapping[str, tuple[float, float]],
    winner: str | None,
    words: Mapping[str, str],
) -> str:
    """Real against synthetic score; trials that still know of what was to be forgotten told apart."""
    with matplotlib.rc_context(RC):
        canvas = Canvas(figsize=(6.0, 3.9), layout="constrained")
        axes = canvas.subplots()
        for knows, colour, name in (
            (False, RETAIN_COLOUR, "real forget accuracy 0"),
            (True, FORGET_COLOUR, "above 0"),
        ):
            shown = [trial for trial in scores if (real[trial][1] > 0) == knows]
            axes.scatter(
                [100 * scores[t] for t in shown], [100 * real[t][0] for t in shown],
                s=26, color=colour, alpha=0.8, linewidths=0, label=name if shown else None,
            )  # fmt: skip
        if winner is not None and winner in scores:
            _ring(axes, 100 * scores[winner], 100 * real[winner][0])
        axes.set(xlabel=f"the search's score: {words['retain']}, %", ylabel="real retain accuracy, %")
        bare(axes)
        axes.grid(axis="x", color=RULE, linewidth=0.7)
        canvas.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9, handletextpad=0.3)
        return picture(canvas)
