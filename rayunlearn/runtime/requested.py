"""A request in its lineage: who plays which part in it, the seed of its run, and its row in the ledger."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayunlearn.errors import BadInput
from rayunlearn.recipes import DataSettings
from rayunlearn.results.ledger import LedgerReader
from rayunlearn.results.lineage import Version
from rayunlearn.roles import Roles
from rayunlearn.scheduling.requests import Request
from rayunlearn.seeds import derive_seed


def roles_of(
    request: Request, num_classes: int, classes_forgotten: Collection[int], samples_forgotten: Collection[int]
) -> Roles:
    """Who plays which part in a request, after all that its lineage has forgotten before."""
    classes = request.target if request.kind == "classes" else ()
    return Roles(
        retain=tuple(c for c in range(num_classes) if c not in {*classes_forgotten, *classes}),
        target=classes,
        forgotten=tuple(sorted(classes_forgotten)),
        target_samples=request.target if request.kind == "samples" else (),
        forgotten_samples=tuple(sorted(samples_forgotten)),
        erased=request.target if request.kind == "examples" else (),
    )


def coalesced(requests: Sequence[Request]) -> Request:
    """What requests of one lineage ask for together, under the first one's id; one alone as it is.

    Raises:
        BadInput: no request, requests of several lineages or kinds, an id twice, or requests by examples:
            each of those has examples of its own.
    """
    if not requests:
        raise BadInput("requests of a run", [], "at least one")
    first, ids = requests[0], [request.request_id for request in requests]
    if len(set(ids)) < len(ids):
        raise BadInput("requests of a run", ids, "each request once")
    if len(requests) == 1:
        return first
    if {(r.lineage, r.kind) for r in requests} != {(first.lineage, first.kind)} or first.kind == "examples":
        allowed = "several of one lineage that all name classes, or all name samples"
        told = [f"{r.request_id} ({r.kind} of {r.lineage})" for r in requests]
        raise BadInput("requests of a run", told, allowed)
    target = sorted({thing for request in requests for thing in request.target})
    return replace(first, target=tuple(target))


def run_seed(root: int, lineage: str, request_ids: Sequence[str], attempt: int) -> int:
    """The seed of every draw of a run; requests served together are a set."""
    return derive_seed(root, lineage, *sorted(request_ids), attempt)


def require_same_seed(reader: LedgerReader, root: int, where: str) -> None:
    """A run goes on with its own draws, and an audit tests on what its original did not train on.

    Raises:
        BadInput: the storage location was begun with another seed.
    """
    columns = ["lineage", "request_ids", "attempt", "seed"]
    for row in reader.read("runs", columns=columns, event="started").to_pylist():
        if row["seed"] != run_seed(root, row["lineage"], row["request_ids"], row["attempt"]):
            raise BadInput(
                "--seed", root, f"the seed that {where} was begun with; another takes another --storage"
            )


def data_of(data: DataSettings, version: Version) -> DataSettings:
    """The data of a version's lineage: other samples, or another split, are refused where they are opened.

    A lineage that began before its data were recorded takes any.
    """
    return data if version.data_hash is None else replace(data, sha256=version.data_hash)


def request_row(request: Request, event: str, now: datetime, **columns: Any) -> dict[str, Any]:
    """A row of the requests table; a request without a time of receipt was received now."""
    return {
        "request_id": request.request_id,
        "lineage": request.lineage,
        "kind": request.kind,
        "target": list(request.target),
        "received_at": request.received_at or now,
        "deadline": request.deadline,
        "data_access": list(request.data_access),
        "examples": request.examples,
        "whole_classes": request.whole_classes,
        "priority": request.priority,
        "method": request.method,
        "event": event,
        "at": now,
        **columns,
    }
