"""Training on real data: the original as one task, gold models by Ray Train.

These processes are handed data and are never those of an unlearning run.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from torch import Tensor

from rayunlearn.data.datasets import load_dataset
from rayunlearn.data.splits import retain_forget, split
from rayunlearn.errors import IntegrityError, RayUnlearnError
from rayunlearn.evaluation.accuracy import class_counts
from rayunlearn.methods.training import TrainSettings, steps_per_epoch, train_classifier
from rayunlearn.models.classifiers import Classifier, ClassifierSpec, build_classifier
from rayunlearn.models.weights import load_into, weights_from_bytes, weights_to_bytes
from rayunlearn.recipes import DataSettings, Recipe
from rayunlearn.runtime.wire import pack, unpack
from rayunlearn.seeds import derive_seed

GOLD_SHORTFALL = 0.005
"""Retain accuracy that a gold model may lack of the original's, a share of 1."""
GOLD_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One classifier to train from scratch.

    Attributes:
        excluded: classes whose samples are left out: none for an original, the forgotten for a gold.
        data: which dataset, and how it is split.
        split_seed: of the split.
        spec: architecture.
        train: the recipe; a gold's is the original's own.
        seed: of initial weights and batches.
    """

    excluded: tuple[int, ...]
    data: DataSettings
    split_seed: int
    spec: ClassifierSpec
    train: TrainSettings
    seed: int

    @property
    def key(self) -> str:
        """A name from all that the result depends on."""
        return hashlib.sha256(repr(sorted(asdict(self).items())).encode()).hexdigest()[:24]


def classifier_spec(data: DataSettings, name: str, width: float) -> ClassifierSpec:
    """The spec of a classifier for a dataset; loads the dataset, so call it where data may be read."""
    dataset = load_dataset(data.dataset)
    return ClassifierSpec(
        name=name,
        width=width,
        in_channels=dataset.images.shape[1],
        image_size=dataset.images.shape[-1],
        num_classes=dataset.num_classes,
        mean=dataset.mean,
        std=dataset.std,
    )


def training_job(
    recipe: Recipe, spec: ClassifierSpec, seed: int, *, excluded: Iterable[int] = (), gold: int | None = None
) -> TrainingJob:
    """The original of a service's seed, or the `gold`-th model retrained without some classes."""
    purpose = ("original",) if gold is None else ("gold", gold)
    return TrainingJob(
        excluded=tuple(sorted(excluded)),
        data=recipe.data,
        split_seed=derive_seed(seed, "split"),
        spec=spec,
        train=recipe.train,
        seed=derive_seed(seed, *purpose),
    )


def fit(job: TrainingJob, *, shard: tuple[int, int] | None = None) -> Classifier:
    """Train the job's classifier, or this worker's shard of it; every parameter is drawn anew.

    A gold model has fewer samples to an epoch. It gets as many epochs as make the original's number of
    steps, rounded up: a gold model that was trained for less would flatter what is measured against it.
    """
    dataset = load_dataset(job.data.dataset)
    parts = split(dataset, job.data.test_fraction, job.split_seed)
    images, labels = dataset.images[parts.train_ids], dataset.labels[parts.train_ids]
    recipe = job.train
    if job.excluded:
        steps = recipe.epochs * steps_per_epoch(len(labels), recipe)
        retain_ids, _ = retain_forget(labels, job.excluded)
        images, labels = images[retain_ids], labels[retain_ids]
        recipe = replace(recipe, epochs=math.ceil(steps / steps_per_epoch(len(labels), recipe)))
    device = "cuda" if torch.cuda.is_available() and _gpu_assigned() else "cpu"
    model = build_classifier(job.spec, derive_seed(job.seed, "original weights")).to(device)
    train_classifier(
        model,
        images.to(device),
        labels.to(device),
        recipe,
        derive_seed(job.seed, "original batches"),
        shard=shard,
    )
    return model.cpu().eval()


def fit_gold(
    job: TrainingJob, original: Mapping[str, Tensor], *, shard: tuple[int, int] | None = None
) -> Classifier:
    """A gold model that keeps what the original knows of the retain classes, less half a point of accuracy.

    One that falls short on the retain classes' test images is trained anew from the next seed, up to
    `GOLD_ATTEMPTS` times; then the best counts. A yardstick may be chosen by the data that it measures
    with: a weak gold model would flatter every unlearned one, a strong one makes it harder.
    """
    dataset = load_dataset(job.data.dataset)
    ids = split(dataset, job.data.test_fraction, job.split_seed).test_ids
    images, labels = dataset.images[ids], dataset.labels[ids]
    retain = [c for c in range(job.spec.num_classes) if c not in job.excluded]

    def right(model: Classifier) -> tuple[int, int]:
        return class_counts(model, images, labels, job.spec.num_classes).sums(retain)

    before = build_classifier(job.spec, 0)
    load_into(before, dict(original))
    known, count = right(before)
    best: tuple[int, Classifier] | None = None
    for attempt in range(GOLD_ATTEMPTS):
        seed = derive_seed(job.seed, "attempt", attempt) if attempt else job.seed
        model = fit(replace(job, seed=seed), shard=shard)
        keeps, _ = right(model)
        if best is None or keeps > best[0]:
            best = keeps, model
        if keeps >= known - GOLD_SHORTFALL * count:
            break
    assert best is not None
    return best[1]


