"""The plan: from what waits, what runs and what earlier runs took, to what is done next.

A pure function of its arguments; the order in which they come makes no difference. It is asked anew whenever
something has changed, recorded, and then carried out. What is decided, beside the order and the company of
requests (`queue`) and unlearning against retraining (`costs`):

- *Side by side.* A lineage has one run at a time, since each begins from the version that the last one left.
  Free slots go to idle lineages by the same order that rules within one.
- *A refused run* says of a single request that the method will not do: the next one in the configured order
  that its data access allows, then retraining if that allows it, else it is parked for a person. Of several
  coalesced ones it says only that they do not go together by this method: each is served alone first, by
  the method that it would have had anyway. So a request is refused in company at most once, and alone at
  most once by each method: it is served or parked after as many runs as there are methods, and one.
- *A method asked for* comes first; when it is refused the rest follow, since the duty to forget outlasts the
  wish how. One that can never be used is a mistake that only a person can mend: parked.
- *A deadline that cannot be met* is flagged, and the request keeps its place. Expected is what is left when
  all that waits is played through with the estimated times, slots and lineages, as if every run passed.

Retraining needs no rule to keep it from zero-shot requests: it declares data that they do not allow.

With n requests, L lineages and F different combinations of kind and methods, of which there are few, a plan
takes O(n (log n + log L + F)) steps.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Protocol

from annotated_types import DocInfo, Ge, Le
from pydantic import NonNegativeInt, PositiveInt

from rayunlearn.errors import BadInput, nearest
from rayunlearn.fields import Checked, check_value
from rayunlearn.scheduling.costs import Costs, CostSettings, PastRun, duration
from rayunlearn.scheduling.queue import (
    Blocked,
    Entry,
    Lineage,
    LineageQueue,
    Pending,
    Run,
    RunUnderWay,
    obstacle,
    place,
)
from rayunlearn.scheduling.requests import Request


class Declaration(Protocol):
    """What a method says of itself; the registry's methods do."""

    @property
    def data_access(self) -> Collection[str]:
        """All that it is handed."""

    @property
    def granularity(self) -> Collection[str]:
        """The kinds of request that it can serve."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A run whose result was not published.

    Attributes:
        request_ids: that it served.
        method: its name.
        attempt: which one it was, from 1.
        reason: of stopping rule or gate.
    """

    request_ids: tuple[str, ...]
    method: str
    attempt: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class PlanSettings(Checked, section="plan"):
    """What the plan goes by.

    Attributes:
        order: unlearning methods, the first to be tried first.
        retrain: the method that trains anew, the last resort; None is none.
        max_classes: that requests coalesced in one run may forget together; a single request may name more.
        longest_wait_days: after which a request without a deadline counts as due. A month is what Art. 12(3)
            GDPR gives to whoever must answer one.
        costs: when a method is good enough.
    """

    order: tuple[str, ...]
    retrain: str | None = "retrain"
    max_classes: PositiveInt = 4
    longest_wait_days: Annotated[float, Ge(0), Le(36_500), DocInfo("a number of days from 0 to 36500")] = 30.0
    costs: CostSettings = field(default_factory=CostSettings)

    def __post_init__(self) -> None:
        """Check every field; refuse an order that contradicts itself."""
        super().__post_init__()
        if len(set(self.order)) != len(self.order) or self.retrain in self.order:
            allowed = f"each method once, without {self.retrain!r}, which comes last by itself"
            raise BadInput("plan.order", self.order, allowed)

    @property
    def escalation(self) -> tuple[str, ...]:
        """All methods of the plan in the order in which they are tried."""
        return (*self.order, *([] if self.retrain is None else [self.retrain]))


