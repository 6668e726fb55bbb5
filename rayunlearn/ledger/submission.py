"""Asking for an erasure and taking that back: what `rayunlearn request` and the HTTP front door both call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rayunlearn.declared import Declares, require_access, require_granularity
from rayunlearn.errors import BadInput, nearest
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import Version, status, versions
from rayunlearn.ledger.status import OPEN, standings
from rayunlearn.scheduling.class_names import numbered_classes
from rayunlearn.scheduling.requests import Request, differences, same_request
from rayunlearn.storage.inbox import IdTaken, Inbox
from rayunlearn.storage.store import Store


class UnknownRequest(BadInput):
    """There is no request of this id."""


class NotOpen(BadInput):
    """A request is closed, so that nothing about it can be changed any more."""


@dataclass(frozen=True, kw_only=True)
class Acknowledged:
    """A request that is safe in the storage location.

    Attributes:
        request: with its examples by reference, and classes by number where their names are known.
        known: its status in the ledger, where that knew it before; None where it waits in the inbox.
    """

    request: Request
    known: str | None


def acknowledge(
    store: Store,
    request: Request,
    before: Sequence[Mapping[str, Any]],
    *,
    methods: Mapping[str, Declares],
    read: Callable[[Request], tuple[str, bytes]],
    now: datetime,
) -> Acknowledged:
    """Add a request that is not known yet; it is durable when this returns.

    Args:
        store: the storage location.
        request: what is asked.
        before: events of this id in the ledger, looked up after the request came.
        methods: by name.
        read: takes the request's examples; gives the reference and what it is to.
        now: the time of receipt.

    Raises:
        IdTaken: its id is that of another, or of one that was cancelled.
        BadInput: it can never be served.
    """
    if request.method is not None:
        require_granularity(methods, request.method, request.kind)
        require_access(methods, request.method, request.data_access)
    chain = versions(LedgerReader(store), request.lineage) if request.names else []
    if chain and (known := chain[0].model.get("class_names")):
        request = numbered_classes(request, known)  # else the scheduler does, which knows its data
    handed: dict[str, bytes] = {}

    def keep(of: Request) -> str:
        said, handed["examples"] = read(of)
        return said

    request = with_examples(request, before, keep)
    if before:
        _require_known(request, before)
        return Acknowledged(request=request, known=status(before))
    Inbox(store).add(request, now=now, examples=handed.get("examples"))
    return Acknowledged(request=request, known=None)


def _require_known(request: Request, before: Sequence[Mapping[str, Any]]) -> None:
    """Refuse an id that the ledger knows of another request, or of one that was cancelled."""
    recorded = request_of(before[0])
    if not same_request(request, recorded):
        said = differences(recorded, request)
        allowed = f"an id of its own; the request that was received under it has {said}"
        raise IdTaken("request_id", request.request_id, allowed)
    if status(before) == "cancelled":
        raise IdTaken("request_id", request.request_id, "another id; the request of this one was cancelled")


def require_begun(chain: Sequence[Version], lineage: str) -> Version:
    """The last version of a lineage, which says what examples look like.

    Raises:
        BadInput: it has none.
    """
    if not chain:
        allowed = "a lineage with a version, which says what examples look like; have it serve a first "
        allowed += "request by classes or samples, or give the examples to a job by its --requests"
        raise BadInput("lineage", lineage, allowed)
    return chain[-1]


def cancel(store: Store, request_id: str, *, now: datetime) -> str:
    """Ask that a request be not served; returns what becomes of that.

    Raises:
        UnknownRequest: naming the nearest ids that wait.
        NotOpen: it is closed, and not by a cancellation.
    """
    # a rejected line may have had the id of a request, which counts
    found = {s.request_id: s for s in sorted(standings(store), key=lambda s: s.status != "rejected")}
    if request_id not in found:
        waiting = [s.request_id for s in found.values() if s.status in OPEN]
        allowed = f"the id of a request that waits: {nearest(request_id, waiting) or 'none does'}"
        raise UnknownRequest("request", request_id, allowed)
    standing = found[request_id]
    if standing.status == "cancelled":
        return "it was cancelled before"
    if standing.status not in OPEN:
        raise NotOpen("request", request_id, f"one that waits; this one {_past(standing.status)}")
    Inbox(store).cancel(request_id, now=now)
    return "a scheduler leaves it out, unless it has served it by then"


def _past(status: str) -> str:
    return "has failed" if status == "failed" else f"was {status}"


def with_examples(
    request: Request, before: Sequence[Mapping[str, Any]], read: Callable[[Request], str]
) -> Request:
    """A request with its examples by reference, as the ledger has it.

    Of a request that is known the files may be gone, as they should be once it was served: then what was
    taken in at first counts.

    Raises:
        BadInput: the examples of a new request cannot be taken in.
    """
    if request.kind != "examples":
        return request
    try:
        return replace(request, examples=read(request))
    except BadInput:
        if not before or before[0]["examples"] is None:
            raise
        return replace(request, examples=before[0]["examples"])


def request_of(row: Mapping[str, Any]) -> Request:
    """The request that an event row says; the time of receipt is left out, as in `same_request`."""
    return Request(
        request_id=row["request_id"],
        lineage=row["lineage"],
        kind=row["kind"],
        target=tuple(row["target"]),
        deadline=row["deadline"],  # may have passed when it was received
        data_access=tuple(row["data_access"]),
        examples=row["examples"],
        whole_classes=bool(row["whole_classes"]),  # none in entries that are older than the column
        priority=row["priority"] or 0,
        method=row["method"],
    )
