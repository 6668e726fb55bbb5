"""What is recorded of a sweep as it comes, and when it is over: without Ray, by a clock of the test's own."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rayunlearn.errors import BadInput
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import Version
from rayunlearn.ledger.sweeps import sweep_named
from rayunlearn.scheduling.budget import parse_budget
from rayunlearn.scheduling.space import Dimension, Space
from rayunlearn.scheduling.stopping import CheckpointRecord
from rayunlearn.storage.store import Store
from rayunlearn.tuning.search_space import CYCLE, SCORE
from rayunlearn.tuning.sweep_record import About, SweepRecord, SweepSettings
from tests.serving.tiny import NOON, forget, memory_store, tiny_context, tiny_recipe

SPACE = Space((Dimension("gkt.epsilon", "loguniform", (0.001, 0.1)),))


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self):  # type: ignore[no-untyped-def]
        """The time."""
        return self.now

    def wait(self, seconds: float) -> None:
        """So much later."""
        self.now += timedelta(seconds=seconds)


def about(budget: str = "8 trials", name: str = "s", **settings: Any) -> About:
    """A sweep over epsilon whose trials reserve two CPUs."""
    version = Version(
        version="v", parent=None, lineage="default", path="v", request_ids=(), run_id=None,
        classes_forgotten=(), model={},
    )  # fmt: skip
    searched = SweepSettings(space=SPACE, budget=parse_budget(budget), budget_text=budget, **settings)
    return About(
        name=name, parent=version, request=forget(0), settings=searched, placement="colocated", cpus=2.0,
        gpus=0.0,
    )  # fmt: skip


def recording(store: Store | None = None, of: About | None = None) -> tuple[SweepRecord, Clock]:
    """A record and its clock."""
    clock = Clock()
    context = replace(tiny_context(store or memory_store(), tiny_recipe("digits_gkt")), clock=clock)
    return SweepRecord(of or about(), context), clock


def figures(step: int, correct: int = 50) -> dict[str, Any]:
    """A checkpoint's."""
    return {
        "step": step, "retain_correct": correct, "retain_count": 54, "forget_correct": 0, "forget_count": 8,
        "retain_loss": 0.1, "forget_mass": 0.0, "forgotten_share": [], "pass_rate": 0.5,
        "generator_loss": 0.0, "student_loss": 0.0, "student_steps": step, "stalled": False, "recoveries": 0,
    }  # fmt: skip


def told(step: int, score: float = 0.9, *, ended: bool = False, failed: str | None = None) -> dict[str, Any]:
    """What a trial reports at a checkpoint."""
    return {
        SCORE: score, CYCLE: step, "step": step if score >= 0 else None, "reason": "best",
        "row": figures(step), "ended": ended, "failed": failed, "busy_s": 0.5,
    }  # fmt: skip


POINT = {"gkt.epsilon": 0.01}


def test_every_checkpoint_is_in_the_ledger_once() -> None:
    """With its trial's id; what a trial reports again after it was begun anew is not recorded again."""
    record, _ = recording()
    record.begin()
    record.started("a", POINT)
    for step in (2, 4, 2, 4, 6):
        record.reported("a", POINT, told(step))
    rows = LedgerReader(record.context.store).read("checkpoints", run_id="s", trial="a").to_pylist()
    assert [row["step"] for row in rows] == [2, 4, 6]


def test_a_trial_ends_by_itself_or_is_stopped() -> None:
    """The view tells which, and what it reserved for how long; a second start is no second trial."""
    record, clock = recording()
    record.begin()
    for name in ("a", "b", "a"):
        record.started(name, POINT)
    for name in ("a", "b"):
        record.reported(name, POINT, told(4))
        clock.wait(10)
        record.ended(name, POINT, by_itself=name == "a")
    view = record.view()
    assert [(t.trial, t.status, t.seconds, t.cpus) for t in view.trials] == [
        ("a", "finished", 10.0, 2.0), ("b", "stopped", 20.0, 2.0)
    ]  # fmt: skip
    assert dict(view.trials[0].settings) == POINT


