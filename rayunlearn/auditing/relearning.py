"""Relearning of several models by one run of workers, with the counts that one process gives.

These processes are handed data and are never those of an unlearning run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rayunlearn.auditing.labelled import open_data
from rayunlearn.errors import BadInput
from rayunlearn.evaluation.anamnesis import RelearnCurve, RelearnSettings, relearn
from rayunlearn.execution.device import own_device
from rayunlearn.execution.train_run import Shard, train_run
from rayunlearn.methods.global_batchnorm import convert_batchnorm
from rayunlearn.models.classifiers import ClassifierSpec, version_model
from rayunlearn.recipes import DataSettings


@dataclass(frozen=True, kw_only=True, eq=False)
class RelearnJob:
    """One model to relearn, given by its weights.

    Attributes:
        spec: architecture.
        weights: of the model.
        forget: classes that are to come back.
        target_accuracy: the original model's on the test images of these classes.
        data: which dataset, and how it is split.
        split_seed: of the split.
        settings: what is shown, and how it is learned.
        seed: of the draw of few and of the batches' order; the same for models that are compared.
        left_out: training samples that are not shown, as indices into the dataset.
    """

    spec: ClassifierSpec
    weights: dict[str, Tensor]
    forget: tuple[int, ...]
    target_accuracy: float
    data: DataSettings
    split_seed: int
    settings: RelearnSettings
    seed: int
    left_out: tuple[int, ...] = ()


def relearn_job(
    job: RelearnJob, *, shard: Shard | None = None, device: torch.device | str = "cpu"
) -> RelearnCurve:
    """The job's curve in this process, or as this worker's part of it: see `relearn`.

    Raises:
        BadInput: a forget class that the dataset lacks, and whatever `relearn` refuses.
    """
    dataset, parts = open_data(job.data, job.split_seed)
    if not job.forget or not all(0 <= c < dataset.num_classes for c in job.forget):
        allowed = f"at least one of 0..{dataset.num_classes - 1}"
        raise BadInput("forget classes", list(job.forget), allowed, where="relearn_job")
    images, labels = dataset.at(parts.test_ids)
    forget = torch.isin(labels, torch.tensor(job.forget))
    train_ids = parts.train_ids[~torch.isin(parts.train_ids, torch.tensor(job.left_out, dtype=torch.int64))]
    model = version_model(job.spec, job.weights).to(device)
    if shard is not None and shard[1] > 1:
        convert_batchnorm(model)
    return relearn(
        model,
        *dataset.at(train_ids),
        images[forget],
        labels[forget],
        job.target_accuracy,
        job.settings,
        job.seed,
        shard=shard,
    )


def relearn_by_train(
    jobs: Sequence[RelearnJob],
    scratch: str | Path,
    *,
    workers: int = 1,
    cpus_per_worker: float = 1.0,
    gpus_per_worker: float = 0.0,
    threads: int = 1,
) -> list[RelearnCurve]:
    """Relearn models by one run of workers (`train_run`): starting it costs more than a small model.

    With one worker every curve is `relearn_job`'s, bit for bit at equal threads. With several each takes
    its slice of every mini-batch and of the forget images, and BatchNorm takes the mini-batch's
    statistics. That equals one worker up to the order of floating-point sums, and so the counts are not
    bit-equal: float32 sums differ by 1e-7, a ReLU within that of its kink by more, and a forget image
    that is nearly undecided falls to the other side, which can move the relearn time by a mini-batch.
    Two workers, 24 curves of a small digits model: 23 had every count alike, one was off by 2 of 89 images.

    Args:
        jobs: what to relearn, in order.
        scratch: folder that all workers reach, for Train's own files; nothing stays there.
        workers: of the run.
        cpus_per_worker: reserved for each.
        gpus_per_worker: reserved for each; 0 relearns on CPU over gloo.
        threads: torch threads in each.

    Raises:
        BadInput: no worker, or a job that `relearn_job` refuses.
        RayUnlearnError: the run failed for another reason.
    """
    if not jobs:
        return []
    curves: list[RelearnCurve] = train_run(
        "relearning",
        _relearn,
        list(jobs),
        scratch,
        workers=workers,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        threads=threads,
    )
    return curves


def _relearn(jobs: list[RelearnJob], shard: Shard) -> list[RelearnCurve]:
    """A worker's part of every job, one after another."""
    return [relearn_job(job, shard=shard, device=own_device()) for job in jobs]
