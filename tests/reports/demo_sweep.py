"""Ledgers of sweeps as the job leaves them, with made-up figures."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rayunlearn.ledger.ledger import Ledger
from rayunlearn.scheduling.objective import TrialResult, best, trial_result
from rayunlearn.scheduling.stopping import CheckpointRecord, StoppingSettings
from rayunlearn.storage.store import Store
from tests.ledger.ledgers import in_memory, row_of

SWEEP = "sweep-demo"
SPACE = {
    "gkt.beta": "loguniform(1.0,1000.0)",
    "gkt.divergence": "choice(kl,js)",
    "gkt.epsilon": "loguniform(0.001,0.1)",
    "gkt.generator_steps": "randint(1,10)",
    "gkt.temperature": "uniform(0.5,4.0)",
}
OWN = {
    "gkt.beta": 250.0, "gkt.divergence": "kl", "gkt.epsilon": 0.01, "gkt.generator_steps": 1,
    "gkt.temperature": 1.0,
}  # fmt: skip
"""The recipe's own values of the searched settings."""

STOPPING = StoppingSettings()
RETAIN, FORGET = 108, 12
"""Images of either set: of the classes to keep, of those to forget."""
CYCLES = 40

TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "trial.py", line 1, in step\n'
    'ValueError: <script>alert("x")</script> is \x1b[31mno loss\n'
)
"""One that steers a browser or a terminal, if it is let."""


@dataclass(frozen=True, kw_only=True)
class DemoTrial:
    """A trial to write.

    Attributes:
        trial: its id.
        settings: of it.
        records: its checkpoints.
        end: the event that ended it; None while it runs.
        lost: its processes were, before it could report.
        second: images right of `RETAIN` on the second set, by the chosen checkpoint; None where unmeasured.
    """

    trial: str
    settings: Mapping[str, Any]
    records: Sequence[CheckpointRecord] = ()
    end: str | None = "finished"
    lost: bool = False
    second: int | None = None

    @property
    def result(self) -> TrialResult:
        """By its own set."""
        return trial_result(self.trial, self.records, STOPPING)


def record(step: int, retain: float, forget: float = 0.0, mass: float = 0.0) -> CheckpointRecord:
    """A checkpoint of about these accuracies."""
    return CheckpointRecord(
        step=step, retain_correct=round(retain * RETAIN), retain_count=RETAIN,
        forget_correct=round(forget * FORGET), forget_count=FORGET, forget_mass=mass, pass_rate=0.5,
    )  # fmt: skip


def learner(trial: str, peak: float, *, cycles: int = CYCLES, second: int | None = None) -> DemoTrial:
    """A trial with the recipe's values whose student learns up to `peak`; the class never comes back."""
    records = [record(step, peak * (1 - math.exp(-step / 5))) for step in range(2, cycles + 1, 2)]
    return DemoTrial(trial=trial, settings=OWN, records=records, second=second)


def made_up(number: int) -> list[DemoTrial]:
    """Trials at random points: most are admissible, some never forget, some are stopped, some fail."""
    draw = random.Random(7)
    trials = []
    for index in range(number):
        settings = {
            "gkt.beta": 10 ** (3 * draw.random()),
            "gkt.divergence": draw.choice(["kl", "js"]),
            "gkt.epsilon": 10 ** (-3 + 2 * draw.random()),
            "gkt.generator_steps": draw.randint(1, 10),
            "gkt.temperature": 0.5 + 3.5 * draw.random(),
        }
        epsilon, failed = math.log10(settings["gkt.epsilon"]), index % 8 == 5
        peak = 0.97 - 0.07 * abs(epsilon + 2) - 0.03 * abs(math.log10(settings["gkt.beta"]) - 2.4)
        leaks = 12 + 20 * draw.random() if epsilon > -2.2 else math.inf
        last = (0 if index % 16 == 5 else 20) if failed else 8 if peak < 0.88 else CYCLES
        records = []
        for step in range(2, last + 1, 2):
            rise = 1 - math.exp(-step / (3 + 2 * draw.random()))
            forget = min(1.0, max(0.0, 0.06 * (step - leaks))) if epsilon < -1.4 else 0.2
            mass = min(1.0, 0.1 * math.exp(-step / 6) + forget)
            records.append(record(step, min(1.0, peak + 0.1 * forget) * rise, forget, mass))
        made = DemoTrial(
            trial=f"{index:05d}", settings=settings, records=records,
            end="failed" if failed else "finished" if last == CYCLES else "stopped",
        )  # fmt: skip
        if made.result.admissible:
            seen = round(made.result.score * RETAIN) - draw.randint(-2, 5)
            made = DemoTrial(**{**vars(made), "second": min(seen, RETAIN)})
        trials.append(made)
    return trials


