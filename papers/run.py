"""Runs the rows of a reproduction as Ray tasks; what a killed run has done is not done again.

A row and a seed have a storage location of their own below the reproduction's: the versions' lineage, the
run's checkpoints while it is under way, synthetic evaluations and, at the end, audits on real data, and what
it was run on. Originals and gold models are shared by all rows of their setup, by content.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray

from papers.few_shot_plots import Gallery
from papers.few_shot_run import (
    Generator,
    filtered,
    keep_gallery,
    read_gallery,
    request_of,
    to_erase,
)
from papers.results import NAMES, name_of
from papers.rows import Row
from papers.shared_models import (
    Shared,
    forgotten_by_then,
    original_job,
    request_name,
    trained_name,
    training_seconds,
)
from papers.side_files import read_json
from rayunlearn.auditing.audit import AuditInputs, audit, inverted_images
from rayunlearn.auditing.training import training_job
from rayunlearn.errors import RayUnlearnError
from rayunlearn.execution import torch_process
from rayunlearn.execution.device import own_device
from rayunlearn.execution.machine import machine_facts
from rayunlearn.execution.remote import fetch, sentence
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.ledger.lineage import Version, versions
from rayunlearn.ledger.schemas import ALL_TABLES
from rayunlearn.lineages.context import Context
from rayunlearn.lineages.published import load_version
from rayunlearn.lineages.runs import RunFiles
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.weights import Weights, weights_from_bytes
from rayunlearn.reports.inverted_images import InvertedImages
from rayunlearn.roles import Roles
from rayunlearn.seeds import derive_seed
from rayunlearn.serving.examples import purge_examples
from rayunlearn.serving.grants import grant
from rayunlearn.serving.scheduler import Scheduler
from rayunlearn.storage.store import MARKER, Store
from rayunlearn.unlearning.executor import InlineExecutor
from rayunlearn.unlearning.progress import Progress, Quiet

ReadTables = Mapping[str, Sequence[Mapping[str, Any]]]

MACHINE = "machine.json"
"""What a row was run on, in its storage location."""
SECONDS = "seconds.json"
"""What training its original and its generator took."""


def row_store(root: str | Path, row: Row, seed: int) -> Path:
    """Where a row and a seed are kept."""
    return Path(root) / "rows" / row.key / f"seed-{seed}"


def run_row(
    root: str, row: Row, seed: int, spec: ClassifierSpec, threads: int, original: Weights, *golds: Weights,
    generator: Generator | None = None,
) -> None:  # fmt: skip
    """Serve the row's requests one after another, and audit each version.

    Args:
        root: the reproduction's folder.
        row: what to run.
        seed: of the whole row.
        spec: of the original.
        threads: torch threads.
        original: the first version.
        golds: for each request, a model retrained without all that was to be forgotten by then.
        generator: that the row's method takes over, or finds among those that rows share.
    """
    torch_process.set_up(threads)
    shared, store = Store.open(root), Store.open(row_store(root, row, seed))
    store.put(MACHINE, json.dumps(machine_facts()).encode())
    context = Context(
        store=store, ledger=Ledger(store), recipe=row.recipe, seed=seed, clock=lambda: datetime.now(UTC),
        progress=Quiet(), generators=shared,
    )  # fmt: skip
    scheduler = Scheduler(
        context, open_executor=lambda: InlineExecutor(own_device()), placement="inline", grant=grant,
        pretrained=None if generator is None else lambda parent: generator.weights,
    )  # fmt: skip
    if generator is not None:
        training = training_seconds(shared, original_job(row, spec, seed))
        seconds = {"training_seconds": training, "generator_seconds": generator.seconds}
        store.put(SECONDS, json.dumps(seconds).encode())
    scheduler.publish(
        lineage="default", weights=original, spec=spec, parent=None, request_ids=[], classes_forgotten=(),
        run=None,
    )  # fmt: skip
    for target, gold in zip(row.requests, golds, strict=True):
        name = request_name(target)
        if name not in audited(store):
            # under a row's recipe whatever comes out is published
            outcome = scheduler.serve(request_of(row, name, target, seed, store))
            if outcome.version is None:  # but where there was nothing to judge by or to learn from
                if audited(store):
                    return  # a sequence ends here: `cut_short` says why
                raise RayUnlearnError(str(outcome.reason))  # the same, and nothing was measured
            _audit(context, row, outcome.run_id, original, gold)
            purge_examples(store, ())


def audited(store: Store) -> set[str]:
    """Requests whose version was measured on real data."""
    reader = LedgerReader(store, ALL_TABLES)
    measured = set(reader.read("audits").column("run_id").to_pylist())
    return {
        request
        for run in reader.read("runs").to_pylist()
        if run["run_id"] in measured
        for request in run["request_ids"]
    }


def cut_short(store: Store) -> tuple[str, str] | None:
    """The request at which a row ended before its time, and why; None where it did not.

    It would end there again: what the version, or the examples, give was not enough.
    """
    failed = LedgerReader(store).read("requests", event="failed").to_pylist()
    return (failed[-1]["request_id"], failed[-1]["reason"]) if failed else None


def _audit(context: Context, row: Row, run: str, original: Weights, gold: Weights) -> None:
    reader, files = LedgerReader(context.store, ALL_TABLES), RunFiles(context.store, run)
    version = next(v for v in versions(reader, "default") if v.run_id == run)
    steps = reader.read("checkpoints", run_id=run).column("step").to_pylist() if row.trajectory else []
    (chosen,) = reader.read("evaluations", run_id=run, measure="chosen_step").to_pylist()
    inputs = replace(
        _audit_inputs(context.store, row, context.seed, version, original, gold),
        checkpoints={step: files.student(step) for step in sorted(set(steps))},
        chosen=chosen["step"],
    )
    if row.kind == "examples":
        (at,) = reader.read("evaluations", run_id=run, measure="threshold").to_pylist()
        keep_gallery(context.store, run, inputs.spec, at["classes"], at["value"])
    found = audit(inputs)
    stamp = {"run_id": run, "lineage": "default", "at": context.clock()}
    context.ledger.append("audits", [{"version": version.version, **figure, **stamp} for figure in found])
    files.purge()


def _audit_inputs(
    store: Store, row: Row, seed: int, version: Version, original: Weights, gold: Weights
) -> AuditInputs:
    """What an audit of a version of a row's is handed, but for checkpoints."""
    spec = ClassifierSpec.from_dict(version.model)
    place = [request_name(target) for target in row.requests].index(version.request_ids[0])
    gone = forgotten_by_then(row)[place]
    return AuditInputs(
        spec=spec,
        roles=_roles(row, place, spec.num_classes, seed),
        original=original,
        unlearned=load_version(store, version),
        golds=[gold],
        data=row.recipe.data,
        split_seed=derive_seed(seed, "split"),
        settings=row.recipe.audit,
        seed=derive_seed(seed, "audit", *gone),  # the same draws for every method
    )


