"""What waits on a lineage, in which order, and which requests one run serves together.

*The order* is earliest deadline first, then higher priority, then earlier receipt, then id. A deadline is
the law's and a priority is a wish, so the deadline comes first. A request without a deadline comes after
all that have one until it has waited `longest_wait`; then it counts as due since that moment. A deadline that
had passed at receipt counts as the moment of receipt. So every request that comes later is due later, and
only those already in the queue can still be served before it: nothing starves.

*Together* are served the first in order and those of its kind for which the plan chooses the same method,
for each alone as for all of them: company changes neither the method nor the data that it is handed, which
is what every one of them allows. A class asked for twice is forgotten once. Requests that were refused once
are served alone: of a refused run nobody can say which request it failed on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple

from annotated_types import Ge

from rayunlearn.errors import BadInput
from rayunlearn.fields import Checked, Share
from rayunlearn.scheduling.costs import Choice, Costs
from rayunlearn.scheduling.requests import LEAST_RETAINED, Request

_NO_DEADLINE = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Pending(Checked):
    """A request that waits to be served.

    Attributes:
        request: with its time of receipt.
        priority: the higher, the sooner, among equal deadlines.
        method: to be tried first; None leaves it to the plan.
    """

    request: Request
    priority: int = 0
    method: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be put in order."""
        super().__post_init__()
        if self.request.received_at is None:
            raise BadInput("received_at", None, "a time, which the queue fills in")

    @classmethod
    def of(cls, request: Request) -> Pending:
        """A request that waits with its own priority and method."""
        return cls(request=request, priority=request.priority, method=request.method)


@dataclass(frozen=True, kw_only=True)
class RunUnderWay:
    """A run that has not ended.

    Attributes:
        request_ids: that it serves; they wait no more.
        target: what it forgets.
        method: its name.
        started_at: with its offset from UTC.
        kind: of what it forgets.
    """

    request_ids: tuple[str, ...]
    target: tuple[int, ...]
    method: str
    started_at: datetime
    kind: str = "classes"


