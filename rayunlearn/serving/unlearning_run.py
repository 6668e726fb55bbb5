"""One attempt to serve requests: what its phases give is stored and recorded; what it raises ends it alone.

The phases are those of `rayunlearn.unlearning`, each recorded when it is done; here they get a place, and are
gone on with after a process was killed. A run is handed the version's weights and what else its method
declares; its processes are sealed. What decides is pure (`rayunlearn.scheduling`) and sees synthetic measures
only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any

from torch import Tensor

from rayunlearn.execution.cluster import NoRoom
from rayunlearn.execution.machine import code_version
from rayunlearn.execution.recovery import is_of_the_service, outlasting
from rayunlearn.execution.remote import recorded, sentence
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.ledger.lineage import Version, versions
from rayunlearn.lineages.published import load_version
from rayunlearn.lineages.requested import data_of, request_row
from rayunlearn.lineages.runs import RunFiles, States
from rayunlearn.methods.registry import method_named
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.weights import version_id
from rayunlearn.reports.wording import asked
from rayunlearn.roles import Roles
from rayunlearn.scheduling.requests import Request
from rayunlearn.scheduling.stopping import Choice
from rayunlearn.seeds import derive_seed
from rayunlearn.serving.banks import handed_on, keep_bank
from rayunlearn.serving.examples import load_examples
from rayunlearn.serving.generators import generator_to_begin_with, hand_on_generators
from rayunlearn.serving.training_logs import drop_steps, load_log
from rayunlearn.settings import to_json
from rayunlearn.unlearning.approximation import Approximation
from rayunlearn.unlearning.attempt import Attempt, attempt
from rayunlearn.unlearning.executor import Executor
from rayunlearn.unlearning.phases import Case, Checkpoint, Granted, Left
from rayunlearn.unlearning.progress import Progress
from rayunlearn.unlearning.requested import roles_of, run_seed

if TYPE_CHECKING:
    from rayunlearn.serving.scheduler import Scheduler


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the requests of a run.

    Attributes:
        requests: that it served together, mostly one.
        run_id: of the attempt that ended it.
        version: published by it; None where it failed.
        reason: why it was refused; None where it was not. With a version where the recipe publishes what
            is refused.
        choice: what the stopping rule said.
    """

    requests: tuple[Request, ...]
    run_id: str
    version: str | None
    reason: str | None
    choice: Choice | None


