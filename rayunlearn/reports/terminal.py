"""What a job shows while it runs, and the table at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import IO

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from rayunlearn.reports.summary import RequestSummary
from rayunlearn.reports.wording import (
    ABSENT,
    MISLABELLED_NAMES,
    SUBJECT_NAMES,
    asked,
    came_back,
    fell_short,
    glossary,
    gone,
    index,
    like_examples,
    percent,
    phase_name,
    plain,
    points,
    seconds,
)

LOG_WIDTH = 110
"""Columns of what is no terminal; rich would take 80, too few for the table."""

TABLE_WIDTH = 95
"""Columns that the whole table needs; on fewer the report alone tells regret and time."""

STATUS_STYLES = {"served": "bold green", "failed": "bold red", "rejected": "bold yellow"}


def open_console(file: IO[str] | None = None) -> Console:
    """A console on a stream, by default standard output, that is wide enough for the table in a log."""
    console = Console(file=file, highlight=False)
    return console if console.is_terminal else Console(file=file, highlight=False, width=LOG_WIDTH)


def result_table(summaries: Sequence[RequestSummary]) -> Table:
    """Request by request what came out, one row a model, with the words explained below."""
    page = Table.grid()
    page.add_column()
    page.add_row(_Figures(summaries))
    for summary in summaries:
        if summary.reason:
            page.add_row(_reason(summary))
        if summary.returned:
            said = came_back(summary.returned)
            page.add_row(Text.assemble((plain(summary.request_id), "bold"), " ", (said, "bold red"), "\n"))
        if lines := _behaviour(summary):
            page.add_row(Text.assemble((plain(summary.request_id), "bold"), " ", "\n".join(lines), "\n"))
    page.add_row(_legend(summaries))
    return page


class _Figures:
    """The table itself, as wide as there is room for."""

    def __init__(self, summaries: Sequence[RequestSummary]) -> None:
        self.summaries = summaries

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table for the width at hand."""
        table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, header_style="bold")
        for header, wraps in (("Request", True), ("Forget", True), ("Status", False), ("Model", False)):
            table.add_column("\n" + header, no_wrap=not wraps, overflow="fold")
        figures = ["keeps\nD_r", "knows\nD_f", "probe\nD_f", "\nAIN", "stop,\ncycle", "\nRegret", "\nTime"]
        for header in figures if options.max_width >= TABLE_WIDTH else figures[:-2]:
            table.add_column(header, justify="right", no_wrap=True)
        for summary in self.summaries:
            for cells, style in _rows(summary):
                table.add_row(*cells[: len(table.columns)], style=style)
            table.add_section()
        yield table


def _rows(summary: RequestSummary) -> Iterator[tuple[list[Text | str], str]]:
    """Cells and style of a row for each audited model; without an audit, of one for what the gate saw."""
    names = [subject for subject in SUBJECT_NAMES if subject in summary.figures]
    lead: list[Text | str] = [
        Text(plain(summary.request_id)),
        Text(asked(summary.kind, summary.target, summary.whole_classes)),
        Text(summary.status, STATUS_STYLES.get(summary.status, "")),
    ]
    tail = [
        ABSENT if summary.chosen_step is None else str(summary.chosen_step),
        points(summary.regret),
        seconds(summary.seconds),
    ]
    if not names:
        check = summary.synthetic_check
        model = "gate's check" if check else ABSENT
        figures = [percent(check.get("retain_accuracy")), percent(check.get("forget_accuracy"))]
        yield [*lead, model, *figures, ABSENT, ABSENT, *tail], ""
    for number, subject in enumerate(names):
        first = number == 0
        if not first:
            noted = f"after {gone(*summary.before)}" if number == 1 and any(summary.before) else ""
            lead = ["", Text(noted, "dim"), ""]
        figures = [
            percent(summary.figure(subject, "retain_accuracy")),
            percent(summary.figure(subject, "forget_accuracy")),
            percent(summary.figure(subject, "probe_forget_recall")),
            index(summary.figure(subject, "anamnesis_index")),
        ]
        style = "bold" if subject == "unlearned" else "" if subject == "gold" else "dim"
        yield [*lead, SUBJECT_NAMES[subject], *figures, *(tail if first else ["", "", ""])], style


