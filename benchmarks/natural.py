"""Partial restart beside Retrain: `python -m benchmarks.natural`, about ten minutes a row on one core.

Originals and Retrain models are the zoo's (`benchmarks.zoo`), which trains and keeps them. A request is
served by the scheduler in this process on one thread, from weights alone, gate included; whatever the gate
says of the result, it is published and measured on the test images.

- Gap: D_r of the mean Retrain model less that of the version, in points.
- Probe: recall of the class to forget after 1, 10 and 100 real images of each class, by a linear probe of the
  features; beside the Retrain models' mean, and their standard deviation over all rows of the setup that have
  two of them.
- Time ratio: CPU seconds of the request over those of a Retrain, the mean of some of whose steps is timed in
  this process.

Rows that are stored are left as they are: a longer list of classes goes on from them.
"""

from __future__ import annotations

import json
import math
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, variance
from time import process_time
from typing import Annotated, Any

import torch
import tyro

from benchmarks.zoo.cache import Cache, Weights, default_folder
from benchmarks.zoo.members import Workshop
from benchmarks.zoo.setups import SETUPS as ZOO
from benchmarks.zoo.setups import WHOLE_MNIST, Setup, Task
from benchmarks.zoo.truth import first_images
from rayunlearn.auditing.training import fit, training_job
from rayunlearn.evaluation.accuracy import class_counts
from rayunlearn.evaluation.probe import ProbeSettings, linear_probes, recall
from rayunlearn.execution.machine import machine_facts
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.ledger.schemas import ALL_TABLES
from rayunlearn.lineages.context import Context
from rayunlearn.methods.training import StepInfo
from rayunlearn.models.classifiers import version_model
from rayunlearn.models.weights import weights_from_bytes
from rayunlearn.recipes import Recipe
from rayunlearn.scheduling.requests import Request
from rayunlearn.seeds import derive_seed
from rayunlearn.serving.scheduler import Scheduler
from rayunlearn.settings import override
from rayunlearn.storage.store import Store
from rayunlearn.unlearning.executor import InlineExecutor
from rayunlearn.unlearning.progress import Quiet

STORED = Path(__file__).parents[1] / "docs" / "results" / "natural.json"
METHODS = ("partial_restart",)
SETUPS = {**ZOO, WHOLE_MNIST.name: WHOLE_MNIST}
SHOWN = {1: 10, 10: 5, 100: 2}
"""Real images of a class that a probe learns from -> draws of them."""
ASKED = 200
"""Test images of a class that a probe is asked about."""
TIMED = (10, 60)
"""Steps of a Retrain, from and to, whose seconds are taken."""
SETTINGS = ("publish_refused=true", "validation.checkpoint_every=5")


class _Timed(Exception):
    """Enough of the training was seen."""


def retrain_seconds(shop: Workshop, forget: tuple[int, ...]) -> float:
    """CPU seconds of a Retrain in single precision, from some of its steps."""
    first, last = TIMED
    began: list[float] = []
    total: list[int] = []

    def look(info: StepInfo) -> None:
        if info.step == first:
            began.append(process_time())
        if info.step == last:
            total.append(info.total)
            raise _Timed

    try:
        fit(training_job(shop.recipe, shop.spec, shop.seed, excluded=forget, gold=0), on_step=look)
    except _Timed:
        return (process_time() - began[0]) / (last - first) * total[0]
    raise AssertionError(f"a training of fewer than {last} steps")


