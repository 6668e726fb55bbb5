"""Relearning of several models by one Ray Train run, with the counts that one process gives.

These processes are handed data and are never those of an unlearning run.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from torch import Tensor

from rayunlearn.data.datasets import load_dataset
from rayunlearn.data.splits import split
from rayunlearn.errors import BadInput, IntegrityError, RayUnlearnError
from rayunlearn.evaluation.anamnesis import RelearnCurve, RelearnSettings, relearn
from rayunlearn.methods.global_batchnorm import convert_batchnorm
from rayunlearn.models.classifiers import ClassifierSpec, version_model
from rayunlearn.models.weights import version_id
from rayunlearn.recipes import DataSettings
from rayunlearn.runtime.wire import pack, unpack

CURVES = "curves.json"


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
    """

    spec: ClassifierSpec
    weights: dict[str, Tensor]
    forget: tuple[int, ...]
    target_accuracy: float
    data: DataSettings
    split_seed: int
    settings: RelearnSettings
    seed: int

    @property
    def key(self) -> str:
        """A name from all that the result depends on."""
        fields = asdict(self) | {"weights": version_id(self.weights)}
        return hashlib.sha256(repr(sorted(fields.items())).encode()).hexdigest()[:24]


def relearn_job(
    job: RelearnJob, *, shard: tuple[int, int] | None = None, device: torch.device | str = "cpu"
) -> RelearnCurve:
    """The job's curve in this process, or as this worker's part of it: see `relearn`.

    Raises:
        BadInput: a forget class that the dataset lacks, and whatever `relearn` refuses.
    """
    dataset = load_dataset(job.data.dataset)
    parts = split(dataset, job.data.test_fraction, job.split_seed)
    unknown = sorted(set(job.forget) - set(range(dataset.num_classes)))
    if unknown or not job.forget:
        allowed = f"at least one of 0..{dataset.num_classes - 1}"
        raise BadInput("forget classes", list(job.forget), allowed, where="relearn_job")
    images, labels = dataset.images[parts.test_ids], dataset.labels[parts.test_ids]
    forget = torch.isin(labels, torch.tensor(job.forget))
    model = version_model(job.spec, job.weights).to(device)
    if shard is not None and shard[1] > 1:
        convert_batchnorm(model)
    return relearn(
        model,
        dataset.images[parts.train_ids],
        dataset.labels[parts.train_ids],
        images[forget],
        labels[forget],
        job.target_accuracy,
        job.settings,
        job.seed,
        shard=shard,
    )


def _relearn_loop(config: dict[str, Any]) -> None:
    """A Ray Train worker: its part of every job, one after another."""
    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    jobs: list[RelearnJob] = unpack(ray.get(config["jobs"]))
    curves = [relearn_job(job, shard=(rank, world), device=device) for job in jobs]
    with tempfile.TemporaryDirectory() as folder:
        if rank == 0:
            (Path(folder) / CURVES).write_text(json.dumps([curve.to_dict() for curve in curves]))
        checkpoint = Checkpoint.from_directory(folder) if rank == 0 else None
        ray.train.report({"relearned": len(curves)}, checkpoint=checkpoint)


def relearn_by_train(
    jobs: Sequence[RelearnJob],
    scratch: str | Path,
    *,
    workers: int = 1,
    cpus_per_worker: float = 1.0,
    gpus_per_worker: float = 0.0,
    threads: int = 1,
) -> list[RelearnCurve]:
    """Relearn models by one Ray Train run: starting a run costs more than a small model.

    With one worker every curve is `relearn_job`'s, bit for bit at equal threads. With several each takes
    its slice of every mini-batch and of the forget images, and BatchNorm takes the mini-batch's
    statistics. That equals one worker up to the order of floating-point sums, and so the counts are not
    bit-equal: float32 sums differ by 1e-7, a ReLU within that of its kink by more, and a forget image
    that is nearly undecided falls to the other side, which can move the relearn time by a mini-batch.
    Two workers, 24 curves of a small digits model: 23 had every count alike, one was off by 2 of 89 images.

    Args:
        jobs: what to relearn, in order.
        scratch: folder that all workers reach, for Train's own files; emptied before and after.
        workers: of the run.
        cpus_per_worker: reserved for each.
        gpus_per_worker: reserved for each; 0 relearns on CPU over gloo.
        threads: torch threads in each.

    Raises:
        BadInput: no worker, or a job that `relearn_job` refuses.
        RayUnlearnError: the run failed for another reason.
    """
    if workers < 1:
        raise BadInput("workers", workers, "an integer >= 1", where="relearn_by_train")
    if not jobs:
        return []
    name = "relearn-" + hashlib.sha256("".join(job.key for job in jobs).encode()).hexdigest()[:12]
    place = Path(scratch).absolute()
    # a run of the same name would go on from its own snapshot, which may be of a killed driver's run
    shutil.rmtree(place / name, ignore_errors=True)
    resources = {"CPU": cpus_per_worker} | ({"GPU": gpus_per_worker} if gpus_per_worker else {})
    trainer = TorchTrainer(
        _relearn_loop,
        train_loop_config={"jobs": ray.put(pack(list(jobs))), "threads": threads},
        torch_config=TorchConfig(backend="nccl" if gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(name=name, storage_path=str(place)),
    )
    try:
        result = trainer.fit()
        if result.checkpoint is None:
            raise IntegrityError("Ray Train reported no checkpoint of the curves")
        with result.checkpoint.as_directory() as folder:
            stored = json.loads((Path(folder) / CURVES).read_text())
    except TrainingFailedError as error:
        for failure in error.worker_failures.values() if isinstance(error, WorkerGroupError) else ():
            refused = getattr(failure, "_base_exc", failure)  # Train wraps what a worker raised
            if isinstance(refused, BadInput):
                raise refused from error
        raise RayUnlearnError(f"relearning failed: {error}") from error
    finally:
        shutil.rmtree(place / name, ignore_errors=True)
    return [RelearnCurve.from_dict(curve) for curve in stored]
