"""The audit: measurements on real data, after publication, in processes of their own.

It sees everything and decides nothing: its rows go to a table that stopping rule, gate and plan cannot
open. What it is handed are weights; what it opens is the dataset.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from rayunlearn.auditing.labelled import mislabelled, open_data
from rayunlearn.auditing.relearning import RelearnJob, relearn_by_train
from rayunlearn.data.datasets import LabelledImages
from rayunlearn.data.splits import Split
from rayunlearn.errors import BadInput
from rayunlearn.evaluation.accuracy import class_counts
from rayunlearn.evaluation.anamnesis import RelearnCurve, RelearnSettings
from rayunlearn.evaluation.bench import Bench, Measurement, MislabelledImages, Relearn, Shadows
from rayunlearn.evaluation.lira import shadow_plan
from rayunlearn.evaluation.measures import inversion_attacks, left_out, mean_images, measured
from rayunlearn.execution import torch_process
from rayunlearn.execution.cluster import role_share
from rayunlearn.execution.device import own_device
from rayunlearn.ledger.schemas import Row
from rayunlearn.methods.trivial import delete_head_row, gaussian_head, mask_logit
from rayunlearn.models.classifiers import Classifier, ClassifierSpec, version_model
from rayunlearn.models.weights import Weights, version_id
from rayunlearn.recipes import AuditSettings, DataSettings
from rayunlearn.reports.inverted_images import InvertedImages
from rayunlearn.roles import Roles
from rayunlearn.seeds import derive_seed

INVERTED = ("original", "gold", "unlearned")
"""Subjects whose inverted images are shown, as in the zero-shot paper's Fig. 3."""
NO_GOLD = "no model was retrained to compare with: the data do not say which samples taught the behaviour"


@dataclass(frozen=True, kw_only=True)
class AuditInputs:
    """What the audit of one version is handed.

    Attributes:
        spec: architecture of every model.
        roles: which classes and samples are retained, forgotten now and forgotten before.
        original: weights of the lineage's first version.
        unlearned: weights of the version to audit.
        golds: weights of models retrained without what was forgotten; none where that is a behaviour and
            nobody knows which samples taught it.
        checkpoints: step -> weights of the run's checkpoints, in order; none, and no rule is judged.
        chosen: step that the stopping rule picked.
        data: dataset and split.
        split_seed: of the split.
        settings: of the measures, and which ones.
        seed: of the measures.
        shadows: weights of the shadow models that `shadow_candidates` and `shadow_plan` ask for.
        others: further models to measure, by name.
        scratch: folder that all nodes reach, for relearning by workers of its own.
    """

    spec: ClassifierSpec
    roles: Roles
    original: Weights
    unlearned: Weights
    golds: Sequence[Weights]
    data: DataSettings
    split_seed: int
    settings: AuditSettings
    seed: int
    checkpoints: Mapping[int, Weights] = field(default_factory=dict)
    chosen: int = 0
    shadows: Sequence[Weights] = ()
    others: Mapping[str, Weights] = field(default_factory=dict)
    scratch: str | None = None

    def __post_init__(self) -> None:
        """Refuse workers without a place for its files."""
        if self.settings.relearn_workers and self.scratch is None:
            allowed = "0, or a scratch folder with it"
            raise BadInput("audit.relearn_workers", self.settings.relearn_workers, allowed)


def gold_names(count: int) -> tuple[str, ...]:
    """Names of so many gold models as subjects of an audit.

    >>> gold_names(3)
    ('gold', 'gold_2', 'gold_3')
    """
    return tuple("gold" if i == 0 else f"gold_{i + 1}" for i in range(count))


def audit(inputs: AuditInputs) -> list[Row]:
    """Every measure asked for, as rows of the audits table without their run, lineage and time.

    Subjects: original, unlearned, the gold models and, where a class was forgotten, the three trivial
    baselines that hide it, made from the original. A measure that needs a forgotten class, or to know the
    samples that were forgotten, is left out where there is none, with a row that says why; so is the
    comparison with gold where there is no gold model. Where checkpoints are given: the choice that real data
    would have made among them, and the regret of the synthetic one.
    """
    dataset, parts = open_data(inputs.data, inputs.split_seed)
    bench = _bench(inputs, dataset, parts)
    reasons = {
        name: left_out(name, bench.forget, samples=bench.samples is not None)
        for name in inputs.settings.measures
    }
    made = [name for name, reason in reasons.items() if reason is None]
    figures = measured(bench, made) if made else []
    if not inputs.golds:
        reasons["gold"] = NO_GOLD
    figures += [
        Measurement(subject="unlearned", measure=name, classes=(), parameters={"left_out": reason})
        for name, reason in reasons.items()
        if reason is not None
    ]
    return [_row(inputs, dataset, figure) for figure in figures] + _trajectory(inputs, dataset, parts)


