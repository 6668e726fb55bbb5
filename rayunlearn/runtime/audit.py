"""The audit: measurements on real data, after publication, in processes of their own.

It sees everything and decides nothing: its rows go to a table that stopping rule, gate and plan cannot
open. What it is handed are weights; what it opens is the dataset.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray
import torch
from torch import Tensor

from rayunlearn.data.datasets import LabelledImages, load_dataset
from rayunlearn.data.splits import Split, split
from rayunlearn.evaluation.accuracy import ClassCounts, class_counts
from rayunlearn.evaluation.anamnesis import RelearnCurve, anamnesis_index, relearn
from rayunlearn.evaluation.probe import linear_probe
from rayunlearn.evaluation.synthetic import Roles
from rayunlearn.methods.trivial import delete_head_row, gaussian_head, mask_logit
from rayunlearn.models.classifiers import Classifier, ClassifierSpec
from rayunlearn.models.weights import version_id
from rayunlearn.recipes import AuditSettings, DataSettings
from rayunlearn.runtime.sealed import version_model
from rayunlearn.seeds import derive_seed

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class AuditInputs:
    """What the audit of one request is handed.

    Attributes:
        spec: architecture of every model.
        roles: which classes are retained, forgotten now and forgotten before.
        original: weights of the lineage's first version.
        unlearned: weights of the version that the request published.
        gold: weights of the model retrained without the forgotten classes.
        checkpoints: step -> weights of the run's checkpoints, in order.
        chosen: step that the stopping rule picked.
        fixed_step: step of the "fixed cycle" rule to compare with.
        data: dataset and split.
        split_seed: of the split.
        settings: of the measures.
        seed: of the measures.
    """

    spec: ClassifierSpec
    roles: Roles
    original: dict[str, Tensor]
    unlearned: dict[str, Tensor]
    gold: dict[str, Tensor]
    checkpoints: Mapping[int, dict[str, Tensor]]
    chosen: int
    fixed_step: int
    data: DataSettings
    split_seed: int
    settings: AuditSettings
    seed: int


def audit(inputs: AuditInputs) -> list[Row]:
    """Every measure of one request, as rows of the audits table without their run, lineage and time.

    Subjects: original, unlearned, gold and the three trivial baselines made from the original. Measures:
    accuracy on retain and forget classes, few-sample linear probe, relearning and anamnesis index, and
    the choice that real data would have made among the checkpoints, with the regret of the synthetic one.
    """
    dataset = load_dataset(inputs.data.dataset)
    parts = split(dataset, inputs.data.test_fraction, inputs.split_seed)
    bench = _Bench(inputs, dataset, parts)
    original = version_model(inputs.spec, inputs.original)
    forget = inputs.roles.forget
    subjects: dict[str, Classifier] = {
        "original": original,
        "unlearned": version_model(inputs.spec, inputs.unlearned),
        "gold": version_model(inputs.spec, inputs.gold),
        "mask_logit": mask_logit(original, forget, offset=inputs.settings.trivial_offset),
        "delete_head_row": delete_head_row(original, forget, offset=inputs.settings.trivial_offset),
        "gaussian_head": gaussian_head(
            original, retain=inputs.roles.retain, seed=derive_seed(inputs.seed, "gaussian head")
        ),
    }
    rows: list[Row] = []
    for subject, model in subjects.items():
        rows += bench.accuracy(subject, model)
        rows += bench.probe(subject, model)
    rows += bench.anamnesis(subjects)
    rows += bench.trajectory()
    return rows


@ray.remote
def audit_task(inputs: AuditInputs, threads: int) -> list[Row]:
    """`audit` in a process that may open data."""
    torch.set_num_threads(threads)
    return audit(inputs)


def oracle_step(
    retain: Mapping[int, tuple[int, int]], forget: Mapping[int, tuple[int, int]]
) -> int | None:
    """The checkpoint that real data would pick: highest retain accuracy with no forget image right.

    Args:
        retain: step -> (correct, count) on real retain images.
        forget: step -> (correct, count) on real images of every class forgotten so far.

    Returns:
        The earliest best step, or None where every checkpoint gets some forget image right.
    """
    clean = [step for step, (correct, _) in forget.items() if correct == 0]
    if not clean:
        return None
    return max(clean, key=lambda step: (retain[step][0], -step))


class _Bench:
    """The data and settings that every measure shares."""

    def __init__(self, inputs: AuditInputs, dataset: LabelledImages, parts: Split) -> None:
        self.inputs = inputs
        self.train = dataset.images[parts.train_ids], dataset.labels[parts.train_ids]
        self.test = dataset.images[parts.test_ids], dataset.labels[parts.test_ids]
        self.dataset = dataset
        self.original_accuracy: float | None = None

    def row(self, subject: str, measure: str, classes: Sequence[int], **figures: Any) -> Row:
        row: Row = {
            "subject": subject,
            "dataset": self.inputs.data.dataset,
            "dataset_hash": self.dataset.hash,
            "split": "test",
            "classes": sorted(classes),
            "measure": measure,
            "parameters": "{}",
            "value": None,
            "sum": None,
            "count": None,
            "step": None,
            "seed": self.inputs.seed,
            "censored": False,
        }
        if figures.get("count"):
            row["value"] = figures["sum"] / figures["count"]
        return row | figures

    def counts(self, model: Classifier) -> ClassCounts:
        return class_counts(model, *self.test, self.inputs.spec.num_classes)

    def accuracy(self, subject: str, model: Classifier, step: int | None = None) -> list[Row]:
        """Retain accuracy, and forget accuracy over every class forgotten so far and of each alone."""
        roles, counts = self.inputs.roles, self.counts(model)
        if subject == "original":
            self.original_accuracy = counts.accuracy(roles.forget)
        named = [("retain_accuracy", roles.retain), ("forget_accuracy", roles.forget)]
        if step is None and len(roles.forget) > 1:
            named += [("forget_accuracy", (c,)) for c in roles.forget]
        rows = []
        for measure, classes in named:
            correct, count = counts.sums(classes)
            rows.append(self.row(subject, measure, classes, sum=float(correct), count=count, step=step))
        return rows

    def probe(self, subject: str, model: Classifier) -> list[Row]:
        """The few-sample linear probe, its draws pooled."""
        settings, forget = self.inputs.settings, self.inputs.roles.forget
        reports = [
            linear_probe(
                model, *self.train, *self.test, forget, settings.probe,
                derive_seed(self.inputs.seed, "probe", draw),
            )
            for draw in range(settings.probe_draws)
        ]  # fmt: skip
        parameters = json.dumps(asdict(settings.probe) | {"draws": settings.probe_draws})
        rows = []
        for part, classes in (("forget", forget), ("retain", self.inputs.roles.retain)):
            correct = sum(getattr(r, part).correct for r in reports)
            count = sum(getattr(r, part).count for r in reports)
            rows.append(
                self.row(
                    subject, f"probe_{part}_recall", classes, sum=float(correct), count=count,
                    parameters=parameters,
                )
            )  # fmt: skip
        return rows

    def anamnesis(self, subjects: Mapping[str, Classifier]) -> list[Row]:
        """Relearning steps of every subject but the original, and the index of each against gold."""
        forget, settings = self.inputs.roles.forget, self.inputs.settings.relearn
        images, labels = self.test
        real_forget = torch.isin(labels, torch.tensor(forget))
        assert self.original_accuracy is not None
        curves: dict[str, RelearnCurve] = {
            subject: relearn(
                model, *self.train, images[real_forget], labels[real_forget], self.original_accuracy,
                settings, derive_seed(self.inputs.seed, "relearn"),
            )
            for subject, model in subjects.items()
            if subject != "original"
        }  # fmt: skip
        parameters = json.dumps(asdict(settings))
        rows = []
        for subject, curve in curves.items():
            rows.append(
                self.row(
                    subject, "relearn_steps", forget, parameters=parameters, censored=curve.censored,
                    value=None if curve.reached is None else float(curve.reached),
                )
            )  # fmt: skip
            index = anamnesis_index(curve, curves["gold"])
            noted = json.dumps(asdict(settings) | {"note": index.note, "informative": index.informative})
            rows.append(
                self.row(
                    subject, "anamnesis_index", forget, parameters=noted, value=index.value,
                    censored=index.censored,
                )
            )  # fmt: skip
        return rows

    def trajectory(self) -> list[Row]:
        """Every checkpoint on real data, the oracle's choice, and each stopping rule's regret to it."""
        retain: dict[int, tuple[int, int]] = {}
        forget: dict[int, tuple[int, int]] = {}
        rows: list[Row] = []
        for step, weights in self.inputs.checkpoints.items():
            model = version_model(self.inputs.spec, weights)
            measured = self.accuracy("checkpoint", model, step)
            rows += [row | {"version": version_id(weights)} for row in measured]
            for row, into in zip(measured, (retain, forget), strict=True):
                into[step] = (int(row["sum"]), row["count"])
        if not retain:
            return rows
        best = oracle_step(retain, forget)
        rules = {"synthetic": self.inputs.chosen, "last": max(retain)}
        fixed = [step for step in retain if step <= self.inputs.fixed_step]
        if fixed:
            rules["fixed"] = max(fixed)
        classes = self.inputs.roles.retain
        for rule, step in rules.items():
            parameters = json.dumps({"rule": rule, "oracle_step": best, "forget_correct": forget[step][0]})
            correct, count = retain[step]
            row = self.row("checkpoint", "regret", classes, parameters=parameters, step=step)
            if best is not None:
                row |= {"sum": float(retain[best][0] - correct), "count": count}
                row["value"] = row["sum"] / count
            rows.append(row)
        return rows