def _reason(summary: RequestSummary) -> Text:
    return Text.assemble(
        (plain(summary.request_id), "bold"),
        " ",
        (f"{summary.status}: ", STATUS_STYLES.get(summary.status, "")),
        plain(summary.reason or ""),
        "\n",
    )


def _behaviour(summary: RequestSummary) -> list[str]:
    """What a request by examples found, and what is known of the samples that were mislabelled."""
    said = []
    if summary.threshold:
        said += [part for part in (like_examples(summary.threshold), fell_short(summary.yields)) if part]
    for measure, name in MISLABELLED_NAMES.items():
        shares = {s: figure for s in SUBJECT_NAMES if (figure := summary.figure(s, measure))}
        if shares:
            told = ", ".join(f"{SUBJECT_NAMES[s]} {percent(figure)}" for s, figure in shares.items())
            said.append(f"mislabelled samples, {name}: {told}")
    return said


def _legend(summaries: Sequence[RequestSummary]) -> Table:
    legend = Table.grid(padding=(0, 1))
    legend.add_column(style="bold", no_wrap=True)
    legend.add_column(style="dim")
    for term, meaning in glossary(summaries):
        legend.add_row(term, meaning)
    origin = (
        "All figures come from real test data, looked at after publication; nothing was decided by them."
        if any(s.figures for s in summaries)
        else "No real data was audited: the figures are those of the gate, on synthetic images."
    )
    legend.add_row("", origin)
    return legend


class JobProgress:
    """Shows the phase that a job is in: a live bar on a terminal, plain lines in a log.

    A log gets a line when a phase begins and one when it ends, and no control characters.
    """

    def __init__(
        self, console: Console, quiet: bool = False, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._quiet = quiet
        self._clock = clock
        self._live: Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal and not quiet:
            self._live = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[state]}", markup=False),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )
        self._task: TaskID | None = None
        self._title: str | None = None
        self._phase = ""
        self._began = 0.0
        self._steps = 0
        self._total: int | None = None
        self._figures: dict[str, float] = {}

    def __enter__(self) -> JobProgress:
        """Start drawing."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the phase that is open, as stopped where an error ended it, and stop drawing."""
        if kind is not None and self._title is not None:
            self._end("stopped", mark="✗")
        else:
            self.done()
        if self._live:
            self._live.stop()

    def phase(self, title: str, phase: str, *, total: int | None = None) -> None:
        """Begin a phase of something; one that is open is done.

        Args:
            title: what the phase belongs to, as in `r1: forget 0`.
            phase: its name.
            total: its number of steps, where it has them.
        """
        self.done()
        self._title, self._phase, self._total = plain(title), phase_name(plain(phase)), total
        self._began, self._steps, self._figures = self._clock(), 0, {}
        if self._live:
            self._task = self._live.add_task(f"{self._title} · {self._phase}", total=total, state="")
        else:
            self._print(f"{self._title} | {self._phase} ..." + (f" ({total} steps)" if total else ""))

    def advance(self, n: int = 1, **figures: float) -> None:
        """The open phase went on by n steps; figures are shares, of which the latest are shown."""
        self._steps += n
        self._figures |= figures
        if self._live and self._task is not None:
            count = f"{self._steps}/{self._total} " if self._total else ""
            self._live.update(self._task, completed=self._steps, state=count + self._shown_figures())

    def done(self, note: str = "") -> None:
        """The open phase is over; nothing happens where there is none."""
        if self._title is not None:
            self._end(plain(note))

    def say(self, text: str) -> None:
        """A line of its own, above the bar."""
        self._print(plain(text))

    def _end(self, note: str, mark: str = "✓") -> None:
        steps = f"{self._steps} of {self._total} steps" if self._total else ""
        took = seconds(self._clock() - self._began)
        said = ", ".join(part for part in (took, steps, self._shown_figures(), note) if part)
        if self._live:
            if self._task is not None:
                self._live.remove_task(self._task)
            self._print(f"{mark} {self._title} · {self._phase}: {said}")
        else:
            self._print(f"{self._title} | {self._phase}: {said}")
        self._title, self._task = None, None

    def _shown_figures(self) -> str:
        return ", ".join(f"{name} {percent(value)}" for name, value in self._figures.items())

    def _print(self, line: str) -> None:
        if not self._quiet:
            self._console.print(Text(line), soft_wrap=True)