@dataclass(frozen=True, kw_only=True)
class Start:
    """Begin a run now.

    Attributes:
        lineage: its lineage.
        parent_version: that it begins from.
        request_ids: that it serves, in the order of the queue.
        target: all that it forgets, sorted, without what the lineage has forgotten already.
        data_access: what every one of the requests allows, sorted.
        method: its name; what it is handed is part of `data_access`.
        attempt: 1 + how many runs of its requests were refused.
        expected_s: seconds that it is expected to take.
        why: in sentences, with the figures.
    """

    lineage: str
    parent_version: str
    request_ids: tuple[str, ...]
    target: tuple[int, ...]
    data_access: tuple[str, ...]
    method: str
    attempt: int
    expected_s: float
    why: str


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Leave a request in the queue."""

    request_id: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Flag:
    """Tell that a request cannot meet its deadline any more; it is served all the same.

    Attributes:
        request_id: the request.
        deadline: its deadline.
        expected_s: seconds from now after which it is expected to be served; None where no run is in sight.
        why: in a sentence.
    """

    request_id: str
    deadline: datetime
    expected_s: float | None
    why: str


@dataclass(frozen=True, kw_only=True)
class Park:
    """Take a request out of the queue, for a person to decide."""

    request_id: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done next, each part in the order of the queue.

    Every pending request is in exactly one of starts, waits and parks.

    Attributes:
        starts: runs to begin now.
        waits: requests that stay in the queue.
        parks: requests that need a person.
        flags: requests, of any of these, that cannot meet their deadline.
    """

    starts: tuple[Start, ...]
    waits: tuple[Wait, ...]
    parks: tuple[Park, ...]
    flags: tuple[Flag, ...]


def plan(
    pending: Iterable[Pending],
    *,
    lineages: Iterable[Lineage],
    methods: Mapping[str, Declaration],
    history: Iterable[PastRun],
    refusals: Iterable[Refusal],
    slots: int,
    settings: PlanSettings,
    now: datetime,
) -> Plan:
    """Decide what is done next.

    Args:
        pending: requests that are neither served nor cancelled nor in a run under way.
        lineages: all of them.
        methods: name -> what it declares.
        history: runs that have ended, for the estimates.
        refusals: the refused runs of the pending requests.
        slots: how many more runs fit on the cluster now.
        settings: what the plan goes by.
        now: with its offset from UTC.

    Raises:
        BadInput: an id or a lineage given twice, a pending request that is in a run under way, a method
            in the settings that is not among `methods`, `now` without its offset. A request that cannot
            be served is no error: it is parked.
    """
    pending = list(pending)
    by_name = _by_name(lineages)
    _check(pending, by_name, methods, slots, settings, now)
    longest_wait = timedelta(days=settings.longest_wait_days)
    ordered = sorted(pending, key=lambda waiting: place(waiting, now, longest_wait))
    costs = Costs(history, settings.costs, settings.retrain)
    queues = {name: LineageQueue(line, costs, settings.max_classes) for name, line in by_name.items()}
    refused = _by_request(refusals)

    parks = {}
    for rank, waiting in enumerate(ordered):
        request = waiting.request
        entry = _entry(rank, waiting, refused.get(request.request_id, ()), by_name, methods, settings)
        if isinstance(entry, Entry):
            queues[request.lineage].add(entry)
        else:
            parks[request.request_id] = entry

    idle = sorted(
        (queue for queue in queues.values() if queue.first and not queue.lineage.under_way), key=_rank
    )
    starts = {queue.lineage.name: _start(queue) for queue in idle[:slots]}
    ends = {i: start.expected_s for start in starts.values() for i in start.request_ids}

    ready = {name: start.expected_s for name, start in starts.items()}
    for name, lineage in by_name.items():
        if lineage.under_way:
            ready[name] = _seconds_left(lineage, lineage.under_way, costs, now)
    free = [*ready.values(), *[0.0] * (slots - len(starts))]

    waits = {}
    for begin, queue, taken in _forecast(queues, ready, free):
        why = _why_not_now(queue.lineage, starts.get(queue.lineage.name), slots)
        if isinstance(taken, Blocked):
            request_id = taken.entry.request.request_id
            why = f"{why} Once those before it are served, {taken.why}."
            waits[request_id] = Wait(request_id=request_id, why=why)
            continue
        why = f"{why} Its run is expected to begin in {duration(begin)}."
        for entry in taken.entries:
            request_id = entry.request.request_id
            waits[request_id] = Wait(request_id=request_id, why=why)
            ends[request_id] = begin + taken.choice.seconds

    requests = [waiting.request for waiting in ordered]
    flags = (_flag(request, ends.get(request.request_id), now) for request in requests)
    return Plan(
        starts=tuple(starts.values()),
        waits=tuple(waits[r.request_id] for r in requests if r.request_id in waits),
        parks=tuple(parks.values()),
        flags=tuple(flag for flag in flags if flag),
    )


