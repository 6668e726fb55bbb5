"""A lineage as two served requests leave it: small enough to be told anew with any part of it changed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch

from rayunlearn.ledger.ledger import Ledger
from rayunlearn.models.weights import version_id, weights_from_bytes, weights_to_bytes
from rayunlearn.storage.store import Store
from tests.ledger.ledgers import NOON, row_of

WEIGHTS = [{"layer": torch.full((2,), float(number))} for number in range(4)]
"""Of the original, of what the two requests published, and of what nobody did."""
IDS = [version_id(weights) for weights in WEIGHTS]
BYTES = [weights_to_bytes(weights) for weights in WEIGHTS]
PATHS = [f"models/default/{version}.safetensors" for version in IDS]
CONFIG = '{"method": "gkt", "note": "</pre><b>"}'

Rows = list[tuple[str, dict[str, Any]]]


def identify(data: bytes, name: str) -> str:
    """The version id of weights."""
    return version_id(weights_from_bytes(data, name))


def story() -> Rows:
    """Every row, in order: an original, `r0` forgets class 0, `r1` sample 7; the first two are purged."""
    rows: Rows = [("versions", _version(0))]
    for number, target in ((1, 0), (2, 7)):
        request_id, run_id = f"r{number - 1}", f"run-{number - 1}"
        request = {
            "request_id": request_id, "lineage": "default", "target": [target], "run_id": None,
            "kind": "classes" if number == 1 else "samples", "examples": None, "whole_classes": False,
            "data_access": ["weights"], "deadline": NOON + timedelta(minutes=number), "reason": None,
        }  # fmt: skip
        run = {
            "run_id": run_id, "lineage": "default", "request_ids": [request_id], "method": "gkt",
            "placement": "split", "parent_version": IDS[number - 1], "version": None, "phase": None,
            "seconds": None, "config": CONFIG, "config_hash": "c0ffee", "seed": 2**60 + 1, "reason": None,
            "code": "0.1+c0de",
        }  # fmt: skip
        measured = {
            "run_id": run_id, "version": IDS[number], "subject": "unlearned", "classes": [1, 2], "value": 0.5,
            "sum": 4.0, "count": 8, "step": None, "censored": False,
        }  # fmt: skip
        rows += [
            ("requests", row_of("requests", **request, event="received")),
            ("requests", row_of("requests", **request | {"event": "planned", "run_id": run_id})),
            ("runs", row_of("runs", **run, event="started")),
            ("runs", row_of("runs", **run | {"event": "phase", "phase": "unlearn", "seconds": 12.5})),
            ("evaluations", row_of("evaluations", **measured, measure="retain_accuracy")),
            ("versions", _version(number)),
            ("runs", row_of("runs", **run | {"event": "published", "version": IDS[number]})),
            (
                "requests",
                row_of(
                    "requests", **request | {"event": "served", "run_id": run_id},
                    at=NOON + timedelta(seconds=90),
                ),
            ),
        ]  # fmt: skip
    purged = {"event": "purged", "at": NOON + timedelta(hours=1)}
    return rows + [("versions", _version(number) | purged) for number in (0, 1)]


def _version(number: int) -> dict[str, Any]:
    return row_of(
        "versions", version=IDS[number], parent=IDS[number - 1] if number else None, lineage="default",
        path=PATHS[number], request_ids=[f"r{number - 1}"] if number else [], event="published",
        run_id=f"run-{number - 1}" if number else None, classes_forgotten=[0] if number else [],
        samples_forgotten=[7] if number == 2 else [],
    )  # fmt: skip


def tell(store: Store, rows: Rows | None = None, kept: Sequence[int] = (2,)) -> Store:
    """Put the rows, those of the story by default, and the weights of these versions into a store."""
    ledger = Ledger(store)
    for table, row in story() if rows is None else rows:
        ledger.append(table, [row])
    for number in kept:
        store.put(PATHS[number], BYTES[number])
    return store
