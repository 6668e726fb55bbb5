"""Views of the ledger: the head of a lineage, and what became of each request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayunlearn.results.ledger import LedgerReader


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
        )
    return list(found.values())


def request_events(reader: LedgerReader) -> dict[str, list[dict[str, Any]]]:
    """Events of every request, in order, by request id; a rejected line without an id is left out.

    A rejection does not touch an accepted request of the same id, so it is left out as well.
    """
    events: dict[str, list[dict[str, Any]]] = {}
    for row in reader.read("requests").to_pylist():
        if row["event"] != "rejected":
            events.setdefault(row["request_id"], []).append(row)
    return events


def waits(events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a request that was received is still to be served."""
    return bool(events) and events[-1]["event"] in ("received", "planned")


def status(events: Sequence[Mapping[str, Any]]) -> str:
    """The status of a request: its latest event."""
    return str(events[-1]["event"])
