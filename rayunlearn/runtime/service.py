"""One job: read requests, serve them, audit what was published, report.

The driver itself never opens a dataset: originals and gold models are trained, and audits made, in
processes of their own; unlearning runs in sealed ones.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from torch import Tensor

from rayunlearn.errors import BadInput, ExitCode, Interrupted
from rayunlearn.evaluation.synthetic import Roles
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.methods.registry import method_named, require_access
from rayunlearn.models.classifiers import ClassifierSpec, build_classifier
from rayunlearn.models.weights import load_into, load_weights_file
from rayunlearn.recipes import Recipe
from rayunlearn.results.ledger import Ledger, LedgerReader
from rayunlearn.results.lineage import Version, request_events, status, versions
from rayunlearn.results.schemas import ALL_TABLES
from rayunlearn.results.store import Store
from rayunlearn.runtime.audit import AuditInputs, audit_task
from rayunlearn.runtime.cluster import Placement, bundles, open_ensemble, role_share
from rayunlearn.runtime.runs import RunFiles
from rayunlearn.runtime.scheduler import Clock, Outcome, Progress, Scheduler, request_row
from rayunlearn.runtime.training import TrainingJob, describe, train_gold, train_original
from rayunlearn.scheduling.requests import Rejected, Request, check, parse_requests, same_request
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


@dataclass(frozen=True, kw_only=True)
class Intake:
    """Requests of a file, sorted by what is to be done with them.

    Attributes:
        pending: to be served, in order.
        done: served or failed before, under the same settings.
        rejected: with the reason.
    """

    pending: tuple[Request, ...]
    done: tuple[Request, ...]
    rejected: tuple[Rejected, ...]


def read_requests(path: str | Path) -> list[Request | Rejected]:
    """The lines of a requests file.

    Raises:
        BadInput: the file cannot be read, is not UTF-8 text, or holds no request.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise BadInput("--requests", str(path), f"a readable file ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise BadInput("--requests", str(path), f"UTF-8 text (byte {error.start} is not)") from error
    entries = parse_requests(text, str(path))
    if not entries:
        raise BadInput("--requests", str(path), "a file with at least one request, one JSON object a line")
    return entries


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

    def _given_weights(self, checkpoint: str | Path) -> dict[str, Tensor]:
        model = build_classifier(self.spec, 0)
        load_into(model, load_weights_file(checkpoint), str(checkpoint))
        return dict(model.state_dict())

    def take_in(self, entries: Sequence[Request | Rejected], *, record: bool = True) -> Intake:
        """Sort a file's requests, each checked whole, before anything is trained.

        A request is checked against the classes that its lineage will have forgotten by its turn, if
        all before it are served.
        """
        pending: list[Request] = []
        done: list[Request] = []
        rejected: list[Rejected] = []
        rows = []
        now = self.clock()
        events = request_events(self.reader)
        known_rejections = {
            (r["request_id"], r["reason"]) for r in self.reader.read("requests", event="rejected").to_pylist()
        }
        forgotten: dict[str, set[int]] = {}
        for entry in entries:
            if isinstance(entry, Rejected):
                rejected.append(entry)
                continue
            before = events.get(entry.request_id, [])
            head = (versions(self.reader, entry.lineage) or [None])[-1]
            gone = forgotten.setdefault(entry.lineage, set(head.classes_forgotten if head else ()))
            classes = head.model["num_classes"] if head else self.spec.num_classes
            if before and same_request(entry, _request_of(before[0])) and self._is_closed(before):
                done.append(entry)
                continue
            again = bool(before) and same_request(entry, _request_of(before[0]))
            try:
                require_access(self.recipe.method, entry.data_access)
                check(
                    entry,
                    num_classes=classes,
                    forgotten=sorted(gone),
                    served_ids=() if again else tuple(events),
                )
            except BadInput as error:
                rejected.append(
                    Rejected(0, entry.request_id, entry.lineage, entry.target, str(error))
                )
                continue
            gone |= set(entry.target)
            pending.append(entry)
            if not before:
                rows.append(request_row(entry, "received", now))
        for bad in rejected:
            if (bad.request_id or f"line-{bad.line}", bad.reason) not in known_rejections:
                rows.append(
                    {
                        "request_id": bad.request_id or f"line-{bad.line}",
                        "lineage": bad.lineage,
                        "target": list(bad.target),
                        "received_at": now,
                        "event": "rejected",
                        "at": now,
                        "reason": bad.reason,
                    }
                )
        if record:
            self.ledger.append("requests", rows)
        return Intake(pending=tuple(pending), done=tuple(done), rejected=tuple(rejected))

    def _is_closed(self, events: list[dict[str, Any]]) -> bool:
        """Whether a request needs no run: served, or failed under the very same settings and seed."""
        last = status(events)
        if last != "failed":
            return last == "served"
        run = str(events[-1]["run_id"])
        rows = self.reader.read("runs", run_id=run, event="failed").to_pylist()
        return any(row["config_hash"] == self.scheduler.config_hash for row in rows)

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
        """Measure every published run that has not been audited, on real data, in other processes.

        The rows are written by this appender and read by nobody who decides.
        """
        auditor = LedgerReader(self.store, ALL_TABLES)
        audited = set(auditor.read("audits").column("run_id").to_pylist())
        published = self.reader.read("runs", event="published").to_pylist()
        todo = [row for row in published if row["run_id"] not in audited]
        if not todo:
            return
        chain = {row["lineage"]: versions(self.reader, row["lineage"]) for row in todo}
        of = {v.version: v for chain_ in chain.values() for v in chain_}
        jobs = [
            self.training_job(of[row["version"]].classes_forgotten, gold_seed=0) for row in todo
        ]
        self.progress.phase("audit", f"retrain {len(jobs)} gold models by Ray Train")
        golds = train_gold(
            jobs,
            self.store.local_path("train"),
            workers=self.recipe.audit.gold_workers,
            cpus_per_worker=role_share(ray.cluster_resources().get("CPU", 0), self.recipe.audit.gold_workers),
            threads=self.place.threads,
        )
        self.progress.done()
        self.progress.phase("audit", f"measure {len(todo)} versions on real data")
        pending = [
            audit_task.remote(self._audit_inputs(row, chain[row["lineage"]][0].version, gold, of), 1)
            for row, gold in zip(todo, golds, strict=True)
        ]
        for row, answer in zip(todo, ray.get(pending), strict=True):
            now = self.clock()
            stamp = {"run_id": row["run_id"], "lineage": row["lineage"], "at": now}
            self.ledger.append(
                "audits", [{"version": row["version"], **measured, **stamp} for measured in answer]
            )
        self.progress.done()

    def _audit_inputs(
        self, row: Mapping[str, Any], original: str, gold: dict[str, Tensor], of: Mapping[str, Version]
    ) -> AuditInputs:
        version, first = of[row["version"]], of[original]
        spec = ClassifierSpec.from_dict(version.model)
        files = RunFiles(self.store, row["run_id"])
        steps = sorted(
            {r["step"] for r in self.reader.read("checkpoints", run_id=row["run_id"]).to_pylist()}
        )
        parent_gone = of[version.parent].classes_forgotten if version.parent in of else ()
        target = tuple(c for c in version.classes_forgotten if c not in parent_gone)
        return AuditInputs(
            spec=spec,
            roles=Roles(
                retain=tuple(c for c in range(spec.num_classes) if c not in version.classes_forgotten),
                target=target,
                forgotten=parent_gone,
            ),
            original=self.scheduler.version_weights(first),
            unlearned=self.scheduler.version_weights(version),
            gold=gold,
            checkpoints={step: files.student(step) for step in steps},
            chosen=self._chosen(row["run_id"]),
            fixed_step=self.recipe.audit.fixed_step,
            data=self.recipe.data,
            split_seed=self.split_seed,
            settings=self.recipe.audit,
            seed=derive_seed(self.seed, "audit", row["run_id"]),
        )

    def _chosen(self, run: str) -> int:
        (row, *_) = self.reader.read("evaluations", run_id=run, measure="chosen_step").to_pylist()
        return int(row["step"])

    def retain_images(self, run: str) -> SyntheticSet | None:
        """The check set's images of retain classes, for the report; None where they were purged."""
        sets = RunFiles(self.store, run).synthetic()
        if sets is None:
            return None
        made = sets["check"]
        (row, *_) = self.reader.read("runs", run_id=run, event="started").to_pylist()
        target = {
            c
            for r in self.reader.read("requests", run_id=run).to_pylist()
            if r["request_id"] in row["request_ids"]
            for c in r["target"]
        }
        return made.of([c for c in made.labels.unique().tolist() if c not in target])

    def purge(self) -> list[str]:
        """Throw away what still knows forgotten classes, leaving tombstones.

        The files of closed runs go (generators, checkpoints, synthetic images), and the weights of every
        version that a later one of its lineage supersedes. Returns the superseded versions.
        """
        purged = []
        for row in self.reader.read("runs").to_pylist():
            if row["event"] in ("published", "failed"):
                RunFiles(self.store, row["run_id"]).purge()
        lineages = {row["lineage"] for row in self.reader.read("versions").to_pylist()}
        for lineage in sorted(lineages):
            rows = {r["version"]: r for r in self.reader.read("versions", lineage=lineage).to_pylist()}
            for version in versions(self.reader, lineage)[:-1]:
                if self.store.exists(version.path):
                    self.store.delete(version.path)
                if rows[version.version]["event"] != "purged":
                    row = rows[version.version] | {"event": "purged", "at": self.clock()}
                    self.ledger.append("versions", [row])
                    purged.append(version.version)
        return purged


def exit_code(intake: Intake, outcomes: Sequence[Outcome], failed_before: int = 0) -> ExitCode:
    """The exit code of a job that ran to its end.

    >>> exit_code(Intake(pending=(), done=(), rejected=()), [])
    <ExitCode.OK: 0>
    """
    served = sum(outcome.version is not None for outcome in outcomes) + len(intake.done) - failed_before
    failed = sum(outcome.version is None for outcome in outcomes) + failed_before
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

    def stop(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        raise Interrupted(f"stopped by {name}; the same command goes on from the last checkpoint")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _request_of(row: Mapping[str, Any]) -> Request:
    """The request that an event row says."""
    return Request(
        request_id=row["request_id"],
        lineage=row["lineage"],
        kind=row["kind"],
        target=tuple(row["target"]),
        received_at=row["received_at"],
        deadline=row["deadline"],
        data_access=tuple(row["data_access"]),
    )
