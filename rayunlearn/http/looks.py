"""Looks at the storage location that callers share: each gets one that began after it had asked."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from rayunlearn.ledger.compaction import ENTRY
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import request_events
from rayunlearn.ledger.status import Standing, standings
from rayunlearn.scheduling.requests import Request
from rayunlearn.storage.inbox import Inbox
from rayunlearn.storage.store import Store

T = TypeVar("T")


class Shared(Generic[T]):
    """A look that many may ask for at once; of those that wait for one, all get the next.

    Args:
        look: is called by one thread at a time.
    """

    def __init__(self, look: Callable[[], T]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._begun = 0
        self._last: tuple[int, T] | None = None

    def __call__(self) -> T:
        """What a look shows that began after this call."""
        wanted = self._begun + 1
        with self._lock:
            if self._last is not None and self._last[0] >= wanted:
                return self._last[1]
            self._begun += 1
            number = self._begun
            found = self._look()
            self._last = number, found
            return found


@dataclass
class _Asked:
    """What is kept of a request of the ledger: its last event, and its deadline while it can be missed."""

    event: str
    deadline: datetime | None


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What the metrics say, at one look.

    Attributes:
        by_status: requests by status; "waiting" are those of the inbox.
        deadlines: of requests that are still to be served.
        overdue: deadlines of requests that failed; no longer open, and not served either.
        served_late: requests that were served after their deadlines.
        runs: runs by method and outcome.
        entries: of the ledger.
    """

    by_status: Mapping[str, int]
    deadlines: tuple[datetime, ...]
    overdue: tuple[datetime, ...]
    served_late: int
    runs: Mapping[tuple[str, str], int]
    entries: int

    def missed(self, now: datetime) -> int:
        """Requests that were served late, or are not served though their deadline has passed."""
        return self.served_late + sum(deadline < now for deadline in (*self.deadlines, *self.overdue))


@dataclass
class Looks:
    """All looks at a storage location; asked again, each reads only what has been appended since."""

    store: Store
    _asked: dict[str, _Asked] = field(default_factory=dict)
    _rejected: int = 0
    _served_late: int = 0
    _runs: dict[str, tuple[str, str]] = field(default_factory=dict)
    _read_to: dict[str, int] = field(default_factory=lambda: {"requests": 0, "runs": 0})

    def __post_init__(self) -> None:
        """Begin with nothing read."""
        self._reader = LedgerReader(self.store)
        self._inbox = Inbox(self.store, with_examples=False)
        self._follow = Shared(self._follow_requests)
        self._lock = threading.Lock()
        self._standings = Shared(self._stand)
        self._counts = Shared(self._count)

    def events(self, request_id: str) -> list[dict[str, Any]]:
        """A request's events, as of `request_events`; none where the ledger does not know it."""
        self._follow()
        if request_id not in self._asked:
            return []
        return request_events(LedgerReader(self.store), {request_id}).get(request_id, [])

    def standings(self) -> list[Standing]:
        """As of `standings`."""
        return self._standings()

    def counts(self) -> Counts:
        """What the metrics say."""
        return self._counts()

    def _stand(self) -> list[Standing]:
        with self._lock:
            return standings(self.store, self._inbox)

    def _follow_requests(self) -> None:
        columns = ["request_id", "event", "deadline", "at"]
        end = self._read_to["requests"]
        for row in self._reader.rows("requests", columns=columns, after=end):
            end = row[ENTRY]
            if row["event"] == "rejected":  # beside a request of the same id
                self._rejected += 1
                continue
            event, deadline = row["event"], row["deadline"]
            if event == "served" and deadline is not None and row["at"] > deadline:
                self._served_late += 1
            self._asked[row["request_id"]] = _Asked(event, deadline)
        self._read_to["requests"] = end

    def _count(self) -> Counts:
        with self._lock:
            waiting = self._inbox.entries()  # before the ledger, as in `standings`
        self._follow()
        end = self._read_to["runs"]
        for row in self._reader_of_runs().rows("runs", columns=["run_id", "method", "event"], after=end):
            end = row[ENTRY]
            outcome = row["event"] if row["event"] in ("published", "failed") else "under_way"
            self._runs[row["run_id"]] = row["method"], outcome
        self._read_to["runs"] = end
        asked = dict(self._asked)
        new = [w.entry for w in waiting if w.request_id not in asked]
        still = [entry for entry in new if isinstance(entry, Request)]
        by_status = Counter(each.event for each in asked.values())
        by_status["waiting"] = len(still)
        by_status["rejected"] = self._rejected + len(new) - len(still)
        open_ = [each.deadline for each in asked.values() if each.event in ("received", "planned")]
        open_ += [entry.deadline for entry in still]
        failed = [each.deadline for each in asked.values() if each.event == "failed"]
        return Counts(
            by_status=by_status,
            deadlines=tuple(d for d in open_ if d is not None),
            overdue=tuple(d for d in failed if d is not None),
            served_late=self._served_late,
            runs=Counter(self._runs.values()),
            entries=LedgerReader(self.store).last_entry,
        )

    def _reader_of_runs(self) -> LedgerReader:
        """A reader of its own: that of the requests is in use by other threads."""
        return LedgerReader(self.store)
