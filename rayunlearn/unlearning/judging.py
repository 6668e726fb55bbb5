"""What a run is judged by: synthetic images of its version, and measures on them.

Three sets have seeds of their own and share no image. By the first, of coarse images, a run is stopped, and
the gate probes the features. By the second, of plain ones, the gate asks whether a class is forgotten, and
probes them as well; by the third, of coarse images of the retain classes, it predicts how much is kept, and
stand-ins learn from it.

Of a single sample there is no synthetic image: for a request that names some the sets hold retain classes
alone, and whether the samples are forgotten is for the audit to say. A behaviour is judged by held-out
samples of D' (`rayunlearn.unlearning.approximation`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from statistics import mean
from typing import Any

from rayunlearn.evaluation.judged import Evidence
from rayunlearn.evaluation.layer_probe import layer_recalls
from rayunlearn.evaluation.synthetic import balanced_labels, mean_probe_recall
from rayunlearn.methods.registry import method_named
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.weights import Weights
from rayunlearn.recipes import Recipe
from rayunlearn.roles import Roles
from rayunlearn.scheduling.erasing import Recall, Scale
from rayunlearn.scheduling.gate import GateMeasures, GateSettings
from rayunlearn.scheduling.keeping import MEASURED, Kept, plain_share
from rayunlearn.scheduling.stopping import CheckpointRecord, Choice
from rayunlearn.seeds import derive_seed
from rayunlearn.unlearning.executor import Job
from rayunlearn.unlearning.work import Probe, invert, measure, measure_kept, probe, probe_stand_in

PREDICTED = "predicted_d_r"
"""Measure of the gate's rows: D_r as a share of the version's; with `_low` and `_high` its interval."""


def synthesis_jobs(
    spec: ClassifierSpec, weights: Weights, roles: Roles, recipe: Recipe, seed: int
) -> dict[str, Job]:
    """The inversions of a run: the sets that it is judged by, and what the method learns from."""
    validation = recipe.validation
    both = validation.per_retain_class, validation.per_forget_class
    sets = {  # the one that takes longest first, for whoever makes them side by side
        "bank": (False, *method_named(recipe.method).inverted(recipe.method_settings)),
        "check": (False, check_per_retain_class(recipe), validation.per_forget_class),
        "stop": (compared(recipe), *both),
        "keep": (True, validation.per_retain_class, 0),
    }
    jobs: dict[str, Job] = {}
    for name, (to_coarse, per_retain, per_forget) in sets.items():
        if per_retain or per_forget:
            labels = balanced_labels(roles, per_retain_class=per_retain, per_forget_class=per_forget)
            own = derive_seed(seed, "synthetic", name)
            jobs[name] = (invert, (spec, weights, labels, recipe.inversion, own, to_coarse))
    return jobs


def check_per_retain_class(recipe: Recipe) -> int:
    """Plain images of a retain class for the gate, which asks its probe to tell the others from them."""
    return max(2, recipe.validation.per_retain_class // 2)


def compared(recipe: Recipe) -> bool:
    """Whether the checkpoints of a run are judged by what they have kept of their version."""
    return recipe.stopping.score == "predicted"


def record_of(row: Mapping[str, Any], recipe: Recipe, *, samples: bool = False) -> CheckpointRecord:
    """The stopping rule's view of a checkpoint's figures."""
    known = {f.name: row[f.name] for f in fields(CheckpointRecord) if f.name in row}
    known["pass_rate"] = row["pass_rate"] or 0.0
    kept = row.get("kept")  # a ledger from before it was measured has none
    predicted = None if kept is None else _score(json.loads(kept), recipe)
    return CheckpointRecord(**known, samples=samples, predicted=predicted)


def second_jobs(
    spec: ClassifierSpec,
    candidate: Weights,
    parent: Weights,
    sets: Mapping[str, Evidence],
    roles: Roles,
    recipe: Recipe,
    seed: int,
) -> list[Job]:
    """What is measured of a checkpoint by sets that its stop did not see; for `second_record`."""
    jobs: list[Job] = [(measure, (spec, candidate, sets["check"], roles))]
    if compared(recipe) and not roles.erased:
        jobs.append((measure_kept, (spec, candidate, parent, sets["keep"], roles, seed)))
    return jobs


def second_record(step: int, answers: Sequence[Any], recipe: Recipe) -> CheckpointRecord:
    """A checkpoint by these: what it forgot is not among them."""
    assessment, *kept = answers  # the version was not asked: its own plain images it answers, all but a few
    return CheckpointRecord(
        step=step, retain_correct=assessment.retain_correct, retain_count=assessment.retain_count,
        forget_correct=0, forget_count=0, forget_mass=0.0, pass_rate=0.0, samples=True,
        predicted=_score(kept[0], recipe) if kept else None,
    )  # fmt: skip


def _score(measured: Mapping[str, float], recipe: Recipe) -> float:
    known = {name: measured[name] for name in MEASURED}  # an older ledger has more
    return recipe.gate.calibration.score(Kept(**known, retain_data=_retain_data(recipe)))


def _retain_data(recipe: Recipe) -> bool:
    return "retain" in method_named(recipe.method).data_access


def layer_jobs(
    spec: ClassifierSpec,
    version: Weights,
    sets: Mapping[str, Evidence],
    roles: Roles,
    recipe: Recipe,
    seed: int,
) -> list[Job]:
    """What is measured of a version's layers, and of stand-ins', before a method that keeps some begins."""
    asked = (sets["stop"],)
    jobs: list[Job] = [(probe, (spec, version, asked, roles, seed, layer_recalls))]
    return jobs + _stand_in_jobs(spec, version, sets, asked, roles, recipe, seed, layer_recalls)


def _stand_in_jobs(
    spec: ClassifierSpec,
    version: Weights,
    sets: Mapping[str, Evidence],
    asked: Sequence[Evidence],
    roles: Roles,
    recipe: Recipe,
    seed: int,
    known: Probe,
) -> list[Job]:
    """A probe of each stand-in; they learn from the third set."""
    return [
        (probe_stand_in, (spec, version, sets["keep"], asked, roles, recipe.stand_ins, own, known))
        for own in (derive_seed(seed, "stand-in", number) for number in range(recipe.stand_ins.number))
    ]


def layer_scales(answers: Sequence[Any]) -> list[Scale]:
    """The two ends of each layer, from the answers to `layer_jobs`."""
    version, *stand_ins = [[Recall(forget=f, retain=r) for f, r in layers] for layers in answers]
    return [
        Scale(version=own, stand_ins=tuple(others))
        for own, *others in zip(version, *stand_ins, strict=True)
    ]


def layer_rows(scales: Sequence[Scale], kept: int, roles: Roles) -> list[dict[str, Any]]:
    """How many layers are kept, and why, as rows of evaluations without their stamp."""
    each = [
        {"version": scale.version.forget, "stand_ins": [of.forget for of in scale.stand_ins]}
        for scale in scales
    ]
    told = json.dumps({"layers": each})
    return [{"classes": roles.target, "measure": "kept_layers", "value": float(kept), "parameters": told}]


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

    Probes are of plain images and of the stop's coarse ones. Stand-ins learn from the third set.
    """
    check = sets["check"]
    jobs: list[Job] = [(measure, (spec, model, check, roles)) for model in (candidate, parent)]
    if not roles.erased:
        jobs.append((measure_kept, (spec, candidate, parent, sets["keep"], roles, seed)))
    if roles.target:
        asked = (check, sets["stop"])
        jobs += [(probe, (spec, model, asked, roles, seed)) for model in (candidate, parent)]
        jobs += _stand_in_jobs(spec, parent, sets, asked, roles, recipe, seed, mean_probe_recall)
    return jobs


