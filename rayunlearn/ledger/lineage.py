"""Views of the ledger: the head of a lineage, and what became of each request."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayunlearn.ledger.compaction import ENTRY
from rayunlearn.ledger.ledger import LedgerReader


@dataclass(frozen=True, kw_only=True)
class Version:
    """A published version of a lineage.

    Attributes:
        version: SHA-256 of its weights.
        parent: the version it came from; None for an original.
        lineage: the chain it belongs to.
        path: name of its weights in the store.
        request_ids: served by it.
        run_id: that published it; None for an original.
        classes_forgotten: by this version and all before it.
        samples_forgotten: single samples, likewise: indices into the dataset.
        model: fields of its classifier spec.
        data_hash: of the samples and their split, as the lineage began; None where nobody recorded it.
    """

    version: str
    parent: str | None
    lineage: str
    path: str
    request_ids: tuple[str, ...]
    run_id: str | None
    classes_forgotten: tuple[int, ...]
    samples_forgotten: tuple[int, ...] = ()
    model: dict[str, Any]
    data_hash: str | None = None


def versions(reader: LedgerReader, lineage: str) -> list[Version]:
    """Every version that the lineage published, oldest first."""
    rows = reader.read("versions", lineage=lineage, event="published").to_pylist()
    found: dict[str, Version] = {}
    for row in rows:
        found[row["version"]] = Version(
            version=row["version"],
            parent=row["parent"],
            lineage=lineage,
            path=row["path"],
            request_ids=tuple(row["request_ids"]),
            run_id=row["run_id"],
            classes_forgotten=tuple(row["classes_forgotten"]),
            samples_forgotten=tuple(row["samples_forgotten"] or ()),
            model=json.loads(row["model"]),
            data_hash=row["data_hash"],
        )
    return list(found.values())


Events = dict[str, list[dict[str, Any]]]
"""Request id -> its rows in the ledger, in order."""


def request_events(reader: LedgerReader, ids: Collection[str] | None = None) -> Events:
    """Events of these requests, or of every one; a rejected line without an id is left out.

    A rejection does not touch an accepted request of the same id, so it is left out as well.
    """
    wanted: dict[str, Any] = {} if ids is None else {"request_id": frozenset(ids)}
    events: Events = {}
    for row in reader.rows("requests", **wanted):
        del row[ENTRY]
        if row["event"] != "rejected":
            events.setdefault(row["request_id"], []).append(row)
    return events


def runs_of(reader: LedgerReader, requests: Collection[str]) -> set[str]:
    """Ids of the runs of any of these requests; none where runs were not granted."""
    if "runs" not in reader.tables:
        return set()
    rows, wanted = reader.rows("runs", columns=["run_id", "request_ids"]), set(requests)
    return {row["run_id"] for row in rows if wanted & set(row["request_ids"])}


class OpenRequests:
    """The requests that wait; asked again, it reads only what has been appended since.

    Args:
        reader: of the ledger.
    """

    def __init__(self, reader: LedgerReader) -> None:
        self._reader = reader
        self._open: Events = {}
        self._read_to = 0

    def events(self) -> Events:
        """Events of every request that waits, by request id, in the order of receipt."""
        new: set[str] = set()
        before = end = self._read_to
        for row in self._reader.rows("requests", columns=["request_id", "event"], after=before):
            end = row[ENTRY]
            if row["event"] in WAITING:
                new.add(row["request_id"])
            elif row["event"] != "rejected":
                new.discard(row["request_id"])
                self._open.pop(row["request_id"], None)
        for row in self._reader.rows("requests", after=before, request_id=new):
            if row.pop(ENTRY) <= end and row["event"] != "rejected":
                events = self._open.setdefault(row["request_id"], [])
                events.append(row)
                if not waits(events):
                    del self._open[row["request_id"]]
        self._read_to = end
        return dict(self._open)


WAITING = ("received", "planned")
"""Events after which a request is still to be served."""


def waits(events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a request that was received is still to be served."""
    return bool(events) and events[-1]["event"] in WAITING


def status(events: Sequence[Mapping[str, Any]]) -> str:
    """The status of a request: its latest event."""
    return str(events[-1]["event"])
