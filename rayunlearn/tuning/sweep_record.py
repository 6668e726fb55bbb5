"""What is known of a sweep, in the ledger and in the driver, as it comes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import NonNegativeInt, PositiveInt
from ray import tune

from rayunlearn.errors import BadInput, RayUnlearnError
from rayunlearn.fields import Share, check_value
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import Version
from rayunlearn.ledger.sweeps import ENDS, SweepView, sweep_named
from rayunlearn.lineages.context import Context
from rayunlearn.scheduling.budget import Budget, Spent
from rayunlearn.scheduling.objective import TrialResult, best, trial_result
from rayunlearn.scheduling.requests import Request
from rayunlearn.scheduling.space import Space
from rayunlearn.scheduling.stopping import CheckpointRecord
from rayunlearn.settings import to_json
from rayunlearn.tuning.search_space import CYCLE, SCORE

MOST_TRIALS = 1000
"""Of a sweep whose budget is one of time."""
LEAST_ENDED = 4
"""Trials that have ended before the share of failed ones says anything."""

@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """How a space is searched.

    Attributes:
        space: of the recipe's method.
        sampler: "random", "grid" or "optuna".
        scheduler: what stops trials early: "asha", "median" or "none".
        budget: after which no trial begins, and in time none goes on.
        budget_text: as it was written.
        grace: cycles that every trial gets; None is a sixteenth of a full trial's.
        retries: times that a trial is begun again after a process or a node of it was lost.
        failure_share: of the trials that have ended; when more have failed the sweep ends.
    """

    space: Space
    budget: Budget
    budget_text: str
    sampler: str = "random"
    scheduler: str = "asha"
    grace: int | None = None
    retries: int = 3
    failure_share: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what bounds nothing."""
        check_value("--grace", self.grace, PositiveInt | None)
        check_value("--retries", self.retries, NonNegativeInt)
        check_value("--failure-share", self.failure_share, Share)

    @property
    def trials(self) -> int:
        """Most trials."""
        return int(self.budget.amount) if self.budget.of == "trials" else MOST_TRIALS


@dataclass(frozen=True, kw_only=True)
class About:
    """What the ledger says of a sweep as a whole.

    Attributes:
        name: the sweep's.
        parent: the version that every trial unlearns from.
        request: what every trial is to forget.
        settings: how the space is searched.
        placement: of a trial's roles.
        cpus: that a trial reserves.
        gpus: the same.
    """

    name: str
    parent: Version
    request: Request
    settings: SweepSettings
    placement: str
    cpus: float
    gpus: float


