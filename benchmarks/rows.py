"""Running a benchmark's rows to their end, from wherever an earlier run was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from rayunlearn.reproduction.zero_shot import Row
from rayunlearn.results.terminal import JobProgress
from rayunlearn.runtime.cluster import connect
from rayunlearn.runtime.reproduce import results_of, run_rows


def finished(rows: Sequence[Row], seeds: int, storage: Path, console: Console) -> list[dict[str, Any]]:
    """Every request of every row and seed; what an earlier run has done is read from the storage folder."""
    connect()
    root = storage.absolute()
    with JobProgress(console) as progress:
        failed = run_rows(root, rows, range(seeds), progress=progress)
    assert not failed, failed
    return [result for row in rows for seed in range(seeds) for result in results_of(root, row, seed)]
