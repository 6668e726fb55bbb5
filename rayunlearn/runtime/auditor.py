"""Which published runs are to be audited, by what gold models, and where the figures go.

The auditor writes its rows through the one appender; nobody who decides can read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from torch import Tensor

from rayunlearn.evaluation.synthetic import Roles
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.weights import version_id
from rayunlearn.results.ledger import LedgerReader
from rayunlearn.results.lineage import Version, versions
from rayunlearn.results.schemas import ALL_TABLES
from rayunlearn.runtime.audit import AuditInputs, audit_task
from rayunlearn.runtime.cluster import role_share
from rayunlearn.runtime.context import Context
from rayunlearn.runtime.runs import RunFiles
from rayunlearn.runtime.scheduler import load_version
from rayunlearn.runtime.training import TrainingJob, train_gold, train_original, training_job
from rayunlearn.seeds import derive_seed

Row = Mapping[str, Any]


class Auditor:
    """Audits what a storage location has published.

    Args:
        context: of the service.
        threads: torch threads of the gold models' workers.
    """

    def __init__(self, context: Context, *, threads: int) -> None:
        self.context = context
        self.reader = LedgerReader(context.store, ALL_TABLES)
        self.threads = threads

    def audit(self) -> None:
        """Measure every published run that has not been audited, on real data, in other processes."""
        audited = set(self.reader.read("audits").column("run_id").to_pylist())
        published = self.reader.read("runs", event="published").to_pylist()
        chains = {row["lineage"]: versions(self.reader, row["lineage"]) for row in published}
        of = {version.version: version for chain in chains.values() for version in chain}
        todo = [
            row
            for row in published
            # a run whose files were purged before anybody audited it can be audited no more
            if row["run_id"] not in audited and self.context.store.exists(of[row["version"]].path)
            and RunFiles(self.context.store, row["run_id"]).synthetic() is not None
        ]  # fmt: skip
        if not todo:
            return
        originals = {
            lineage: self._original(chains[lineage][0]) for lineage in {row["lineage"] for row in todo}
        }
        todo = [row for row in todo if originals[row["lineage"]] is not None]
        golds = self._golds([of[row["version"]] for row in todo])
        self.context.progress.phase("audit", f"measure {len(todo)} versions on real data")
        pending = []
        for row, gold in zip(todo, golds, strict=True):
            original = originals[row["lineage"]]
            assert original is not None
            pending.append(audit_task.remote(self._inputs(row, original, gold, of), 1))
        for row, answer in zip(todo, ray.get(pending), strict=True):
            stamp = {"run_id": row["run_id"], "lineage": row["lineage"], "at": self.context.clock()}
            rows = [{"version": row["version"], **measured, **stamp} for measured in answer]
            self.context.ledger.append("audits", rows)
        self.context.progress.done()

    def _original(self, first: Version) -> dict[str, Tensor] | None:
        """The lineage's first version; where it was purged, trained again if that gives the same bits."""
        if self.context.store.exists(first.path):
            return load_version(self.context.store, first)
        self.context.progress.phase("audit", "train the purged original again")
        weights = train_original(self._job(first), threads=self.threads)
        same = version_id(weights) == first.version
        self.context.progress.done("" if same else "not the same model: no audit")
        return weights if same else None

    def _job(self, version: Version, gold: int | None = None) -> TrainingJob:
        spec = ClassifierSpec.from_dict(version.model)
        excluded = version.classes_forgotten
        return training_job(self.context.recipe, spec, self.context.seed, excluded=excluded, gold=gold)

    def _golds(self, published: list[Version]) -> list[dict[str, Tensor]]:
        """A model retrained without the classes of each version, by one Ray Train run."""
        if not published:
            return []
        workers = self.context.recipe.audit.gold_workers
        self.context.progress.phase("audit", f"retrain {len(published)} gold models by Ray Train")
        golds = train_gold(
            [self._job(version, gold=0) for version in published],
            self.context.store.local_path("train"),
            workers=workers,
            cpus_per_worker=role_share(ray.cluster_resources().get("CPU", 0), workers),
            threads=self.threads,
        )
        self.context.progress.done()
        return golds

    def _inputs(
        self, row: Row, original: dict[str, Tensor], gold: dict[str, Tensor], of: Mapping[str, Version]
    ) -> AuditInputs:
        run, version = row["run_id"], of[row["version"]]
        spec = ClassifierSpec.from_dict(version.model)
        before = of[row["parent_version"]].classes_forgotten
        gone = version.classes_forgotten
        files = RunFiles(self.context.store, run)
        steps = sorted(set(self.reader.read("checkpoints", run_id=run).column("step").to_pylist()))
        (chosen, *_) = self.reader.read("evaluations", run_id=run, measure="chosen_step").to_pylist()
        return AuditInputs(
            spec=spec,
            roles=Roles(
                retain=tuple(c for c in range(spec.num_classes) if c not in gone),
                target=tuple(c for c in gone if c not in before),
                forgotten=before,
            ),
            original=original,
            unlearned=load_version(self.context.store, version),
            gold=gold,
            checkpoints={step: files.student(step) for step in steps},
            chosen=chosen["step"],
            fixed_step=self.context.recipe.audit.fixed_step,
            data=self.context.recipe.data,
            split_seed=derive_seed(self.context.seed, "split"),
            settings=self.context.recipe.audit,
            seed=derive_seed(self.context.seed, "audit", run),
        )
