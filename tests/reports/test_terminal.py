from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from rich.console import Console

from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.schemas import ALL_TABLES
from rayunlearn.reports.summary import Figure, RequestSummary, summarise
from rayunlearn.reports.terminal import LOG_WIDTH, JobProgress, open_console, result_table
from rayunlearn.reports.wording import index, relearn_steps
from tests.reports import demo_ledger as demo


@pytest.fixture(scope="module")
def summaries() -> list[RequestSummary]:
    """Those of the demo's ledger."""
    store = demo.demo_store(rejected=demo.HOSTILE)
    return summarise(LedgerReader(store, ALL_TABLES), demo.REQUEST_IDS)


def printed(summaries: list[RequestSummary], width: int) -> str:
    """The table as a log shows it."""
    file = io.StringIO()
    Console(file=file, width=width).print(result_table(summaries))
    return file.getvalue()


@pytest.fixture
def clock() -> Callable[[], float]:
    """A clock that goes on by a second and a half each time that it is read."""
    ticks: Iterator[float] = iter(1.5 * n for n in range(1000))
    return lambda: next(ticks)


@pytest.mark.parametrize("width", [100, 120])
def test_the_table_shows_the_ledgers_figures(summaries: list[RequestSummary], width: int) -> None:
    """At both widths each model has one line with its figures, and nothing is wider than the console."""
    lines = [line.rstrip() for line in printed(summaries, width).splitlines()]
    assert max(map(len, lines)) <= width
    (ours,) = (line for line in lines if line.startswith(" r1 "))
    assert ours.split() == [
        "r1", "0", "served", "unlearned", "96.8", "%", "0.0", "%", "70.1", "%", "0.91", "46", "0.4", "pt",
        "81.2", "s",
    ]  # fmt: skip
    for name in ("gold", "original", "masked logit", "deleted row", "Gaussian head"):
        assert sum(f" {name}  " in line for line in lines) == 3
    assert sum("after 0, 2" in line for line in lines) == 1
    assert " ".join(" ".join(lines).split()).count(demo.FAILED) == 1


def test_the_words_are_explained(summaries: list[RequestSummary]) -> None:
    """Below the table stands what D_r, D_f, probe, AIN, gold and regret mean."""
    text = printed(summaries, 100)
    for word in ("D_r", "D_f", "gold", "probe", "AIN", "regret"):
        assert any(line.startswith(f"{word} ") for line in text.splitlines())
    assert "real test data" in text


def test_a_reason_cannot_steer_the_terminal(summaries: list[RequestSummary]) -> None:
    """Control characters of a reason are shown as text, and rich's markup in it is text, too."""
    text = printed(summaries, 100)
    assert "\x1b" not in text
    assert r"\x1b[31mred" in text


def test_a_class_that_came_back_is_said_below_the_table(summaries: list[RequestSummary]) -> None:
    """In words, with the class and the share; where nothing came back, nothing is said."""
    assert "came back" not in printed(summaries, 100)
    own = Figure(value=0.25, sum=5.0, count=20, classes=(0,))
    back = replace(summaries[1], forget_by_class={"unlearned": {0: own}})
    text = " ".join(printed([back], 100).split())
    assert "r2 came back: class 0 (25.0 % of its test images recognised)" in text


def test_samples_are_told_by_their_number(summaries: list[RequestSummary]) -> None:
    """Hundreds of ids fill no table: their number stands for them, also for those of earlier requests."""
    many = tuple(range(1000, 1300))
    after = replace(
        summaries[1], kind="samples", target=many, forgotten=(0, 2), forgotten_samples=(7, *many)
    )
    text = " ".join(printed([after], 100).split())
    assert "r2 300 samples served unlearned" in text and "1001" not in text
    assert "after 0, 2 gold" in text and "and 1 sample original" in text


@pytest.fixture(scope="module")
def by_examples() -> list[RequestSummary]:
    """Two requests by examples: labels of what is like them, and a whole class."""
    return summarise(LedgerReader(demo.examples_store(), ALL_TABLES), ["labels", "whole"])


@pytest.mark.parametrize("width", [80, 110])
def test_requests_by_examples(by_examples: list[RequestSummary], width: int) -> None:
    """What was like the examples, why without a knee, which class fell short, and D_e beside gold's."""
    text = printed(by_examples, width)
    assert max(map(len, text.splitlines())) <= width
    text = " ".join(text.split())
    for said in (
        "labels 17 of 390 samples of D' are like the examples; for want of a knee the threshold is halfway",
        f"({demo.NO_KNEE})",
        "too few samples of class 8 (30 of 40)",
        "mislabelled samples, right label: unlearned 84.0 %, gold 95.0 %, original 17.0 %",
        "whole 74 of 390 samples of D' are like the examples too few",
        "D' of a request by examples",
    ):
        assert said in text, said
    if width == 110:
        assert "whole 9, by examples served unlearned 96.8 % 0.0 % 70.1 % 0.91 12" in text
        assert "labels labels 2, 3 of what is served unlearned 97.2 % 9.0 %" in text
    assert "gate's check" not in text


