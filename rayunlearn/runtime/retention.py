"""What is kept after publication, and what is thrown away."""

from __future__ import annotations

from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.results.ledger import Ledger, LedgerReader
from rayunlearn.results.lineage import versions
from rayunlearn.results.store import Store
from rayunlearn.runtime.banks import purge_banks
from rayunlearn.runtime.context import Clock
from rayunlearn.runtime.runs import RunFiles


def retain_images(store: Store, reader: LedgerReader, run: str) -> SyntheticSet | None:
    """A run's check set without the classes to forget, for the report; None where it was purged."""
    sets = RunFiles(store, run).synthetic()
    if sets is None:
        return None
    made = sets["check"]
    events = reader.read("requests", run_id=run, kind="classes").to_pylist()
    target = {c for row in events for c in row["target"]}
    return made.of([c for c in made.labels.unique().tolist() if c not in target])


def purge(store: Store, ledger: Ledger, clock: Clock) -> list[str]:
    """Throw away what still knows forgotten classes, leaving tombstones.

    The files of closed runs go (generators, checkpoints, synthetic images), and the weights and images of
    every version that a later one of its lineage supersedes. Returns the versions purged now.
    """
    reader = LedgerReader(store)
    for row in reader.read("runs").to_pylist():
        if row["event"] in ("published", "failed"):
            RunFiles(store, row["run_id"]).purge()
    purged = []
    for lineage in sorted(set(reader.read("versions").column("lineage").to_pylist())):
        latest = {r["version"]: r for r in reader.read("versions", lineage=lineage).to_pylist()}
        chain = versions(reader, lineage)
        purge_banks(store, lineage, keep=chain[-1].version)
        for version in chain[:-1]:
            if store.exists(version.path):
                store.delete(version.path)
            if latest[version.version]["event"] != "purged":
                ledger.append("versions", [latest[version.version] | {"event": "purged", "at": clock()}])
                purged.append(version.version)
    return purged