def seen(step: int, correct: int, predicted: float | None = None) -> CheckpointRecord:
    """The second set's record of a checkpoint, by 54 images."""
    return CheckpointRecord(
        step=step, retain_correct=correct, retain_count=54, forget_correct=0, forget_count=0,
        forget_mass=0.0, pass_rate=0.0, samples=True, predicted=predicted,
    )  # fmt: skip


def test_the_second_set_predicts_as_the_first_does() -> None:
    """What it predicts is recorded, and is the score to report."""
    record, _ = recording()
    record.begin()
    record.started("a", POINT)
    record.reported("a", POINT, told(4, 0.9, ended=True))
    record.ended("a", POINT, by_itself=True)
    (result,) = record.unmeasured()
    assert result.step is not None
    record.measured(result, seen(result.step, 27, predicted=0.84))
    best = record.finish().best()
    assert best is not None and best.result is not None and best.result.second is not None
    assert (best.result.second_score, best.result.second.retain_correct) == (0.84, 27)


def test_the_winner_is_named() -> None:
    """The best admissible trial on the search's own set; the second set changes nothing about it."""
    record, _ = recording()
    record.begin()
    for name, score in (("a", 0.8), ("b", 0.9), ("c", -1.5)):
        record.started(name, POINT)
        record.reported(name, POINT, told(4, score, ended=True))
        record.ended(name, POINT, by_itself=True)
    for result in record.unmeasured():
        if result.step is not None:
            record.measured(result, seen(result.step, 54 if result.trial == "a" else 27))
    view = record.finish()
    best = view.best()
    assert view.status == "finished" and best is not None and best.trial == "b"
    assert best.result is not None and best.result.second_score == 0.5
    assert best.result.gap == pytest.approx(0.4)
    assert record.unmeasured() == [record.results["c"]]


def test_without_an_admissible_trial_it_is_said_what_to_change() -> None:
    """The nearest trial, its reason, and the settings that judge."""
    record, _ = recording()
    record.begin()
    for name, score in (("a", -2.0), ("b", -1.2)):
        record.started(name, POINT)
        record.reported(name, POINT, told(4, score, ended=True))
        record.ended(name, POINT, by_itself=True)
    view = record.finish()
    assert view.status == "failed" and view.winner is None
    assert "none of 2 trials has an admissible checkpoint; the nearest is b" in str(view.reason)
    assert "stopping.min_retain" in str(view.reason)


def test_a_failed_trial_keeps_its_traceback_and_its_checkpoints() -> None:
    """It counts as failed once, however often it is told; what it had found before still counts."""
    record, _ = recording()
    record.begin()
    record.started("a", POINT)
    record.reported("a", POINT, told(4))
    record.reported("a", POINT, {**told(4, ended=True, failed="Traceback: boom"), "row": None})
    record.ended("a", POINT, by_itself=True)
    record.lost("a", POINT, "again")
    (trial,) = record.view().trials
    assert trial.status == "failed" and trial.failure == "Traceback: boom"
    assert trial.result is not None and trial.result.score == 0.9


@pytest.mark.parametrize(("failures", "over"), [(1, False), (2, False), (3, True)])
def test_too_many_failures_end_the_sweep(failures: int, over: bool) -> None:
    """More than half of four."""
    record, _ = recording()
    record.begin()
    for number in range(4):
        name = str(number)
        record.started(name, POINT)
        record.reported(name, POINT, told(4, failed="boom" if number < failures else None))
        record.ended(name, POINT, by_itself=True)
    assert record.is_over() is over


@pytest.mark.parametrize(
    ("budget", "after"), [("30 seconds", 30.0), ("0.01 cpu-hours", 18.0), ("2 trials", None)]
)
def test_a_budget_of_time_ends_it(budget: str, after: float | None) -> None:
    """On the clock, or of the CPUs that the trials hold, the one under way included; Tune counts trials."""
    record, clock = recording(of=about(budget))
    record.begin()
    record.started("a", POINT)
    if after is None:
        clock.wait(1e6)
        assert not record.is_over()
        return
    clock.wait(after - 0.1)
    assert not record.is_over()
    clock.wait(0.2)
    assert record.is_over()