@dataclass(frozen=True, kw_only=True)
class Lineage(Checked):
    """Where a lineage stands.

    Attributes:
        name: the lineage's.
        version: its newest.
        recipe: what makes its runs like others', as in `PastRun`.
        num_classes: of its model.
        forgotten: classes that it has forgotten.
        kept: share of its accuracy that it has left since it was last trained, by synthetic measures: the
            product of `PastRun.kept` over its published runs since.
        under_way: its run that has not ended.
    """

    name: str
    version: str
    recipe: str
    num_classes: Annotated[int, Ge(LEAST_RETAINED)]
    forgotten: frozenset[int] = frozenset()
    kept: Share = 1.0
    under_way: RunUnderWay | None = None

    def __post_init__(self) -> None:
        """Refuse what no lineage can be."""
        super().__post_init__()
        object.__setattr__(self, "forgotten", frozenset(self.forgotten))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A pending request with its place in the queue.

    Attributes:
        rank: its place in the order of all requests, each its own.
        request: the request.
        methods: that may serve it, in the order in which they are considered.
        attempt: which one its next run is, from 1.
        notes: what the ledger should know of how it came to this, in sentences.
    """

    rank: int
    request: Request
    methods: tuple[str, ...]
    attempt: int = 1
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Run:
    """Requests of one lineage that are served together.

    Attributes:
        entries: in order.
        target: what it forgets, sorted.
        choice: its method.
    """

    entries: tuple[Entry, ...]
    target: tuple[int, ...]
    choice: Choice


@dataclass(frozen=True, kw_only=True)
class Blocked:
    """A request to which those before it leave nothing to serve.

    Attributes:
        entry: the request.
        why: in a clause.
    """

    entry: Entry
    why: str


def place(pending: Pending, now: datetime, longest_wait: timedelta) -> tuple[datetime, int, datetime, str]:
    """What the order is sorted by.

    Args:
        pending: the request.
        now: with its offset from UTC.
        longest_wait: after which a request without a deadline counts as due.
    """
    request = pending.request
    received_at = request.received_at
    assert received_at is not None, "Pending refuses it"
    due = max(request.deadline, received_at) if request.deadline else _NO_DEADLINE
    if request.deadline is None and now - received_at >= longest_wait:
        due = received_at + longest_wait
    return due, -pending.priority, received_at, request.request_id


def obstacle(request: Request, num_classes: int, forgotten: Set[int]) -> str | None:
    """Why a model that has forgotten these classes cannot forget what is asked; None if it can."""
    if request.kind != "classes":
        return None
    target = frozenset(request.target)
    unknown = [c for c in request.target if c >= num_classes]
    if unknown:
        return f"the model has classes 0 to {num_classes - 1}, not {_listed(unknown)}"
    if target <= forgotten:
        return f"nothing is left to forget of classes {_listed(target)}"
    left = num_classes - len(forgotten) - len(target - forgotten)
    if left < LEAST_RETAINED:
        return f"it would leave {left} of {num_classes} classes; at least {LEAST_RETAINED} are needed"
    return None


class LineageQueue:
    """The requests that wait on a lineage, and what it will have forgotten by the time they are served.

    Requests of one kind that may use the same methods wait in one line. What is next is at the front of
    one of the few lines, so taking a request costs a look at each front, however many wait.

    Args:
        lineage: where it stands now; what a run under way forgets counts as forgotten.
        costs: what methods are chosen by.
        max_classes: that requests coalesced in one run may forget together.
    """

    def __init__(self, lineage: Lineage, costs: Costs, max_classes: int) -> None:
        self.lineage = lineage
        self.costs = costs
        self.max_classes = max_classes
        self.gone = set(lineage.forgotten)
        self.kept = lineage.kept
        if lineage.under_way and lineage.under_way.kind == "classes":
            self.gone.update(lineage.under_way.target)
        self._lines: dict[_Line, deque[Entry]] = {}

    def add(self, entry: Entry) -> None:
        """Put a request at the end; to be called in order of rank."""
        self._lines.setdefault(_line(entry), deque()).append(entry)

    @property
    def first(self) -> Entry | None:
        """The next in order, or None when nobody waits."""
        return min((line[0] for line in self._lines.values()), key=lambda e: e.rank, default=None)

    def take(self) -> Run | Blocked:
        """Take the next run off the queue, which is not empty; or a request with nothing left to serve.

        What is taken is taken for served: what comes next is chosen for the lineage as it will be then.
        """
        first = self.first
        assert first is not None, "somebody waits"
        self._pop(first)
        why = obstacle(first.request, self.lineage.num_classes, self.gone)
        if why:
            return Blocked(entry=first, why=why)
        entries, target, methods = [first], self._fresh(first), first.methods
        choice = self._choose(first, methods, len(target))
        own = _line(first)
        lines = set() if own.alone else {x for x in self._lines if x.kind == own.kind and not x.alone}
        while lines:
            line = min(lines, key=lambda x: self._lines[x][0].rank)
            entry = self._lines[line][0]
            shared = tuple(method for method in methods if method in entry.methods)
            together = self._together(entry, target, shared, choice)
            if together is None:
                lines.remove(line)  # those behind it in the line wait for it
                continue
            self._pop(entry)
            if line not in self._lines:
                lines.remove(line)
            entries.append(entry)
            target |= self._fresh(entry)
            methods, choice = shared, together
        if first.request.kind == "classes":
            self.gone |= target
        self.kept = choice.kept
        return Run(entries=tuple(entries), target=tuple(sorted(target)), choice=choice)

    def _together(
        self, entry: Entry, target: set[int], methods: tuple[str, ...], choice: Choice
    ) -> Choice | None:
        """The choice for a run with one more request; None where the two do not go together."""
        fresh = self._fresh(entry)
        number = len(target) + len(fresh - target)
        if entry.request.kind == "classes" and number > len(target):
            left = self.lineage.num_classes - len(self.gone) - number
            if number > self.max_classes or left < LEAST_RETAINED:
                return None
        if not fresh or choice.method not in methods:
            return None
        alone = self._choose(entry, entry.methods, len(fresh))
        together = self._choose(entry, methods, number)
        return together if choice.method == alone.method == together.method else None

    def _choose(self, entry: Entry, methods: tuple[str, ...], number: int) -> Choice:
        """The method for so much of the kind that an entry asks for."""
        forgotten = len(self.gone) + (number if entry.request.kind == "classes" else 0)
        return self.costs.choose(methods, self.lineage.recipe, forgotten, self.kept)

    def _fresh(self, entry: Entry) -> set[int]:
        """What an entry adds to what is forgotten."""
        target = set(entry.request.target)
        return target - self.gone if entry.request.kind == "classes" else target

    def _pop(self, entry: Entry) -> None:
        line = _line(entry)
        self._lines[line].popleft()
        if not self._lines[line]:
            del self._lines[line]


class _Line(NamedTuple):
    """What those who wait in one line have in common."""

    kind: str
    methods: tuple[str, ...]
    alone: bool


def _line(entry: Entry) -> _Line:
    return _Line(entry.request.kind, entry.methods, entry.attempt > 1)


def _listed(classes: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(classes)))
