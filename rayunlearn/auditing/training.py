"""Training on real data: the original as one task, gold models by workers, shadow models in shadows.py.

These processes are handed data and are never those of an unlearning run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ray
import torch
from torch import Tensor

from rayunlearn.auditing.labelled import data_hash, open_data, taken
from rayunlearn.data.datasets import LabelledImages, load_dataset, not_there
from rayunlearn.data.splits import retain_forget
from rayunlearn.errors import BadInput
from rayunlearn.evaluation.accuracy import class_counts
from rayunlearn.execution import torch_process
from rayunlearn.execution.device import own_device
from rayunlearn.execution.remote import fetch, fetch_told, telling, warn_here
from rayunlearn.execution.train_run import Shard, train_run
from rayunlearn.methods.training import StepInfo, TrainSettings, steps_per_epoch, train_classifier
from rayunlearn.methods.training_log import TrainingRecorder, log_from_tensors, log_to_tensors
from rayunlearn.methods.unlearning import TrainingLog
from rayunlearn.models.classifiers import Classifier, ClassifierSpec, build_classifier
from rayunlearn.models.weights import load_into, weights_from_bytes, weights_to_bytes
from rayunlearn.recipes import DataSettings, Recipe
from rayunlearn.seeds import derive_seed
from rayunlearn.settings import stated
from rayunlearn.streamed import Images
from rayunlearn.task import Input, Task

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
        included: samples of these classes that are trained on all the same, of the training or of the test
            part, as indices into the dataset: a shadow model's.
        excluded_samples: single training samples that are left out besides.
    """

    excluded: tuple[int, ...]
    data: DataSettings
    split_seed: int
    spec: ClassifierSpec
    train: TrainSettings
    seed: int
    included: tuple[int, ...] = ()
    excluded_samples: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse lists that would give one model two names."""
        for name in ("excluded", "included", "excluded_samples"):
            ids = getattr(self, name)
            if list(ids) != sorted(set(ids)):
                raise BadInput(f"TrainingJob.{name}", ids, "different ids, ascending")

    @property
    def key(self) -> str:
        """A name from all that the result depends on; what is stored under it outlives new fields."""
        told = stated(self)
        if not self.excluded_samples:
            del told["excluded_samples"]
        told["spec"].pop("class_names", None)  # nothing is trained by them
        for name in ("mean", "std"):  # the spec has them
            told["data"].pop(name, None)
        if self.data.sha256 is not None:  # it is of the labels as well
            told["data"].pop("class_names", None)
        told["data"].pop("granted_per_class", None)
        return hashlib.sha256(repr(sorted(told.items())).encode()).hexdigest()[:24]


def classifier_spec(data: DataSettings, name: str, width: float) -> ClassifierSpec:
    """The spec of a classifier that is built in for a dataset, which is loaded (`task_of`)."""
    return ClassifierSpec.of_task(task_of(data), name, width)


def task_of(data: DataSettings) -> Task:
    """What a classifier of a dataset is for; loads the dataset, so call it where data may be read."""
    dataset = load_dataset(data.dataset, taken(data))
    _, channels, height, width_of_image = dataset.images.shape
    shape = (channels, height, width_of_image)
    return Task(
        input=Input(shape=shape, mean=dataset.mean, std=dataset.std), num_classes=dataset.num_classes,
        class_names=dataset.class_names,
    )  # fmt: skip


def training_job(
    recipe: Recipe,
    spec: ClassifierSpec,
    seed: int,
    *,
    excluded: Iterable[int] = (),
    excluded_samples: Iterable[int] = (),
    gold: int | None = None,
) -> TrainingJob:
    """The original of a service's seed, or the `gold`-th model retrained without some classes and samples."""
    purpose = ("original",) if gold is None else ("gold", gold)
    return TrainingJob(
        excluded=tuple(sorted(excluded)),
        data=recipe.data,
        split_seed=derive_seed(seed, "split"),
        spec=spec,
        train=recipe.train,
        seed=derive_seed(seed, *purpose),
        excluded_samples=tuple(sorted(excluded_samples)),
    )


