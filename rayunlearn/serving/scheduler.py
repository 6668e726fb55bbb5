"""The scheduler: serves requests against the lineages of a storage location by one method."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence

from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import Version, versions
from rayunlearn.lineages.context import Context
from rayunlearn.methods.registry import require_access, require_granularity
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.weights import require_weights, version_id, weights_to_bytes
from rayunlearn.recipes import DataSettings
from rayunlearn.roles import Roles
from rayunlearn.scheduling.requests import Request, run_id
from rayunlearn.serving.grants import Granted, grant_by_task
from rayunlearn.serving.unlearning_run import Outcome, Run
from rayunlearn.unlearning.attempt import unchanged
from rayunlearn.unlearning.executor import Executor
from rayunlearn.unlearning.requested import coalesced


class Scheduler:
    """Serves requests against the lineages of one storage location.

    Args:
        context: of the service.
        open_executor: reserves a place for a run; called once a run.
        placement: its name, for the record.
        grant: reads the data that a run's method declares.
        pretrained: gives the generator that a method declares, trained elsewhere, for a version to unlearn
            from.
    """

    def __init__(
        self,
        context: Context,
        *,
        open_executor: Callable[[], Executor],
        placement: str,
        grant: Callable[[DataSettings, int, Roles, Collection[str]], Granted] = grant_by_task,
        pretrained: Callable[[Version], dict[str, Tensor]] | None = None,
    ) -> None:
        self.context = context
        self.open_executor = open_executor
        self.placement = placement
        self.grant = grant
        self.pretrained = pretrained
        self.config_hash = context.recipe.config_hash

    @property
    def reader(self) -> LedgerReader:
        """A new one, since runs side by side have nothing in common that changes.

        It reads no audits: nothing here may decide on real data.
        """
        return LedgerReader(self.context.store)

    def publish(
        self,
        *,
        lineage: str,
        weights: dict[str, Tensor],
        spec: ClassifierSpec,
        parent: Version | None,
        request_ids: Sequence[str],
        classes_forgotten: Sequence[int],
        samples_forgotten: Sequence[int] = (),
        run: str | None,
        data_hash: str | None = None,
    ) -> Version:
        """Store weights under their hash and record them as the lineage's new version.

        Of a lineage's data the hash is given with its original, and goes on with every version.

        Raises:
            StorageHeld: another scheduler has taken over the storage location; nothing was stored.
            BadInput: no model can calculate with the weights, so that nothing could follow this version; or
                they are those of a version that another run has published.
        """
        self.context.check_lease()
        require_weights(weights, f"weights to publish in lineage {lineage!r}")
        if (unchanged := self.repeated(lineage, weights, run)) is not None:
            allowed = f"one that no version of lineage {lineage!r} is ({unchanged})"
            raise BadInput("version to publish", version_id(weights)[:12], allowed)
        identity = version_id(weights)
        path = f"models/{lineage}/{identity}.safetensors"
        if not self.context.store.exists(path):
            self.context.store.create(path, weights_to_bytes(weights))
        if not any(v.version == identity for v in versions(self.reader, lineage)):
            now = self.context.clock()
            self.context.ledger.append(
                "versions",
                [
                    {
                        "version": identity,
                        "parent": parent.version if parent else None,
                        "lineage": lineage,
                        "path": path,
                        "request_ids": list(request_ids),
                        "run_id": run,
                        "classes_forgotten": sorted(classes_forgotten),
                        "samples_forgotten": sorted(samples_forgotten),
                        "model": json.dumps(spec.to_dict()),
                        "data_hash": parent.data_hash if parent else data_hash,
                        "event": "published",
                        "created_at": now,
                        "at": now,
                    }
                ],
            )
        return next(v for v in versions(self.reader, lineage) if v.version == identity)

    def repeated(self, lineage: str, weights: dict[str, Tensor], run: str | None) -> str | None:
        """Which version of another run weights are, in a sentence; None where they are new.

        A version is its weights: one that is there already cannot be published once more, with other
        requests to its name.
        """
        identity, chain = version_id(weights), versions(self.reader, lineage)
        if not any(v.version == identity and v.run_id != run for v in chain):
            return None
        if identity == chain[-1].version:
            return unchanged(identity)
        return f"it is {identity[:12]}, bit by bit, an earlier version of the lineage"

    def serve(self, *requests: Request, attempt: int = 1) -> Outcome:
        """Carry out requests against the current version of their lineage, in one run, or go on with it.

        Raises:
            BadInput: they are not of one lineage and one kind that can be served together; or the method
                does not serve the kind, or is handed more than a request allows.
        """
        together = coalesced(requests)
        for request in requests:
            require_granularity(self.context.recipe.method, request.kind)
            require_access(self.context.recipe.method, request.data_access)
        ids = [request.request_id for request in requests]
        reader = self.reader
        chain = {v.version: v for v in versions(reader, together.lineage)}
        published = next((v for v in chain.values() if set(ids) & set(v.request_ids)), None)
        run = run_id(together.lineage, ids, self.config_hash, attempt)
        if published and published.run_id:
            run = published.run_id  # under whatever settings it was
        begun = reader.read("runs", run_id=run, event="started").to_pylist()
        # a run that was killed after it published would else start from its own result
        parent = chain[begun[0]["parent_version"]] if begun else list(chain.values())[-1]
        under_way = Run(self, requests, together, parent, run, attempt)
        return under_way.record_served(published) if published else under_way.carry_out()
