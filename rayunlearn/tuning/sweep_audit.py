"""What the trials of a sweep are worth on real data: measured afterwards, where there is any.

No decision of a search sees it. It tells how far synthetic scores can be trusted: their rank correlation with
real ones, and what the winner lacks to the trial that real data would have picked (its regret).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from torch import Tensor

from rayunlearn.auditing.labelled import open_data
from rayunlearn.evaluation.accuracy import class_counts
from rayunlearn.execution import torch_process
from rayunlearn.execution.remote import fetch
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import Version
from rayunlearn.ledger.schemas import ALL_TABLES
from rayunlearn.ledger.sweeps import SweepView, real_figures, trial_run
from rayunlearn.lineages.context import Context
from rayunlearn.lineages.requested import data_of
from rayunlearn.lineages.sweep_files import trial_files
from rayunlearn.models.classifiers import ClassifierSpec, version_model
from rayunlearn.models.weights import version_id
from rayunlearn.recipes import DataSettings
from rayunlearn.seeds import derive_seed

Counts = tuple[int, int]
"""Test images that a model gets right, of so many."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What a task found.

    Attributes:
        dataset_hash: of the dataset.
        counts: trial -> counts of the retain classes and of all classes forgotten.
    """

    dataset_hash: str
    counts: Mapping[str, tuple[Counts, ...]]


def audit_sweep(
    context: Context, view: SweepView, parent: Version, classes: Sequence[int], *, threads: int = 1
) -> dict[str, tuple[float, float]]:
    """Measure the chosen checkpoint of every admissible trial on test images, in another process.

    Args:
        context: of the service.
        view: of the sweep.
        parent: the version that was unlearned from.
        classes: that the trials forgot.
        threads: torch threads of the process.

    Returns:
        Trial -> retain and forget accuracy; of earlier audits where they were made.
    """
    reader = LedgerReader(context.store, ALL_TABLES)
    known = real_figures(reader, view)
    students = {}
    for trial in view.trials:
        step = trial.result.step if trial.result else None
        if step is not None and trial.trial not in known:
            students[trial.trial] = trial_files(context.store, view.sweep, trial.trial).student(step)
    if students:
        spec = ClassifierSpec.from_dict(parent.model)
        forget = tuple(sorted({*parent.classes_forgotten, *classes}))
        retain = tuple(c for c in range(spec.num_classes) if c not in forget)
        split_seed = derive_seed(context.seed, "split")
        data = data_of(context.recipe.data, parent)
        task = _count.remote(data, split_seed, spec, students, (retain, forget), threads)
        found: Counted = fetch(task)
        rows = []
        for name_of_trial, weights in students.items():
            both = found.counts[name_of_trial]
            pairs = zip(("retain", "forget"), (retain, forget), both, strict=True)
            for name, of, (right, count) in pairs:
                rows.append(
                    {
                        "run_id": trial_run(view.sweep, name_of_trial), "lineage": view.lineage,
                        "version": version_id(weights), "subject": "checkpoint",
                        "dataset": context.recipe.data.dataset, "dataset_hash": found.dataset_hash,
                        "split": "test", "classes": list(of), "measure": f"{name}_accuracy",
                        "parameters": json.dumps({"sweep": view.sweep, "trial": name_of_trial}),
                        "value": right / count if count else None, "sum": float(right), "count": count,
                        "seed": context.seed, "censored": False, "at": context.clock(),
                    }
                )  # fmt: skip
        context.ledger.append("audits", rows)
    return real_figures(reader, view)


@ray.remote
def _count(
    data: DataSettings,
    split_seed: int,
    spec: ClassifierSpec,
    students: dict[str, dict[str, Tensor]],
    groups: tuple[tuple[int, ...], ...],
    threads: int,
) -> Any:
    torch_process.set_up(threads)
    dataset, parts = open_data(data, split_seed)
    images, labels = dataset.at(parts.test_ids)
    counts = {}
    for trial, weights in students.items():
        found = class_counts(version_model(spec, weights), images, labels, spec.num_classes)
        counts[trial] = tuple(found.sums(classes) for classes in groups)
    return Counted(dataset_hash=dataset.hash, counts=counts)
