"""A search of settings, with and without early stopping: `python -m benchmarks.sweep`.

Digits: sixteen trials to their end, and the same sixteen under ASHA, seed by seed; then what the chosen
checkpoints are worth on real test images, which no search sees. Trials, seconds and cycles are the ledger's.
A run that was stopped goes on from `--storage`. Settings: gated knowledge transfer at half the recipe's width
and a quarter of its cycles, so that a trial takes a minute of one core.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import ray
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from rayunlearn.execution.cluster import Placement, connect
from rayunlearn.execution.machine import machine_facts
from rayunlearn.ledger.ledger import Ledger
from rayunlearn.ledger.lineage import Version, versions
from rayunlearn.ledger.sweeps import SweepView
from rayunlearn.lineages.context import Context
from rayunlearn.recipes import Recipe, load_recipe
from rayunlearn.reports.terminal import JobProgress
from rayunlearn.scheduling.budget import parse_budget
from rayunlearn.scheduling.objective import Correlation, regret, spearman
from rayunlearn.scheduling.requests import Request
from rayunlearn.serving.service import Place, Service
from rayunlearn.settings import override
from rayunlearn.storage.store import Store
from rayunlearn.tuning.search_space import space_of
from rayunlearn.tuning.sweep import Sweep, where_for
from rayunlearn.tuning.sweep_audit import audit_sweep
from rayunlearn.tuning.sweep_record import SweepSettings
from rayunlearn.unlearning.progress import Progress, Quiet

SETTINGS = ("model.width=0.125", "gkt.cycles=240", "gkt.schedule_cycles=240")
SPACE = (
    "gkt.epsilon=loguniform(0.001,0.1)",
    "gkt.beta=loguniform(1,1000)",
    "gkt.temperature=loguniform(0.5,4)",
    "gkt.student_lr=loguniform(0.0003,0.01)",
    "gkt.generator_lr=loguniform(0.0003,0.01)",
    "gkt.divergence=choice(kl,js)",
)
"""The recipe's declared space, fixed before anything was measured."""
TRIALS, TARGET = 16, 0
MOST_CYCLES, MOST_POINTS, LEAST_BUSY, MOST_OVERHEAD_S = 0.4, 1.0, 0.85, 5.0
SCHEDULERS = ("none", "asha")
IN_STORE, STORE_NOISE = (2, 8), 0.05
"""Numbers of trials between which the object store is compared."""

Real = Mapping[str, tuple[float, float]]


def recipe() -> Recipe:
    """What is searched."""
    return override(load_recipe("digits_gkt"), list(SETTINGS))


def sweep(storage: Path, seed: int, scheduler: str, progress: JobProgress) -> tuple[SweepView, Real]:
    """A sweep and its audit, from wherever it was stopped."""
    context, parent, searching = searched(
        recipe(), Store.open(storage / f"seed-{seed}"), seed, scheduler, TRIALS, progress
    )
    view = searching.run()
    return view, audit_sweep(context, view, parent, searching.request.classes)


def searched(
    settings: Recipe, store: Store, seed: int, scheduler: str, trials: int, progress: Progress
) -> tuple[Context, Version, Sweep]:
    """A search of so many trials, ready to run."""
    context = Context(
        store=store, ledger=Ledger(store), recipe=settings, seed=seed, clock=lambda: datetime.now(UTC),
        progress=progress,
    )  # fmt: skip
    service = Service(context, Place(placement=Placement.COLOCATED))
    if not versions(service.reader, "default"):
        service.begin_lineage("default")
    parent = versions(service.reader, "default")[-1]
    request = Request(request_id="practice", target=(TARGET,), received_at=datetime(2026, 1, 1, tzinfo=UTC))
    budget = f"{trials} trials"
    wanted = SweepSettings(
        space=space_of(settings, SPACE), budget=parse_budget(budget), budget_text=budget, scheduler=scheduler
    )
    where = where_for(settings, Placement.COLOCATED, cpus_per_role=None, gpus_per_role=None)
    return context, parent, Sweep(context, parent, request, wanted, where)


def in_store(trials: int) -> int:
    """Most bytes in Ray's object store during a short search of so many trials, looked at twice a second."""
    settings, most, over = override(recipe(), ["gkt.cycles=8", "gkt.schedule_cycles=8"]), [0], Event()

    def used() -> int:
        there, free = ray.cluster_resources(), ray.available_resources()
        return int(there["object_store_memory"] - free.get("object_store_memory", 0))

    def look() -> None:
        while not over.wait(0.5):
            most[0] = max(most[0], used() - before)

    with TemporaryDirectory() as folder:
        *_, searching = searched(settings, Store.open(folder, sync=False), 0, "none", trials, Quiet())
        before = used()
        looking = Thread(target=look, daemon=True)
        looking.start()
        searching.run()
        over.set()
        looking.join()
    return most[0]


def figures(view: SweepView) -> dict[str, Any]:
    """Cycles and seconds of a sweep."""
    slots = int(ray.cluster_resources().get("CPU", 1))
    busy = sum(t.busy_seconds or 0.0 for t in view.trials)
    held = sum(t.seconds or 0.0 for t in view.trials)
    assert view.seconds is not None
    return {
        "cycles": sum(t.result.cycles for t in view.trials if t.result),
        "admissible": sum(t.result is not None and t.result.admissible for t in view.trials),
        "busy_share": busy / (slots * view.seconds),
        "overhead_s_per_trial": (held - busy) / len(view.trials),
        "seconds": view.seconds,
    }


