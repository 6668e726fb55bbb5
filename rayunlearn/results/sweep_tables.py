"""The table that a sweep ends with."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from rayunlearn.results.sweeps import SweepView, TrialView
from rayunlearn.results.wording import ABSENT, percent, plain, seconds

MOST_ROWS = 12
"""Trials that the table shows, the best first."""

STATUS_STYLES = {"finished": "green", "stopped": "", "failed": "bold red", "running": "yellow"}


def sweep_table(sweep: SweepView) -> Group:
    """The trials, the best first, with the settings that were searched; then what the words mean."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("\nTrial", no_wrap=True)
    for header in ("\nscore", "second\nset", "stop,\ncycle", "\ncycles"):
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
            Text(trial.status, STATUS_STYLES.get(trial.status, "")),
            ", ".join(f"{_last(key)} {_value(value)}" for key, value in sorted(trial.settings.items())),
            style=style,
        )
    return Group(table, Text(_told(sweep, len(ranked))))


def _told(sweep: SweepView, shown_of: int) -> str:
    lines = []
    if shown_of > MOST_ROWS:
        lines.append(f"The best {MOST_ROWS} of {shown_of} trials are shown; the ledger has them all.")
    lines.append(
        "score: retain accuracy of the chosen checkpoint on the synthetic set that the search went by, %; "
        f"{ABSENT} where no checkpoint is admissible. second set: the same on one that it never saw."
    )
    best = sweep.best()
    if best is not None and best.result is not None and best.result.gap is not None:
        took = seconds(sweep.seconds)
        lines.append(
            f"The best is {best.trial}: {percent(best.result.second_score)} on the second set, "
            f"{100 * best.result.gap:+.1f} points by its own; {shown_of} trials in {took}."
        )
    return "\n".join(lines)


def _section(sweep: SweepView) -> str:
    """What all searched paths begin with: `gkt.student_lr` is of gkt."""
    return ", ".join(sorted({key.rpartition(".")[0] for key in sweep.space}))


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _rank(trial: TrialView) -> tuple[float, str]:
    return (-trial.result.score if trial.result else 4.0, trial.trial)


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
