"""What a service is doing now, as its storage location shows it to anybody: who holds it, and what runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rayunlearn.ledger.ledger import LedgerReader

_ENDS = {"runs": ("published", "failed"), "sweeps": ("finished", "failed")}
"""Per table, the events after which nothing more happens."""


@dataclass(frozen=True, kw_only=True)
class UnderWay:
    """A run or a sweep that has begun and has not ended.

    Attributes:
        kind: "run" or "sweep".
        id: of the run or the sweep.
        lineage: which model is to forget.
        request_ids: that the run is for; none of a sweep, which practises.
        method: by which it unlearns.
        began_at: when it began first.
        phase: that it has done last; None before the first and for a sweep.
        step: of its last checkpoint; None where there is none.
        last_at: the latest time that the ledger has of it.
    """

    kind: str
    id: str
    lineage: str
    request_ids: tuple[str, ...]
    method: str
    began_at: datetime
    phase: str | None = None
    step: int | None = None
    last_at: datetime


def under_way(reader: LedgerReader) -> list[UnderWay]:
    """Every run and sweep that has not ended, the oldest first.

    One whose scheduler is gone is among them: the next scheduler goes on with it.
    """
    columns = ["run_id", "lineage", "request_ids", "method", "event", "phase", "at"]
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for row in reader.rows("runs", columns=columns):
        runs.setdefault(row["run_id"], []).append(row)
    sweeps: dict[str, list[Mapping[str, Any]]] = {}
    for row in reader.rows("sweeps", columns=["sweep", "lineage", "method", "event", "at"]):
        sweeps.setdefault(row["sweep"], []).append(row)
    found = [
        _entry("run", name, rows, {"request_ids": tuple(rows[0]["request_ids"])})
        for name, rows in runs.items()
        if rows[-1]["event"] not in _ENDS["runs"]
    ]
    found += [
        _entry("sweep", name, rows, {"request_ids": ()})
        for name, rows in sweeps.items()
        if rows[-1]["event"] not in _ENDS["sweeps"]
    ]
    open_ids = frozenset(entry.id for entry in found)
    steps: dict[str, Mapping[str, Any]] = {}
    if open_ids:
        for row in reader.rows("checkpoints", columns=["run_id", "step", "at"], run_id=open_ids):
            steps[row["run_id"]] = row
    return sorted((_with_step(entry, steps.get(entry.id)) for entry in found), key=lambda e: e.began_at)


def _entry(kind: str, name: str, rows: list[Mapping[str, Any]], more: Mapping[str, Any]) -> UnderWay:
    done = [row["phase"] for row in rows if row.get("phase")]
    return UnderWay(
        kind=kind, id=name, lineage=rows[0]["lineage"], method=rows[0]["method"], began_at=rows[0]["at"],
        phase=done[-1] if done else None, last_at=rows[-1]["at"], **more,
    )  # fmt: skip


def _with_step(entry: UnderWay, checkpoint: Mapping[str, Any] | None) -> UnderWay:
    if checkpoint is None:
        return entry
    step = checkpoint["step"] if entry.kind == "run" else None  # trials of a sweep have steps of their own
    return UnderWay(**vars(entry) | {"step": step, "last_at": max(entry.last_at, checkpoint["at"])})