def inverted_images(inputs: AuditInputs) -> list[InvertedImages]:
    """What the model inversion attack draws of each forget class: the images that `audit` has scores of.

    They show a class that was to be forgotten, and so do the means of its training images beside them: no
    row holds any, and they are made only for who asks.
    """
    dataset, parts = open_data(inputs.data, inputs.split_seed)
    bench = _bench(replace(inputs, shadows=()), dataset, parts)
    means = mean_images(bench)
    shown = [subject for subject in INVERTED if subject in bench.subjects]
    attacks = {subject: inversion_attacks(bench, subject, means) for subject in shown}
    return [
        InvertedImages(
            class_id=c,
            mean=_pixels(inputs.spec, means[c]),
            attacks={subject: _pixels(inputs.spec, attacks[subject][i].images) for subject in shown},
        )
        for i, c in enumerate(bench.forget)
    ]


def _pixels(spec: ClassifierSpec, images: Tensor) -> np.ndarray:
    """Normalised images [..., C, H, W] as pixels in [0, 1]."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (spec.mean, spec.std))
    pixels: np.ndarray = (images * std + mean).clamp(0, 1).numpy()
    return pixels


@ray.remote
def inverted_images_task(inputs: AuditInputs, threads: int) -> list[InvertedImages]:
    """`inverted_images` in a process that may open data."""
    torch_process.set_up(threads)
    return inverted_images(inputs)


@ray.remote
def audit_task(inputs: AuditInputs, threads: int) -> list[Row]:
    """`audit` in a process that may open data."""
    torch_process.set_up(threads)
    return audit(inputs)


def shadow_candidates(data: DataSettings, split_seed: int, forget: Sequence[int]) -> Tensor:
    """Samples that shadow models are trained with or without: indices into the dataset, int64 [N].

    The training samples of the forget classes, then their test samples.
    """
    dataset, parts = open_data(data, split_seed)
    wanted = torch.tensor(forget)
    return torch.cat(
        [ids[torch.isin(dataset.labels[ids], wanted)] for ids in (parts.train_ids, parts.test_ids)]
    )


def _bench(inputs: AuditInputs, dataset: LabelledImages, parts: Split) -> Bench:
    forget, settings = inputs.roles.forget, inputs.settings
    original = version_model(inputs.spec, inputs.original)
    golds = dict(zip(gold_names(len(inputs.golds)), inputs.golds, strict=True))
    given = {"unlearned": inputs.unlearned, **golds, **inputs.others}
    subjects: dict[str, Classifier] = {
        "original": original,
        **{name: version_model(inputs.spec, weights) for name, weights in given.items()},
    }
    if forget:
        subjects |= {
            "mask_logit": mask_logit(original, forget, offset=settings.trivial_offset),
            "delete_head_row": delete_head_row(original, forget, offset=settings.trivial_offset),
            "gaussian_head": gaussian_head(
                original, retain=inputs.roles.retain, seed=derive_seed(inputs.seed, "gaussian head")
            ),
        }
    samples = forgotten_samples(dataset, inputs.roles)
    train_ids = parts.train_ids[~torch.isin(parts.train_ids, samples)]
    device, shadows = own_device(), None
    if inputs.shadows:
        candidates = shadow_candidates(inputs.data, inputs.split_seed, forget)
        plan = shadow_plan(candidates, len(inputs.shadows), inputs.split_seed)
        models = [version_model(inputs.spec, weights).to(device) for weights in inputs.shadows]
        shadows = Shadows(models=models, included=plan)
    return Bench(
        train=dataset.at(train_ids),
        test=dataset.at(parts.test_ids),
        retain=inputs.roles.retain,
        forget=forget,
        subjects={name: model.to(device) for name, model in subjects.items()},
        golds=tuple(golds),
        settings=settings,
        seed=inputs.seed,
        shadows=shadows,
        relearn=_relearn_by_train(inputs, samples) if inputs.settings.relearn_workers else None,
        samples=(dataset.images[samples], dataset.labels[samples]) if len(samples) else None,
        mislabelled=_mislabelled_images(inputs, dataset),
    )


def _mislabelled_images(inputs: AuditInputs, dataset: LabelledImages) -> MislabelledImages | None:
    found = mislabelled(inputs.data, inputs.split_seed)
    if found is None:
        return None
    ids = found.changed_ids
    return MislabelledImages(images=dataset.images[ids], right=found.right_labels, taught=dataset.labels[ids])


def forgotten_samples(dataset: LabelledImages, roles: Roles) -> Tensor:
    """The single samples that must be gone, int64 [N]; those of forgotten classes count as their class's."""
    samples = torch.tensor(roles.forget_samples, dtype=torch.int64)
    classes = torch.tensor(roles.forget, dtype=torch.int64)
    return samples[~torch.isin(dataset.labels[samples], classes)]