def served(shop: Workshop, recipe: Recipe, forget: tuple[int, ...]) -> dict[str, Any]:
    """A request from the original, and what the scheduler said of its result."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder, sync=False)
        context = Context(
            store=store, ledger=Ledger(store), recipe=recipe, seed=shop.seed,
            clock=lambda: datetime.now(UTC), progress=Quiet(),
        )  # fmt: skip
        scheduler = Scheduler(context, open_executor=InlineExecutor, placement="inline")
        scheduler.publish(
            lineage="default", weights=shop.original, spec=shop.spec, parent=None, request_ids=[],
            classes_forgotten=(), run=None,
        )  # fmt: skip
        began = process_time()
        outcome = scheduler.serve(Request(request_id="forget", target=forget))
        seconds = process_time() - began
        if outcome.version is None:
            raise RuntimeError(f"nothing was published: {outcome.reason}")
        weights = weights_from_bytes(store.get(f"models/default/{outcome.version}.safetensors"))
        reader = LedgerReader(store, ALL_TABLES)
        rows = reader.read("evaluations", run_id=outcome.run_id).to_pylist()
        phases = reader.read("runs", run_id=outcome.run_id, event="phase").to_pylist()
    kept = [int(row["value"]) for row in rows if row["measure"] == "kept_layers"]
    figures = {row["measure"]: row["value"] for row in rows if row["measure"].startswith("predicted")}
    return {
        "weights": weights, "seconds": seconds, "passed": outcome.reason is None, "reason": outcome.reason,
        "step": outcome.choice.step if outcome.choice else None, "kept_layers": kept[0] if kept else None,
        **figures,
        "phases": {row["phase"]: round(row["seconds"], 1) for row in phases},
    }  # fmt: skip


def on_real_data(shop: Workshop, weights: Weights, forget: tuple[int, ...]) -> dict[str, Any]:
    """D_r and D_f on all test images, in %, and what probes know of the classes to forget."""
    model, data = version_model(shop.spec, weights), shop.dataset
    classes, test = shop.spec.num_classes, shop.parts.test_ids
    counts = class_counts(model, data.images[test], data.labels[test], classes)
    right, count = counts.sums([c for c in range(classes) if c not in forget])
    gone, of = counts.sums(forget)
    asked = first_images(shop, test, ASKED)
    found = {}
    for shown, draws in SHOWN.items():
        seeds = [derive_seed(shop.seed, "natural probe", draw) for draw in range(draws)]
        settings = ProbeSettings(train_per_class=shown)
        train = first_images(shop, shop.parts.train_ids, 5 * shown + 100)
        found[str(shown)] = recall(linear_probes(model, *train, *asked, forget, settings, seeds))[0]
    return {"d_r": 100 * right / count, "d_f": 100 * gone / of, "probe": found}


def row_of(
    setup: Setup, seed: int, forget: tuple[int, ...], method: str, golds: int, cache: Cache
) -> dict[str, Any]:
    """A request by a method, beside Retrain models."""
    shop = Workshop(Task(setup=setup, seed=seed, requests=(forget,)), cache)
    recipe = override(shop.recipe, [f"method={method}", *SETTINGS])
    gold = [on_real_data(shop, shop.retrained(forget, number)["1"], forget) for number in range(golds)]
    found = served(shop, recipe, forget)
    real = on_real_data(shop, found.pop("weights"), forget)
    whole = retrain_seconds(shop, forget)
    gold_d_r = mean(of["d_r"] for of in gold)
    return {
        "setup": setup.name, "seed": seed, "forget": list(forget), "method": method, **real,
        "original": on_real_data(shop, shop.original, forget), "golds": gold,
        "gap": gold_d_r - real["d_r"], **found, "retrain_seconds": whole,
        "time_ratio": found["seconds"] / whole, "machine": machine_facts(),
    }  # fmt: skip


def spread(rows: list[dict[str, Any]], shown: str) -> float:
    """Standard deviation of the Retrain models' recall about the mean of their row."""
    several = [[gold["probe"][shown] for gold in row["golds"]] for row in rows if len(row["golds"]) > 1]
    return math.sqrt(mean(map(variance, several))) if several else 0.0


def probe_ok(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Whether no probe knows more of the class than Retrain does, by two standard deviations of all rows."""
    return all(
        known <= mean(gold["probe"][shown] for gold in row["golds"]) + 2 * spread(rows, shown)
        for shown, known in row["probe"].items()
    )


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures over some rows; gaps in points."""
    gaps = [row["gap"] for row in rows]
    return {
        "gap_mean": mean(gaps), "gap_worst": max(gaps), "forget": max(row["d_f"] for row in rows),
        "time_ratio": mean(row["time_ratio"] for row in rows),
        "probe_ok": sum(probe_ok(row, rows) for row in rows) / len(rows),
        "passed": sum(row["passed"] for row in rows) / len(rows), "rows": len(rows),
    }  # fmt: skip


def main(
    setups: Annotated[tuple[str, ...], tyro.conf.arg(help="of the zoo")] = ("cifar10-allcnn",),
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(help="of originals")] = (0,),
    classes: Annotated[tuple[int, ...], tyro.conf.arg(help="each forgotten by itself")] = tuple(range(10)),
    golds: Annotated[int, tyro.conf.arg(help="Retrain models of each request")] = 2,
    methods: Annotated[tuple[str, ...], tyro.conf.arg(help="by name")] = METHODS,
    out: Annotated[Path, tyro.conf.arg(help="where the rows are stored")] = STORED,
) -> None:
    """Serve the requests that are not stored yet, and print the figures of each setup and method."""
    torch.set_num_threads(1)
    cache = Cache(default_folder())
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    for setup in setups:
        for seed in seeds:
            for forget in classes:
                for method in methods:
                    key = [setup, seed, [forget], method]
                    if any([r["setup"], r["seed"], r["forget"], r["method"]] == key for r in rows):
                        continue
                    rows.append(row_of(SETUPS[setup], seed, (forget,), method, golds, cache))
                    out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
                    shown = {k: rows[-1][k] for k in ("d_r", "d_f", "gap", "passed", "time_ratio", "reason")}
                    print(*key, json.dumps(shown), flush=True)
    found: dict[str, dict[str, Any]] = {}
    for setup, method in sorted({(row["setup"], row["method"]) for row in rows}):
        of = [row for row in rows if (row["setup"], row["method"]) == (setup, method)]
        found[f"{setup} {method}"] = summary(of)
        print(f"{setup} {method}: {json.dumps(found[f'{setup} {method}'])}")
    print(json.dumps(found.get("cifar10-allcnn partial_restart", {})))


if __name__ == "__main__":
    tyro.cli(main)
