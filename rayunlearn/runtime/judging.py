"""What a run is judged by: synthetic images of its version, and measures on them.

Of a single sample there is no synthetic image: for a request that names some the sets hold retain classes
alone, and whether the samples are forgotten is for the audit to say. A behaviour is judged by held-out
samples of D' (`rayunlearn.runtime.approximation`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from statistics import mean
from typing import Any

from torch import Tensor

from rayunlearn.evaluation.judged import Evidence
from rayunlearn.evaluation.synthetic import balanced_labels
from rayunlearn.methods.registry import method_named
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.recipes import Recipe
from rayunlearn.roles import Roles
from rayunlearn.runtime.ensemble import Job
from rayunlearn.runtime.sealed import invert, measure, probe, probe_stand_in
from rayunlearn.scheduling.erasing import Recall, Scale
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
    sets: Mapping[str, Evidence],
    roles: Roles,
    recipe: Recipe,
    seed: int,
) -> list[Job]:
    """What the gate has measured; `gate_measures` takes the answers.

    Stand-ins learn from the set by which the run was stopped, and are probed with the other one.
    """
    check = sets["check"]
    jobs: list[Job] = [(measure, (spec, model, check, roles)) for model in (candidate, parent)]
    if roles.target:
        jobs += [(probe, (spec, model, check, roles, seed)) for model in (candidate, parent)]
        for number in range(recipe.stand_ins.number):
            own = derive_seed(seed, "stand-in", number)
            jobs.append((probe_stand_in, (spec, parent, sets["stop"], check, roles, recipe.stand_ins, own)))
    return jobs


def gate_measures(answers: Sequence[Any], roles: Roles) -> GateMeasures:
    """What the gate sees of a candidate."""
    candidate, parent, *probes = answers
    recalls = [Recall(forget=forget, retain=retain) for forget, retain in probes]
    return GateMeasures(
        retain_correct=candidate.retain_correct,
        retain_count=candidate.retain_count,
        forget_correct=candidate.forget_correct,
        forget_count=candidate.forget_count,
        parent_retain_correct=parent.retain_correct,
        recall=recalls[0] if recalls else None,
        scale=Scale(version=recalls[1], stand_ins=tuple(recalls[2:])) if recalls else None,
        forgotten_share=dict(zip(roles.forgotten, candidate.forgotten_share, strict=True)),
        kind=roles.kind,
    )


def gate_rows(measures: GateMeasures, choice: Choice, roles: Roles) -> list[dict[str, Any]]:
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
    if measures.recall is not None and measures.scale is not None:
        ends = {"": [measures.recall], "parent_": [measures.scale.version]}
        for whose, recalls in {**ends, "stand_in_": measures.scale.stand_ins}.items():
            rows.append(_mean(f"{whose}probe_recall", roles.target, [r.forget for r in recalls]))
            rows.append(_mean(f"{whose}retain_probe_recall", roles.retain, [r.retain for r in recalls]))
    return rows


def _mean(name: str, classes: Sequence[int], values: Sequence[float]) -> dict[str, Any]:
    told = {"parameters": json.dumps({"each": values})} if len(values) > 1 else {}
    return {"classes": classes, "measure": name, "value": mean(values), **told}


def _share(name: str, classes: Sequence[int], correct: int, count: int) -> dict[str, Any]:
    figures = {"sum": float(correct), "count": count, "value": correct / count}
    return {"classes": classes, "measure": name, **figures}
