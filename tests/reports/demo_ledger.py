"""A ledger as a job leaves it, with made-up figures: three requests served, one failed, one rejected."""

from __future__ import annotations

import hashlib
import json
import math
from datetime import timedelta
from typing import Any

import numpy as np

from rayunlearn.ledger.ledger import Ledger
from rayunlearn.storage.store import Store
from tests.ledger.ledgers import NOON, in_memory, row_of

HOSTILE = '<script>alert("x")</script> & \x1b[31mred'
"""A reason that steers a browser or a terminal, if it is let."""

FAILED = (
    "gate: forget accuracy is 6.67 % (4 of 60); at most 0.00 % is allowed; the class was merely hidden: "
    "forget accuracy is 71.67 % after 2 steps of relearning; at most 50.00 % within 3 is allowed"
)
REJECTED = "requests.jsonl:5: class 12 of request 'r5' is 12; allowed: a class of the model, 0 to 9"

RELEARN = {"batch_size": 64, "lr": 0.1, "momentum": 0.0, "alpha": 0.05, "max_steps": 400}
PROBE = {"C": 1.0, "max_iter": 1000, "train_per_class": 3, "draws": 5}
REQUEST_IDS = ("r1", "r2", "r3", "r4", "r5")
TARGETS = {"r1": (0,), "r2": (2,), "r3": (3,), "r4": (7,)}
PER_CLASS = 89

# retain, forget, probe on D_f, probe on D_r, steps to relearn
_MODELS: dict[str, tuple[float, float, float, float, int | None]] = {
    "original": (0.991, 0.985, 0.955, 0.950, None),
    "unlearned": (0.972, 0.000, 0.700, 0.930, 21),
    "gold": (0.987, 0.000, 0.640, 0.940, 23),
    "mask_logit": (0.993, 0.000, 0.955, 0.950, 2),
    "delete_head_row": (0.993, 0.000, 0.955, 0.950, 3),
    "gaussian_head": (0.962, 0.000, 0.955, 0.950, 4),
}


def digest(text: str) -> str:
    """A made-up version id."""
    return hashlib.sha256(text.encode()).hexdigest()


def measure(run_id: str, subject: str, name: str, classes: tuple[int, ...], **columns: Any) -> dict[str, Any]:
    """A row of the tables of measures; a sum and a count give the value."""
    row = row_of(
        "audits", run_id=run_id, subject=subject, measure=name, classes=list(classes), value=None, sum=None,
        count=None, step=None, censored=False,
    )  # fmt: skip
    if columns.get("count"):
        row["value"] = columns["sum"] / columns["count"]
    return row | columns


def share(
    run_id: str,
    subject: str,
    name: str,
    classes: tuple[int, ...],
    value: float,
    draws: int = 1,
    **columns: Any,
) -> dict[str, Any]:
    """A share of the test images of these classes, as near to `value` as counts allow."""
    count = PER_CLASS * len(classes) * draws
    return measure(run_id, subject, name, classes, sum=float(round(value * count)), count=count, **columns)


def audit_rows(run_id: str, forgotten: tuple[int, ...]) -> list[dict[str, Any]]:
    """What the audit of a served request records."""
    retain = tuple(c for c in range(10) if c not in forgotten)
    rows = []
    gold_steps = _MODELS["gold"][4]
    assert gold_steps is not None
    for subject, (keeps, knows, probe, probe_retain, steps) in _MODELS.items():
        rows.append(share(run_id, subject, "retain_accuracy", retain, keeps - 0.004 * len(forgotten)))
        rows.append(share(run_id, subject, "forget_accuracy", forgotten, knows))
        if len(forgotten) > 1:
            rows += [share(run_id, subject, "forget_accuracy", (c,), knows) for c in forgotten]
        for part, classes, value in (("forget", forgotten, probe), ("retain", retain, probe_retain)):
            name, told = f"probe_{part}_recall", json.dumps(PROBE)
            rows.append(share(run_id, subject, name, classes, value, 5, parameters=told))
        if steps is not None:
            told, figure = json.dumps(RELEARN), float(steps)
            rows.append(measure(run_id, subject, "relearn_steps", forgotten, value=figure, parameters=told))
            told = json.dumps(RELEARN | {"note": "", "informative": True})
            figure = steps / gold_steps
            rows.append(measure(run_id, subject, "anamnesis_index", forgotten, value=figure, parameters=told))
    return rows


def synthetic_at(step: int) -> tuple[float, float]:
    """Retain and forget accuracy of a made-up student on synthetic images; the class comes back late."""
    forget = 0.0 if step < 50 else min(1.0, 0.05 * (step - 48))
    return 0.985 * (1 - math.exp(-step / 7)), forget


def real_at(step: int) -> tuple[float, float]:
    """The same on real images."""
    forget = 0.0 if step < 54 else min(1.0, 0.03 * (step - 52))
    return 0.97 * (1 - math.exp(-step / 10)) - 0.02 * math.sin(step / 3), forget