class Run:
    """One attempt to serve requests; `together` is what they ask for as one."""

    def __init__(
        self,
        scheduler: Scheduler,
        requests: Sequence[Request],
        together: Request,
        parent: Version,
        run: str,
        attempt: int,
    ) -> None:
        self.scheduler = scheduler
        self.context, self.reader = scheduler.context, scheduler.reader
        self.recipe = scheduler.context.recipe
        self.method = method_named(self.recipe.method)
        self.requests, self.request = tuple(requests), together
        self.parent = parent
        self.run = run
        self.attempt = attempt
        self.seed = run_seed(scheduler.context.seed, together.lineage, self.ids, attempt)
        self.files = RunFiles(scheduler.context.store, run)
        self._phase = "begin"
        named = ", ".join(self.ids)
        self.title = f"{named}: forget {asked(together.kind, together.target, together.whole_classes)}"

    @property
    def ids(self) -> list[str]:
        """Of the requests, in order."""
        return [request.request_id for request in self.requests]

    @cached_property
    def spec(self) -> ClassifierSpec:
        """Of the lineage's model."""
        return ClassifierSpec.from_dict(self.parent.model)

    @cached_property
    def roles(self) -> Roles:
        """Of the classes: to retain, to forget, forgotten before."""
        gone = self.parent.classes_forgotten, self.parent.samples_forgotten
        return roles_of(self.request, self.spec.num_classes, *gone)

    def carry_out(self) -> Outcome:
        """Every phase, from wherever an earlier process was stopped, or this one lost what it ran on.

        Whatever is raised before something is published ends the run: it has failed, for that reason.

        Raises:
            Exception: what `is_of_the_service`, or was raised after the publication.
            NoRoom: there is no place for it; the run goes on when there is.
        """
        try:
            return outlasting(
                self._carry_out, reached=self._reached, tell=self._lost, losses=self._losses_in_a_row()
            )
        except Exception as error:
            published = versions(self.reader, self.request.lineage)
            waits = is_of_the_service(error) or isinstance(error, NoRoom)
            if waits or any(v.run_id == self.run for v in published):
                raise
            return self._fail([f"{self._phase}: {sentence(error)}"], None, traceback=recorded(error))

    def _lost(self, said: str) -> None:
        """A loss is on record, so that losses in a row are counted by whoever goes on with the run."""
        self._event("lost", reason=said)
        self.context.progress.say(said)

    def _losses_in_a_row(self) -> int:
        """Since a checkpoint or a phase was brought to its end, by earlier processes."""
        ends = {("checkpoint", row["step"]): row["at"] for row in self._rows("checkpoints")}
        for row in self._rows("runs", event="phase"):  # begun again, a run goes through phases again
            ends.setdefault(("phase", row["phase"]), row["at"])
        lost = [row["at"] for row in self._rows("runs", event="lost")]
        return sum(at > max(ends.values()) for at in lost) if ends else len(lost)

    def _reached(self) -> tuple[int, int]:
        """Checkpoints, and phases that were brought to their end."""
        phases = {row["phase"] for row in self._rows("runs", event="phase")}
        return len(self._rows("checkpoints")), len(phases)

    def _carry_out(self) -> Outcome:
        started = self._rows("runs", event="started")
        self._event("resumed" if started else "started")
        if not self._rows("requests", event="planned"):
            self._request_event("planned")
        case = Case(
            spec=self.spec, weights=load_version(self.context.store, self.parent), roles=self.roles,
            recipe=self.recipe, seed=self.seed,
        )  # fmt: skip
        self.case = case
        executor = self.scheduler.open_executor()
        try:
            made = attempt(case, executor, self)
        finally:
            executor.close()
        if not made.published or made.candidate is None:
            return self._fail(made.refusals, made.choice)
        with self.phase("publish"):
            # before the version: whoever finds that finds what comes with it
            self._hand_on(version_id(made.candidate), made)
            version = self.scheduler.publish(
                lineage=self.request.lineage,
                weights=made.candidate,
                spec=self.spec,
                parent=self.parent,
                request_ids=self.ids,
                classes_forgotten=sorted({*self.roles.forget, *self.request.classes}),
                samples_forgotten=self.roles.forget_samples,
                run=self.run,
            )
        return self.record_served(version, made.choice, made.refusals)

    def record_served(
        self, version: Version, choice: Choice | None = None, refusals: Sequence[str] = ()
    ) -> Outcome:
        """Record what follows from a publication, as far as it is not recorded yet."""
        reason = "; ".join(refusals) or None
        if "training_log" in self.method.data_access:
            forget = self._granted(("forget",)).forget
            assert forget is not None, "it was asked for"
            drop_steps(self.context.store, self.request.lineage, forget.ids)
        if not self._rows("runs", event="published"):
            self._event("published", version=version.version, reason=reason)
        if not self._rows("requests", event="served"):
            self._request_event("served", reason=reason)
        return Outcome(
            requests=self.requests, run_id=self.run, version=version.version, reason=reason, choice=choice
        )

    def _hand_on(self, version: str, made: Attempt) -> None:
        """Keep for the next request of the lineage what may be kept."""
        store, lineage = self.context.store, self.request.lineage
        bank = (made.sets or {}).get("bank")
        if isinstance(bank, SyntheticSet):
            keep_bank(store, self.recipe, lineage, version, self.roles, bank)
        if made.made is not None and not self.request.classes:
            hand_on_generators(store, self.recipe, self.parent, version, made.made.generator())

    # As a `rayunlearn.unlearning.attempt.Keeper`: all is kept in the run's files and the ledger.

    @property
    def progress(self) -> Progress:
        """Of the service."""
        return self.context.progress

    @contextmanager
    def phase(self, name: str, *, total: int | None = None, warning: str | None = None) -> Iterator[None]:
        """A phase, on record when it has ended."""
        self._phase = name
        self.context.progress.phase(self.title, name, total=total)
        began = perf_counter()
        yield
        seconds = perf_counter() - began
        self.context.progress.done(warning or "")
        self._event("phase", phase=name, seconds=seconds, reason=warning)

    def granted(self) -> Granted:
        """What the method declares, read where data may be read."""
        granted, logged = self._granted(self.method.data_access), "training_log" in self.method.data_access
        log = load_log(self.context.store, self.request.lineage) if logged else None
        return replace(granted, training_log=log)

    def _granted(self, access: Collection[str]) -> Granted:
        split_seed = derive_seed(self.context.seed, "split")
        data = data_of(self.recipe.data, self.parent)
        return self.scheduler.grant(data, split_seed, self.roles, access)

    def bank(self) -> SyntheticSet | None:
        """What the version before handed on."""
        store, lineage = self.context.store, self.request.lineage
        return handed_on(store, self.recipe, lineage, self.parent.version, self.roles)

    def sets(self) -> Mapping[str, SyntheticSet] | None:
        """Those in the run's files."""
        return self.files.synthetic()

    def keep_sets(self, sets: Mapping[str, SyntheticSet]) -> None:
        """Keep them in the run's files."""
        self.files.put_synthetic(sets)

    def approximation(self, executor: Executor) -> Approximation:
        """D' in the run's files."""
        store, shared = self.context.store, self.context.generators
        return Approximation(
            executor,
            self.files,
            spec=self.spec,
            weights=self.case.weights,
            roles=self.roles,
            settings=self.recipe.few_shot,
            examples=load_examples(store, str(self.request.examples)),
            seed=self.seed,
            progress=self.context.progress,
            generator=generator_to_begin_with(store, self.recipe, self.parent, self.scheduler.pretrained),
            shared=None if shared is None else States(shared),
            whole=self.request.whole_classes,
        )

    def rows(self, measure: str) -> list[dict[str, Any]]:
        """The run's evaluations in the ledger."""
        return self._rows("evaluations", measure=measure)

    def keep_rows(self, rows: Sequence[Mapping[str, Any]], of: dict[str, Tensor] | None = None) -> None:
        """Put evaluations on record."""
        version = self.parent.version if of is None else version_id(of)
        self.context.ledger.append("evaluations", [self._evaluation(version, row) for row in rows])

    def left(self) -> Left:
        """The state in the run's files, and the ledger's checkpoints."""
        state = self.files.state()
        recorded = {row["step"]: row for row in self._rows("checkpoints")}
        self._recorded = set(recorded)
        figures = [row for _, row in sorted(recorded.items())]
        if state is None:
            return Left(figures=figures)
        return Left(step=state["step"], state=state["run"], figures=figures)

    def keep_checkpoint(self, made: Checkpoint) -> None:
        """Student, then row, then state: whatever a kill leaves, the state finds the other two."""
        row = {"run_id": self.run, "lineage": self.request.lineage, "phase": "unlearn", **made.figures}
        row["at"] = self.context.clock()
        self.files.put_student(made.step, made.weights)
        if made.step not in self._recorded:
            self.context.ledger.append("checkpoints", [row])
        self.files.put_state({"step": made.step, "run": made.state()})

    def steps(self) -> list[int]:
        """Of the ledger's checkpoints."""
        return [row["step"] for row in self._rows("checkpoints")]

    def weights(self, step: int) -> dict[str, Tensor]:
        """Of a student in the run's files."""
        return self.files.student(step)

    def known(self, candidate: dict[str, Tensor]) -> str | None:
        """A version of the lineage."""
        return self.scheduler.repeated(self.request.lineage, candidate, self.run)

    def _evaluation(self, version: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of evaluations, of a version and by this run."""
        stamp = {
            "run_id": self.run,
            "lineage": self.request.lineage,
            "version": version,
            "subject": "unlearned",
            "dataset": "synthetic",
            "dataset_hash": self.parent.version,
            "split": "check",
            "parameters": "{}",
            "seed": self.seed,
            "censored": False,
            "at": self.context.clock(),
        }
        return {**stamp, **row, "classes": sorted(row["classes"])}

    def _fail(
        self, refusals: Sequence[str], choice: Choice | None, *, traceback: str | None = None
    ) -> Outcome:
        reason = "; ".join(refusals)
        self._event("failed", reason=reason, traceback=traceback)
        self._request_event("failed", reason=reason)
        return Outcome(requests=self.requests, run_id=self.run, version=None, reason=reason, choice=choice)

    def _event(self, event: str, **columns: Any) -> None:
        self.context.ledger.append(
            "runs",
            [
                {
                    "run_id": self.run,
                    "lineage": self.request.lineage,
                    "request_ids": self.ids,
                    "method": self.recipe.method,
                    "placement": self.scheduler.placement,
                    "parent_version": self.parent.version,
                    "event": event,
                    "at": self.context.clock(),
                    "config": to_json(self.recipe),
                    "config_hash": self.scheduler.config_hash,
                    "seed": self.seed,
                    "attempt": self.attempt,
                    "sweep": self.context.sweep,
                    "code": code_version(),
                    **columns,
                }
            ],
        )

    def _request_event(self, event: str, **columns: Any) -> None:
        """One row for each request, as one entry: all of them or none."""
        now, rows = self.context.clock(), []
        for request in self.requests:
            row = request_row(request, event, now, run_id=self.run, **columns)
            known = self.reader.read("requests", request_id=request.request_id).to_pylist()
            received = [earlier["received_at"] for earlier in known if earlier["event"] != "rejected"]
            if received:
                row["received_at"] = received[0]
            rows.append(row)
        self.context.ledger.append("requests", rows)

    def _rows(self, table: str, **equals: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.reader.read(table, run_id=self.run, **equals).to_pylist()
        return found
