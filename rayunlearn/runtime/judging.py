"""What a run is judged by: synthetic sets of its version, and measures on them.

Of a single sample there is no synthetic image: for a request that names some the sets hold retain classes
alone, and whether the samples are forgotten is for the audit to say.
"""

from __future__ import annotations

from torch import Tensor

from rayunlearn.evaluation.synthetic import Assessment, balanced_labels
from rayunlearn.methods.registry import method_named
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.recipes import Recipe
from rayunlearn.roles import Roles
from rayunlearn.runtime.ensemble import Job
from rayunlearn.runtime.sealed import invert
from rayunlearn.scheduling.gate import GateMeasures
from rayunlearn.seeds import derive_seed


def synthesis_jobs(
    spec: ClassifierSpec, weights: dict[str, Tensor], roles: Roles, recipe: Recipe, seed: int
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


def gate_measures(
    candidate: Assessment,
    parent: Assessment,
    curve: tuple[float, ...],
    recall: float | None,
    roles: Roles,
) -> GateMeasures:
    """What the gate sees of a candidate."""
    return GateMeasures(
        retain_correct=candidate.retain_correct,
        retain_count=candidate.retain_count,
        forget_correct=candidate.forget_correct,
        forget_count=candidate.forget_count,
        parent_retain_correct=parent.retain_correct,
        relearn_accuracy=curve,
        probe_recall=recall,
        forgotten_share=dict(zip(roles.forgotten, candidate.forgotten_share, strict=True)),
        samples=not roles.target,
    )