def trajectory_rows(
    run_id: str, forgotten: tuple[int, ...], chosen: int, oracle: int
) -> list[dict[str, Any]]:
    """The audit's rows of the checkpoints and of the stops."""
    retain = tuple(c for c in range(10) if c not in forgotten)
    rows = []
    for step in range(2, 61, 2):
        keeps, knows = real_at(step)
        rows.append(share(run_id, "checkpoint", "retain_accuracy", retain, keeps, step=step))
        rows.append(share(run_id, "checkpoint", "forget_accuracy", forgotten, knows, step=step))
    lost = {"synthetic": (chosen, 3.0, 0), "last": (60, 9.0, 21), "fixed": (40, 12.0, 0)}
    for rule, (step, images, right) in lost.items():
        told = json.dumps({"rule": rule, "oracle_step": oracle, "forget_correct": right})
        rows.append(
            measure(
                run_id,
                "checkpoint",
                "regret",
                retain,
                sum=images,
                count=PER_CLASS * len(retain),
                step=step,
                parameters=told,
            )  # fmt: skip
        )
    return rows


def checkpoint_rows(run_id: str) -> list[dict[str, Any]]:
    """A run's checkpoints on 180 synthetic retain and 60 forget images."""
    return [
        row_of(
            "checkpoints", run_id=run_id, phase="unlearn", step=step,
            retain_correct=round(180 * synthetic_at(step)[0]), retain_count=180,
            forget_correct=round(60 * synthetic_at(step)[1]), forget_count=60,
            forget_mass=synthetic_at(step)[1] / 2, pass_rate=0.8,
        )
        for step in range(2, 61, 2)
    ]  # fmt: skip


def request_row(request_id: str, event: str, **columns: Any) -> dict[str, Any]:
    """An event of a request."""
    plain = {
        "run_id": None, "reason": None, "kind": "classes", "target": list(TARGETS.get(request_id, (0,))),
        "examples": None, "whole_classes": False,
    }  # fmt: skip
    return row_of("requests", request_id=request_id, event=event, **(plain | columns))


def run_row(request_id: str, run_id: str, event: str, **columns: Any) -> dict[str, Any]:
    """An event of a run."""
    plain = {"version": None, "phase": None, "seconds": None, "reason": None, "attempt": 1}
    return row_of("runs", request_ids=[request_id], run_id=run_id, event=event, **(plain | columns))


def run_events(request_id: str, run_id: str, parent: str, phases: dict[str, float]) -> list[dict[str, Any]]:
    """A run from its start over its phases."""
    rows = [run_row(request_id, run_id, "started", parent_version=parent)]
    return rows + [
        run_row(request_id, run_id, "phase", parent_version=parent, phase=phase, seconds=seconds)
        for phase, seconds in phases.items()
    ]


def demo_store(*, failed: str = FAILED, rejected: str = REJECTED) -> Store:
    """A store in memory with the demo's ledger."""
    store = in_memory()
    ledger = Ledger(store)
    ledger.append("requests", [request_row(r, "received") for r in TARGETS])
    ledger.append("requests", [request_row("r5", "rejected", lineage=None, target=None, reason=rejected)])
    parent, forgotten = digest("original"), ()
    for request_id, chosen, oracle in (("r1", 46, 52), ("r2", 44, 44), ("r3", 48, 30)):
        run_id, version = f"run-{request_id}", digest(request_id)
        forgotten = tuple(sorted((*forgotten, *TARGETS[request_id])))
        ledger.append("requests", [request_row(request_id, "planned", run_id=run_id)])
        phases = {"synthesise": 21.4, "unlearn": 58.25, "gate": 1.5, "publish": 0.05}
        ledger.append("runs", run_events(request_id, run_id, parent, phases))
        ledger.append("checkpoints", checkpoint_rows(run_id))
        check = {"split": "check", "dataset": "synthetic"}
        ledger.append(
            "evaluations",
            [
                measure(run_id, "unlearned", "retain_accuracy", (1,), sum=171.0, count=180, **check),
                measure(run_id, "unlearned", "forget_accuracy", (0,), sum=0.0, count=60, **check),
            ]
            + [
                measure(run_id, "unlearned", "relapse_accuracy", (0,), value=step / 20, step=step, **check)
                for step in range(4)
            ],
        )
        ledger.append(
            "versions",
            [
                row_of(
                    "versions", version=version, parent=parent, run_id=run_id, request_ids=[request_id],
                    classes_forgotten=list(forgotten), path=f"models/default/{version}.safetensors",
                )
            ],
        )  # fmt: skip
        ledger.append(
            "runs", [run_row(request_id, run_id, "published", parent_version=parent, version=version)]
        )
        ledger.append(
            "requests", [request_row(request_id, "served", run_id=run_id, at=NOON + timedelta(minutes=2))]
        )
        ledger.append("audits", audit_rows(run_id, forgotten))
        ledger.append("audits", trajectory_rows(run_id, forgotten, chosen, oracle))
        parent = version
    phases = {"synthesise": 20.9, "unlearn": 57.0, "gate": 1.4}
    ledger.append("runs", run_events("r4", "run-r4", parent, phases))
    ledger.append("checkpoints", checkpoint_rows("run-r4"))
    ledger.append("runs", [run_row("r4", "run-r4", "failed", parent_version=parent, reason=failed)])
    ledger.append("requests", [request_row("r4", "failed", run_id="run-r4", reason=failed)])
    return store