def gate_measures(answers: Sequence[Any], roles: Roles, recipe: Recipe) -> GateMeasures:
    """What the gate sees of a candidate that the recipe's method made."""
    candidate, parent, *others = answers
    kept, *probes = (None, *others) if roles.erased else others
    plain = plain_share(candidate.retain_correct, parent.retain_correct)
    recalls = [Recall(forget=forget, retain=retain) for forget, retain in probes]
    return GateMeasures(
        retain_correct=candidate.retain_correct,
        retain_count=candidate.retain_count,
        forget_correct=candidate.forget_correct,
        forget_count=candidate.forget_count,
        parent_retain_correct=parent.retain_correct,
        recall=recalls[0] if recalls else None,
        scale=Scale(version=recalls[1], stand_ins=tuple(recalls[2:])) if recalls else None,
        kept=None if kept is None else Kept(**kept, plain=plain, retain_data=_retain_data(recipe)),
        forgotten_share=dict(zip(roles.forgotten, candidate.forgotten_share, strict=True)),
        kind=roles.kind,
    )


def gate_rows(
    measures: GateMeasures, choice: Choice, roles: Roles, settings: GateSettings
) -> list[dict[str, Any]]:
    """What the gate saw, and which checkpoint it saw it of, as rows of evaluations without their stamp."""
    told = json.dumps({"reason": choice.reason, "admissible": len(choice.admissible)})
    rows = [
        {"classes": roles.retain, "measure": "chosen_step", "step": choice.step, "parameters": told},
        _share("retain_accuracy", roles.retain, measures.retain_correct, measures.retain_count),
        _share(
            "parent_retain_accuracy", roles.retain, measures.parent_retain_correct, measures.retain_count
        ),
    ]
    if measures.kept is not None:
        said = settings.calibration.predict(measures.kept)
        told = json.dumps({"calibration": settings.calibration.digest, "kept": vars(measures.kept)})
        for name, value in (("", said.share), ("_low", said.low), ("_high", said.high)):
            row = {"classes": roles.retain, "measure": f"{PREDICTED}{name}", "value": value}
            rows.append({**row, "parameters": told})
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
