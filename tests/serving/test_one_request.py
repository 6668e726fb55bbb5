"""A run that raises ends as a failed request, with its reason on record, and every other one is served."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RaySystemError, RayTaskError

from rayunlearn.errors import AccessDenied, BadInput, IntegrityError, StorageHeld
from rayunlearn.execution import recovery
from rayunlearn.execution.recovery import MOST_LOSSES
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import versions
from rayunlearn.scheduling.requests import Request
from rayunlearn.serving.dispatch import Dispatcher
from rayunlearn.serving.scheduler import Scheduler
from rayunlearn.storage.store import Store, StoreFailed
from rayunlearn.unlearning.executor import InlineExecutor
from tests.serving.test_dispatch import dispatcher, received, served, statuses
from tests.serving.tiny import forget, memory_store, rows

pytestmark = pytest.mark.usefixtures("few_draws")
OURS = replace(forget(1), lineage="ours")
THEIRS = replace(forget(2), lineage="theirs")


class Raising(InlineExecutor):
    """Raises at one of its calls, of runs that forget class 1."""

    at: str
    error: BaseException

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name != type(self).at:
            return found

        def called(*given: Any, **more: Any) -> Any:
            raise type(self).error

        return called


def raising(at: str, error: BaseException) -> type[Raising]:
    """An executor that raises at this call."""
    return type("Raises", (Raising,), {"at": at, "error": error})


def both_served(
    store: Store, error: BaseException, at: str = "advance", *, request: Request = OURS, **options: Any
) -> Dispatcher:
    """OURS, whose run raises, and THEIRS, which comes after it, by one dispatcher."""
    received(store, request, THEIRS)
    made = dispatcher(store, **options)
    schedulers, bad = made.scheduler_for, raising(at, error)

    def scheduler_for(method: str) -> Scheduler:
        scheduler = schedulers(method)
        opened = scheduler.open_executor
        if not isinstance(opened, Chosen):
            scheduler.open_executor = Chosen(store, bad)
        return scheduler

    made.scheduler_for = scheduler_for
    made.drain([request, THEIRS])
    return made


class Chosen:
    """Opens the raising executor for the run of OURS that began last, and a good one for others."""

    def __init__(self, store: Store, bad: type[Raising]) -> None:
        self.reader, self.bad = LedgerReader(store), bad

    def __call__(self) -> InlineExecutor:
        """By the lineage that the thread serves, or else of the run that has begun, or gone on, last."""
        name = threading.current_thread().name
        if name.startswith("run of "):
            return self.bad() if name == "run of ours" else InlineExecutor()
        begun = self.reader.read("runs", event={"started", "resumed"}).to_pylist()
        return self.bad() if begun[-1]["lineage"] == "ours" else InlineExecutor()


ELSEWHERE = RayTaskError("advance", "\x1b[36mray::advance()\x1b[39m Traceback ...", ValueError("no number"))
ERRORS = [
    (RuntimeError("CUDA error:\nof many lines"), "RuntimeError: CUDA error:"),
    (BadInput("loss", float("nan"), "finite"), "loss is nan; allowed: finite"),
    (MemoryError(), "MemoryError"),
    (AccessDenied("open of /data in a sealed process"), "open of /data in a sealed process"),
    (IntegrityError("models/x: not what its hash says"), "models/x: not what its hash says"),
    (ELSEWHERE.as_instanceof_cause(), "ValueError: no number"),
    (AssertionError(), "AssertionError"),
    (RecursionError("deep"), "RecursionError: deep"),
]


@pytest.mark.parametrize(("error", "reason"), ERRORS, ids=lambda value: type(value).__name__)
def test_whatever_a_run_raises_others_are_served(error: BaseException, reason: str) -> None:
    """Its request has failed, for a reason in one sentence; the traceback is on record; no escape codes."""
    store = memory_store()
    made = both_served(store, error)
    assert statuses(store) == {"forget-1": "failed", "forget-2": "served"} and not made.held
    (failed,) = rows(store, "requests", event="failed")
    assert failed["reason"] == f"unlearn: {reason}"
    (run,) = LedgerReader(store).read("runs", event="failed").to_pylist()
    assert run["reason"] == failed["reason"] and "advance" in run["traceback"]
    assert "\x1b" not in run["traceback"] + run["reason"]
    assert len(versions(LedgerReader(store), "ours")) == 1, "the original alone"


@pytest.mark.parametrize(
    ("at", "phase"),
    [("map", "synthesise"), ("begin", "prepare"), ("advance", "unlearn"), ("checkpoint", "unlearn")],
)
def test_in_whatever_phase(at: str, phase: str) -> None:
    """The reason names it."""
    store = memory_store()
    both_served(store, ZeroDivisionError("by zero"), at)
    assert statuses(store) == {"forget-1": "failed", "forget-2": "served"}
    (failed,) = rows(store, "requests", event="failed")
    assert failed["reason"] == f"{phase}: ZeroDivisionError: by zero"


def test_a_run_that_raised_is_not_gone_on_with() -> None:
    """The next driver finds nothing to do; the control's run, which was left by a kill, it goes on with."""
    store = memory_store()
    both_served(store, ZeroDivisionError())
    again = dispatcher(store)
    assert again._left_over() == []
    killed = memory_store()
    with pytest.raises(KeyboardInterrupt):
        both_served(killed, KeyboardInterrupt())
    later = dispatcher(killed)
    later._take([OURS, THEIRS])
    (left,) = later._left_over()
    assert left["request_ids"] == ["forget-1"]