def _roles(row: Row, place: int, num_classes: int, seed: int) -> Roles:
    """What was to be forgotten by a request of a row's, however little of it the request named."""
    if row.recipe.data.mislabelling is not None:
        wrong = to_erase(row, row.requests[place], seed).tolist()
        return Roles(retain=tuple(range(num_classes)), target=(), target_samples=tuple(wrong))
    gone, before = forgotten_by_then(row)[place], forgotten_by_then(row)[place - 1] if place else ()
    return Roles(
        retain=tuple(c for c in range(num_classes) if c not in gone),
        target=tuple(c for c in gone if c not in before),
        forgotten=before,
    )


def inverted(root: str, rows: Sequence[Row], seed: int, threads: int) -> InvertedImages:
    """What the model inversion attack draws of a class from models of rows that were run with a seed.

    The images that the rows' audits have scores of, drawn again: they show a class that was to be
    forgotten, and nothing stores them.

    Args:
        root: the reproduction's folder.
        rows: that forget the same class of the same original, by one request.
        seed: theirs.
        threads: torch threads.
    """
    torch_process.set_up(threads)
    shared, attacks = Store.open(root, create=False), {}
    for row in rows:
        store = Store.open(row_store(root, row, seed), create=False)
        first, version = versions(LedgerReader(store), "default")
        spec = ClassifierSpec.from_dict(version.model)
        name = trained_name(training_job(row.recipe, spec, seed, excluded=version.classes_forgotten, gold=0))
        gold = weights_from_bytes(shared.get(name), name)
        inputs = _audit_inputs(store, row, seed, version, load_version(store, first), gold)
        (drawn,) = inverted_images(inputs)
        for subject in ("original", "gold"):
            attacks[NAMES[subject]] = drawn.attacks[subject]
        attacks[name_of(row.recipe.method)] = drawn.attacks["unlearned"]
    return replace(drawn, attacks=attacks)


