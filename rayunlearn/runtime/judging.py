"""What a run is judged by: synthetic images of its version, and measures on them.

Of a single sample there is no synthetic image: for a request that names some the sets hold retain classes
alone, and whether the samples are forgotten is for the audit to say. A behaviour is judged by held-out
samples of D' (`rayunlearn.runtime.approximation`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from torch import Tensor

from rayunlearn.evaluation.judged import Evidence
from rayunlearn.evaluation.synthetic import balanced_labels
from rayunlearn.methods.registry import method_named
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.recipes import Recipe
from rayunlearn.roles import Roles
from rayunlearn.runtime.ensemble import Job
from rayunlearn.runtime.sealed import invert, measure, probe, relapse
from rayunlearn.scheduling.gate import GateMeasures
from rayunlearn.scheduling.stopping import CheckpointRecord, Choice
from rayunlearn.seeds import derive_seed

Weights = dict[str, Tensor]


def synthesis_jobs(
    spec: ClassifierSpec, weights: Weights, roles: Roles, recipe: Recipe, seed: int
) -> dict[str, Job]:
    """The inversions of a run: a set for stopping, one for the final check, and what the method learns from.

    The three come from seeds of their own and share no image.
    """
    validation = recipe.validation
    sizes = {
        "stop": (validation.per_retain_class, validation.per_forget_class),
        "check": (validation.per_retain_class, validation.per_forget_class),
        "bank": method_named(recipe.method).inverted(recipe.method_settings),
    }
    jobs: dict[str, Job] = {}
    for name, (per_retain, per_forget) in sizes.items():
        if per_retain or per_forget:
            labels = balanced_labels(roles, per_retain_class=per_retain, per_forget_class=per_forget)
            arguments = (spec, weights, labels, recipe.inversion, derive_seed(seed, "synthetic", name))
            jobs[name] = (invert, arguments)
    return jobs


def record_of(row: Mapping[str, Any], *, samples: bool = False) -> CheckpointRecord:
    """The stopping rule's view of a checkpoint's figures."""
    known = {f.name: row[f.name] for f in fields(CheckpointRecord) if f.name in row}
    known["pass_rate"] = row["pass_rate"] or 0.0
    return CheckpointRecord(**known, samples=samples)


def gate_jobs(
    spec: ClassifierSpec,
    candidate: Weights,
    parent: Weights,
    check: Evidence,
    roles: Roles,
    recipe: Recipe,
    seed: int,
) -> list[Job]:
    """What the gate has measured; `gate_measures` takes the answers."""
    jobs: list[Job] = [(measure, (spec, model, check, roles)) for model in (candidate, parent)]
    if roles.target:
        jobs.append((relapse, (spec, candidate, check, roles, recipe.relapse)))
        jobs.append((probe, (spec, candidate, check, roles, seed)))
    return jobs


def gate_measures(answers: Sequence[Any], roles: Roles) -> GateMeasures:
    """What the gate sees of a candidate."""
    candidate, parent, *hidden = answers
    return GateMeasures(
        retain_correct=candidate.retain_correct,
        retain_count=candidate.retain_count,
        forget_correct=candidate.forget_correct,
        forget_count=candidate.forget_count,
        parent_retain_correct=parent.retain_correct,
        relearn_accuracy=tuple(hidden[0]) if hidden else (),
        probe_recall=hidden[1] if hidden else None,
        forgotten_share=dict(zip(roles.forgotten, candidate.forgotten_share, strict=True)),
        kind=roles.kind,
    )


def gate_rows(measures: GateMeasures, choice: Choice, roles: Roles, recipe: Recipe) -> list[dict[str, Any]]:
    """What the gate saw, and which checkpoint it saw it of, as rows of evaluations without their stamp."""
    told = json.dumps({"reason": choice.reason, "admissible": len(choice.admissible)})
    rows = [
        {"classes": roles.retain, "measure": "chosen_step", "step": choice.step, "parameters": told},
        _share("retain_accuracy", roles.retain, measures.retain_correct, measures.retain_count),
        _share(
            "parent_retain_accuracy", roles.retain, measures.parent_retain_correct, measures.retain_count
        ),
    ]
    forget = roles.target or roles.erased
    if forget:
        rows.append(_share("forget_accuracy", forget, measures.forget_correct, measures.forget_count))
    for step, accuracy in enumerate(measures.relearn_accuracy):
        figures = {"value": accuracy, "step": step, "parameters": json.dumps(asdict(recipe.relapse))}
        rows.append({"classes": roles.target, "measure": "relapse_accuracy", **figures})
    if measures.probe_recall is not None:
        rows.append({"classes": roles.target, "measure": "probe_recall", "value": measures.probe_recall})
    return rows


def _share(name: str, classes: Sequence[int], correct: int, count: int) -> dict[str, Any]:
    figures = {"sum": float(correct), "count": count, "value": correct / count}
    return {"classes": classes, "measure": name, **figures}
