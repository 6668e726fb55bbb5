"""Runs the rows of a reproduction as Ray tasks; what a killed run has done is not done again.

A row and a seed have a storage location of their own below the reproduction's: the versions' lineage, the
run's checkpoints while it is under way, synthetic evaluations and, at the end, audits on real data.
Originals and gold models are shared by all rows of their setup, by content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
import torch
from torch import Tensor

from rayunlearn.methods.registry import method_named
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.weights import weights_from_bytes, weights_to_bytes
from rayunlearn.reproduction.zero_shot import Row
from rayunlearn.results.ledger import Ledger, LedgerReader
from rayunlearn.results.lineage import versions
from rayunlearn.results.schemas import ALL_TABLES
from rayunlearn.results.store import Store
from rayunlearn.roles import Roles
from rayunlearn.runtime.audit import AuditInputs, audit
from rayunlearn.runtime.context import Context, Progress, Quiet
from rayunlearn.runtime.ensemble import InlineEnsemble
from rayunlearn.runtime.grants import grant
from rayunlearn.runtime.runs import RunFiles
from rayunlearn.runtime.scheduler import Scheduler, load_version
from rayunlearn.runtime.training import TrainingJob, describe, fit, fit_gold, training_job
from rayunlearn.scheduling.requests import Request
from rayunlearn.seeds import derive_seed

Weights = dict[str, Tensor]
Result = dict[str, Any]


def trained(root: str, job: TrainingJob, original: Weights | None, threads: int) -> Weights:
    """An original, or a gold model that is to keep what the original knows; trained once for all rows."""
    torch.set_num_threads(threads)
    store, name = Store.open(root), f"trained/{job.key}.safetensors"
    if not store.exists(name):
        model = fit(job) if original is None else fit_gold(job, original)
        store.put(name, weights_to_bytes(model.state_dict()))
    return weights_from_bytes(store.get(name), name)


def row_store(root: str | Path, row: Row, seed: int) -> Path:
    """Where a row and a seed are kept."""
    return Path(root) / "rows" / row.key / f"seed-{seed}"


def run_row(
    root: str, row: Row, seed: int, spec: ClassifierSpec, threads: int, original: Weights, *golds: Weights
) -> None:
    """Serve the row's requests one after another, and audit each version.

    Args:
        root: the reproduction's folder.
        row: what to run.
        seed: of the whole row.
        spec: of the original.
        threads: torch threads.
        original: the first version.
        golds: for each request, a model retrained without all classes forgotten by then.
    """
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    store = Store.open(row_store(root, row, seed))
    context = Context(
        store=store, ledger=Ledger(store), recipe=row.recipe, seed=seed, clock=lambda: datetime.now(UTC),
        progress=Quiet(),
    )  # fmt: skip
    scheduler = Scheduler(
        context, open_ensemble=lambda: InlineEnsemble(device), placement="inline", grant=grant
    )
    scheduler.publish(
        lineage="default", weights=original, spec=spec, parent=None, request_ids=[], classes_forgotten=(),
        run=None,
    )  # fmt: skip
    access = method_named(row.recipe.method).data_access | {"weights"}
    for target, gold in zip(row.requests, golds, strict=True):
        name = request_name(target)
        if not audited(store, name):
            # under a row's recipe whatever comes out is published
            outcome = scheduler.serve(
                Request(request_id=name, target=target, data_access=tuple(access))
            )
            _audit(context, row, outcome.run_id, original, gold)


def audited(store: Store, request_id: str) -> bool:
    """Whether a request's version was measured on real data."""
    reader = LedgerReader(store, ALL_TABLES)
    runs = {r["run_id"] for r in reader.read("runs").to_pylist() if request_id in r["request_ids"]}
    return bool(runs & set(reader.read("audits").column("run_id").to_pylist()))


def _audit(context: Context, row: Row, run: str, original: Weights, gold: Weights) -> None:
    reader = LedgerReader(context.store, ALL_TABLES)
    chain = versions(reader, "default")
    version = next(v for v in chain if v.run_id == run)
    before = next(v for v in chain if v.version == version.parent).classes_forgotten
    spec, gone = ClassifierSpec.from_dict(version.model), version.classes_forgotten
    files = RunFiles(context.store, run)
    steps = reader.read("checkpoints", run_id=run).column("step").to_pylist() if row.trajectory else []
    (chosen,) = reader.read("evaluations", run_id=run, measure="chosen_step").to_pylist()
    found = audit(
        AuditInputs(
            spec=spec,
            roles=Roles(
                retain=tuple(c for c in range(spec.num_classes) if c not in gone),
                target=tuple(c for c in gone if c not in before),
                forgotten=before,
            ),
            original=original,
            unlearned=load_version(context.store, version),
            golds=[gold],
            checkpoints={step: files.student(step) for step in sorted(set(steps))},
            chosen=chosen["step"],
            data=row.recipe.data,
            split_seed=derive_seed(context.seed, "split"),
            settings=row.recipe.audit,
            seed=derive_seed(context.seed, "audit", *gone),  # the same draws for every method
        )
    )
    stamp = {"run_id": run, "lineage": "default", "at": context.clock()}
    context.ledger.append("audits", [{"version": version.version, **figure, **stamp} for figure in found])
    files.purge()


