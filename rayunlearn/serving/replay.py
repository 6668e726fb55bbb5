"""A request run again from the version before, by the ledger's settings and seed: do the same bits come out?

The strongest evidence there is that an algorithm ran: whoever has the version before and the software finds
the version after by computing. Bits are promised on one CPU configuration (instruction set, threads).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rayunlearn.errors import BadInput, NotVerified
from rayunlearn.execution import torch_process
from rayunlearn.execution.machine import code_version
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.ledger.lineage import request_events, versions
from rayunlearn.ledger.submission import request_of
from rayunlearn.lineages.context import Context
from rayunlearn.methods.registry import method_named
from rayunlearn.recipes import Recipe
from rayunlearn.serving.banks import BANKS
from rayunlearn.serving.generators import GENERATORS
from rayunlearn.serving.grants import grant
from rayunlearn.serving.scheduler import Scheduler
from rayunlearn.storage.folder import Memory
from rayunlearn.storage.store import Store
from rayunlearn.unlearning.executor import InlineExecutor
from rayunlearn.unlearning.progress import Progress
from rayunlearn.unlearning.requested import run_seed


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What came of running a request again.

    Attributes:
        run: id of the run that was repeated.
        before: version that it began from.
        expected: version that the certificate names.
        version: version that came out; None where the run ended without one.
        reason: why it ended so.
        code: of the run and of now.
    """

    run: str
    before: str
    expected: str
    version: str | None
    reason: str | None
    code: tuple[str | None, str]

    @property
    def is_same(self) -> bool:
        """Whether the same bits came out."""
        return self.version == self.expected


def replay(
    store: Store, certificate: Mapping[str, Any], *, seed: int, threads: int, progress: Progress
) -> Replayed:
    """Run a certificate's request again, in this process; nothing is written to the storage location.

    Args:
        store: with the ledger, and with the version before where it is kept.
        certificate: as its JSON has it.
        seed: root of every draw, with which the storage location was begun.
        threads: torch threads, as each process of the run had.
        progress: told how far it is.

    Raises:
        NotVerified: the ledger says otherwise than the certificate.
        BadInput: it cannot be run again: nothing was served, the version before is not kept, or seed or
            settings are not those of the run.
    """
    rows = _rows(store, certificate)
    first, expected = rows[0], certificate["versions"]["after"]["version"]
    recipe = _recipe(first)
    ids, attempt, lineage = first["request_ids"], first["attempt"], first["lineage"]
    if run_seed(seed, lineage, ids, attempt) != first["seed"]:
        raise BadInput("--seed", seed, "the seed that the storage location was begun with")
    if "training_log" in method_named(recipe.method).data_access:
        allowed = "one that is not handed the training log, of which each run takes away what it forgets"
        raise BadInput("method of the run", recipe.method, allowed)
    replica = _replica(store, lineage, first["parent_version"])
    events = request_events(LedgerReader(store), ids)
    torch_process.set_up(threads)
    context = Context(
        store=replica, ledger=Ledger(replica), recipe=recipe, seed=seed, clock=lambda: datetime.now(UTC),
        progress=progress,
    )  # fmt: skip
    scheduler = Scheduler(context, open_executor=InlineExecutor, placement="inline", grant=grant)
    outcome = scheduler.serve(*(request_of(events[request_id][0]) for request_id in ids), attempt=attempt)
    return Replayed(
        run=first["run_id"],
        before=first["parent_version"],
        expected=expected,
        version=outcome.version,
        reason=outcome.reason,
        code=(first["code"], code_version()),
    )


def _rows(store: Store, certificate: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The run's rows, which say what the certificate says."""
    try:
        status, run, after = certificate["status"], certificate["run"], certificate["versions"]["after"]
        told = (run and (run["config_hash"], run["seeds"]["run"]), after and after["version"])
    except (KeyError, TypeError) as error:
        allowed = f"an erasure certificate's JSON ({error!r})"
        raise BadInput("CERTIFICATE", sorted(certificate)[:5], allowed) from error
    if status != "served" or run is None or after is None:
        raise BadInput("status of the request", status, "'served': what was published can come out again")
    rows: list[dict[str, Any]] = LedgerReader(store).read("runs", run_id=run["run_id"]).to_pylist()
    published = [row["version"] for row in rows if row["event"] == "published"]
    if not rows:
        raise NotVerified("claims", f"the ledger has no run {run['run_id']!r}")
    if told != ((rows[0]["config_hash"], str(rows[0]["seed"])), published[-1] if published else None):
        raise NotVerified("claims", f"settings, seed or version of {run['run_id']!r} are not the ledger's")
    return rows


def _recipe(row: Mapping[str, Any]) -> Recipe:
    """The settings of a run, to the hash."""
    try:
        recipe: Recipe = TypeAdapter(Recipe).validate_python(json.loads(row["config"]))
        found = recipe.config_hash
    except (ValidationError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise BadInput("settings of the run", row["config"], f"those of this version ({first})") from error
    if found != row["config_hash"]:
        allowed = f"{row['config_hash']}: this version of rayunlearn reads the settings otherwise"
        raise BadInput("hash of the settings", found, allowed)
    return recipe


def _replica(store: Store, lineage: str, version: str) -> Store:
    """A location in memory that ends with a version: its row, its weights, and what was handed on with it."""
    before = next((v for v in versions(LedgerReader(store), lineage) if v.version == version), None)
    if before is None or not store.exists(before.path):
        allowed = "one whose weights are kept, as a job with --keep does"
        raise BadInput("version before", version, allowed)
    replica = Store(Memory(), "replay")
    beside = [f"{kind}/{lineage}" for kind in (BANKS, GENERATORS)]
    names = [name for folder in beside for name in store.list(folder) if f"/{version}-" in name]
    for name in [before.path, *names, *store.list("examples")]:
        replica.put(name, store.get(name))
    rows = LedgerReader(store).read("versions", lineage=lineage, version=version, event="published")
    Ledger(replica).append("versions", [rows.to_pylist()[-1] | {"parent": None}])
    return replica
