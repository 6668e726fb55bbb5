"""Unlearn or retrain: where retraining becomes the better way. `python -m benchmarks.crossing`.

Digits, seven classes one after another, by the methods of `benchmarks.sequence` and by retraining.
*Quality*: the points by which each is behind a model retrained from scratch, on real test images. *Cost*: on
digits retraining takes seconds, so the seconds that the runs took are put to the plan for training sets so
many times as large; retraining itself takes so many times as long, everything else as long as before. What
the plan chooses, it chooses by synthetic measures and seconds alone. The seconds are of runs at different
times on a shared machine: where the costs cross is an order of magnitude. A run that was stopped goes on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.rows import finished
from benchmarks.sequence import METHODS as SETTINGS
from benchmarks.zero_shot import value
from papers.run import row_store
from papers.zero_shot import Row, row
from papers.zero_shot_figures import SEQUENCE
from rayunlearn.execution.machine import machine_facts
from rayunlearn.ledger.history import History
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.recipes import load_recipe
from rayunlearn.scheduling.costs import Costs, CostSettings, PastRun
from rayunlearn.storage.store import Store

METHODS = SETTINGS | {"retrain": ()}
DEFAULT = "gated_inversion"
SEEDS = 5
BEHIND = 1.5
"""Points behind Retrain from which retraining counts as better."""
TIMES = (1, 3, 10, 30, 100)
RECIPE = "digits"


def rows() -> dict[str, Row]:
    """The sequence by each method."""
    recipe = load_recipe(RECIPE)
    requests = [(c,) for c in SEQUENCE]
    return {
        method: row("sequence", recipe, recipe, method, requests, *settings, measures="accuracy,probe")
        for method, settings in METHODS.items()
    }


def behind(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One method: for each request the points behind Retrain, with a 95 % interval over the seeds."""
    found = []
    for number, target in enumerate(SEQUENCE, start=1):
        of = [r for r in results if r["target"] == [target]]
        gaps = [
            100 * (value(r, "gold", "retain_accuracy") - value(r, "unlearned", "retain_accuracy")) for r in of
        ]
        if len(gaps) < 2:
            break
        half = stats.t.ppf(0.975, len(gaps) - 1) * np.std(gaps, ddof=1) / len(gaps) ** 0.5
        found.append({"request": number, "gap": mean(gaps), "half": float(half), "n": len(gaps)})
    return found


def crossing(gaps: Sequence[dict[str, Any]]) -> int | None:
    """The first request from which on retraining is better by more than `BEHIND` points, if any."""
    for gap in gaps:
        if all(later["gap"] > BEHIND for later in gaps if later["request"] >= gap["request"]):
            return int(gap["request"])
    return None


def past(storage: Path, of: Row, seeds: int) -> list[tuple[PastRun, float]]:
    """What a row's runs took and left, as the plan would know them, and the seconds of the method itself."""
    found: list[tuple[PastRun, float]] = []
    for seed in range(seeds):
        reader = LedgerReader(Store.open(row_store(storage.absolute(), of, seed), create=False))
        known = History(reader).known("{}", waiting=(), under_way={}, config_hash=lambda method: "")
        own: dict[str, float] = {}
        for phase in reader.rows("runs", columns=["run_id", "seconds"], event="phase", phase="unlearn"):
            own[phase["run_id"]] = own.get(phase["run_id"], 0.0) + phase["seconds"]
        ended = [row["run_id"] for row in reader.rows("runs", event={"published", "failed"})]
        for run, run_id in zip(known.past, ended, strict=True):
            found.append((replace(run, recipe=RECIPE), own.get(run_id, 0.0)))
    return found


def chosen(runs: dict[str, list[tuple[PastRun, float]]], times: int) -> list[str]:
    """What the plan chooses for each request of the sequence, with so many times the training images."""
    history = [run for run, _ in runs[DEFAULT]]
    history += [replace(run, seconds=run.seconds + (times - 1) * own) for run, own in runs["retrain"]]
    costs = Costs(history, CostSettings(), "retrain")
    kept, found = 1.0, []
    for forgotten in range(1, len(SEQUENCE) + 1):
        choice = costs.choose((DEFAULT, "retrain"), RECIPE, forgotten, kept)
        kept = choice.kept
        found.append("unlearn" if choice.method == DEFAULT else choice.method)
    return found


def main(
    out: Path = Path("docs/results/crossing.json"),
    storage: Path = Path("reproduction"),
    seeds: int = SEEDS,
) -> None:
    """Run the benchmark.

    Args:
        out: where the figures are stored.
        storage: folder for what is under way.
        seeds: at least 2.
    """
    console, wanted = Console(width=110), rows()
    results = finished(list(wanted.values()), seeds, storage, console)
    gaps = {m: behind([r for r in results if r["method"] == m]) for m in METHODS}
    runs = {method: past(storage, of, seeds) for method, of in wanted.items()}
    seconds = {
        method: [
            median(run.seconds for run, _ in found if run.forgotten == n)
            for n in range(1, len(SEQUENCE) + 1)
            if any(run.forgotten == n for run, _ in found)
        ]
        for method, found in runs.items()
    }
    quality = Table("", *(str(n) for n in range(1, len(SEQUENCE) + 1)), box=box.SIMPLE_HEAD)
    quality.title = "Points behind Retrain after so many requests (± 95 % of the mean)"
    for method, of in gaps.items():
        quality.add_row(method, *(f"{g['gap']:.1f} ± {g['half']:.1f}" for g in of))
    cost = Table("training images", *(str(n) for n in range(1, len(SEQUENCE) + 1)), box=box.SIMPLE_HEAD)
    cost.title = "What the plan chooses for each request"
    choices = {times: chosen(runs, times) for times in TIMES}
    for times, methods in choices.items():
        cost.add_row(f"x {times}", *methods)
    console.print(quality)
    for method, of in gaps.items():
        at = crossing(of)
        said = "never within the sequence" if at is None else f"from request {at} on"
        console.print(f"{method}: more than {BEHIND:g} points behind {said}", highlight=False)
    console.print(cost)
    for method, each in seconds.items():
        console.print(f"{method}: {', '.join(f'{s:.1f}' for s in each)} s a request", highlight=False)
    itself = median(own for _, own in runs["retrain"])
    beside = median(run.seconds - own for run, own in runs["retrain"])
    even = (median(run.seconds for run, _ in runs[DEFAULT]) - beside) / itself
    console.print(f"retraining itself takes {itself:.1f} s, and {beside:.1f} s beside it", highlight=False)
    console.print(f"equal cost at {even:.1f} times the digits' training set", highlight=False)
    stored = {
        "benchmark": "crossing", "seeds": seeds, "behind": gaps,
        "crossing": {method: crossing(of) for method, of in gaps.items()},
        "seconds": seconds, "retrain_itself_s": itself,
        "retrain_beside_s": beside, "choices": {str(k): v for k, v in choices.items()}, "equal_cost_at": even,
        "machine": machine_facts(),
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