def test_the_gates_figures_of_a_behaviour_are_said_to_be_none_of_accuracy() -> None:
    """Where nothing was audited the words below the table tell what stands under D_r and D_f."""
    reader = LedgerReader(demo.examples_store())
    text = " ".join(printed(summarise(reader, ["whole"]), 110).split())
    assert "gate's check 97.2 % 25.0 %" in text and "agreement, not accuracy" in text


def test_a_narrow_terminal_keeps_every_request_and_what_it_names(summaries: list[RequestSummary]) -> None:
    """On 80 columns regret and time are left out, and no column is squeezed away."""
    lines = printed(summaries, 80).splitlines()
    assert max(map(len, lines)) <= 80
    (ours,) = (line for line in lines if line.startswith(" r1 "))
    assert ours.split()[:4] == ["r1", "0", "served", "unlearned"] and ours.split()[-1] == "46"
    assert not any("Regret" in line for line in lines)
    assert any("Regret" in line for line in printed(summaries, 95).splitlines())


def test_without_an_audit_the_gates_figures_stand_in() -> None:
    """A table without real data says so and shows what the gate saw."""
    summaries = summarise(LedgerReader(demo.demo_store()), ["r1"])
    text = printed(summaries, 100)
    assert "No real data was audited" in text
    assert "gate's check" in text and "95.0 %" in text and "96.8 %" not in text


def test_a_log_gets_plain_lines(clock: Callable[[], float]) -> None:
    """On no terminal there is a line when a phase begins and one when it ends, and no control character."""
    file = io.StringIO()
    with JobProgress(open_console(file), clock=clock) as progress:
        progress.phase("r1: forget 0", "unlearn", total=60)
        progress.advance(2, retain=0.5, forget=0.25)
        progress.advance(58, retain=0.975, forget=0.0)
        progress.done("stop at cycle 46")
        progress.phase("r1: forget 0", "gate")
        progress.say("published [bold]4b1d[/bold]")
    assert file.getvalue() == (
        "r1: forget 0 | unlearn ... (60 steps)\n"
        "r1: forget 0 | unlearn: 1.5 s, 60 of 60 steps, retain 97.5 %, forget 0.0 %, "
        "stop at cycle 46\n"
        "r1: forget 0 | synthetic gate ...\n"
        "published [bold]4b1d[/bold]\n"
        "r1: forget 0 | synthetic gate: 1.5 s\n"
    )


def test_an_error_ends_the_open_phase_as_stopped(clock: Callable[[], float]) -> None:
    """What raises inside a phase leaves a line that says where it stopped, and goes on."""
    file = io.StringIO()

    def fails() -> None:
        with JobProgress(open_console(file), clock=clock) as progress:
            progress.phase("r1", "unlearn", total=60)
            progress.advance(4)
            raise RuntimeError("lost a worker")

    with pytest.raises(RuntimeError, match="lost a worker"):
        fails()
    last = file.getvalue().splitlines()[-1]
    assert last == "r1 | unlearn: 1.5 s, 4 of 60 steps, stopped"


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet_shows_nothing(terminal: bool) -> None:
    """Nothing is written where quiet is asked for."""
    file = io.StringIO()
    with JobProgress(Console(file=file, force_terminal=terminal), quiet=True) as progress:
        progress.phase("r1", "unlearn", total=2)
        progress.advance(2)
        progress.say("done")
    assert file.getvalue() == ""


def test_a_terminal_gets_a_bar_and_a_line_for_each_phase(clock: Callable[[], float]) -> None:
    """On a terminal the bar is redrawn, and the line of an ended phase stays."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=110, _environ={"TERM": "xterm"})
    with JobProgress(console, clock=clock) as progress:
        progress.phase("r1", "unlearn", total=60)
        progress.advance(60, retain=0.9)
        progress.phase("r1", "gate")
    text = file.getvalue()
    assert "\x1b[" in text
    assert "✓ r1 · unlearn: 1.5 s, 60 of 60 steps, retain 90.0 %" in text
    assert "✓ r1 · synthetic gate: 1.5 s" in text


def test_a_log_is_wide_enough_for_the_table() -> None:
    """A console on no terminal has the width that the table needs, not rich's 80."""
    assert open_console(io.StringIO()).width == LOG_WIDTH >= 100


def test_marks_of_figures_that_are_no_plain_number() -> None:
    """Bounds of either side, meaningless ratios and steps beyond the cap are marked as such."""
    assert index(Figure(value=2.0, parameters={"informative": False})) == "2.00?"
    assert index(Figure(value=2.0, censored=True)) == "> 2.00"
    assert index(Figure(value=None, censored=True, parameters={"upper_bound": 0.0312})) == "< 0.04"
    assert index(Figure(value=None)) == index(None) == "–"
    assert relearn_steps(Figure(value=None, censored=True, parameters={"max_steps": 400})) == "> 400"
