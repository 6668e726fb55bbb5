"""Where sweeps keep what they need to go on, and what is left of it."""

from __future__ import annotations

from rayunlearn.ledger.sweeps import trial_run
from rayunlearn.lineages.runs import RunFiles
from rayunlearn.storage.store import Store

SETS = "sets"
"""Synthetic sets that a version's sweeps share."""


def trial_files(store: Store, sweep: str, trial: str) -> RunFiles:
    """Where a trial keeps what it needs to go on."""
    return RunFiles(store, trial_run(sweep, trial))


def chosen_only(files: RunFiles, step: int | None) -> None:
    """Throw away a trial's files but the student of the chosen checkpoint, where there is one."""
    kept = None if step is None else files.student_name(step)
    for name in files.store.list(files.root):
        if name != kept:
            files.store.delete(name)


def purge_trials(store: Store, sweep: str) -> None:
    """Throw away all that the trials of a sweep keep."""
    for name in store.list("runs"):
        if name.startswith(f"runs/{sweep}."):
            store.delete(name)
