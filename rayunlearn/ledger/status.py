"""Where every request stands: those of the inbox and those of the ledger in one list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import request_events, status, waits
from rayunlearn.scheduling.requests import Request
from rayunlearn.storage.inbox import Inbox, Waiting
from rayunlearn.storage.store import Store

OPEN = ("waiting", "received", "planned")
"""What a request is that is still to be served; nobody has taken in yet what is "waiting"."""
CLOSED = ("served", "failed", "rejected", "cancelled")
"""What it is for good."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A request, or a line or file that was none.

    Attributes:
        request_id: or under what a rejection is filed.
        status: one of `OPEN` or `CLOSED`.
        lineage, kind, target, whole_classes, deadline, priority, method: as asked, as far as that could be
            read.
        received_at: the time of receipt.
        run_id: of its last run.
        reason: why it was rejected, why it failed, or why it would not have been published.
        cancelling: whether somebody wants it cancelled and nobody has done so yet.
    """

    request_id: str
    status: str
    lineage: str | None
    kind: str | None
    target: tuple[int | str, ...]
    whole_classes: bool
    deadline: datetime | None
    priority: int
    method: str | None
    received_at: datetime | None
    run_id: str | None = None
    reason: str | None = None
    cancelling: bool = False


def standings(store: Store, inbox: Inbox | None = None) -> list[Standing]:
    """Every request, in the order of receipt. A rejection stands beside the request that has its id.

    Args:
        store: the storage location.
        inbox: of it, where somebody keeps one, so that no file is read twice.
    """
    inbox, reader = inbox or Inbox(store), LedgerReader(store)
    cancelling = {wish.request_id for wish in inbox.cancellations()}
    entries = inbox.entries()  # before the ledger: what is taken in meanwhile is found there
    events = request_events(reader)
    found = [_recorded(rows, rows[0]["request_id"] in cancelling) for rows in events.values()]
    rejected = reader.read("requests", event="rejected").to_pylist()
    found += [_recorded([row], False) for row in rejected]
    found += [_waiting(w, w.request_id in cancelling) for w in entries if w.request_id not in events]
    return sorted(found, key=lambda s: s.received_at or datetime.max.replace(tzinfo=UTC))


def standing_of(store: Store, request_id: str) -> Standing | None:
    """The request of this id, or the last rejection under it; None where there is neither."""
    inbox = Inbox(store, with_examples=False)
    waiting = inbox.find(request_id)  # before the ledger, as in `standings`
    cancelling = inbox.is_cancelling(request_id)
    reader = LedgerReader(store)
    rows = request_events(reader, {request_id}).get(request_id)
    if rows:
        return _recorded(rows, cancelling)
    if waiting is not None:
        return _waiting(waiting, cancelling)
    rejected = reader.read("requests", request_id=request_id, event="rejected").to_pylist()
    return _recorded(rejected[-1:], False) if rejected else None


def _recorded(rows: Sequence[Mapping[str, Any]], cancelling: bool) -> Standing:
    first, last = rows[0], rows[-1]
    return Standing(
        request_id=first["request_id"],
        status=status(rows),
        lineage=first["lineage"],
        kind=first["kind"],
        target=tuple(first["target"] or ()),
        whole_classes=bool(first["whole_classes"]),
        deadline=first["deadline"],
        priority=first["priority"] or 0,
        method=first["method"],
        received_at=first["received_at"],
        run_id=next((row["run_id"] for row in reversed(rows) if row["run_id"]), None),
        reason=last["reason"],
        cancelling=cancelling and waits(rows),
    )


def _waiting(waiting: Waiting, cancelling: bool) -> Standing:
    entry = waiting.entry
    asked = entry if isinstance(entry, Request) else None
    return Standing(
        request_id=waiting.request_id,
        status="waiting" if asked else "rejected",
        lineage=entry.lineage,
        kind=entry.kind,
        target=(*entry.target, *(asked.names if asked else ())),
        whole_classes=bool(asked and asked.whole_classes),
        deadline=asked.deadline if asked else None,
        priority=asked.priority if asked else 0,
        method=asked.method if asked else None,
        received_at=(asked.received_at if asked else None) or waiting.added_at,
        reason=None if isinstance(entry, Request) else entry.reason,
        cancelling=cancelling and asked is not None,
    )
