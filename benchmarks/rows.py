"""Running a benchmark's rows to their end, from wherever an earlier run was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from papers.results import Result, arithmetic_of
from papers.run import cut_short, results_of, row_store, run_rows
from papers.zero_shot import Row
from rayunlearn.errors import BadInput
from rayunlearn.execution.cluster import connect
from rayunlearn.execution.machine import machine_facts
from rayunlearn.reports.terminal import JobProgress
from rayunlearn.storage.store import Store


def finished(rows: Sequence[Row], seeds: int, storage: Path, console: Console) -> list[dict[str, Any]]:
    """Every request of every row and seed; what an earlier run has done is read from the storage folder.

    All of one processor and instruction set, this one's: a figure is a mean over them.
    """
    connect()
    root = storage.absolute()
    with JobProgress(console) as progress:
        failed = run_rows(root, rows, range(seeds), progress=progress)
    found = [result for row in rows for seed in range(seeds) for result in results_of(root, row, seed)]
    failed |= {f"{r['row']}, seed {r['seed']}": r["failed"] for r in found if "failed" in r}  # earlier
    assert not failed, failed
    check_processor(found, processor())
    return found


def processor() -> str:
    """This one, as `arithmetic_of` names that of a result."""
    return arithmetic_of({"machine": machine_facts()})


def check_processor(found: Sequence[Result], here: str) -> None:
    """Refuse results of another processor than this one, as `arithmetic_of` names it.

    Raises:
        BadInput: naming the first.
    """
    for result in found:
        if (there := arithmetic_of(result)) != here:
            name = f"processor of {result['row']}, seed {result['seed']}"
            raise BadInput(name, there, f"{here}, this one's; name another --storage")


def endings(row: Row, seeds: int, storage: Path) -> dict[int, tuple[str, str]]:
    """Seed -> the request at which a row's sequence ended before its time, and why."""
    found = {seed: cut_short(Store.open(row_store(storage.absolute(), row, seed))) for seed in range(seeds)}
    return {seed: end for seed, end in found.items() if end is not None}