def fit(
    job: TrainingJob, *, shard: Shard | None = None, on_step: Callable[[StepInfo], None] | None = None
) -> Classifier:
    """Train the job's classifier, or this worker's shard of it; every parameter is drawn anew.

    Where something is left out an epoch has fewer samples. The model gets as many epochs as make the
    original's number of steps, rounded up: a gold model that was trained for less would flatter what is
    measured against it, and a shadow model would remember its samples less than the original did.

    Args:
        job: what to train.
        shard: (rank, world) of this worker.
        on_step: called after each optimizer step.

    Raises:
        BadInput: an included sample is none of the dataset's, or of a class that is not left out; an
            excluded one is no training sample.
    """
    model, samples, recipe = _begun(job)
    seed = derive_seed(job.seed, "original batches")
    train_classifier(
        model, samples.images, samples.labels, recipe, seed, shard=shard, on_step=on_step
    )
    return model.cpu().eval()


def fit_logged(job: TrainingJob) -> tuple[Classifier, TrainingLog]:
    """`fit`, and the log of every step, for methods that roll steps back."""
    model, samples, recipe = _begun(job)
    recorder = TrainingRecorder(model, samples.ids)
    seed = derive_seed(job.seed, "original batches")
    train_classifier(model, samples.images, samples.labels, recipe, seed, on_step=recorder)
    return model.cpu().eval(), recorder.log()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Shown:
    """Training samples, of which not all need be in memory."""

    images: Images
    labels: Tensor
    ids: Tensor


def _begun(job: TrainingJob) -> tuple[Classifier, _Shown, TrainSettings]:
    """The job's classifier before its first step, what it is trained on, and by what settings."""
    dataset, parts = open_data(job.data, job.split_seed)
    ids, recipe = parts.train_ids, job.train
    included = _included(job, dataset)
    if job.excluded or job.excluded_samples:
        steps = recipe.epochs * steps_per_epoch(len(ids), recipe)
        retain_ids, _ = retain_forget(dataset.labels[ids], job.excluded)
        retained = ids[retain_ids]
        retained = retained[~torch.isin(retained, _excluded_samples(job, ids))]
        ids = torch.cat([retained, included]).sort().values
        recipe = replace(recipe, epochs=math.ceil(steps / steps_per_epoch(len(ids), recipe)))
    device = own_device()
    model = build_classifier(job.spec, derive_seed(job.seed, "original weights")).to(device)
    images, labels = dataset.at(ids)
    return model, _Shown(images=images.to(device), labels=labels.to(device), ids=ids), recipe


def _included(job: TrainingJob, dataset: LabelledImages) -> Tensor:
    """The job's included samples, int64 [n], each of a class that is left out."""
    labels = dataset.labels.tolist()
    foreign = [i for i in job.included if not 0 <= i < len(labels) or labels[i] not in job.excluded]
    if foreign:
        allowed = f"samples of {job.data.dataset} of the classes {list(job.excluded)}"
        raise BadInput("included samples", foreign[:5], allowed, where="training job")
    return torch.tensor(job.included, dtype=torch.int64)


def _excluded_samples(job: TrainingJob, train_ids: Tensor) -> Tensor:
    """The job's excluded samples, int64 [n], each of the training part `train_ids`."""
    samples = torch.tensor(job.excluded_samples, dtype=torch.int64)
    foreign = samples[~torch.isin(samples, train_ids)].tolist()
    if foreign:
        allowed = f"training samples of {job.data.dataset}"
        raise BadInput("excluded samples", foreign[:5], allowed, where="training job")
    return samples


