"""One job: read requests, serve them, audit what was published, report.

The driver itself never opens a dataset: originals and gold models are trained, and audits made, in
processes of their own; unlearning runs in sealed ones.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import ray
from torch import Tensor

from rayunlearn.errors import BadInput, ExitCode, Interrupted
from rayunlearn.methods.registry import method_named
from rayunlearn.models.classifiers import build_classifier
from rayunlearn.models.weights import load_into, load_weights_file
from rayunlearn.recipes import Recipe
from rayunlearn.results.ledger import Ledger, LedgerReader
from rayunlearn.results.lineage import versions
from rayunlearn.results.store import Store
from rayunlearn.runtime.auditor import Auditor
from rayunlearn.runtime.cluster import Placement, bundles, open_ensemble
from rayunlearn.runtime.intake import Intake, take_in
from rayunlearn.runtime.retention import purge
from rayunlearn.runtime.scheduler import Clock, Outcome, Progress, Scheduler, run_seed
from rayunlearn.runtime.training import TrainingJob, describe, train_original
from rayunlearn.scheduling.requests import Rejected, Request
from rayunlearn.seeds import derive_seed


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where runs are put: no part of a recipe, and without influence on any result.

    Attributes:
        placement: of the roles.
        cpus_per_role: None shares out what the cluster has.
        gpus_per_role: the same for GPUs.
        threads: torch threads in each role; results are compared at equal threads.
    """

    placement: Placement = Placement.SPLIT
    cpus_per_role: float | None = None
    gpus_per_role: float | None = None
    threads: int = 1


class Service:
    """A job over one storage location.

    Args:
        store: the storage location.
        recipe: settings of the service.
        seed: root of every draw.
        place: where runs are put.
        clock: gives the time that is recorded.
        progress: told how far the job is.
        checkpoint: file with the original's weights; None trains an original where a lineage has none.
    """

    def __init__(
        self,
        *,
        store: Store,
        recipe: Recipe,
        seed: int,
        place: Place,
        clock: Clock,
        progress: Progress,
        checkpoint: str | Path | None = None,
    ) -> None:
        method_named(recipe.method)
        bundles(
            place.placement,
            ray.cluster_resources(),
            cpus_per_role=place.cpus_per_role,
            gpus_per_role=place.gpus_per_role,
        )
        self.store = store
        self.recipe = recipe
        self.seed = seed
        self.place = place
        self.clock = clock
        self.progress = progress
        self.ledger = Ledger(store)
        self.reader = LedgerReader(store)
        self._require_same_seed()
        self.split_seed = derive_seed(seed, "split")
        self.spec = describe(recipe.data, recipe.model.name, recipe.model.width)
        self.given = None if checkpoint is None else self._given_weights(checkpoint)
        self.scheduler = Scheduler(
            store=store,
            ledger=self.ledger,
            recipe=recipe,
            seed=seed,
            open_ensemble=lambda: open_ensemble(
                place.placement,
                cpus_per_role=place.cpus_per_role,
                gpus_per_role=place.gpus_per_role,
                threads=place.threads,
            ),
            placement=place.placement.value,
            clock=clock,
            progress=progress,
        )

    def _require_same_seed(self) -> None:
        """A run goes on with its own draws, and an audit tests on what its original did not train on.

        Raises:
            BadInput: the storage location was begun with another seed.
        """
        for row in self.reader.read("runs", event="started").to_pylist():
            if row["seed"] != run_seed(self.seed, row["lineage"], row["request_ids"][0], row["attempt"]):
                allowed = f"the seed that {self.store.where} was begun with; another takes another --storage"
                raise BadInput("--seed", self.seed, allowed)

    def _given_weights(self, checkpoint: str | Path) -> dict[str, Tensor]:
        model = build_classifier(self.spec, 0)
        load_into(model, load_weights_file(checkpoint), str(checkpoint))
        return dict(model.state_dict())

    def take_in(self, entries: Sequence[Request | Rejected], *, record: bool = True) -> Intake:
        """Sort a file's requests, each checked whole, before anything is trained."""
        intake, rows = take_in(
            self.reader,
            entries,
            method=self.recipe.method,
            num_classes=self.spec.num_classes,
            config_hash=self.scheduler.config_hash,
            now=self.clock(),
        )
        if record:
            self.ledger.append("requests", rows)
        return intake

    def serve(self, intake: Intake) -> list[Outcome]:
        """Serve what is pending, in order; each starts from the version that the one before published."""
        outcomes = []
        for request in intake.pending:
            if not versions(self.reader, request.lineage):
                self._begin_lineage(request.lineage)
            # classes that an earlier request was to forget may still be there, if it failed
            outcomes.append(self.scheduler.serve(request))
        return outcomes

    def _begin_lineage(self, lineage: str) -> None:
        """Publish the original: the given checkpoint, or one trained on all classes."""
        weights = self.given
        if weights is None:
            self.progress.phase(f"lineage {lineage}", "train the original")
            weights = train_original(self.training_job(()), threads=self.place.threads)
            self.progress.done()
        self.scheduler.publish(
            lineage=lineage,
            weights=weights,
            spec=self.spec,
            parent=None,
            request_ids=[],
            classes_forgotten=(),
            run=None,
        )

    def training_job(self, excluded: Sequence[int], *, gold_seed: int | None = None) -> TrainingJob:
        """The original's recipe, without some classes."""
        purpose = ("original",) if gold_seed is None else ("gold", gold_seed)
        return TrainingJob(
            excluded=tuple(sorted(excluded)),
            data=self.recipe.data,
            split_seed=self.split_seed,
            spec=self.spec,
            train=self.recipe.train,
            seed=derive_seed(self.seed, *purpose),
        )

    def audit(self) -> None:
        """Measure what was published on real data, in processes of their own."""
        Auditor(
            store=self.store,
            ledger=self.ledger,
            recipe=self.recipe,
            seed=self.seed,
            training_job=self.training_job,
            threads=self.place.threads,
            clock=self.clock,
            progress=self.progress,
        ).audit()

    def purge(self) -> list[str]:
        """Throw away what still knows forgotten classes; returns the versions purged now."""
        return purge(self.store, self.ledger, self.clock)


def exit_code(intake: Intake, outcomes: Sequence[Outcome]) -> ExitCode:
    """The exit code of a job that ran to its end.

    >>> exit_code(Intake(pending=(), done=(), rejected=()), [])
    <ExitCode.OK: 0>
    """
    before = len(intake.failed)
    served = sum(outcome.version is not None for outcome in outcomes) + len(intake.done) - before
    failed = sum(outcome.version is None for outcome in outcomes) + before
    if not intake.rejected and not failed:
        return ExitCode.OK
    if served:
        return ExitCode.PARTIAL
    return ExitCode.NOTHING_ADMISSIBLE if failed else ExitCode.BAD_INPUT


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGINT end the job between two bytecodes; the last checkpoint is on disk already.

    Enter it after `ray.init`, which sets a SIGTERM handler of its own.
    """

    names: list[str] = []

    def stop(number: int, frame: FrameType | None) -> None:
        names.append(signal.Signals(number).name)
        # the one exception that a waiting ray.get() lets through from a handler
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except KeyboardInterrupt as error:
        name = names[0] if names else "SIGINT"
        said = f"stopped by {name}; the same command goes on from the last checkpoint"
        raise Interrupted(said) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