def _check(
    pending: Sequence[Pending],
    lineages: Mapping[str, Lineage],
    methods: Mapping[str, Declaration],
    slots: int,
    settings: PlanSettings,
    now: datetime,
) -> None:
    check_value("slots", slots, NonNegativeInt)
    if now.utcoffset() is None:
        raise BadInput("now", now.isoformat(), "a time with its offset from UTC")
    for name in settings.escalation:
        if name not in methods:
            raise BadInput("method of the plan", name, nearest(name, methods))
    running = {i: name for name, x in lineages.items() if x.under_way for i in x.under_way.request_ids}
    seen: set[str] = set()
    for waiting in pending:
        request_id = waiting.request.request_id
        if request_id in running:
            allowed = f"none that is in a run under way, as this one on lineage {running[request_id]!r}"
            raise BadInput("pending request", request_id, allowed)
        if request_id in seen:
            raise BadInput("pending request", request_id, "each request once")
        seen.add(request_id)


def _by_name(lineages: Iterable[Lineage]) -> dict[str, Lineage]:
    """Lineages by name, in the order of names, whatever order they came in."""
    by_name: dict[str, Lineage] = {}
    for lineage in sorted(lineages, key=lambda line: line.name):
        if lineage.name in by_name:
            raise BadInput("lineage", lineage.name, "each lineage once")
        by_name[lineage.name] = lineage
    return by_name


def _by_request(refusals: Iterable[Refusal]) -> dict[str, list[Refusal]]:
    """Refusals by request, each in the order in which they happened."""
    by_request: dict[str, list[Refusal]] = {}
    for refusal in sorted(refusals, key=lambda r: (r.attempt, r.method, r.request_ids, r.reason)):
        for request_id in refusal.request_ids:
            by_request.setdefault(request_id, []).append(refusal)
    return by_request


def _entry(
    rank: int,
    waiting: Pending,
    refusals: Sequence[Refusal],
    lineages: Mapping[str, Lineage],
    methods: Mapping[str, Declaration],
    settings: PlanSettings,
) -> Entry | Park:
    """A request's place in the queue, or why it has none."""
    request, asked = waiting.request, waiting.method

    def park(why: str) -> Park:
        return Park(request_id=request.request_id, why=f"{why[0].upper()}{why[1:]}.")

    lineage = lineages.get(request.lineage)
    if lineage is None:
        return park(f"there is no lineage {request.lineage!r}; there is {nearest(request.lineage, lineages)}")
    blocked = obstacle(request, lineage.num_classes, lineage.forgotten)
    if blocked:
        return park(blocked)
    if asked is not None and asked not in methods:
        return park(f"there is no method {asked!r}; there is {nearest(asked, methods)}")
    if asked is not None and not _may_use(request, methods[asked]):
        needs = f"serves {_words(methods[asked].granularity)} with {_words(methods[asked].data_access)}"
        return park(f"method {asked!r}, which is asked for, {needs}; this is {_allows(request)}")

    failed = {refusal.method for refusal in refusals if len(refusal.request_ids) == 1}
    candidates = settings.escalation if asked is None or asked in failed else (asked,)
    usable = tuple(m for m in candidates if m not in failed and _may_use(request, methods[m]))
    notes = tuple(_note(refusal) for refusal in refusals)
    if usable:
        return Entry(rank=rank, request=request, methods=usable, attempt=len(refusals) + 1, notes=notes)
    if failed:
        story = " ".join(notes).removesuffix(".")
        return park(f"no method is left that may serve it, {_allows(request)}. {story}")
    return park(f"no method of {', '.join(settings.escalation)} may serve it, {_allows(request)}")