def fit_gold(job: TrainingJob, original: Mapping[str, Tensor], *, shard: Shard | None = None) -> Classifier:
    """A gold model that keeps what the original knows of the retain classes, less half a point of accuracy.

    One that falls short on the retain classes' test images is trained anew from the next seed, up to
    `GOLD_ATTEMPTS` times; then the best counts. A yardstick may be chosen by the data that it measures
    with: a weak gold model would flatter every unlearned one, a strong one makes it harder.
    """
    dataset, parts = open_data(job.data, job.split_seed)
    images, labels = dataset.at(parts.test_ids)
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


@ray.remote
@telling
def _describe(data: DataSettings, split_seed: int, threads: int) -> tuple[Task, str]:
    torch_process.set_up(threads)
    return task_of(data), data_hash(data, split_seed)


@ray.remote
def _not_there(dataset: str) -> str | None:
    return not_there(dataset)


@ray.remote
def _fit_alone(job: TrainingJob, threads: int) -> bytes:
    torch_process.set_up(threads)
    return weights_to_bytes(fit(job).state_dict())


@ray.remote
def _fit_logged(job: TrainingJob, threads: int) -> tuple[bytes, bytes]:
    torch_process.set_up(threads)
    model, log = fit_logged(job)
    return weights_to_bytes(model.state_dict()), weights_to_bytes(log_to_tensors(log))


def describe(
    data: DataSettings, split_seed: int, say: Callable[[str], None] = warn_here
) -> tuple[Task, str]:
    """`task_of` and `data_hash`, asked of another process: the driver itself never loads data.

    Args:
        data: which.
        split_seed: of the split.
        say: is given what is to be known of the data: what was left out, what is there twice.
    """
    task, digest = fetch_told(_describe.remote(data, split_seed, 1), say)
    return task, digest


def not_at_hand(data: DataSettings) -> str | None:
    """`not_there`, asked of another process: a node may have data where the driver has none."""
    missing: str | None = fetch(_not_there.remote(data.dataset))
    return missing


def train_original(job: TrainingJob, *, cpus: float = 1.0, threads: int = 1) -> dict[str, Tensor]:
    """Train one classifier in a task of its own: cheaper than a Train run where one worker does."""
    answer = _fit_alone.options(num_cpus=cpus).remote(job, threads)
    return weights_from_bytes(fetch(answer), "original")


def train_logged_original(
    job: TrainingJob, *, cpus: float = 1.0, threads: int = 1
) -> tuple[dict[str, Tensor], TrainingLog]:
    """`train_original`, to the same bits, and the log of its steps."""
    weights, log = fetch(_fit_logged.options(num_cpus=cpus).remote(job, threads))
    return weights_from_bytes(weights, "original"), log_from_tensors(weights_from_bytes(log, "training log"))


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
    """Train gold models by one run of workers (`train_run`): starting it costs more than a small model.

    With several workers each takes its slice of every global batch and BatchNorm takes the global
    batch's statistics, so the result equals one worker's up to rounding.

    Args:
        jobs: what to train, in order.
        originals: for each job, the weights whose retain accuracy it has to reach: see `fit_gold`.
        scratch: folder that all workers reach, for Train's own files; nothing stays there.
        workers: of the run.
        cpus_per_worker: reserved for each.
        gpus_per_worker: reserved for each; 0 trains on CPU over gloo.
        threads: torch threads in each.

    Raises:
        BadInput, RayUnlearnError: see `train_run`.
    """
    trained: list[dict[str, Tensor]] = train_run(
        "training gold models",
        _fit_golds,
        list(zip(jobs, map(dict, originals), strict=True)),
        scratch,
        workers=workers,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        threads=threads,
    )
    return trained


def _fit_golds(given: list[tuple[TrainingJob, dict[str, Tensor]]], shard: Shard) -> list[dict[str, Tensor]]:
    """A worker's shard of every job, one after another."""
    part = shard if shard[1] > 1 else None
    return [dict(fit_gold(job, original, shard=part).state_dict()) for job, original in given]