def draw_inverted(
    root: Path, rows: Sequence[Row], seeds: Sequence[int], *, threads: int = 1, cpus: float, gpus: float
) -> InvertedImages | None:
    """`inverted` as a Ray task, for the first of the seeds that a row is done with; None where none is."""
    task = ray.remote(inverted).options(num_cpus=cpus, num_gpus=gpus)
    for seed in seeds:
        done = [row for row in rows if measured_seeds(root, row, [seed])]
        if done:
            drawn: InvertedImages = fetch(task.remote(str(root), done, seed, threads))
            return drawn
    return None


def seeds_of_row(root: str | Path, row: Row, seeds: Sequence[int]) -> list[int]:
    """The seeds of which every request of the row has been audited, up to where it ended."""
    wanted = {request_name(target) for target in row.requests}

    def is_done(folder: Path) -> bool:
        if not (folder / MARKER).exists():
            return False
        store = Store.open(folder, create=False)
        return wanted <= audited(store) or cut_short(store) is not None

    return [seed for seed in seeds if is_done(row_store(root, row, seed))]


def measured_seeds(root: str | Path, row: Row, seeds: Sequence[int]) -> list[int]:
    """Those of `seeds_of_row` of which a request has been audited."""
    done = seeds_of_row(root, row, seeds)
    return [seed for seed in done if audited(Store.open(row_store(root, row, seed), create=False))]


def run_rows(
    root: Path,
    rows: Sequence[Row],
    seeds: Sequence[int],
    *,
    done: Collection[tuple[str, int]] = (),
    threads: int = 1,
    cpus: float = 1.0,
    gpus: float = 0.0,
    progress: Progress,
    keep: Callable[[], object] = lambda: None,
) -> dict[str, str]:
    """Run what is not done yet, as Ray tasks.

    Args:
        root: folder that every node reaches.
        rows: to run.
        seeds: each row is run with each.
        done: keys of rows and seeds that somebody has the results of.
        threads: torch threads of a task.
        cpus: reserved for each task.
        gpus: reserved for each task.
        progress: told how far it is.
        keep: called after each row.

    Returns:
        Row and seed -> why it failed; the others are done.
    """
    remote = {"num_cpus": cpus, "num_gpus": gpus}
    shared = Shared(str(root), threads, remote)
    run: Any = ray.remote(run_row).options(**remote)  # Ray's types know no keywords
    pending: dict[Any, str] = {}
    for seed in seeds:
        for row in rows:
            if (row.key, seed) in done or seeds_of_row(root, row, [seed]):
                continue
            models = [shared.original(row, seed), *shared.golds(row, seed)]
            made = shared.generator(row, seed)
            task = run.remote(str(root), row, seed, shared.spec(row), threads, *models, generator=made)
            pending[task] = f"{row.name}, seed {seed}"
    return ended(pending, progress, keep)


def ended(
    pending: dict[Any, str], progress: Progress, keep: Callable[[], object] = lambda: None
) -> dict[str, str]:
    """Wait for tasks, given with what each does; `keep` is called after each. What failed, and why."""
    total = len(pending)
    progress.phase("reproduction", "rows", total=total)
    failed: dict[str, str] = {}
    while pending:
        (done, *_), _ = ray.wait(list(pending))
        name = pending.pop(done)
        try:
            fetch(done)
        except Exception as error:
            failed[name] = sentence(error)
        progress.advance()
        said = f"failed: {failed[name]}" if name in failed else "done"
        progress.say(f"{name}: {said} ({total - len(pending)} of {total})")
        keep()
    progress.done()
    return failed


