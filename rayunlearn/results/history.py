"""The ledger as the plan reads it: what waits, where lineages stand, what runs took, left and failed at."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayunlearn.results.ledger import LedgerReader
from rayunlearn.results.lineage import request_events, versions
from rayunlearn.scheduling.costs import PastRun
from rayunlearn.scheduling.plan import Refusal
from rayunlearn.scheduling.queue import Lineage, RunUnderWay

_Row = Mapping[str, Any]

NO_LIKENESS = ("method", "name", "publish_refused", "audit")
"""Settings that make no run take longer or leave less."""


@dataclass(frozen=True, kw_only=True)
class History:
    """Of a storage location, as far as a plan goes by it.

    Attributes:
        lineages: by name.
        past: runs that have ended.
        refusals: of the requests that wait.
    """

    lineages: Mapping[str, Lineage]
    past: tuple[PastRun, ...]
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, kw_only=True)
class _Ended:
    """A run that has ended, with what is wanted of its rows."""

    run_id: str
    lineage: str
    parent: str
    request_ids: tuple[str, ...]
    method: str
    attempt: int
    recipe: str
    config_hash: str
    seconds: float
    version: str | None
    reason: str


def likeness(config: str) -> str:
    """What makes runs alike, whatever their method: a hash of the settings that a run can depend on.

    >>> likeness('{"method": "gkt", "data": 1}') == likeness('{"method": "retrain", "data": 1}')
    True
    """
    told = {key: value for key, value in json.loads(config).items() if key not in NO_LIKENESS}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def history(
    reader: LedgerReader,
    config: str,
    *,
    waiting: Collection[str],
    under_way: Mapping[str, RunUnderWay],
    config_hash: Callable[[str], str],
) -> History:
    """What a plan goes by.

    Args:
        reader: of the ledger; measurements on real data are not among what it may read.
        config: the service's recipe as JSON.
        waiting: ids of the requests that wait.
        under_way: lineage -> its run that has not ended.
        config_hash: method -> hash of the settings that it would have now: what was refused under others may
            be tried again.
    """
    ended = _ended(reader)
    targets = {i: events[0] for i, events in request_events(reader).items()}
    names = sorted(set(reader.read("versions").column("lineage").to_pylist()))
    chains = {name: versions(reader, name) for name in names}
    forgotten = {v.version: v.classes_forgotten for chain in chains.values() for v in chain}
    left = _left(reader)

    past = []
    for run in ended:
        gone = set(forgotten.get(run.version or "", ()))
        if run.version is None:
            asked = [targets[i] for i in run.request_ids if i in targets]
            wanted = {c for row in asked if row["kind"] == "classes" for c in row["target"]}
            gone = {*forgotten.get(run.parent, ()), *wanted}
        past.append(
            PastRun(
                method=run.method, recipe=run.recipe, forgotten=len(gone), seconds=run.seconds,
                passed=run.version is not None, kept=left.get(run.run_id),
            )
        )  # fmt: skip

    kept = {run.version: left.get(run.run_id) for run in ended if run.version is not None}
    retrained = {run.version for run in ended if run.version is not None and run.method == "retrain"}
    lineages = {}
    for name, chain in chains.items():
        share = 1.0
        for version in chain:
            own = kept.get(version.version)
            share = (1.0 if version.version in retrained else share) * (1.0 if own is None else own)
        head = chain[-1]
        lineages[name] = Lineage(
            name=name, version=head.version, recipe=likeness(config), num_classes=head.model["num_classes"],
            forgotten=frozenset(head.classes_forgotten), kept=share, under_way=under_way.get(name),
        )  # fmt: skip
    refusals = tuple(
        Refusal(request_ids=run.request_ids, method=run.method, attempt=run.attempt, reason=run.reason)
        for run in ended
        if run.version is None
        and set(run.request_ids) & set(waiting)
        and run.config_hash == config_hash(run.method)
    )
    return History(lineages=lineages, past=tuple(past), refusals=refusals)


def _ended(reader: LedgerReader) -> list[_Ended]:
    """Runs in the order in which they ended; of one that was resumed the phases add up."""
    by_run: dict[str, list[_Row]] = {}
    for row in reader.read("runs").to_pylist():
        by_run.setdefault(row["run_id"], []).append(row)
    found = []
    for run_id, rows in by_run.items():
        end = next((row for row in rows if row["event"] in ("published", "failed")), None)
        if end is not None:
            found.append((end["at"], _one(run_id, rows, end)))
    return [run for _, run in sorted(found, key=lambda pair: (pair[0], pair[1].run_id))]


def _one(run_id: str, rows: Sequence[_Row], end: _Row) -> _Ended:
    return _Ended(
        run_id=run_id,
        lineage=end["lineage"],
        parent=end["parent_version"],
        request_ids=tuple(end["request_ids"]),
        method=end["method"],
        attempt=end["attempt"],
        recipe=likeness(end["config"]),
        config_hash=end["config_hash"],
        seconds=sum(row["seconds"] or 0.0 for row in rows if row["event"] == "phase"),
        version=end["version"] if end["event"] == "published" else None,
        reason=end["reason"] or "",
    )


def _left(reader: LedgerReader) -> dict[str, float]:
    """Run -> its result's accuracy on the gate's retain images as a share of its parent's."""
    own: dict[str, dict[str, float]] = {}
    for row in reader.read("evaluations").to_pylist():
        if row["run_id"] and row["measure"] in ("retain_accuracy", "parent_retain_accuracy"):
            own.setdefault(row["run_id"], {})[row["measure"]] = row["value"]
    return {
        run: min(1.0, found["retain_accuracy"] / (found.get("parent_retain_accuracy") or 1.0))
        for run, found in own.items()
        if "retain_accuracy" in found
    }
