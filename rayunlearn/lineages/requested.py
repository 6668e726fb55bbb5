"""A request in its lineage: what its run was begun with, and its row in the ledger."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from rayunlearn.errors import BadInput
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import Version
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.recipes import DataSettings, Recipe
from rayunlearn.scheduling.requests import Request
from rayunlearn.unlearning.requested import run_seed


def require_same_seed(reader: LedgerReader, root: int, where: str) -> None:
    """A run goes on with its own draws, and an audit tests on what its original did not train on.

    Raises:
        BadInput: the storage location was begun with another seed.
    """
    columns = ["lineage", "request_ids", "attempt", "seed"]
    for row in reader.read("runs", columns=columns, event="started").to_pylist():
        if row["seed"] != run_seed(root, row["lineage"], row["request_ids"], row["attempt"]):
            raise BadInput(
                "--seed", root, f"the seed that {where} was begun with; another takes another --storage"
            )


def data_of(data: DataSettings, version: Version) -> DataSettings:
    """The data of a version's lineage, taken as its model takes images.

    Preprocessing, mean, std and the order of the classes are what was recorded with the version. Other
    samples, or another split, are refused where they are opened; a lineage that began before its data were
    recorded takes any.
    """
    spec = ClassifierSpec.from_dict(version.model)
    return replace(
        data, sha256=version.data_hash or data.sha256, preprocessing=spec.preprocessing, mean=spec.mean,
        std=spec.std, class_names=spec.class_names or data.class_names,
    )  # fmt: skip


def stated_data(recipe: Recipe) -> DataSettings:
    """The data of a recipe, taken as the model takes images that the recipe states, where it states one."""
    task, data = recipe.model.task, recipe.data
    if task is None:
        return data
    return replace(
        data, mean=task.input.mean, std=task.input.std, class_names=task.class_names or data.class_names
    )


def request_row(request: Request, event: str, now: datetime, **columns: Any) -> dict[str, Any]:
    """A row of the requests table; a request without a time of receipt was received now."""
    return {
        "request_id": request.request_id,
        "lineage": request.lineage,
        "kind": request.kind,
        "target": list(request.target),
        "received_at": request.received_at or now,
        "deadline": request.deadline,
        "data_access": list(request.data_access),
        "examples": request.examples,
        "whole_classes": request.whole_classes,
        "priority": request.priority,
        "method": request.method,
        "event": event,
        "at": now,
        **columns,
    }
