"""A request in its lineage: who plays which part in it, and the seed of its run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from rayunlearn.errors import BadInput
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