def worth(view: SweepView, real: Real) -> dict[str, Any]:
    """What a sweep's winner is worth on real data, and what the best of its trials is."""
    clean = {trial: retain for trial, (retain, forget) in real.items() if forget == 0}
    winner = str(view.winner)
    return {
        "winner": winner,
        "winner_retain": real[winner][0],
        "winner_forget": real[winner][1],
        "best_retain": max(clean.values()),
        "settings": dict(next(t.settings for t in view.trials if t.trial == winner)),
    }


def of_seed(found: Mapping[str, tuple[SweepView, Real]], own: Mapping[str, Any]) -> dict[str, Any]:
    """Both sweeps of a seed beside each other."""
    full, real = found["none"]
    early, early_real = found["asha"]
    scores = {t.trial: t.result.score for t in full.trials if t.result and t.result.admissible}
    retain = {trial: figures[0] for trial, figures in real.items()}
    default = next(
        t.trial for t in full.trials if all(t.settings[key] == value for key, value in own.items())
    )
    best = worth(full, real)
    return {
        "full": figures(full) | best,
        "asha": figures(early) | worth(early, early_real),
        "cycles_share": figures(early)["cycles"] / figures(full)["cycles"],
        "asha_lacks": 100 * (best["best_retain"] - early_real[str(early.winner)][0]),
        "regret": 100 * regret(str(full.winner), retain),
        "default_retain": real[default][0] if default in real else None,
        "default_forget": real[default][1] if default in real else None,
        "spearman": asdict(spearman(scores, retain)),
        "gap": [t.result.gap for t in full.trials if t.result and t.result.gap is not None],
    }


def main(
    storage: Path = Path("reproduction/sweep"), out: Path = Path("docs/results/sweep.json"), seeds: int = 3
) -> None:
    """Run what is not done yet, print the figures, store them.

    Args:
        storage: folder of the sweeps.
        out: where the figures are stored.
        seeds: from 0.
    """
    console = Console(width=110, highlight=False)
    connect()
    own = {entry.partition("=")[0]: None for entry in SPACE}
    settings = recipe().gkt
    own = {key: getattr(settings, key.rpartition(".")[2]) for key in own}
    results = []
    with JobProgress(console) as progress:
        for seed in range(seeds):
            found = {s: sweep(storage.absolute(), seed, s, progress) for s in SCHEDULERS}
            results.append(of_seed(found, own))
    held = {trials: in_store(trials) for trials in IN_STORE}
    checks = checked(results) | {
        "what is in the object store does not grow with the trials": 0
        < held[IN_STORE[1]]
        <= held[IN_STORE[0]] * (1 + STORE_NOISE)
    }
    _show(console, results)
    said = ", ".join(f"{bytes / 1e6:.2f} MB with {trials} trials" for trials, bytes in held.items())
    console.print(f"at most in the object store: {said}")
    for name, passed in checks.items():
        console.print(f"{'yes' if passed else 'no ':3} {name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    told = {"benchmark": "sweep", "seeds": results, "in_store": held, "checks": checks} | {
        "machine": machine_facts()
    }
    out.write_text(json.dumps(told, indent=1) + "\n")


def checked(results: list[dict[str, Any]]) -> dict[str, bool]:
    """What is asked of a sweep, over all seeds."""
    return {
        f"ASHA spends at most {MOST_CYCLES:.0%} of the cycles": mean(r["cycles_share"] for r in results)
        <= MOST_CYCLES,
        f"its winner lacks at most {MOST_POINTS:g} point to the best of the full trials, and forgets": all(
            r["asha_lacks"] <= MOST_POINTS and r["asha"]["winner_forget"] == 0 for r in results
        ),
        f"trials compute at least {LEAST_BUSY:.0%} of the time that there are slots": all(
            r["full"]["busy_share"] >= LEAST_BUSY for r in results
        ),
        f"overhead of a trial under {MOST_OVERHEAD_S:g} s": all(
            r["full"]["overhead_s_per_trial"] < MOST_OVERHEAD_S for r in results
        ),
        "synthetic and real scores agree (rho at least 0.7)": all(
            (r["spearman"]["rho"] or 0.0) >= 0.7 for r in results
        ),
        "the winner beats the recipe's own settings": all(
            r["default_retain"] is None or r["full"]["winner_retain"] > r["default_retain"] for r in results
        ),
    }


def _show(console: Console, results: list[dict[str, Any]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("seed", "16 full: best, winner, own", "ASHA: winner", "cycles", "busy", "s/trial", "rho"):
        table.add_column(header, justify="right")
    for seed, r in enumerate(results):
        rho = Correlation(**r["spearman"])
        own = "-" if r["default_retain"] is None else f"{100 * r['default_retain']:.1f}"
        full, early = r["full"], r["asha"]
        table.add_row(
            str(seed),
            f"{100 * full['best_retain']:.1f}, {100 * full['winner_retain']:.1f}, {own}",
            f"{100 * early['winner_retain']:.1f}",
            f"{100 * r['cycles_share']:.0f} %",
            f"{100 * full['busy_share']:.0f} %",
            f"{full['overhead_s_per_trial']:.1f}",
            "-" if rho.rho is None else f"{rho.rho:.2f} ({rho.n})",
        )
    console.print(table)


if __name__ == "__main__":
    tyro.cli(main)
