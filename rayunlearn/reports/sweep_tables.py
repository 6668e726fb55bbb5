"""The table that a sweep ends with."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from rayunlearn.ledger.sweeps import SweepView, TrialView, score_words
from rayunlearn.reports.wording import ABSENT, percent, plain, seconds
from rayunlearn.scheduling.objective import regret, spearman

MOST_ROWS = 12
"""Trials that the table shows, the best first."""

STATUS_STYLES = {"finished": "green", "stopped": "", "failed": "bold red", "running": "yellow"}


def sweep_table(sweep: SweepView, real: Mapping[str, tuple[float, float]] | None = None) -> Group:
    """The trials, the best first, with the settings that were searched; then what the words mean.

    Args:
        sweep: the sweep.
        real: trial -> retain and forget accuracy on real test images, measured afterwards.
    """
    real = real or {}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("\nTrial", no_wrap=True)
    for header in ("\nscore", "second\nset", "stop,\ncycle", "\ncycles"):
        table.add_column(header, justify="right", no_wrap=True)
    for header in ("real\nD_r", "real\nD_f") if real else ():
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("\nStatus", no_wrap=True)
    table.add_column(f"\nSettings ({_section(sweep)})", overflow="fold")
    ranked = sorted(sweep.trials, key=_rank)
    for trial in ranked[:MOST_ROWS]:
        result = trial.result
        style = "bold" if trial.trial == sweep.winner else ""
        table.add_row(
            plain(trial.trial),
            percent(result.score) if result and result.admissible else ABSENT,
            percent(result.second_score) if result else ABSENT,
            ABSENT if result is None or result.step is None else str(result.step),
            ABSENT if result is None else str(result.cycles),
            *(percent(figure) for figure in real.get(trial.trial, (None, None)) if real),
            Text(trial.status, STATUS_STYLES.get(trial.status, "")),
            ", ".join(f"{_last(key)} {_value(value)}" for key, value in sorted(trial.settings.items())),
            style=style,
        )
    return Group(table, Text(_told(sweep, len(ranked), real)))


def _told(sweep: SweepView, shown_of: int, real: Mapping[str, tuple[float, float]]) -> str:
    lines, words = [], score_words(sweep)
    if shown_of > MOST_ROWS:
        lines.append(f"The best {MOST_ROWS} of {shown_of} trials are shown; the ledger has them all.")
    lines.append(
        f"score: {words['retain']} of the chosen checkpoint on the {words['set']} the search went by, %; "
        f"{ABSENT} where no checkpoint is admissible. second set: the same on one that it never saw."
    )
    best = sweep.best()
    if best is not None and best.result is not None and best.result.gap is not None:
        took = seconds(sweep.seconds)
        lines.append(
            f"The best is {best.trial}: {percent(best.result.second_score)} on the second set, "
            f"{100 * best.result.gap:+.1f} points by its own; {shown_of} trials in {took}."
        )
    if best is not None and best.trial in real:
        retain = {trial: figures[0] for trial, figures in real.items()}
        scores = {t.trial: t.result.score for t in sweep.trials if t.result and t.result.admissible}
        found = spearman(scores, retain)
        rho = ABSENT if found.rho is None else f"{found.rho:.2f}"
        between = "" if found.low is None else f" (95 %: {found.low:.2f} to {found.high:.2f})"
        lines.append(
            f"Measured afterwards on real test images, which the search never saw: Spearman's rho of score "
            f"and real D_r over {found.n} admissible trials {rho}{between}; the winner lacks "
            f"{100 * regret(best.trial, retain):.1f} points to the best of them."
        )
    return "\n".join(lines)


def _section(sweep: SweepView) -> str:
    """What all searched paths begin with: `gkt.student_lr` is of gkt."""
    return ", ".join(sorted({key.rpartition(".")[0] for key in sweep.space}))


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _rank(trial: TrialView) -> tuple[float, int, str]:
    """As the winner is chosen; last those of which nothing is known."""
    if trial.result is None:
        return (4.0, 0, trial.trial)
    return (-trial.result.score, trial.result.step or 0, trial.trial)


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