@pytest.mark.parametrize(
    "error", [StoreFailed("no space"), StorageHeld("taken over"), RaySystemError("gone")], ids=repr
)
@pytest.mark.parametrize("slots", [None, 2])
def test_a_fault_of_the_service_ends_the_job(error: Exception, slots: int | None) -> None:
    """No request is failed for it: all go on waiting."""
    store = memory_store()
    with pytest.raises(type(error)):
        both_served(store, error, slots=slots)
    assert statuses(store)["forget-1"] == "planned"
    assert rows(store, "requests", event="failed") == []


def test_what_raised_is_tried_by_the_next_method() -> None:
    """As what was refused is: retraining, where the request allows the data."""
    store = memory_store()
    allowed = replace(OURS, data_access=("retain", "weights"))

    received(store, allowed)
    made = dispatcher(store)
    made.scheduler_for("gkt").open_executor = raising("advance", ValueError("once"))
    outcome = made.drain([allowed])["forget-1"]
    assert outcome.version is not None
    assert [row["method"] for row in rows(store, "runs", event="started")] == ["gkt", "retrain"]
    told = [row["why"] for row in LedgerReader(store).read("plans", event="start").to_pylist()]
    assert "Attempt 1 by gkt was refused: unlearn: ValueError: once." in told[1]


def test_a_process_that_dies_again_and_again_ends_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many losses in a row it has failed; each is on record."""
    monkeypatch.setitem(recovery.outlasting.__kwdefaults__, "sleep", lambda seconds: None)
    store = memory_store()
    both_served(store, ActorDiedError())
    assert statuses(store) == {"forget-1": "failed", "forget-2": "served"}
    assert len(rows(store, "runs", event="lost")) == MOST_LOSSES - 1
    (failed,) = rows(store, "requests", event="failed")
    assert f"{MOST_LOSSES} times in a row" in failed["reason"]


def test_losses_before_a_restart_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is started again after each kill does not give a deadly run all its losses anew."""
    calls: list[int] = []

    def sleep(seconds: float) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setitem(recovery.outlasting.__kwdefaults__, "sleep", sleep)
    store = memory_store()
    with pytest.raises(KeyboardInterrupt):
        both_served(store, ActorDiedError())
    assert len(rows(store, "runs", event="lost")) == 3
    made = dispatcher(store)
    made.scheduler_for("gkt").open_executor = Chosen(store, raising("advance", ActorDiedError()))
    made.drain([OURS, THEIRS])
    assert len(rows(store, "runs", event="lost")) == MOST_LOSSES - 1
    assert statuses(store) == {"forget-1": "failed", "forget-2": "served"}


def test_a_lineage_that_cannot_be_begun_is_held() -> None:
    """Its requests wait, nothing is recorded against them, and those of others are served."""
    store = memory_store()
    received(store, OURS, THEIRS)
    made = dispatcher(store)
    begin = made.begin_lineage

    def some(lineage: str) -> None:
        if lineage == "ours":
            raise BadInput("RAYUNLEARN_DATA", None, "a folder")
        begin(lineage)

    made.begin_lineage = some
    made.drain([OURS, THEIRS])
    assert statuses(store) == {"forget-1": "received", "forget-2": "served"}
    assert isinstance(made.held["ours"], BadInput)
    assert served(store, OURS)["forget-1"].version is not None, "the next job begins it"


def test_a_publication_that_cannot_be_followed_up_is_no_failure() -> None:
    """What was published is not said to have failed: the lineage is held, and the next job goes on."""
    store = memory_store()
    received(store, OURS, THEIRS)
    made = dispatcher(store)
    scheduler = made.scheduler_for("gkt")
    publish = scheduler.publish

    def published(**given: Any) -> Any:
        version = publish(**given)
        if given["lineage"] == "ours" and given["run"]:
            raise ValueError("after the publication")
        return version

    scheduler.publish = published  # type: ignore[method-assign]
    made.drain([OURS, THEIRS])
    assert statuses(store) == {"forget-1": "planned", "forget-2": "served"}
    assert isinstance(made.held["ours"], ValueError)
    outcome = dispatcher(store).drain([OURS])["forget-1"]
    assert outcome.version is not None and statuses(store)["forget-1"] == "served"


def test_a_method_without_its_log_stops_nobody() -> None:
    """`amnesiac_rollback` on a lineage whose original has no training log: the next method serves it."""
    store = memory_store()
    needs = ("forget", "retain", "training_log", "weights")
    rollback = replace(OURS, method="amnesiac_rollback", data_access=needs)
    received(store, rollback, THEIRS)
    dispatcher(store).drain([rollback, THEIRS])
    assert statuses(store) == {"forget-1": "served", "forget-2": "served"}
    (run,) = rows(store, "runs", event="failed")
    assert run["method"] == "amnesiac_rollback" and run["reason"].startswith("prepare: ")
    assert [r["method"] for r in rows(store, "runs", event="published", lineage="ours")] == ["gkt"]


def test_runs_side_by_side_read_by_themselves() -> None:
    """Eight lineages at once, threads switching every few microseconds: the versions are each one's alone."""
    requests = [replace(forget(n % 10, name=f"r{n}"), lineage=f"l{n}") for n in range(8)]
    alone = {}
    for request in requests[:2]:
        store = memory_store()
        alone[request.request_id] = served(store, request)[request.request_id].version
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        together = served(memory_store(), *requests, slots=8)
    finally:
        sys.setswitchinterval(before)
    assert all(outcome.version for outcome in together.values()), [o.reason for o in together.values()]
    assert {name: together[name].version for name in alone} == alone