class SweepRecord:
    """What is known of a sweep, in the ledger and in the driver, as it comes."""

    def __init__(self, about: About, context: Context) -> None:
        self.about, self.context, self.reader = about, context, LedgerReader(context.store)
        self.results: dict[str, TrialResult] = {}
        self.failed: set[str] = set()
        self.over: set[str] = set()
        self.begun: dict[str, datetime] = {}
        self.steps: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.busy: dict[str, float] = {}
        self.known: set[str] = set()
        self.first: datetime | None = None
        self.before_s = 0.0
        self.error: RayUnlearnError | None = None

    def begin(self) -> SweepView | None:
        """Record that the sweep begins, or goes on; the view of one that is over."""
        reader = self.reader
        goes_on = any(row["sweep"] == self.about.name for row in reader.read("sweeps").to_pylist())
        if goes_on:
            view = sweep_named(reader, self.about.name)
            self._require_same(view)
            if view.status == "finished":
                return view
            for trial in view.trials:
                self.known.add(trial.trial)
                if trial.result is not None:
                    self.results[trial.trial] = trial.result
                if trial.status != "running":
                    self.over.add(trial.trial)
                if trial.status == "failed":
                    self.failed.add(trial.trial)
                if trial.seconds is not None:
                    self.seconds[trial.trial] = trial.seconds
                self.busy[trial.trial] = trial.busy_seconds or 0.0
            rows = reader.read("checkpoints", run_id=self.about.name).to_pylist()
            self.steps = {row["trial"]: row["step"] for row in rows}
            self.before_s = self._spent_before(rows)
        self._event("resumed" if goes_on else "started")
        return None

    def _spent_before(self, checkpoints: Sequence[Mapping[str, Any]]) -> float:
        """Seconds of the search in earlier processes, each up to the last that was recorded of it."""
        sweeps = self.reader.read("sweeps", sweep=self.about.name).to_pylist()
        begun = [row["at"] for row in sweeps if row["event"] in ("started", "resumed")]
        trials = self.reader.read("trials", sweep=self.about.name).to_pylist()
        times = sorted(row["at"] for row in (*trials, *checkpoints))
        spent = 0.0
        for since, until in zip(begun, [*begun[1:], None], strict=True):
            own = [at for at in times if at >= since and (until is None or at < until)]
            spent += (own[-1] - own[0]).total_seconds() if own else 0.0
        return spent

    def _require_same(self, view: SweepView) -> None:
        s = self.about
        own = {
            "version": s.parent.version, "space": json.loads(s.settings.space.to_json()),
            "config_hash": self.context.recipe.config_hash, "sampler": s.settings.sampler,
            "scheduler": s.settings.scheduler, "budget": s.settings.budget_text,
        }  # fmt: skip
        for name, value in own.items():
            if getattr(view, name) != value:
                has = f"{name} {getattr(view, name)!r}, not {value!r}"
                raise BadInput("--name", s.name, f"another name: the sweep of this one has {has}")

    def started(self, trial: str, settings: Mapping[str, Any]) -> None:
        """A trial was given its place."""
        now = self.context.clock()
        self.first = self.first or now
        self.begun[trial] = now
        if trial not in self.known:
            self.known.add(trial)
            self._trial(trial, settings, "started")

    def reported(self, trial: str, settings: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """A trial came to a checkpoint, or to its end."""
        row = result["row"]
        before = self.steps.get(trial, 0)
        self.busy[trial] = self.busy.get(trial, 0.0) + result["busy_s"]
        if row is not None and row["step"] > before:
            self.steps[trial] = row["step"]
            stamp = {
                "run_id": self.about.name, "trial": trial, "lineage": self.about.parent.lineage,
                "phase": "unlearn", "at": self.context.clock(),
            }  # fmt: skip
            self.context.ledger.append("checkpoints", [{**stamp, **row}])
            self.context.progress.advance(row["step"] - before)
        self.results[trial] = TrialResult(
            trial=trial, score=result[SCORE], step=result["step"], cycles=result[CYCLE],
            reason=result["reason"],
        )  # fmt: skip
        if result["failed"]:
            self.lost(trial, settings, result["failed"])

    def ended(self, trial: str, settings: Mapping[str, Any], *, by_itself: bool) -> None:
        """A trial gave its place back."""
        if trial in self.failed:
            return
        result = self.results.get(trial)
        if result is None:  # stopped before its first checkpoint
            result = self.results[trial] = trial_result(trial, [], self.context.recipe.stopping)
        self._trial(
            trial, settings, "finished" if by_itself else "stopped", score=result.score, step=result.step,
            cycles=result.cycles, reason=result.reason, seconds=self._took(trial),
        )  # fmt: skip

    def lost(self, trial: str, settings: Mapping[str, Any], reason: str) -> None:
        """A trial cannot go on; its checkpoints so far still count."""
        if trial in self.failed:
            return
        self.failed.add(trial)
        result = self.results.get(trial)
        known = {} if result is None else {
            "score": result.score, "step": result.step, "cycles": result.cycles
        }  # fmt: skip
        self._trial(trial, settings, "failed", reason=reason, seconds=self._took(trial), **known)

    def measured(self, result: TrialResult, second: CheckpointRecord) -> None:
        """What the second set says of a trial's chosen checkpoint."""
        settings = next(t.settings for t in self.view().trials if t.trial == result.trial)
        self._trial(
            result.trial, settings, "measured", step=result.step, second_correct=second.retain_correct,
            second_count=second.retain_count, second_predicted=second.predicted,
        )  # fmt: skip

    def unmeasured(self) -> list[TrialResult]:
        """Results that the second set has not seen."""
        seen = {t.trial for t in self.view().trials if t.result is not None and t.result.second is not None}
        return [result for trial, result in self.results.items() if trial not in seen]

    def view(self) -> SweepView:
        """The sweep as the ledger has it."""
        return sweep_named(self.reader, self.about.name)

    def finish(self) -> SweepView:
        """Name the winner, or say that there is none."""
        winner = best(list(self.results.values()))
        took = self.before_s + self._since_first()
        if winner is not None:
            self._event("finished", winner=winner.trial, seconds=took)
        else:
            self._event("failed", reason=self._nothing(), seconds=took)
        return self.view()

    def _nothing(self) -> str:
        """Why there is no winner, and what could be changed."""
        stopping = self.context.recipe.stopping
        nearest = max(self.results.values(), key=lambda result: result.score, default=None)
        if nearest is None:
            return f"none of {len(self.known)} trials came to a checkpoint; {len(self.failed)} failed"
        return (
            f"none of {len(self.known)} trials has an admissible checkpoint; the nearest is {nearest.trial}: "
            f"{nearest.reason}. Give trials more cycles or a wider --space, or change stopping.min_retain "
            f"({stopping.min_retain:g}) or stopping.forget_tolerance ({stopping.forget_tolerance:g})"
        )

    def spent(self) -> Spent:
        """So far, trials under way included."""
        cpus, gpus = self.about.cpus, self.about.gpus
        spent = Spent()
        for trial in self.known:
            spent = spent.and_trial(self._took(trial), cpus=cpus, gpus=gpus)
        return Spent(
            trials=spent.trials, cpu_s=spent.cpu_s, gpu_s=spent.gpu_s,
            wall_s=self.before_s + self._since_first(),
        )  # fmt: skip

    def is_over(self) -> bool:
        """Whether the sweep is to end now: its time is spent, or too many trials failed."""
        budget, ended = self.about.settings.budget, len(self.over)
        if budget.of != "trials" and budget.is_spent(self.spent()):
            return True
        share = self.about.settings.failure_share
        return ended >= LEAST_ENDED and len(self.failed) > share * ended

    def summary(self) -> str:
        """The search in a few words."""
        admissible = sum(result.admissible for result in self.results.values())
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"{len(self.known)} trials, {admissible} admissible{failed}"

    def _took(self, trial: str) -> float:
        before = self.seconds.get(trial, 0.0)
        if trial not in self.begun:
            return before
        return before + (self.context.clock() - self.begun[trial]).total_seconds()

    def _since_first(self) -> float:
        return (self.context.clock() - self.first).total_seconds() if self.first else 0.0

    def _trial(self, trial: str, settings: Mapping[str, Any], event: str, **columns: Any) -> None:
        if event in ENDS:
            self.over.add(trial)
            self.seconds[trial] = columns["seconds"]
            columns["busy_seconds"] = self.busy.get(trial, 0.0)
            self.begun.pop(trial, None)
        row = {
            "sweep": self.about.name, "trial": trial, "lineage": self.about.parent.lineage,
            "settings": json.dumps(dict(settings), sort_keys=True), "event": event,
            "at": self.context.clock(), "cpus": self.about.cpus,
            "gpus": self.about.gpus, **columns,
        }  # fmt: skip
        self.context.ledger.append("trials", [row])

    def _event(self, event: str, **columns: Any) -> None:
        s, recipe = self.about, self.context.recipe
        row = {
            "sweep": s.name, "lineage": s.parent.lineage, "version": s.parent.version,
            "request": json.dumps(s.request.to_dict()), "recipe": recipe.name, "method": recipe.method,
            "space": s.settings.space.to_json(), "sampler": s.settings.sampler,
            "scheduler": s.settings.scheduler, "budget": s.settings.budget_text,
            "placement": s.placement, "config": to_json(recipe),
            "config_hash": recipe.config_hash, "seed": self.context.seed, "event": event,
            "at": self.context.clock(), **columns,
        }  # fmt: skip
        self.context.ledger.append("sweeps", [row])


LIVE: dict[str, SweepRecord] = {}
"""Sweeps of this driver, by name: Tune keeps its callbacks on disk, and what they write to is found here."""


class Recorder(tune.Callback):
    """Tells the record what Tune does; its errors are kept there, for Tune raises others in their place."""

    def __init__(self, sweep: str) -> None:
        self.sweep = sweep

    def _tell(self, what: Callable[[SweepRecord], None]) -> None:
        record = LIVE[self.sweep]
        try:
            what(record)
        except RayUnlearnError as error:
            record.error = error
            raise

    def on_trial_start(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        """A trial was given its place."""
        self._tell(lambda record: record.started(trial.trial_id, trial.config))

    def on_trial_result(
        self, iteration: int, trials: Sequence[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial reported."""
        self._tell(lambda record: record.reported(trial.trial_id, trial.config, result))

    def on_trial_complete(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        """A trial ended, by itself or because it was told to."""
        by_itself = bool((trial.last_result or {}).get("ended"))
        self._tell(lambda record: record.ended(trial.trial_id, trial.config, by_itself=by_itself))

    def on_trial_error(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        """A trial cannot go on, however often it was begun again."""
        why = str(trial.get_error() or "its processes were lost")
        self._tell(lambda record: record.lost(trial.trial_id, trial.config, why))


class EndOfSweep(tune.Stopper):
    """Ends the search when the record says that it is over."""

    def __init__(self, sweep: str) -> None:
        self.sweep = sweep

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is ended by itself."""
        return False

    def stop_all(self) -> bool:
        """Whether the sweep is over."""
        return LIVE[self.sweep].is_over()
