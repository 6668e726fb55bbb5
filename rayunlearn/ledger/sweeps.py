"""Views of the ledger: sweeps, their trials, and the trials as one Arrow table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from rayunlearn.errors import BadInput, nearest
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.scheduling.objective import TrialResult
from rayunlearn.scheduling.stopping import CheckpointRecord

_Row = dict[str, Any]
ENDS = ("finished", "stopped", "failed")
"""Events that end a trial: by itself, by the scheduler or a spent budget, by an error."""


_WORDS = {"retain": "retain accuracy", "forget": "forget accuracy", "set": "synthetic set"}
_BEHAVIOUR_WORDS = {
    "retain": "agreement",
    "forget": "given an erased label",
    "set": "held-out part of D'",
}
"""Of a request by examples: what is not like them should be answered as before (agreement)."""


@dataclass(frozen=True, kw_only=True)
class TrialView:
    """A trial as the ledger has it.

    Attributes:
        trial: its id.
        settings: dotted path -> value.
        status: "running", "finished" (it reached its end or its own stop), "stopped" (early, or when the
            budget was spent), "failed".
        result: by its checkpoints on the sweep's own set, and by the second one where that was measured;
            None while it runs, and of one that was lost before it could report.
        seconds: that it held its place.
        busy_seconds: of these, in which its run was carried out.
        cpus: reserved meanwhile.
        gpus: reserved meanwhile.
        failure: the traceback of a failed one.
    """

    trial: str
    settings: Mapping[str, Any]
    status: str
    result: TrialResult | None
    seconds: float | None
    busy_seconds: float | None
    cpus: float
    gpus: float
    failure: str | None


@dataclass(frozen=True, kw_only=True)
class SweepView:
    """A sweep as the ledger has it.

    Attributes:
        sweep: its name.
        lineage: of the version.
        version: that every trial unlearns from.
        request: what every trial is to forget, as JSON values.
        recipe: whose settings were searched.
        method: of the recipe.
        space: dotted path -> kind and values.
        sampler: "random", "grid" or "optuna".
        scheduler: "asha", "median" or "none".
        budget: as it was written.
        config_hash: of the recipe before any point of the space.
        config: of the same, JSON.
        status: "running", "finished" or "failed".
        reason: why it failed.
        winner: id of the best trial; None where none is admissible.
        seconds: from the first trial on.
        trials: in the order in which they were begun.
    """

    sweep: str
    lineage: str
    version: str
    request: Mapping[str, Any]
    recipe: str
    method: str
    space: Mapping[str, str]
    sampler: str
    scheduler: str
    budget: str
    config_hash: str
    config: str
    status: str
    reason: str | None
    winner: str | None
    seconds: float | None
    trials: tuple[TrialView, ...] = field(default=())

    def best(self) -> TrialView | None:
        """The winner."""
        return next((trial for trial in self.trials if trial.trial == self.winner), None)


def score_words(sweep: SweepView) -> Mapping[str, str]:
    """What the scores of a sweep's trials are, and by what they were taken, in words."""
    return _BEHAVIOUR_WORDS if sweep.request["kind"] == "examples" else _WORDS


def sweep_named(reader: LedgerReader, name: str) -> SweepView:
    """A sweep by its name.

    Raises:
        BadInput: there is none of that name.
    """
    rows = reader.read("sweeps").to_pylist()
    own = [row for row in rows if row["sweep"] == name]
    if not own:
        known = {row["sweep"] for row in rows}
        raise BadInput("sweep", name, nearest(name, known) if known else "none: no sweep was run here yet")
    first, last = own[0], own[-1]
    status = last["event"] if last["event"] in ("finished", "failed") else "running"
    told = ("sweep", "lineage", "version", "recipe", "method", "sampler", "scheduler", "budget")
    return SweepView(
        **{key: first[key] for key in (*told, "config_hash", "config")},
        request=json.loads(first["request"]),
        space=json.loads(first["space"]),
        status=status,
        reason=last["reason"] if status == "failed" else None,
        winner=last["winner"],
        seconds=last["seconds"],
        trials=tuple(_trials(reader.read("trials", sweep=name).to_pylist())),
    )


def _trials(rows: Sequence[_Row]) -> list[TrialView]:
    by_id: dict[str, list[_Row]] = {}
    for row in rows:
        by_id.setdefault(row["trial"], []).append(row)
    return [_trial(own) for own in by_id.values()]


