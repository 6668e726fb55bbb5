"""Rows of the zoo: a model, what it is, and what real data say of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa
import torch

from benchmarks.zoo.cache import Cache
from benchmarks.zoo.members import Workshop, members, retain_data
from benchmarks.zoo.setups import SETUPS, Task
from benchmarks.zoo.truth import truth
from benchmarks.zoo.without_data import measured, questions
from rayunlearn.errors import BadInput, nearest
from rayunlearn.execution.machine import machine_facts
from rayunlearn.models.classifiers import version_model
from rayunlearn.models.weights import version_id

FORMS = {"truth": 2, "without_data": 10}
"""Counted up when what is measured changes."""
UNTRUE = ("ladder", "stand-in")
"""Families of which nothing has to be known on real data."""


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
    """All rows of tasks that share an original, in this process; what is there is left."""
    torch.set_num_threads(1)
    cache = Cache(folder)
    shop = Workshop(group[0], cache)
    for task in group:
        began = perf_counter()
        roles = task.roles(shop.spec.num_classes)
        asked = questions(shop, shop.parent(task), roles)
        for member in members(shop, task):
            about: dict[str, Any] = {
                "task": task.name, "dataset": task.setup.dataset, "model": task.setup.model,
                "seed": task.seed, "retain": list(roles.retain), "target": list(roles.target),
                "forgotten": list(roles.forgotten), "family": member.family, "name": member.name,
                "step": member.step, "chosen": member.chosen, "version": version_id(member.weights),
            }  # fmt: skip
            path = folder / "rows" / f"{task.name}.{member.name}.json"
            if member.family not in UNTRUE:
                once(path, "truth", about, partial(truth, shop, member.weights, roles))
            model = version_model(shop.spec, member.weights)
            checkpoint = member.step is not None
            once(path, "without_data", about, partial(measured, asked, model, checkpoint=checkpoint))
        print(f"{task.name}: {perf_counter() - began:.0f} s", flush=True)


def once(path: Path, part: str, about: Mapping[str, Any], make: Callable[[], Any]) -> None:
    """Write a part of a row, unless it is there for this model and in this form."""
    path = path.with_suffix(f".{part}.json")
    made_for = {"form": FORMS[part], **about}
    if path.exists() and json.loads(path.read_text())["about"] == made_for:
        return
    path.parent.mkdir(exist_ok=True)
    found = {"about": made_for, part: make(), "machine": machine_facts()}
    path.write_text(json.dumps(found))


def collected(folder: Path, built: list[Task]) -> pa.Table:
    """The rows of some tasks; parts of one row are of one version."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for task in built:
        for path in sorted((folder / "rows").glob(f"{task.name}.*.json")):
            found = json.loads(path.read_text())
            about = found.pop("about")
            form = about.pop("form")
            row = rows.setdefault((task.name, about["name"], about["version"]), about)
            row["retain_data"] = retain_data(about["family"], about["name"])
            for part in FORMS.keys() & found.keys():
                if form == FORMS[part]:
                    row[part] = found[part]
            row["machine"] = json.dumps(found["machine"])
    return pa.Table.from_pylist([row for row in rows.values() if "without_data" in row])
