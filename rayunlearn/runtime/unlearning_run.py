"""One attempt to serve requests, phase by phase; what it raises ends it, and nothing else.

A run goes through phases (synthesise, prepare, unlearn, gate, publish), each recorded when it is done. It is
handed the version's weights and what else its method declares; its processes are sealed. What decides is
pure (`rayunlearn.scheduling`) and sees synthetic measures only. A request of kind "examples" differs in what
is synthesised, D' (generator, sample, filter), and in being judged by it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.judged import Evidence
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.methods.registry import method_named
from rayunlearn.methods.unlearning import Handed
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.weights import version_id
from rayunlearn.results.lineage import Version, versions
from rayunlearn.results.wording import asked
from rayunlearn.roles import Roles
from rayunlearn.runtime import judging
from rayunlearn.runtime.approximation import Approximation, filtered_rows
from rayunlearn.runtime.banks import handed_on, keep_bank
from rayunlearn.runtime.cluster import NoRoom
from rayunlearn.runtime.ensemble import Ensemble, RunInputs
from rayunlearn.runtime.examples import load_examples
from rayunlearn.runtime.generators import generator_to_begin_with, hand_on_generators
from rayunlearn.runtime.grants import Granted
from rayunlearn.runtime.machine import code_version
from rayunlearn.runtime.published import load_version
from rayunlearn.runtime.recovery import is_of_the_service, outlasting
from rayunlearn.runtime.remote import recorded, sentence
from rayunlearn.runtime.requested import data_of, request_row, roles_of, run_seed
from rayunlearn.runtime.runs import RunFiles
from rayunlearn.runtime.training_logs import drop_steps, load_log
from rayunlearn.scheduling.erasing import layers_to_keep
from rayunlearn.scheduling.gate import Verdict, judge
from rayunlearn.scheduling.requests import Request
from rayunlearn.scheduling.stopping import Choice, choose, should_stop
from rayunlearn.seeds import derive_seed
from rayunlearn.settings import to_json

if TYPE_CHECKING:
    from rayunlearn.runtime.scheduler import Scheduler


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
        self.approximation: Approximation | None = None
        self.phase = "begin"
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
            return self._fail([f"{self.phase}: {sentence(error)}"], None, traceback=recorded(error))

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
        weights = load_version(self.context.store, self.parent)
        ensemble = self.scheduler.open_ensemble()
        refusals: list[str] = []
        try:
            try:
                sets = self._evidence(ensemble, weights)
            except BadInput as error:  # what the version, or the examples, give is not enough
                return self._fail([f"synthesis: {sentence(error)}"], None)
            settings = self._settings(ensemble, weights, sets)
            with self._phase("prepare"):
                steps = self._prepare(ensemble, weights, sets, settings)
            with self._phase("unlearn", total=steps):
                choice = self._unlearn(ensemble, steps)
            step = choice.step
            if step is None:
                refusals.append(f"stopping rule: {choice.reason}")
                if not self.recipe.publish_refused:
                    return self._fail(refusals, choice)
                step = max(row["step"] for row in self._rows("checkpoints"))
                choice = replace(choice, step=step)
            candidate = self.files.student(step)
            if (unchanged := self.scheduler.repeated(self.request.lineage, candidate, self.run)) is not None:
                return self._fail([*refusals, f"result: {unchanged}"], choice)
            with self._phase("gate"):
                verdict = self._gate(ensemble, weights, candidate, choice, sets)
        finally:
            ensemble.close()
        if not verdict.passed:
            refusals.append(verdict.said)
            chosen = verdict.outcome == "cannot tell" and self.recipe.gate.undecided == "publish"
            if not (chosen or self.recipe.publish_refused):
                return self._fail(refusals, choice)
        with self._phase("publish"):
            # before the version: whoever finds that finds what comes with it
            self._hand_on(version_id(candidate), sets)
            version = self.scheduler.publish(
                lineage=self.request.lineage,
                weights=candidate,
                spec=self.spec,
                parent=self.parent,
                request_ids=self.ids,
                classes_forgotten=sorted({*self.roles.forget, *self.request.classes}),
                samples_forgotten=self.roles.forget_samples,
                run=self.run,
            )
        return self.record_served(version, choice, refusals)

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

    def _hand_on(self, version: str, sets: Mapping[str, Evidence]) -> None:
        """Keep for the next request of the lineage what may be kept."""
        store, lineage, bank = self.context.store, self.request.lineage, sets.get("bank")
        if isinstance(bank, SyntheticSet):
            keep_bank(store, self.recipe, lineage, version, self.roles, bank)
        if self.approximation is not None and not self.request.classes:
            hand_on_generators(store, self.recipe, self.parent, version, self.approximation.generator())

    def _evidence(self, ensemble: Ensemble, weights: dict[str, Tensor]) -> Mapping[str, Evidence]:
        """What the run is judged by and, of inverted images, learns from."""
        if self.roles.erased:
            self.approximation = self._begin_approximation(ensemble, weights)
            return self._approximate(self.approximation)
        with self._phase("synthesise"):
            return self._synthesise(ensemble, weights)

    def _begin_approximation(self, ensemble: Ensemble, weights: dict[str, Tensor]) -> Approximation:
        store = self.context.store
        return Approximation(
            ensemble,
            self.files,
            spec=self.spec,
            weights=weights,
            roles=self.roles,
            settings=self.recipe.few_shot,
            examples=load_examples(store, str(self.request.examples)),
            seed=self.seed,
            progress=self.context.progress,
            generator=generator_to_begin_with(store, self.recipe, self.parent, self.scheduler.pretrained),
            shared=self.context.generators,
            whole=self.request.whole_classes,
        )

    def _approximate(self, made: Approximation) -> Mapping[str, Evidence]:
        """D', and the parts of it that the run is judged by."""
        with self._phase("generator", total=made.iterations, warning=made.warning):
            made.train_generator()
        with self._phase("sample"):
            made.sample()
        with self._phase("filter"):
            filtered = made.filter()
        if not self._rows("evaluations", measure="threshold"):
            rows = filtered_rows(filtered, self.roles.erased)
            stamped = [self._evaluation(self.parent.version, row) for row in rows]
            self.context.ledger.append("evaluations", stamped)
        return {"stop": made.held("stop"), "check": made.held("check")}

    def _synthesise(self, ensemble: Ensemble, weights: dict[str, Tensor]) -> Mapping[str, SyntheticSet]:
        kept = self.files.synthetic()
        if kept is not None:
            return kept
        jobs = judging.synthesis_jobs(self.spec, weights, self.roles, self.recipe, self.seed)
        bank = handed_on(
            self.context.store, self.recipe, self.request.lineage, self.parent.version, self.roles
        )
        before = {} if bank is None else {"bank": bank}
        jobs = {name: job for name, job in jobs.items() if name not in before}
        sets = before | dict(zip(jobs, ensemble.map(list(jobs.values())), strict=True))
        self.files.put_synthetic(sets)
        return sets

    def _settings(
        self, ensemble: Ensemble, weights: dict[str, Tensor], sets: Mapping[str, Evidence]
    ) -> Any:
        """The method's, with the layers that it is to keep where the judge chooses them."""
        settings = self.recipe.method_settings
        if not self.method.layered or settings.kept is not None:
            return settings
        known = self._rows("evaluations", measure="kept_layers")
        if not known:
            with self._phase("layers"):
                jobs = judging.layer_jobs(self.spec, weights, sets, self.roles, self.recipe, self.seed)
                scales = judging.layer_scales(ensemble.map(jobs))
                known = judging.layer_rows(scales, layers_to_keep(scales), self.roles)
                stamped = [self._evaluation(self.parent.version, row) for row in known]
                self.context.ledger.append("evaluations", stamped)
        return replace(settings, kept=int(known[0]["value"]))

    def _prepare(
        self, ensemble: Ensemble, weights: dict[str, Tensor], sets: Mapping[str, Evidence], settings: Any
    ) -> int:
        """Hand the method what it declares; returns the most steps that it takes."""
        granted, access = self._granted(self.method.data_access), self.method.data_access
        bank, made = sets.get("bank"), self.approximation
        for part in made.parts("learn") if made is not None else ():
            ensemble.receive(part)  # one chunk at a time, of however many there are
        return ensemble.begin(
            RunInputs(
                method=self.method.name,
                settings=settings,
                handed=Handed(
                    spec=self.spec,
                    weights=weights,
                    roles=self.roles,
                    seed=self.seed,
                    forget=granted.forget,
                    retain=granted.retain,
                    training_log=(
                        load_log(self.context.store, self.request.lineage)
                        if "training_log" in access
                        else None
                    ),
                    inverted=bank if isinstance(bank, SyntheticSet) else None,
                    examples=made.examples if made is not None and "few_examples" in access else None,
                ),
                stop_set=sets["stop"],
                compared=judging.compared(self.recipe),
            )
        )

    def _granted(self, access: Collection[str]) -> Granted:
        split_seed = derive_seed(self.context.seed, "split")
        data = data_of(self.recipe.data, self.parent)
        return self.scheduler.grant(data, split_seed, self.roles, access)

    def _unlearn(self, ensemble: Ensemble, steps: int) -> Choice:
        """Steps until the stopping rule says stop or the method's end is reached; then its choice."""
        every = steps if self.method.fixed_length else self.recipe.validation.checkpoint_every
        done = 0
        state = self.files.state()
        if state is not None:
            done = state["step"]
            ensemble.load(state["run"])
            self.context.progress.advance(done)
        recorded = {row["step"]: row for row in self._rows("checkpoints")}
        samples = self.roles.kind == "samples"
        stopping = self.recipe.stopping
        view = partial(judging.record_of, recipe=self.recipe, samples=samples)
        records = [view(row) for step, row in sorted(recorded.items()) if step <= done]
        while done < steps and should_stop(records, stopping) is None:
            last = min(done + every, steps)
            ensemble.advance(done + 1, last)
            figures, student = ensemble.checkpoint()
            row = {
                "run_id": self.run,
                "lineage": self.request.lineage,
                "phase": "unlearn",
                "step": last,
                "at": self.context.clock(),
                **figures,
            }
            # student, then row, then state: whatever a kill leaves, the state finds the other two
            self.files.put_student(last, student)
            if last not in recorded:
                self.context.ledger.append("checkpoints", [row])
            self.files.put_state({"step": last, "run": ensemble.state()})
            records.append(view(row))
            forget = {} if samples else {"forget": records[-1].forget_accuracy}
            shown = {"retain": records[-1].retain_accuracy, **forget}
            self.context.progress.advance(last - done, **shown)
            done = last
        return choose(records, stopping)

    def _gate(
        self,
        ensemble: Ensemble,
        weights: dict[str, Tensor],
        candidate: dict[str, Tensor],
        choice: Choice,
        sets: Mapping[str, Evidence],
    ) -> Verdict:
        jobs = judging.gate_jobs(self.spec, candidate, weights, sets, self.roles, self.recipe, self.seed)
        measures = judging.gate_measures(ensemble.map(jobs), self.roles, self.recipe)
        if not self._rows("evaluations", measure="chosen_step"):
            rows = judging.gate_rows(measures, choice, self.roles, self.recipe.gate)
            identity = version_id(candidate)
            self.context.ledger.append("evaluations", [self._evaluation(identity, r) for r in rows])
        return judge(measures, self.recipe.gate)

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

    @contextmanager
    def _phase(self, name: str, total: int | None = None, warning: str | None = None):  # type: ignore[no-untyped-def]
        self.phase = name
        self.context.progress.phase(self.title, name, total=total)
        began = perf_counter()
        yield
        seconds = perf_counter() - began
        self.context.progress.done(warning or "")
        self._event("phase", phase=name, seconds=seconds, reason=warning)

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