def _trial(rows: Sequence[_Row]) -> TrialView:
    """One trial from its events; of ends that repeat, as after a sweep was resumed, the last counts."""
    first = rows[0]
    end = next((row for row in reversed(rows) if row["event"] in ENDS), None)
    measured = [row for row in rows if row["event"] == "measured"]
    result = None
    if end is not None and end["score"] is not None:
        second = measured[-1] if measured and measured[-1]["step"] == end["step"] else None
        result = TrialResult(
            trial=first["trial"], score=end["score"], step=end["step"], cycles=end["cycles"],
            reason=end["reason"], second=None if second is None else _second(second),
        )  # fmt: skip
    return TrialView(
        trial=first["trial"],
        settings=json.loads(first["settings"]),
        status=end["event"] if end else "running",
        result=result,
        seconds=end["seconds"] if end else None,
        busy_seconds=end["busy_seconds"] if end else None,
        cpus=first["cpus"] or 0.0,
        gpus=first["gpus"] or 0.0,
        failure=end["reason"] if end and end["event"] == "failed" else None,
    )


def _second(row: _Row) -> CheckpointRecord:
    """The second set's record: its retain images alone are reported."""
    return CheckpointRecord(
        step=row["step"], retain_correct=row["second_correct"], retain_count=row["second_count"],
        forget_correct=0, forget_count=0, forget_mass=0.0, pass_rate=0.0, samples=True,
        predicted=row["second_predicted"],
    )  # fmt: skip


def trials_table(sweep: SweepView) -> pa.Table:
    """The trials of a sweep, a row each: every setting a column of its own type, then what came out."""
    columns: dict[str, list[Any]] = {
        "trial": [trial.trial for trial in sweep.trials],
        "status": [trial.status for trial in sweep.trials],
    }
    for key in sorted({key for trial in sweep.trials for key in trial.settings}):
        columns[key] = [trial.settings.get(key) for trial in sweep.trials]
    results = [trial.result for trial in sweep.trials]
    for name in ("score", "step", "cycles", "second_score", "gap"):
        columns[name] = [None if result is None else getattr(result, name) for result in results]
    columns["seconds"] = [trial.seconds for trial in sweep.trials]
    kinds = {"trial": pa.string(), "status": pa.string(), "step": pa.int64(), "cycles": pa.int64()}
    kinds |= dict.fromkeys(("score", "second_score", "gap", "seconds"), pa.float64())
    return pa.table({name: pa.array(values, type=kinds.get(name)) for name, values in columns.items()})


def winning_settings(reader: LedgerReader, name: str, *, recipe: str, method: str) -> Mapping[str, Any]:
    """What a sweep found best, dotted path -> value.

    Raises:
        BadInput: no such sweep, one that has not found anything, or one of another recipe or method.
    """
    sweep = sweep_named(reader, name)
    best = sweep.best()
    if best is None:
        why = sweep.reason or f"it is {sweep.status}"
        raise BadInput("--tuned", name, f"a sweep that found an admissible trial; of this one: {why}")
    if (sweep.recipe, sweep.method) != (recipe, method):
        own = f"this one is over {sweep.recipe} with method {sweep.method}"
        allowed = f"a sweep over {recipe} with method {method}; {own}"
        raise BadInput("--tuned", name, allowed)
    return best.settings


def trial_run(sweep: str, trial: str) -> str:
    """The name under which a trial's files and its audit are kept."""
    return f"{sweep}.{trial}"


def real_figures(reader: LedgerReader, sweep: SweepView) -> dict[str, tuple[float, float]]:
    """Retain and forget accuracy on real test images by trial, where they were measured.

    Args:
        reader: one that was granted the table of audits.
        sweep: the sweep.
    """
    found: dict[str, dict[str, float]] = {}
    names = {trial_run(sweep.sweep, trial.trial): trial.trial for trial in sweep.trials}
    for row in reader.read("audits", subject="checkpoint").to_pylist():
        trial = names.get(row["run_id"])
        if trial is not None and row["value"] is not None:
            found.setdefault(trial, {})[row["measure"]] = row["value"]
    pair = ("retain_accuracy", "forget_accuracy")
    return {t: (own[pair[0]], own[pair[1]]) for t, own in found.items() if set(own) >= set(pair)}
