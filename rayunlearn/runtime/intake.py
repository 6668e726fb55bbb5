"""Taking requests in: a file's lines, each checked whole before anything runs, and recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rayunlearn.errors import BadInput
from rayunlearn.methods.registry import require_access, require_granularity
from rayunlearn.results.ledger import LedgerReader
from rayunlearn.results.lineage import request_events, status, versions
from rayunlearn.roles import Roles
from rayunlearn.runtime.examples import PREFIX
from rayunlearn.runtime.requested import request_row, roles_of
from rayunlearn.scheduling.requests import Rejected, Request, check, parse_requests, same_request


@dataclass(frozen=True, kw_only=True)
class Intake:
    """Requests of a file, sorted by what is to be done with them.

    Attributes:
        pending: to be served, in order.
        done: served or failed before, under the same settings.
        rejected: with the reason.
        failed: those of `done` that failed.
    """

    pending: tuple[Request, ...]
    done: tuple[Request, ...]
    rejected: tuple[Rejected, ...]
    failed: tuple[Request, ...] = ()


def read_requests(path: str | Path) -> list[Request | Rejected]:
    """The lines of a requests file; examples are looked for from where it is.

    Raises:
        BadInput: the file cannot be read, is not UTF-8 text, or holds no request.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise BadInput("--requests", str(path), f"a readable file ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise BadInput("--requests", str(path), f"UTF-8 text (byte {error.start} is not)") from error
    entries = parse_requests(text, str(path))
    if not entries:
        raise BadInput("--requests", str(path), "a file with at least one request, one JSON object a line")
    return [_from_here(entry, Path(path).parent) for entry in entries]


def _from_here(entry: Request | Rejected, folder: Path) -> Request | Rejected:
    if isinstance(entry, Rejected) or entry.examples is None or entry.examples.startswith(PREFIX):
        return entry
    return replace(entry, examples=str(folder / entry.examples))


def take_in(
    reader: LedgerReader,
    entries: Sequence[Request | Rejected],
    *,
    method: str,
    num_classes: int,
    check_samples: Callable[[Roles], None],
    read_examples: Callable[[Request], str],
    config_hash: str,
    now: datetime,
) -> tuple[Intake, list[dict[str, Any]]]:
    """Sort a file's requests, and say what is to be recorded of them.

    A request is checked against what its lineage will have forgotten by its turn, if all before it are
    served.

    Args:
        reader: of what was recorded before.
        entries: lines of the file, in order.
        method: that will serve them.
        num_classes: of a lineage that has no version yet.
        check_samples: refuses single samples that cannot be forgotten; asked where data may be read.
        read_examples: takes a request's examples in and says by which reference they are kept.
        config_hash: of the settings; a request that failed under others is tried again.
        now: the time of receipt of what has none.

    Returns:
        The requests by what is to be done with them, and rows for the requests table.
    """
    pending: list[Request] = []
    done: list[Request] = []
    failed: list[Request] = []
    rejected: list[Rejected] = []
    rows = []
    events = request_events(reader)
    forgotten: dict[str, dict[str, set[int]]] = {}
    for entry in entries:
        if isinstance(entry, Rejected):
            rejected.append(entry)
            continue
        chain = versions(reader, entry.lineage)
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
            entry = _with_examples(entry, before, read_examples)
        except BadInput as error:
            rejected.append(_refused(entry, error))
            continue
        again = bool(before) and same_request(entry, _request_of(before[0]))
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
            require_granularity(method, entry.kind)
            require_access(method, entry.data_access)
            check(
                entry,
                num_classes=classes,
                forgotten=sorted(gone["classes"]),
                samples_forgotten=gone["samples"],
                served_ids=() if again else tuple(events),
            )
            check_samples(roles_of(entry, classes, gone["classes"], gone["samples"]))
        except BadInput as error:
            rejected.append(_refused(entry, error))
            continue
        gone["classes"] |= set(entry.classes)
        gone["samples"] |= set(entry.target if entry.kind == "samples" else ())
        pending.append(entry)
        if not before:
            rows.append(request_row(entry, "received", now))
    intake = Intake(
        pending=tuple(pending), done=tuple(done), rejected=tuple(rejected), failed=tuple(failed)
    )
    return intake, rows + _rejections(reader, rejected, now)


def _with_examples(
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


def _refused(request: Request, error: BadInput) -> Rejected:
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
    reader: LedgerReader, rejected: Sequence[Rejected], now: datetime
) -> list[dict[str, Any]]:
    """Rows for the rejections that are not recorded yet."""
    known = {(r["request_id"], r["reason"]) for r in reader.read("requests", event="rejected").to_pylist()}
    return [
        {
            "request_id": name_of(bad),
            "lineage": bad.lineage,
            "kind": bad.kind,
            "target": list(bad.target),
            "received_at": now,
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


def _request_of(row: Mapping[str, Any]) -> Request:
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
    )
