"""Taking requests in, from files and the inbox: each checked whole before anything runs, and recorded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rayunlearn.errors import BadInput
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.ledger.lineage import OpenRequests, Version, request_events, status, versions, waits
from rayunlearn.ledger.schemas import Row
from rayunlearn.ledger.submission import request_of, with_examples
from rayunlearn.lineages.requested import request_row
from rayunlearn.methods.registry import method_named, require_access, require_granularity
from rayunlearn.roles import Roles
from rayunlearn.scheduling.requests import (
    EXAMPLES_PREFIX,
    Rejected,
    Request,
    check,
    differences,
    parse_requests,
    same_request,
)
from rayunlearn.storage.inbox import Inbox
from rayunlearn.unlearning.requested import roles_of

MOST_BYTES = 64 * 2**20
"""Of a requests file."""


@dataclass(frozen=True, kw_only=True)
class Intake:
    """Requests of a file or of the inbox, sorted by what is to be done with them.

    Attributes:
        pending: to be served, in order.
        done: served or failed before, under the same settings.
        rejected: with the reason.
        failed: those of `done` that failed.
        cancelled: not to be served any more.
    """

    pending: tuple[Request, ...]
    done: tuple[Request, ...]
    rejected: tuple[Rejected, ...]
    failed: tuple[Request, ...] = ()
    cancelled: tuple[Request, ...] = ()

    def joined(self, later: Intake) -> Intake:
        """This intake and a later one as one; what both have stands once."""
        both = {f.name: (*getattr(self, f.name), *getattr(later, f.name)) for f in fields(Intake)}
        return Intake(**{name: tuple(dict.fromkeys(entries)) for name, entries in both.items()})


def read_requests(path: str | Path, flag: str = "--requests") -> list[Request | Rejected]:
    """The lines of a requests file, which a flag names; examples are looked for from where it is.

    Raises:
        BadInput: the file cannot be read, has more than `MOST_BYTES`, is not UTF-8 text, or holds no request.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise BadInput(flag, str(path), f"a file of at most {MOST_BYTES} bytes; this one has more")
        text = data.decode("utf-8")
    except OSError as error:
        raise BadInput(flag, str(path), f"a readable file ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise BadInput(flag, str(path), f"UTF-8 text (byte {error.start} is not)") from error
    except ValueError as error:
        raise BadInput(flag, str(path), f"the name of a file ({error})") from error
    entries = parse_requests(text, str(path))
    if not entries:
        raise BadInput(flag, str(path), "a file with at least one request, one JSON object a line")
    # absolute: the process that reads them works in a folder of its own
    return [_from_here(entry, Path(path).absolute().parent) for entry in entries]


def _from_here(entry: Request | Rejected, folder: Path) -> Request | Rejected:
    if isinstance(entry, Rejected) or entry.examples is None or entry.examples.startswith(EXAMPLES_PREFIX):
        return entry
    return replace(entry, examples=str(folder / entry.examples))


def take_in(
    reader: LedgerReader,
    entries: Sequence[Request | Rejected],
    *,
    method: str,
    num_classes: int,
    check_samples: Callable[[Roles, Version | None], None],
    read_examples: Callable[[Request], str],
    config_hash: str,
    now: datetime,
    received: Mapping[str, datetime] | None = None,
    check_lineage: Callable[[str], None] = lambda lineage: None,
    check_data: Callable[[str], None] = lambda method: None,
) -> tuple[Intake, list[Row]]:
    """Sort requests, and say what is to be recorded of them.

    A request is checked against what its lineage will have forgotten by its turn, if all before it are
    served. One that was accepted before and cannot be served now is told among the rejected, and nothing is
    recorded of that: it goes on waiting. So is one whose lineage cannot be served under these settings,
    though it is accepted now: a job with the lineage's own settings serves it.

    Args:
        reader: of what was recorded before.
        entries: the requests, in order.
        method: that will serve those that ask for none.
        num_classes: of a lineage that has no version yet.
        check_samples: refuses single samples that cannot be forgotten by a lineage with this last version,
            None where it has none; asked where data may be read.
        read_examples: takes a request's examples in and says by which reference they are kept.
        config_hash: of the settings; a request that failed under others is tried again.
        now: the time of receipt of what has none.
        received: times of receipt by request id, of requests that do not say it themselves.
        check_lineage: refuses a lineage that these settings do not fit.
        check_data: refuses a method that declares data which are not there.

    Returns:
        The requests by what is to be done with them, and rows for the requests table.
    """
    pending: list[Request] = []
    done: list[Request] = []
    failed: list[Request] = []
    cancelled: list[Request] = []
    rejected: list[Rejected] = []
    accepted: list[Rejected] = []  # those of them that were received, before or now, and go on waiting
    rows: list[Row] = []
    received = received or {}
    chains: dict[str, list[Version]] = {}
    unfit: dict[str, BadInput | None] = {}
    events = request_events(reader, {e.request_id for e in entries if isinstance(e, Request)})
    forgotten: dict[str, dict[str, set[int]]] = {}
    for entry in entries:
        if isinstance(entry, Rejected):
            rejected.append(entry)
            continue
        if entry.lineage not in chains:
            chains[entry.lineage] = versions(reader, entry.lineage)
            unfit[entry.lineage] = _refusal(check_lineage, entry.lineage)
        chain = chains[entry.lineage]
        head = chain[-1] if chain else None
        gone = forgotten.setdefault(
            entry.lineage,
            {
                "classes": set(head.classes_forgotten if head else ()),
                "samples": set(head.samples_forgotten if head else ()),
            },
        )
        before = events.get(entry.request_id, [])
        try:
            entry = with_examples(entry, before, read_examples)
        except BadInput as error:
            rejected.append(refused(entry, error))
            continue
        again = bool(before) and same_request(entry, request_of(before[0]))
        if again and status(before) == "cancelled":
            cancelled.append(entry)
            continue
        if again and _is_closed(reader, before, config_hash):
            done.append(entry)
            if status(before) == "failed":
                failed.append(entry)
            continue
        if again and any(entry.request_id in version.request_ids for version in chain):
            pending.append(entry)  # published, but the driver was killed before it could say so
            continue
        classes = head.model["num_classes"] if head else num_classes
        try:
            own = method if entry.method is None else method_named(entry.method).name
            require_granularity(own, entry.kind)
            require_access(own, entry.data_access)
            check_data(own)
            check(
                entry,
                num_classes=classes,
                forgotten=sorted(gone["classes"]),
                samples_forgotten=gone["samples"],
                served_ids=() if again else tuple(events),
            )
            if unfit[entry.lineage] is None:  # other settings may have other data
                check_samples(roles_of(entry, classes, gone["classes"], gone["samples"]), head)
        except BadInput as error:
            rejected.append(refused(entry, error))
            if again and waits(before):
                accepted.append(rejected[-1])
            continue
        gone["classes"] |= set(entry.classes)
        gone["samples"] |= set(entry.target if entry.kind == "samples" else ())
        cannot = unfit[entry.lineage]
        if cannot is None:
            pending.append(entry)
        else:
            rejected.append(refused(entry, cannot))
            accepted.append(rejected[-1])
        if not before:
            # of lines that were received at once the order counts
            at = entry.received_at or received.get(entry.request_id, now + timedelta(microseconds=len(rows)))
            rows.append(request_row(entry, "received", now, received_at=at))
    intake = Intake(
        pending=tuple(pending), done=tuple(done), rejected=tuple(rejected), failed=tuple(failed),
        cancelled=tuple(cancelled),
    )  # fmt: skip
    return intake, rows + _rejections(reader, [r for r in rejected if r not in accepted], now, received)


Check = Callable[[Sequence[Request | Rejected], Mapping[str, datetime]], tuple[Intake, list[Row]]]
"""`take_in` as a service calls it: with requests in order and their times of receipt by id."""


Number = Callable[[Request | Rejected], Request | Rejected]
"""Puts numbers in the place of classes' names; a request with a name that there is not is rejected."""


def drain(
    inbox: Inbox,
    reader: LedgerReader,
    ledger: Ledger | None,
    check: Check,
    *,
    number: Number = lambda entry: entry,
    waiting: OpenRequests | None = None,
    first: Sequence[Request | Rejected] = (),
    under_way: Collection[str] = (),
    now: datetime,
) -> Intake:
    """Take in what is in the inbox; what waits is then known to the ledger, and the inbox is empty.

    The order is that of receipt: what the ledger knows to wait, then `first`, then the inbox. Killed at any
    point, it is to be called again, and nothing is lost nor recorded twice.

    Args:
        inbox: of the storage location.
        reader: of its ledger.
        ledger: its one appender; None writes nothing and leaves the inbox as it is.
        check: sorts requests, and says what is to be recorded of them.
        number: puts numbers in the place of classes' names.
        waiting: what the ledger knows to wait, where somebody keeps up with it.
        first: lines of a file.
        under_way: as for `carry_out_cancellations`.
        now: the time of the intake.

    Returns:
        All requests that wait, and what else became of those of `first` and of the inbox.
    """
    cancelled = carry_out_cancellations(inbox, reader, ledger, number=number, under_way=under_way, now=now)
    gone = {request.request_id for request in cancelled}
    entered = [w for w in inbox.entries() if w.request_id not in gone]
    first = [number(entry) for entry in first if entry.request_id not in gone]
    named = {entry.request_id: entry for entry in first if isinstance(entry, Request)}
    known = {
        request_id: request_of(events[0])
        for request_id, events in (waiting or OpenRequests(reader)).events().items()
        if request_id not in gone and request_id not in named
    }
    new = [_unless_known(number(w.entry), {**known, **named}) for w in entered]
    received = {w.request_id: w.added_at for w in entered if w.added_at is not None}
    entries = [*known.values(), *first, *(entry for entry in new if entry is not None)]
    intake, rows = check(entries, received)
    if ledger is not None:
        ledger.append("requests", rows)
        for w in entered:
            inbox.done(w.name)
    return replace(intake, cancelled=(*cancelled, *intake.cancelled))


def carry_out_cancellations(
    inbox: Inbox,
    reader: LedgerReader,
    ledger: Ledger | None,
    *,
    number: Number = lambda entry: entry,
    under_way: Collection[str] = (),
    now: datetime,
) -> list[Request]:
    """Cancel what was asked to be cancelled, in the inbox or in the ledger, as far as it still waits.

    Where a request was served or failed first, and where nobody knows it, nothing is left to cancel.

    Args:
        inbox: of the storage location.
        reader: of its ledger.
        ledger: its one appender; None writes nothing and leaves the inbox as it is.
        number: puts numbers in the place of classes' names.
        under_way: ids of requests whose run goes on, which is not disturbed: their cancellations wait for
            its end.
        now: the time that is recorded.

    Returns:
        The requests that are cancelled now.
    """
    wishes = [wish for wish in inbox.cancellations() if wish.request_id not in under_way]
    if not wishes:
        return []
    cancelled, rows, names = [], [], []
    events = request_events(reader, {wish.request_id for wish in wishes})
    for wish in wishes:
        before = events.get(wish.request_id, [])
        found = None if before else inbox.find(wish.request_id)
        if waits(before) and not _is_published(reader, before[0]):
            request, at = request_of(before[0]), before[0]["received_at"]
        elif found is not None and isinstance(entered := number(found.entry), Request):
            request, at = entered, entered.received_at or found.added_at
            rows.append(request_row(request, "received", now, received_at=at))
            names.append(found.name)
        else:
            names.append(wish.name)
            continue
        rows.append(request_row(request, "cancelled", now, received_at=at))
        names.append(wish.name)
        cancelled.append(request)
    if ledger is not None:
        ledger.append("requests", rows)
        for name in names:
            inbox.done(name)
    return cancelled


def _unless_known(entry: Request | Rejected, known: Mapping[str, Request]) -> Request | Rejected | None:
    """What the inbox adds to the requests that are known to wait; None where it is one of them."""
    if isinstance(entry, Rejected) or entry.request_id not in known:
        return entry
    other = known[entry.request_id]
    if same_request(entry, other):
        return None
    allowed = f"an id of its own; here is {differences(entry, other)}, which was received first"
    return refused(entry, BadInput("request_id", entry.request_id, allowed))


def _is_published(reader: LedgerReader, asked: Mapping[str, Any]) -> bool:
    """Whether a version serves a request, though the request's own events do not say so yet."""
    chain = versions(reader, asked["lineage"])
    return any(asked["request_id"] in version.request_ids for version in chain)


def _refusal(check: Callable[[str], None], lineage: str) -> BadInput | None:
    """Why a lineage is refused; None where it is not."""
    try:
        check(lineage)
    except BadInput as error:
        return error
    return None


def refused(request: Request, error: BadInput) -> Rejected:
    """The record of a request that is well formed and cannot be served; the reason names it."""
    where = error.where or f"request {request.request_id!r}"
    reason = BadInput(error.thing, error.value, error.allowed, where=where)
    return Rejected(
        line=0,
        request_id=request.request_id,
        lineage=request.lineage,
        kind=request.kind,
        target=request.target,
        reason=str(reason),
    )


def name_of(rejected: Rejected) -> str:
    """The id under which a rejection is recorded: the line's own, or its number."""
    return rejected.request_id or f"line-{rejected.line}"


def _rejections(
    reader: LedgerReader, rejected: Sequence[Rejected], now: datetime, received: Mapping[str, datetime]
) -> list[Row]:
    """Rows for the rejections that are not recorded yet."""
    if not rejected:
        return []
    rows = reader.read("requests", request_id={name_of(bad) for bad in rejected}, event="rejected")
    known = {(r["request_id"], r["reason"]) for r in rows.to_pylist()}
    return [
        {
            "request_id": name_of(bad),
            "lineage": bad.lineage,
            "kind": bad.kind,
            "target": list(bad.target),
            "received_at": received.get(name_of(bad), now),
            "event": "rejected",
            "at": now,
            "reason": bad.reason,
        }
        for bad in rejected
        if (name_of(bad), bad.reason) not in known
    ]


def _is_closed(reader: LedgerReader, events: list[dict[str, Any]], config_hash: str) -> bool:
    """Whether a request needs no run: served, or failed under the very same settings."""
    last = status(events)
    if last != "failed":
        return last == "served"
    rows = reader.read("runs", run_id=str(events[-1]["run_id"]), event="failed").to_pylist()
    return any(row["config_hash"] == config_hash for row in rows)