def _gpu_assigned() -> bool:
    if not ray.is_initialized():
        return True
    return bool(ray.get_runtime_context().get_accelerator_ids().get("GPU"))


@ray.remote
def _describe(data: DataSettings, name: str, width: float, threads: int) -> ClassifierSpec:
    torch.set_num_threads(threads)
    return classifier_spec(data, name, width)


@ray.remote
def _fit_alone(job: TrainingJob, threads: int) -> bytes:
    torch.set_num_threads(threads)
    return weights_to_bytes(fit(job).state_dict())


def describe(data: DataSettings, name: str, width: float) -> ClassifierSpec:
    """`classifier_spec`, asked of another process: the driver itself never loads data."""
    spec: ClassifierSpec = ray.get(_describe.remote(data, name, width, 1))
    return spec


def train_original(job: TrainingJob, *, cpus: float = 1.0, threads: int = 1) -> dict[str, Tensor]:
    """Train one classifier in a task of its own: cheaper than a Train run where one worker does."""
    answer = _fit_alone.options(num_cpus=cpus).remote(job, threads)
    return weights_from_bytes(ray.get(answer), "original")


def _train_loop(config: dict[str, Any]) -> None:
    """A Ray Train worker: its shard of every job, one after another."""
    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    with tempfile.TemporaryDirectory() as folder:
        for job, original in zip(config["jobs"], unpack(config["originals"]), strict=True):
            model = fit_gold(job, original, shard=(rank, world) if world > 1 else None)
            if rank == 0:
                (Path(folder) / f"{job.key}.safetensors").write_bytes(weights_to_bytes(model.state_dict()))
        checkpoint = Checkpoint.from_directory(folder) if rank == 0 else None
        ray.train.report({"trained": len(config["jobs"])}, checkpoint=checkpoint)


def train_gold(
    jobs: Sequence[TrainingJob],
    originals: Sequence[Mapping[str, Tensor]],
    scratch: str | Path,
    *,
    workers: int = 1,
    cpus_per_worker: float = 1.0,
    gpus_per_worker: float = 0.0,
    threads: int = 1,
) -> list[dict[str, Tensor]]:
    """Train gold models by one Ray Train run: starting a run costs more than a small model.

    With several workers each takes its slice of every global batch and BatchNorm takes the global
    batch's statistics, so the result equals one worker's up to rounding.

    Args:
        jobs: what to train, in order.
        originals: for each job, the weights whose retain accuracy it has to reach: see `fit_gold`.
        scratch: folder that all workers reach, for Train's own files; emptied before and after.
        workers: of the run.
        cpus_per_worker: reserved for each.
        gpus_per_worker: reserved for each; 0 trains on CPU over gloo.
        threads: torch threads in each.
    """
    name = "gold-" + hashlib.sha256("".join(job.key for job in jobs).encode()).hexdigest()[:12]
    place = Path(scratch).absolute()
    # a run of the same name would go on from its own snapshot, which may be of a killed driver's run
    shutil.rmtree(place / name, ignore_errors=True)
    resources = {"CPU": cpus_per_worker} | ({"GPU": gpus_per_worker} if gpus_per_worker else {})
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config={
            "jobs": list(jobs),
            "originals": [pack(dict(weights)) for weights in originals],
            "threads": threads,
        },
        torch_config=TorchConfig(backend="nccl" if gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(name=name, storage_path=str(place)),
    )
    result = trainer.fit()
    if result.error is not None:
        raise RayUnlearnError(f"training gold models failed: {result.error}") from result.error
    if result.checkpoint is None:
        raise IntegrityError("Ray Train reported no checkpoint of the gold models")
    with result.checkpoint.as_directory() as folder:
        files = [Path(folder) / f"{job.key}.safetensors" for job in jobs]
        trained = [weights_from_bytes(f.read_bytes(), f.name) for f in files]
    shutil.rmtree(place / name, ignore_errors=True)
    return trained
