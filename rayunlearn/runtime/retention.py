"""What is kept after publication, and what is thrown away."""

from __future__ import annotations

from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.results.ledger import Ledger, LedgerReader
from rayunlearn.results.lineage import request_events, status, versions
from rayunlearn.results.store import Store
from rayunlearn.runtime.banks import purge_banks
from rayunlearn.runtime.context import Clock
from rayunlearn.runtime.examples import purge_examples
from rayunlearn.runtime.generators import PRETRAINED, purge_generators
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

    The files of closed runs go (generators, checkpoints, synthetic images), the examples of closed requests,
    and the weights and images of every version that a later one of its lineage supersedes. A generator that
    was trained on the data goes with the first class that is forgotten. Returns the versions purged now.
    """
    reader = LedgerReader(store)
    events = request_events(reader).values()
    purge_examples(store, {str(e[0]["examples"]) for e in events if status(e) not in ("served", "failed")})
    for row in reader.read("runs").to_pylist():
        if row["event"] in ("published", "failed"):
            RunFiles(store, row["run_id"]).purge()
    purged = []
    for lineage in sorted(set(reader.read("versions").column("lineage").to_pylist())):
        latest = {r["version"]: r for r in reader.read("versions", lineage=lineage).to_pylist()}
        chain = versions(reader, lineage)
        purge_banks(store, lineage, keep=chain[-1].version)
        purge_generators(store, lineage, keep=chain[-1].version)
        if chain[-1].classes_forgotten and store.exists(PRETRAINED):
            store.delete(PRETRAINED)
        for version in chain[:-1]:
            if store.exists(version.path):
                store.delete(version.path)
            if latest[version.version]["event"] != "purged":
                ledger.append("versions", [latest[version.version] | {"event": "purged", "at": clock()}])
                purged.append(version.version)
    return purged