def sweep_store(trials: Sequence[DemoTrial], *, over: bool = True, **columns: Any) -> Store:
    """A storage location whose ledger holds one sweep.

    Args:
        trials: in the order in which they were begun.
        over: the sweep has ended: without an admissible trial by failing.
        columns: of the sweep's own rows, instead of made-up ones.
    """
    store = in_memory()
    write_sweep(Ledger(store), trials, over=over, **columns)
    return store


def write_sweep(ledger: Ledger, trials: Sequence[DemoTrial], *, over: bool = True, **columns: Any) -> None:
    """Append one sweep to a ledger; the rest as `sweep_store`."""
    request = {"request_id": "forget-0", "kind": "classes", "target": [0], "whole_classes": False}
    told = {
        "sweep": SWEEP, "lineage": "default", "recipe": "digits_gkt", "method": "gkt", "sampler": "random",
        "scheduler": "asha", "budget": f"{len(trials)} trials", "request": json.dumps(request),
        "space": json.dumps(SPACE), "config": json.dumps({"stopping": asdict(STOPPING)}),
        "reason": None, "winner": None, "seconds": None,
    }  # fmt: skip
    told |= columns
    ledger.append("sweeps", [row_of("sweeps", **told, event="started")])
    for trial in trials:
        ledger.append("trials", [_event(told["sweep"], trial, "started")])
    for trial in trials:
        rows = [_checkpoint(told["sweep"], trial, found) for found in trial.records]
        if rows:
            ledger.append("checkpoints", rows)
        if trial.end is not None:
            ledger.append("trials", [_ended(told["sweep"], trial)])
    for trial in trials:
        if trial.second is not None:
            seen = {"step": trial.result.step, "second_correct": trial.second, "second_count": RETAIN}
            ledger.append("trials", [_event(told["sweep"], trial, "measured", **seen)])
    if not over:
        return
    winner = best([trial.result for trial in trials if trial.end is not None])
    nothing = f"none of {len(trials)} trials has an admissible checkpoint"
    end = {"event": "finished", "winner": winner.trial} if winner else {"event": "failed", "reason": nothing}
    ledger.append("sweeps", [row_of("sweeps", **told | end | {"seconds": 81.5})])


def _event(sweep: str, trial: DemoTrial, event: str, **columns: Any) -> dict[str, Any]:
    nothing = dict.fromkeys(
        (
            "score", "step", "cycles", "second_correct", "second_count", "second_predicted", "seconds",
            "reason",
        ),
        None,
    )  # fmt: skip
    row = row_of("trials", sweep=sweep, trial=trial.trial, settings=json.dumps(trial.settings), event=event)
    return row | {"cpus": 1.0, "gpus": 0.0} | nothing | columns


def _ended(sweep: str, trial: DemoTrial) -> dict[str, Any]:
    result = trial.result
    columns: dict[str, Any] = {"seconds": 0.25 * result.cycles, "reason": result.reason}
    if not trial.lost:
        columns |= {"score": result.score, "step": result.step, "cycles": result.cycles}
    if trial.end == "failed":
        columns["reason"] = TRACEBACK
    assert trial.end is not None
    return _event(sweep, trial, trial.end, **columns)


def _checkpoint(sweep: str, trial: DemoTrial, found: CheckpointRecord) -> dict[str, Any]:
    figures = {name: value for name, value in asdict(found).items() if name not in ("samples", "predicted")}
    return row_of("checkpoints", run_id=sweep, trial=trial.trial, **figures)