def seeds_of_row(root: str | Path, row: Row, seeds: Sequence[int]) -> list[int]:
    """The seeds of which every request of the row has been audited."""
    return [
        seed
        for seed in seeds
        if row_store(root, row, seed).exists()
        and all(audited(Store.open(row_store(root, row, seed)), request_name(t)) for t in row.requests)
    ]


def run_rows(
    root: Path,
    rows: Sequence[Row],
    seeds: Sequence[int],
    *,
    threads: int = 1,
    cpus: float = 1.0,
    gpus: float = 0.0,
    progress: Progress,
) -> dict[str, str]:
    """Run what is not done yet, as Ray tasks.

    Args:
        root: folder that every node reaches.
        rows: to run.
        seeds: each row is run with each.
        threads: torch threads of a task.
        cpus: reserved for each task.
        gpus: reserved for each task.
        progress: told how far it is.

    Returns:
        Row and seed -> why it failed; the others are done.
    """
    remote = {"num_cpus": cpus, "num_gpus": gpus}
    train, run = ray.remote(trained).options(**remote), ray.remote(run_row).options(**remote)
    specs: dict[tuple[Any, ...], ClassifierSpec] = {}
    models: dict[str, Any] = {}

    def model(job: TrainingJob, original: Any) -> Any:
        if job.key not in models:
            models[job.key] = train.remote(str(root), job, original, threads)
        return models[job.key]

    pending: dict[Any, str] = {}
    for seed in seeds:
        for row in rows:
            if seeds_of_row(root, row, [seed]):
                continue
            recipe = row.recipe
            known = (recipe.data.dataset, recipe.model)
            if known not in specs:
                specs[known] = describe(recipe.data, recipe.model.name, recipe.model.width)
            original = model(training_job(recipe, specs[known], seed), None)
            golds = [
                model(training_job(recipe, specs[known], seed, excluded=gone, gold=0), original)
                for gone in forgotten_by_then(row)
            ]
            task = run.remote(str(root), row, seed, specs[known], threads, original, *golds)
            pending[task] = f"{row.name}, seed {seed}"
    progress.phase("reproduction", "rows", total=len(pending))
    failed = {}
    while pending:
        (done, *_), _ = ray.wait(list(pending))
        name = pending.pop(done)
        try:
            ray.get(done)
        except ray.exceptions.RayTaskError as error:
            failed[name] = str(error.cause)
        progress.advance()
    progress.done()
    return failed


def forgotten_by_then(row: Row) -> list[tuple[int, ...]]:
    """Every class forgotten after each of the row's requests."""
    gone: set[int] = set()
    found = []
    for target in row.requests:
        gone |= set(target)
        found.append(tuple(sorted(gone)))
    return found


def request_name(target: Sequence[int]) -> str:
    """The id of the request to forget these classes.

    >>> request_name((1, 2))
    'forget-1-2'
    """
    return "forget-" + "-".join(map(str, target))


def results_of(root: str | Path, row: Row, seed: int) -> list[Result]:
    """What a finished row and seed gave, request by request, as plain data."""
    reader = LedgerReader(Store.open(row_store(root, row, seed), create=False), ALL_TABLES)
    runs = reader.read("runs").to_pylist()
    found = []
    for target in row.requests:
        (published,) = [
            r for r in runs if r["event"] == "published" and request_name(target) in r["request_ids"]
        ]
        run = published["run_id"]
        audits = reader.read("audits", run_id=run).to_pylist()
        (chosen,) = reader.read("evaluations", run_id=run, measure="chosen_step").to_pylist()
        checkpoints = {r["step"]: r for r in reader.read("checkpoints", run_id=run).to_pylist()}
        phases = [r for r in runs if r["run_id"] == run and r["event"] == "phase"]
        found.append(
            {
                "row": row.name,
                "method": row.recipe.method,
                "seed": seed,
                "target": list(target),
                "chosen_step": chosen["step"],
                "last_step": max(checkpoints),
                "refused": published["reason"],
                "seconds": round(sum(r["seconds"] for r in phases), 1),
                "figures": [_figure(r) for r in audits if r["subject"] != "checkpoint"],
                "curve": _curve(checkpoints, audits) if row.trajectory else [],
            }
        )
    return found


def _figure(row: Mapping[str, Any]) -> Result:
    kept = ("subject", "measure", "classes", "split", "sum", "count", "value", "censored")
    return {name: row[name] for name in kept}


def _curve(checkpoints: Mapping[int, Mapping[str, Any]], audits: Sequence[Mapping[str, Any]]) -> list[Result]:
    """Each checkpoint's accuracies on synthetic and on real images, and the filter's pass rate."""
    real: dict[int, dict[str, float]] = {}
    for figure in audits:
        if figure["subject"] == "checkpoint" and figure["measure"] != "regret":
            real.setdefault(figure["step"], {})[figure["measure"]] = figure["value"]
    return [
        {
            "step": step,
            "synthetic_retain": row["retain_correct"] / row["retain_count"],
            "synthetic_forget": row["forget_correct"] / row["forget_count"],
            "retain": real[step]["retain_accuracy"],
            "forget": real[step]["forget_accuracy"],
            "pass_rate": row["pass_rate"],
        }
        for step, row in sorted(checkpoints.items())
    ]