def demo_images(classes: tuple[int, ...], per_class: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Made-up images `[N, 1, 8, 8]` in [0, 1] and their labels `[N]`."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.array(classes), per_class)
    y, x = np.mgrid[0:8, 0:8]
    rings = [np.cos(((x - 3.5) ** 2 + (y - 3.5) ** 2) / (2.0 + c) + c) * 0.5 + 0.5 for c in labels]
    noise = generator.normal(0, 0.15, (len(labels), 1, 8, 8))
    return (np.stack(rings)[:, None] + noise).clip(0, 1), labels


CURVE = tuple(9.0 * math.exp(-step / 12) + 1.0 for step in range(200))
"""Made-up similarities, the greatest first."""
NO_KNEE = "no knee is 10% of the range or more below the straight line"


def threshold_row(run_id: str, value: float, by: str = "knee", reason: str = "") -> dict[str, Any]:
    """What filtration decided on 390 samples of D'."""
    told = {"by": by, "reason": reason, "curve": CURVE, "kernel_width": 2.0, "kernel_width_from": "samples"}
    above = sum(similarity >= value for similarity in CURVE) * 390 // len(CURVE)
    figures = {"value": value, "sum": float(above), "count": 390, "parameters": json.dumps(told)}
    return measure(run_id, "unlearned", "threshold", (2, 3), split="check") | figures


def yield_rows(run_id: str) -> list[dict[str, Any]]:
    """What classes 0 to 9 gave: of class 7 some are predicted as 2 or 3, and class 8 fell short."""
    rows = []
    for label in range(10):
        found, judged = (30, 400) if label == 8 else (40, 50 + label)
        told = {
            "label": label, "wanted": 40, "found": found, "budget": 400, "judged": judged,
            "entropy_failed": judged - found, "consistency_failed": 3,
            "predicted": {2: 9, 3: 4, 7: 27} if label == 7 else {label: found},
        }  # fmt: skip
        row = measure(run_id, "unlearned", "yield", (label,), split="check", parameters=json.dumps(told))
        rows.append(row | {"value": found / 40, "sum": float(found), "count": judged})
    return rows


def behaviour_audit_rows(run_id: str) -> list[dict[str, Any]]:
    """The audit of a version without a behaviour that 100 mislabelled training samples had taught."""
    rows = []
    for subject, right, taught in (("original", 17, 83), ("unlearned", 84, 9), ("gold", 95, 2)):
        keeps = _MODELS[subject][0]
        rows.append(share(run_id, subject, "retain_accuracy", tuple(range(10)), keeps, split="test"))
        for name, count in (("mislabelled_accuracy", right), ("mislabelled_taught", taught)):
            rows.append(measure(run_id, subject, name, (), sum=float(count), count=100, split="train"))
        told = measure(run_id, subject, "forget_accuracy", (), sum=float(taught), count=100, split="train")
        rows.append(told)
    return rows


def examples_store() -> Store:
    """A ledger with two requests by examples: labels 2 and 3 ("labels"), then class 9 ("whole")."""
    store = in_memory()
    ledger = Ledger(store)
    parent = digest("original")
    phases = {"generator": 61.0, "sample": 8.2, "filter": 3.1, "prepare": 0.4, "unlearn": 12.5, "gate": 0.3}
    for request_id, target, whole in (("labels", (2, 3), False), ("whole", (9,), True)):
        run_id, version = f"run-{request_id}", digest(request_id)
        told = {
            "kind": "examples", "target": list(target), "examples": "sha256:abc", "whole_classes": whole,
            "run_id": run_id,
        }  # fmt: skip
        ledger.append("requests", [request_row(request_id, "received", **told | {"run_id": None})])
        ledger.append("runs", run_events(request_id, run_id, parent, phases))
        ledger.append("checkpoints", checkpoint_rows(run_id))
        threshold = threshold_row(run_id, 5.5, "midrange", NO_KNEE)
        if whole:
            threshold = threshold_row(run_id, 1.4)
        check = {"split": "check", "dataset": "synthetic"}
        gate = [
            measure(run_id, "unlearned", "chosen_step", (0, 1), step=12, **check),
            measure(run_id, "unlearned", "retain_accuracy", (0, 1), sum=35.0, count=36, **check),
            measure(run_id, "unlearned", "forget_accuracy", target, sum=1.0, count=4, **check),
        ]
        ledger.append("evaluations", [threshold, *yield_rows(run_id), *gate])
        published = {"version": version, "parent": parent, "run_id": run_id, "request_ids": [request_id]}
        gone = {"classes_forgotten": [9] if whole else [], "samples_forgotten": []}
        ledger.append("versions", [row_of("versions", **published, **gone)])
        ledger.append("requests", [request_row(request_id, "served", **told)])
        ledger.append("audits", audit_rows(run_id, target) if whole else behaviour_audit_rows(run_id))
        parent = version
    return store