def test_a_sweep_goes_on_where_it_was() -> None:
    """What was recorded is known: trials, results, checkpoints, time spent."""
    store = memory_store()
    record, clock = recording(store)
    record.begin()
    record.started("a", POINT)
    record.reported("a", POINT, told(4))
    clock.wait(7)
    record.ended("a", POINT, by_itself=True)
    record.started("b", POINT)
    record.reported("b", POINT, told(2))
    again, _ = recording(store)
    assert again.begin() is None
    again.started("b", POINT)
    again.reported("b", POINT, told(2))
    again.reported("b", POINT, told(4))
    again.ended("b", POINT, by_itself=True)
    view = again.finish()
    assert [(t.trial, t.status) for t in view.trials] == [("a", "finished"), ("b", "finished")]
    assert view.trials[0].seconds == 7.0
    rows = LedgerReader(store).read("checkpoints", run_id="s").to_pylist()
    assert [(row["trial"], row["step"]) for row in rows] == [("a", 4), ("b", 2), ("b", 4)]
    events = [row["event"] for row in LedgerReader(store).read("sweeps").to_pylist()]
    assert events == ["started", "resumed", "finished"]


def test_the_clock_goes_on_where_it_was() -> None:
    """What an earlier process spent, up to what it recorded last, counts against a budget of time."""
    store, of = memory_store(), about("30 seconds")
    record, clock = recording(store, of)
    record.begin()
    record.started("a", POINT)
    clock.wait(20)
    record.reported("a", POINT, told(4))
    again, later = recording(store, of)
    later.wait(3600)
    again.begin()
    assert again.spent().wall_s == 20.0
    again.started("a", POINT)
    later.wait(9.9)
    assert not again.is_over()
    later.wait(0.2)
    assert again.is_over()


def test_stopped_before_its_first_checkpoint_is_no_failure() -> None:
    """As when a budget of time ends; nothing is known of its worth."""
    record, _ = recording()
    record.begin()
    record.started("a", POINT)
    record.ended("a", POINT, by_itself=False)
    (trial,) = record.view().trials
    assert trial.status == "stopped" and trial.result is not None and not trial.result.admissible
    assert not record.failed


def test_trials_that_are_lost_without_a_word_count_as_failures() -> None:
    """A sweep whose processes all die ends."""
    record, _ = recording()
    record.begin()
    for number in range(4):
        record.started(str(number), POINT)
        assert not record.is_over()
        record.lost(str(number), POINT, "its node is gone")
    assert record.is_over()


def test_a_finished_sweep_is_read() -> None:
    """The same command finds it done; another command under its name is refused, by what differs."""
    store = memory_store()
    record, _ = recording(store)
    record.begin()
    record.started("a", POINT)
    record.reported("a", POINT, told(4))
    record.ended("a", POINT, by_itself=True)
    finished = record.finish()
    again, _ = recording(store)
    assert again.begin() == finished == sweep_named(LedgerReader(store), "s")
    other, _ = recording(store, about("9 trials"))
    with pytest.raises(BadInput, match="budget '8 trials', not '9 trials'"):
        other.begin()


def test_the_space_is_on_record() -> None:
    """As it was written, with the recipe's own settings."""
    record, _ = recording()
    record.begin()
    (row,) = LedgerReader(record.context.store).read("sweeps").to_pylist()
    assert json.loads(row["space"]) == {"gkt.epsilon": "loguniform(0.001,0.1)"}
    assert json.loads(row["config"])["gkt"]["epsilon"] == record.context.recipe.gkt.epsilon


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"grace": 0}, "--grace"), ({"retries": -1}, "--retries"), ({"failure_share": 1.5}, "--failure-share")],
)
def test_settings_that_bound_nothing_are_refused(changed: dict[str, Any], said: str) -> None:
    """By the flag's name."""
    with pytest.raises(BadInput, match=said):
        about(**changed)