def results_of(root: str | Path, row: Row, seed: int) -> list[dict[str, Any]]:
    """What a finished row and seed gave, request by request up to where it ended, as plain data.

    The last one of a sequence that ended early says why: `cut_short`. Of a row that ended at its first
    request there is nothing but the reason: `failed`.
    """
    store = Store.open(row_store(root, row, seed), create=False)
    reader = LedgerReader(store, ALL_TABLES)
    tables = {
        name: reader.read(name).to_pylist()
        for name in ("runs", "audits", "evaluations", *(["checkpoints"] if row.trajectory else []))
    }
    done, end = audited(store), cut_short(store)
    machine, seconds = (
        read_json(store, name, kind) if store.exists(name) else None
        for name, kind in ((MACHINE, dict), (SECONDS, dict))
    )
    own = {"row": row.name, "key": row.key, "method": row.recipe.method, "seed": seed, "machine": machine}
    if end and not done:
        return [{**own, "target": list(row.requests[0]), "failed": end[1]}]
    last = [request_name(target) for target in row.requests if request_name(target) in done][-1]
    return [
        {
            **own,
            "target": list(target),
            **({"cut_short": end[1]} if end and request_name(target) == last else {}),
            **_request_result(row, request_name(target), tables),
            **({} if seconds is None else _few_shot_result(request_name(target), tables, seconds)),
            **({} if seconds is None else {"answered": read_gallery(store)[1]}),
        }
        for target in row.requests
        if request_name(target) in done
    ]


def galleries(root: str | Path, rows: Sequence[tuple[Row, int]]) -> dict[str, Gallery]:
    """Row -> samples of its D', of few-shot rows and seeds that are done."""
    stores = {row.name: Store.open(row_store(root, row, seed), create=False) for row, seed in rows}
    return {name: read_gallery(store)[0] for name, store in stores.items()}


def _request_result(row: Row, request: str, tables: ReadTables) -> dict[str, Any]:
    """What one request gave, from the tables of its row."""
    published = _only(tables["runs"], event="published", request_ids=[request])
    mine = {"run_id": published["run_id"]}
    audits = _matching(tables["audits"], **mine)
    phases = _matching(tables["runs"], **mine, event="phase")
    return {
        "dataset_hash": audits[0]["dataset_hash"],
        "chosen_step": _only(tables["evaluations"], **mine, measure="chosen_step")["step"],
        "refused": published["reason"],
        "seconds": round(sum(r["seconds"] for r in phases), 1),
        "figures": [_figure(r) for r in audits if r["subject"] != "checkpoint"],
        "curve": _curve(_matching(tables["checkpoints"], **mine), audits) if row.trajectory else [],
    }


def _few_shot_result(request: str, tables: ReadTables, seconds: Mapping[str, float | None]) -> dict[str, Any]:
    """What a few-shot request gave besides: what filtration decided, and what each step took.

    The generator's seconds are those of its training, for whichever row that was; a request whose generator
    was handed on by the one before trained none.
    """
    mine = {"run_id": _only(tables["runs"], event="published", request_ids=[request])["run_id"]}
    phases = _matching(tables["runs"], **mine, event="phase")
    first = tables["runs"][0]["run_id"] == mine["run_id"]
    return {
        **seconds,
        "generator_seconds": seconds["generator_seconds"] if first else 0.0,
        "seconds": round(sum(r["seconds"] for r in phases if r["phase"] != "generator"), 1),
        "filtered": filtered(_matching(tables["evaluations"], **mine)),
    }


def _matching(rows: Sequence[Mapping[str, Any]], **equals: Any) -> list[Mapping[str, Any]]:
    return [row for row in rows if all(row[column] == value for column, value in equals.items())]


def _only(rows: Sequence[Mapping[str, Any]], **equals: Any) -> Mapping[str, Any]:
    (found,) = _matching(rows, **equals)
    return found


def _figure(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("subject", "measure", "classes", "split", "sum", "count", "value", "censored")
    return {name: row[name] for name in kept}


def _curve(
    checkpoints: Sequence[Mapping[str, Any]], audits: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Each checkpoint's accuracies on synthetic and on real images, and the filter's pass rate."""
    by_step = {row["step"]: row for row in checkpoints}  # a run that goes on may record one twice
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
        for step, row in sorted(by_step.items())
    ]
