"""What is kept after publication, and what is thrown away."""

from __future__ import annotations

import torch

from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.inversion.unlearning_set import in_part
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.ledger.lineage import OpenRequests, request_events, status, versions
from rayunlearn.lineages.beside_versions import purge_beside
from rayunlearn.lineages.context import Clock
from rayunlearn.lineages.runs import RunFiles, kept_runs
from rayunlearn.lineages.sweep_files import SETS, purge_trials
from rayunlearn.serving.banks import BANKS
from rayunlearn.serving.examples import purge_examples
from rayunlearn.serving.generators import GENERATORS
from rayunlearn.storage.store import Store


def retain_images(store: Store, reader: LedgerReader, run: str) -> SyntheticSet | None:
    """A run's check set without the classes to forget, for the report; None where it was purged.

    Of a request by examples: without what is like them, and of each class from one chunk alone.
    """
    files = RunFiles(store, run)
    sets = files.synthetic()
    made = _unlike_examples(files, reader, run) if sets is None else sets["check"]
    if made is None:
        return None
    events = reader.read("requests", run_id=run).to_pylist()
    target = {c for row in events if row["kind"] == "classes" or row["whole_classes"] for c in row["target"]}
    return made.of([c for c in made.labels.unique().tolist() if c not in target])


def _unlike_examples(files: RunFiles, reader: LedgerReader, run: str) -> SyntheticSet | None:
    """Held-out samples of D' below the threshold; None before there is one, and where D' was purged."""
    thresholds = reader.read("evaluations", run_id=run, measure="threshold").column("value").to_pylist()
    kept = files.load("scores.pt")
    if kept is None or not thresholds:
        return None
    first: dict[int, int] = {}
    for label, chunk in kept["scores"]:
        first.setdefault(label, chunk)
    images, labels, looked_at = [], [], 0
    for label, chunk in first.items():
        scores = kept["scores"][label, chunk]
        found = files.chunks.get(label, chunk).first(len(scores))  # D' begins the chunk
        held = in_part(found.indices, "check")
        shown = held & (found.soft_labels.argmax(dim=1) == label) & (scores < thresholds[-1])
        images.append(found.images[shown])
        labels.append(torch.full((len(images[-1]),), label))
        looked_at += int(held.sum())
    return SyntheticSet(images=torch.cat(images), labels=torch.cat(labels), requested=looked_at)


def purge(store: Store, ledger: Ledger, clock: Clock) -> list[str]:
    """Throw away what still knows forgotten classes, leaving tombstones.

    The files of closed and cancelled runs go (generators, checkpoints, synthetic images), the examples of
    closed requests, and the weights, images, generators and trials of every version that a later one of its
    lineage supersedes.
    Returns the versions purged now.
    """
    reader = LedgerReader(store)
    purge_examples(store, {str(e[0]["examples"]) for e in OpenRequests(reader).events().values()})
    columns = ["run_id", "request_ids", "event"]
    rows = reader.read("runs", columns=columns, run_id=kept_runs(store)).to_pylist()
    asked = request_events(reader, {i for row in rows for i in row["request_ids"]})
    cancelled = {request_id for request_id, events in asked.items() if status(events) == "cancelled"}
    for row in rows:
        given_up = bool(row["request_ids"]) and cancelled.issuperset(row["request_ids"])
        if row["event"] in ("published", "failed") or given_up:
            RunFiles(store, row["run_id"]).purge()
    purged = []
    for lineage in _superseding(reader):
        latest = {r["version"]: r for r in reader.read("versions", lineage=lineage).to_pylist()}
        chain = versions(reader, lineage)
        for kind in (BANKS, GENERATORS, SETS):
            purge_beside(store, kind, lineage, keep=chain[-1].version)
        for sweep in {r["sweep"]: r for r in reader.read("sweeps", lineage=lineage).to_pylist()}.values():
            if sweep["version"] != chain[-1].version:
                purge_trials(store, sweep["sweep"])
        for version in chain[:-1]:
            if store.exists(version.path):
                store.delete(version.path)
            if latest[version.version]["event"] != "purged":
                ledger.append("versions", [latest[version.version] | {"event": "purged", "at": clock()}])
                purged.append(version.version)
    return purged


def _superseding(reader: LedgerReader) -> list[str]:
    """Lineages that have a superseded version without a tombstone."""
    events: dict[str, dict[str, set[str]]] = {}
    for row in reader.rows("versions", columns=["lineage", "version", "event"]):
        events.setdefault(row["lineage"], {}).setdefault(row["version"], set()).add(row["event"])
    return sorted(
        lineage
        for lineage, chain in events.items()
        if any("purged" not in found for found in list(chain.values())[:-1])
    )