def _start(queue: LineageQueue) -> Start:
    """The run that an idle lineage begins now."""
    run = queue.take()
    assert isinstance(run, Run), "what the lineage cannot forget as it stands is parked"
    first = run.entries[0]
    ids = tuple(entry.request.request_id for entry in run.entries)
    due = f"its deadline is {first.request.deadline.isoformat()}" if first.request.deadline else "no deadline"
    reasons = [f"{ids[0]} is first in its lineage ({due})."]
    if len(ids) > 1:
        reasons.append(f"Served with it: {', '.join(ids[1:])}, which the same method may serve.")
    reasons += first.notes
    if first.attempt > 1:
        reasons.append("It is served alone.")
    allowed = set.intersection(*(set(entry.request.data_access) for entry in run.entries))
    return Start(
        lineage=queue.lineage.name,
        parent_version=queue.lineage.version,
        request_ids=ids,
        target=run.target,
        data_access=tuple(sorted(allowed)),
        method=run.choice.method,
        attempt=first.attempt,
        expected_s=run.choice.seconds,
        why=" ".join([*reasons, run.choice.why]),
    )


def _forecast(
    queues: Mapping[str, LineageQueue], ready: Mapping[str, float], free: Sequence[float]
) -> Iterator[tuple[float, LineageQueue, Run | Blocked]]:
    """Play the queues through: whenever a slot is free, the first in order of the lineages that are idle.

    Args:
        queues: of all lineages; they are emptied.
        ready: lineage -> seconds from now until it is idle; 0 where it is not named.
        free: seconds from now until each slot is free. Where there is none, one is taken to be free now: a
            cluster without nodes is about to have some.

    Yields:
        Seconds from now, the lineage's queue, and what is taken off it.
    """
    slots = list(free) or [0.0]
    heapq.heapify(slots)
    busy = [(ready.get(name, 0.0), name) for name, queue in queues.items() if queue.first]
    heapq.heapify(busy)
    idle: list[tuple[int, str]] = []
    while busy or idle:
        at = heapq.heappop(slots)
        if not idle:
            at = max(at, busy[0][0])
        while busy and busy[0][0] <= at:
            _, name = heapq.heappop(busy)
            heapq.heappush(idle, (_rank(queues[name]), name))
        _, name = heapq.heappop(idle)
        queue = queues[name]
        taken = queue.take()
        yield at, queue, taken
        end = at + (taken.choice.seconds if isinstance(taken, Run) else 0.0)
        heapq.heappush(slots, end)
        if queue.first:
            heapq.heappush(busy, (end, name))


def _flag(request: Request, end: float | None, now: datetime) -> Flag | None:
    """The flag of a request whose deadline has passed or is expected to."""
    if request.deadline is None:
        return None
    left = (request.deadline - now).total_seconds()
    if max(end or 0.0, 0.0) <= left:
        return None
    when = f"in {duration(left)}" if left >= 0 else f"{duration(-left)} ago"
    then = "no run is in sight" if end is None else f"it is expected to be served in {duration(end)}"
    why = f"The deadline {request.deadline.isoformat()} is {when}; {then}."
    return Flag(request_id=request.request_id, deadline=request.deadline, expected_s=end, why=why)


def _seconds_left(lineage: Lineage, run: RunUnderWay, costs: Costs, now: datetime) -> float:
    """What is left of a run under way, by the estimate; 0 where it has taken longer."""
    number = len(lineage.forgotten | set(run.target if run.kind == "classes" else ()))
    estimate = costs.estimate(run.method, lineage.recipe, number)
    seconds = estimate.seconds if estimate else costs.settings.default_s
    return max(0.0, seconds - (now - run.started_at).total_seconds())


def _why_not_now(lineage: Lineage, start: Start | None, slots: int) -> str:
    if lineage.under_way:
        return f"Its lineage has a run under way, for {_words(lineage.under_way.request_ids)}."
    if start:
        return f"Its lineage serves {_words(start.request_ids)} first."
    return f"What is before it takes the {slots} free slots." if slots else "No slot is free."


def _may_use(request: Request, method: Declaration) -> bool:
    return request.kind in method.granularity and set(method.data_access) <= set(request.data_access)


def _note(refusal: Refusal) -> str:
    others = len(refusal.request_ids) - 1
    company = f" together with {others} more" if others else ""
    return f"Attempt {refusal.attempt} by {refusal.method}{company} was refused: {refusal.reason}."


def _allows(request: Request) -> str:
    return f"a request for {request.kind} that allows {_words(request.data_access)}"


def _rank(queue: LineageQueue) -> int:
    assert queue.first is not None, "somebody waits"
    return queue.first.rank


def _words(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))