def _relearn_by_train(inputs: AuditInputs, samples: Tensor) -> Relearn:
    """Relearning of a bench's models by workers, started from the audit's process."""
    workers, scratch = inputs.settings.relearn_workers, inputs.scratch
    assert scratch is not None, "checked by the inputs"

    def by_train(
        models: Mapping[str, Classifier], target: float, settings: RelearnSettings, seed: int
    ) -> dict[str, RelearnCurve]:
        jobs = [
            RelearnJob(
                spec=model.spec,
                weights={name: tensor.cpu() for name, tensor in model.state_dict().items()},
                forget=inputs.roles.forget,
                target_accuracy=target,
                data=inputs.data,
                split_seed=inputs.split_seed,
                settings=settings,
                seed=seed,
                left_out=tuple(samples.tolist()),
            )
            for model in models.values()
        ]
        curves = relearn_by_train(
            jobs,
            scratch,
            workers=workers,
            cpus_per_worker=role_share(ray.cluster_resources().get("CPU", 0), workers),
            threads=torch.get_num_threads(),
        )
        return dict(zip(models, curves, strict=True))

    return by_train


def _row(inputs: AuditInputs, dataset: LabelledImages, figure: Measurement, **columns: Any) -> Row:
    fields = asdict(figure)
    return {
        **fields,
        "classes": sorted(figure.classes),
        "parameters": json.dumps(fields["parameters"]),
        "dataset": inputs.data.dataset,
        "dataset_hash": dataset.hash,
        "seed": inputs.seed,
        "step": None,
    } | columns


def oracle_step(retain: Mapping[int, tuple[int, int]], forget: Mapping[int, tuple[int, int]]) -> int | None:
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


def _trajectory(inputs: AuditInputs, dataset: LabelledImages, parts: Split) -> list[Row]:
    """Every checkpoint on real data, the oracle's choice, and each stopping rule's regret to it.

    Nothing for a request that names no class: gold gets most images right as well, so that no checkpoint
    that gets none right can be asked for.
    """
    if not inputs.roles.target:
        return []
    images, labels = dataset.at(parts.test_ids)
    roles = inputs.roles
    retain: dict[int, tuple[int, int]] = {}
    forget: dict[int, tuple[int, int]] = {}
    rows: list[Row] = []
    for step, weights in inputs.checkpoints.items():
        model = version_model(inputs.spec, weights).to(own_device())
        counts = class_counts(model, images, labels, inputs.spec.num_classes)
        for name, classes, into in (("retain", roles.retain, retain), ("forget", roles.forget, forget)):
            right, count = into[step] = counts.sums(classes)
            figure = Measurement(
                subject="checkpoint", measure=f"{name}_accuracy", classes=classes,
                sum=float(right), count=count,
            )  # fmt: skip
            rows.append(_row(inputs, dataset, figure, step=step, version=version_id(weights)))
    if not retain:
        return rows
    best = oracle_step(retain, forget)
    rules = {"synthetic": inputs.chosen, "last": max(retain)}
    fixed = [step for step in retain if step <= inputs.settings.fixed_step]
    if fixed:
        rules["fixed"] = max(fixed)
    for rule, step in rules.items():
        right, count = retain[step]
        lost = {} if best is None else {"sum": float(retain[best][0] - right), "count": count}
        figure = Measurement(
            subject="checkpoint", measure="regret", classes=roles.retain, **lost,  # type: ignore[arg-type]
            parameters={"rule": rule, "oracle_step": best, "forget_correct": forget[step][0]},
        )  # fmt: skip
        rows.append(_row(inputs, dataset, figure, step=step))
    return rows
