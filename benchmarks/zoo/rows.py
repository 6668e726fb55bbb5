"""Rows of the zoo: a model, what it is, and what real data say of it."""

from __future__ import annotations

import json
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa
import torch

from benchmarks.zoo.cache import Cache
from benchmarks.zoo.members import Workshop, members
from benchmarks.zoo.setups import SETUPS, Task
from benchmarks.zoo.truth import truth
from benchmarks.zoo.without_data import measured, questions
from rayunlearn.errors import BadInput, nearest
from rayunlearn.models.classifiers import version_model
from rayunlearn.models.weights import version_id
from rayunlearn.runtime.machine import machine_facts


def tasks(setups: tuple[str, ...]) -> list[Task]:
    """Of some setups, in order.

    Raises:
        BadInput: a name that is none; the nearest are named.
    """
    for name in setups:
        if name not in SETUPS:
            raise BadInput("--setups", name, nearest(name, SETUPS))
    return [
        Task(setup=SETUPS[name], seed=seed, requests=requests)
        for name in setups
        for seed, sequences in SETUPS[name].seeds.items()
        for requests in sequences
    ]


def build(group: list[Task], folder: Path) -> None:
    """All rows of tasks that share an original, in this process; a row that is there is left."""
    torch.set_num_threads(1)
    cache = Cache(folder)
    shop = Workshop(group[0], cache)
    rows = folder / "rows"
    rows.mkdir(exist_ok=True)
    for task in group:
        began = perf_counter()
        roles = task.roles(shop.spec.num_classes)
        asked = questions(shop, shop.parent(task), roles)
        for member in members(shop, task):
            path = rows / f"{task.name}.{member.name}.json"
            digest = version_id(member.weights)
            if path.exists() and json.loads(path.read_text())["version"] == digest:
                continue
            row: dict[str, Any] = {
                "task": task.name, "dataset": task.setup.dataset, "model": task.setup.model,
                "seed": task.seed, "retain": list(roles.retain), "target": list(roles.target),
                "forgotten": list(roles.forgotten), "family": member.family, "name": member.name,
                "step": member.step, "chosen": member.chosen, "version": digest,
            } | truth(shop, member.weights, roles) | {
                "without_data": measured(asked, version_model(shop.spec, member.weights)),
            } | {"machine": json.dumps(machine_facts())}  # fmt: skip
            path.write_text(json.dumps(row))
        print(f"{task.name}: {perf_counter() - began:.0f} s", flush=True)


def collected(folder: Path, built: list[Task]) -> pa.Table:
    """The rows of some tasks."""
    rows = [
        json.loads(path.read_text())
        for task in built
        for path in sorted((folder / "rows").glob(f"{task.name}.*.json"))
    ]
    return pa.Table.from_pylist(rows)
