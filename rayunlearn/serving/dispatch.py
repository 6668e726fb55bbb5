"""Carrying plans out: what waits is served in the plan's order, lineages side by side where there is room.

The plan is pure (`rayunlearn.scheduling.plan`) and is asked anew whenever something has changed: a run has
ended, a request has come or was cancelled. It is recorded before it is carried out. Runs that an earlier
driver left unfinished go on first, with the requests, the method and the attempt that they had.

A lineage that cannot be begun, or whose published run cannot be brought to its end, is *held*: its requests
go on waiting, and all others are served.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from threading import Thread
from typing import Any

from rayunlearn.execution.recovery import is_of_the_service
from rayunlearn.execution.remote import sentence
from rayunlearn.ledger.history import History
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import request_events, versions
from rayunlearn.lineages.context import Context
from rayunlearn.lineages.requested import request_row
from rayunlearn.methods.registry import METHODS
from rayunlearn.scheduling.plan import Plan, PlanSettings, Start, plan
from rayunlearn.scheduling.queue import Pending, RunUnderWay
from rayunlearn.scheduling.requests import Request
from rayunlearn.serving.scheduler import Outcome, Scheduler
from rayunlearn.settings import to_json
from rayunlearn.unlearning.requested import coalesced

LOOK_EVERY_S = 2.0
"""While runs go on: what has come, and whether the cluster has grown."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A run to begin, or to go on with.

    Attributes:
        requests: that it serves.
        method: its name.
        attempt: which one it is.
    """

    requests: tuple[Request, ...]
    method: str
    attempt: int

    @property
    def lineage(self) -> str:
        """Of the requests."""
        return self.requests[0].lineage


class Dispatcher:
    """Serves requests by the plan until nothing waits.

    Args:
        context: of the service.
        scheduler_for: the scheduler that serves by a method.
        settings: what the plan goes by.
        slots: says how many runs fit on the cluster at once, as it is now; None carries out one at a time, in
            this thread.
        begin_lineage: publishes a lineage's original.
        news: requests that have come since it was last asked.
        cancelled: ids of requests that were cancelled since it was last asked.
    """

    def __init__(
        self,
        context: Context,
        *,
        scheduler_for: Callable[[str], Scheduler],
        settings: PlanSettings,
        slots: Callable[[], int] | None = None,
        begin_lineage: Callable[[str], None],
        news: Callable[[], Iterable[Request]] = tuple,
        cancelled: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        self.context, self.settings, self.slots = context, settings, slots
        self.reader = LedgerReader(context.store)
        self.history = History(self.reader)
        self.scheduler_for, self.begin_lineage = scheduler_for, begin_lineage
        self.news, self.cancelled = news, cancelled
        self.waiting: dict[str, Request] = {}
        self.running: dict[str, tuple[Launch, RunUnderWay, Future[Outcome]]] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.held: dict[str, Exception] = {}
        self._told: set[tuple[str, ...]] = set()
        self._failed: dict[str, str | None] = {}  # reason on record; None: by a run

    def drain(self, requests: Iterable[Request]) -> dict[str, Outcome]:
        """Serve requests, and those that come meanwhile; request id -> what became of it.

        Of the lineages in `held` no request is served; there each has what was raised.
        """
        self._take(requests)
        for launch in self._unfinished():
            if launch.lineage not in self.running and self._free_slots() > 0:
                self._begin(launch)
        while True:
            self._take(self.news())
            self._drop(self.cancelled())
            made = self._plan()
            self._record(made)
            for park in made.parks:
                self._park(park.request_id, park.why)
            for start in made.starts:
                self._begin(self._launch(start))
            if not self.running:
                return self.outcomes
            self._settle()

    def _take(self, requests: Iterable[Request]) -> None:
        """Put requests into the queue, with the time of receipt that was recorded."""
        requests = list(requests)
        events = request_events(self.reader, {request.request_id for request in requests})
        running = {i for _, run, _ in self.running.values() for i in run.request_ids}
        for request in requests:
            if request.request_id in running or request.request_id in self.outcomes:
                continue
            if request.lineage in self.held:
                continue
            known = events.get(request.request_id)
            if known:
                self._note_failure(request, known[-1])
            at = known[0]["received_at"] if known else request.received_at or self.context.clock()
            self.waiting[request.request_id] = replace(request, received_at=at)
        published = self.reader.read("versions", columns=["lineage"], event="published")
        there = {*published.column("lineage").to_pylist(), *self.running}
        for lineage in sorted({request.lineage for request in self.waiting.values()} - there):
            try:
                self.begin_lineage(lineage)
            except Exception as error:
                self._hold(lineage, error)

    def _note_failure(self, request: Request, last: Mapping[str, Any]) -> None:
        """Know of the failure on record; record the one that a killed driver's run left unrecorded."""
        if last["event"] == "failed":
            self._failed[request.request_id] = None if last["run_id"] else last["reason"]
        elif last["event"] == "planned":
            ends = self.reader.read("runs", run_id=str(last["run_id"]), event="failed").to_pylist()
            if ends:
                row = request_row(
                    request, "failed", self.context.clock(), received_at=last["received_at"],
                    run_id=last["run_id"], reason=ends[-1]["reason"],
                )  # fmt: skip
                self.context.ledger.append("requests", [row])
                self._failed[request.request_id] = None

    def _hold(self, lineage: str, error: BaseException, also: Sequence[str] = ()) -> None:
        """Leave a lineage alone until the next job, with what was raised."""
        if not isinstance(error, Exception) or is_of_the_service(error):
            raise error
        self.held[lineage] = error
        ids = [*also, *(i for i, r in self.waiting.items() if r.lineage == lineage)]
        for request_id in ids:
            self.waiting.pop(request_id, None)
        why = f"Lineage {lineage} is held, its requests wait: {sentence(error)}"
        self.context.progress.say(why)
        row = {"event": "park", "lineage": lineage, "request_ids": ids, "why": why}
        self.context.ledger.append("plans", [{**row, "at": self.context.clock()}])

    def _drop(self, ids: Collection[str]) -> None:
        for request_id in ids:
            self.waiting.pop(request_id, None)

    def _unfinished(self) -> list[Launch]:
        """Runs of an earlier driver that were published and not recorded, or begun and not ended."""
        found: list[Launch] = []
        for row in self._left_over():
            ids = row["request_ids"]
            if all(i in self.waiting for i in ids):
                requests = tuple(self.waiting[i] for i in ids)
                found.append(Launch(requests=requests, method=row["method"], attempt=row["attempt"]))
        return found

    def _left_over(self) -> list[dict[str, Any]]:
        lineages = {request.lineage for request in self.waiting.values()}
        published = {v.run_id for name in lineages for v in versions(self.reader, name)}
        columns = ["run_id", "event", "request_ids", "method", "attempt", "config_hash"]
        begun: dict[str, dict[str, Any]] = {}
        for row in self.reader.rows("runs", columns=columns, event={"started", "failed"}):
            if row["event"] == "started" and all(i in self.waiting for i in row["request_ids"]):
                begun[row["run_id"]] = row
            elif row["event"] == "failed" and row["run_id"] not in published:
                begun.pop(row["run_id"], None)
        return [
            row
            for run, row in begun.items()
            if run in published
            or row["method"] in METHODS
            and row["config_hash"] == self.scheduler_for(row["method"]).config_hash
        ]

    def _free_slots(self) -> int:
        """A cluster that shrank may have fewer than there are runs, which then wait for their places."""
        slots = 1 if self.slots is None else self.slots()
        return max(0, slots - len(self.running))

    def _plan(self) -> Plan:
        known = self.history.known(
            to_json(self.context.recipe),
            waiting=self.waiting,
            under_way={name: run for name, (_, run, _) in self.running.items()},
            config_hash=lambda method: self.scheduler_for(method).config_hash,
        )
        return plan(
            [Pending.of(request) for request in self.waiting.values()],
            lineages=known.lineages.values(),
            methods=METHODS,
            history=known.past,
            refusals=known.refusals,
            slots=self._free_slots(),
            settings=self.settings,
            now=self.context.clock(),
        )

    def _launch(self, start: Start) -> Launch:
        requests = tuple(self.waiting[i] for i in start.request_ids)
        return Launch(requests=requests, method=start.method, attempt=start.attempt)

    def _begin(self, launch: Launch) -> None:
        """Begin a run; where there is one slot, and so no other, here and to its end.

        The threads are daemons: a signal that ends the job does not wait for runs, which go on from their
        last checkpoints.
        """
        for request in launch.requests:
            self.waiting.pop(request.request_id, None)
        together = coalesced(launch.requests)
        run = RunUnderWay(
            request_ids=tuple(r.request_id for r in launch.requests), target=together.target,
            method=launch.method, started_at=self.context.clock(), kind=together.kind,
        )  # fmt: skip
        scheduler, future = self.scheduler_for(launch.method), Future[Outcome]()
        self.running[launch.lineage] = (launch, run, future)

        def carry_out() -> None:
            try:
                future.set_result(scheduler.serve(*launch.requests, attempt=launch.attempt))
            except BaseException as error:  # raised where the run is waited for
                future.set_exception(error)

        if self.slots is None:
            carry_out()
        else:
            Thread(target=carry_out, name=f"run of {launch.lineage}", daemon=True).start()

    def _settle(self) -> None:
        """Wait for a run to end, or look again; what was refused waits for the plan to say what is next."""
        runs = [future for _, _, future in self.running.values()]
        done, _ = wait(runs, timeout=LOOK_EVERY_S, return_when=FIRST_COMPLETED)
        for lineage, (launch, _, future) in list(self.running.items()):
            if future not in done:
                continue
            del self.running[lineage]
            error = future.exception()
            if error is not None:
                self._hold(lineage, error, [request.request_id for request in launch.requests])
                continue
            outcome = future.result()
            for request in launch.requests:
                self.outcomes[request.request_id] = outcome
                if outcome.version is None:
                    self.waiting[request.request_id] = request

    def _park(self, request_id: str, why: str) -> None:
        """Take a request out of the queue for a person; one that no run has refused fails on record, once."""
        request = self.waiting.pop(request_id)
        if request_id in self.outcomes:
            return
        if self._failed.get(request_id, "") not in (None, why):
            row = request_row(request, "failed", self.context.clock(), reason=why)
            self.context.ledger.append("requests", [row])
        self.outcomes[request_id] = Outcome(
            requests=(request,), run_id="", version=None, reason=why, choice=None
        )

    def _record(self, made: Plan) -> None:
        """Plans are on record before they are carried out; what was said before is not said again."""
        now, rows = self.context.clock(), []
        for event, decisions in (
            ("start", made.starts), ("wait", made.waits), ("park", made.parks), ("flag", made.flags)
        ):  # fmt: skip
            for decision in decisions:
                row = _told(event, decision, self.waiting)
                key = (event, *row["request_ids"], "" if event == "flag" else row["why"])
                if event == "start" or key not in self._told:
                    self._told.add(key)
                    rows.append({**row, "at": now})
                    if event in ("park", "flag"):
                        self.context.progress.say(f"{', '.join(row['request_ids'])}: {row['why']}")
        self.context.ledger.append("plans", rows)


def _told(event: str, decision: Any, waiting: Mapping[str, Request]) -> dict[str, Any]:
    """A decision as a row of the plans table."""
    ids: Sequence[str] = getattr(decision, "request_ids", None) or (decision.request_id,)
    return {
        "event": event,
        "lineage": waiting[ids[0]].lineage,
        "request_ids": list(ids),
        "method": getattr(decision, "method", None),
        "attempt": getattr(decision, "attempt", None),
        "parent_version": getattr(decision, "parent_version", None),
        "expected_seconds": getattr(decision, "expected_s", None),
        "why": decision.why,
    }
