"""Shadow models: trained side by side as Ray tasks, each kept in the storage location once it is done.

A shadow model is trained as the original was, on all retain training samples and on a drawn part of the
candidates (`rayunlearn.evaluation.lira.shadow_plan`). Its weights are stored as `shadows/<key>.safetensors`,
where the key names everything that they depend on, so a sweep that was stopped goes on where it was. These
processes are handed data and are never those of an unlearning run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import ray
import torch
from torch import Tensor

from rayunlearn.auditing.training import TrainingJob, fit
from rayunlearn.errors import BadInput, IntegrityError, RayUnlearnError
from rayunlearn.execution import torch_process
from rayunlearn.execution.remote import fetch, sentence
from rayunlearn.models.classifiers import Classifier
from rayunlearn.models.weights import version_id, weights_from_bytes, weights_to_bytes
from rayunlearn.seeds import derive_seed
from rayunlearn.storage.store import AlreadyExists, NotStored, Store


@dataclass(frozen=True, kw_only=True, eq=False)
class ShadowModels:
    """Weights of shadow models, and what they took."""

    weights: list[dict[str, Tensor]]
    """Of each job, in the jobs' order."""
    cached: int
    """Different models that were in the storage location already."""
    trained: int
    """Different models that were trained now."""
    seconds: float
    """Wall time from the first task to the last model stored."""
    notes: tuple[str, ...]
    """A sentence for each stored file that was damaged and replaced."""

    @property
    def models_per_second(self) -> float | None:
        """Throughput of the training; None where nothing was trained."""
        return self.trained / self.seconds if self.trained else None


def shadow_jobs(
    original: TrainingJob, forget: Iterable[int], sample_ids: Tensor, plan: Tensor
) -> list[TrainingJob]:
    """The jobs of a plan, by the recipe, data and split of the original.

    Args:
        original: of the lineage under attack.
        forget: classes that were forgotten.
        sample_ids: [N] indices into the dataset, the plan's candidates.
        plan: bool [S, N], see `shadow_plan`.

    Returns:
        S jobs; every shadow model has initial weights and batches of its own.
    """
    if plan.dim() != 2 or plan.dtype is not torch.bool or plan.shape[1] != len(sample_ids):
        found = f"{plan.dtype} {list(plan.shape)}"
        raise BadInput("plan", found, f"torch.bool [S, {len(sample_ids)}]", where="shadow_jobs")
    classes = tuple(sorted(forget))
    return [
        replace(
            original,
            excluded=classes,
            included=tuple(sorted(sample_ids[row].tolist())),
            seed=derive_seed(original.seed, "shadow", number),
        )
        for number, row in enumerate(plan)
    ]


def shadow_path(job: TrainingJob) -> str:
    """Where a shadow model's weights are stored."""
    return f"shadows/{job.key}.safetensors"


@ray.remote
def _fit_shadow(job: TrainingJob, threads: int) -> bytes:
    torch_process.set_up(threads)
    return _to_bytes(job, fit(job))


def shadow_models(
    jobs: Sequence[TrainingJob], store: Store, *, cpus: float = 1.0, threads: int = 1
) -> ShadowModels:
    """The models of these jobs: from the storage location where they are there, else trained now.

    As many tasks run at a time as the cluster has room for. Each model is stored as soon as it is done, so
    a sweep that is stopped, or in which a job fails, loses nothing that was finished. Where one job fails
    the others still go on to their end.

    Args:
        jobs: what is wanted; a job given twice is trained once.
        store: where models are looked for and kept.
        cpus: reserved for each task.
        threads: torch threads in each task.

    Raises:
        RayUnlearnError: jobs failed; the message says how many, why the first did, and what is stored.
    """
    found: dict[str, dict[str, Tensor]] = {}
    missing: dict[str, TrainingJob] = {}
    notes = []
    for key, job in {job.key: job for job in jobs}.items():
        try:
            found[key] = _from_bytes(job, store.get(shadow_path(job)))
        except NotStored:
            missing[key] = job
        except (BadInput, IntegrityError) as error:
            notes.append(f"{shadow_path(job)} was damaged and is trained again: {error}")
            store.delete(shadow_path(job))
            missing[key] = job
    cached = len(found)
    began = time.monotonic()
    failures = []
    pending = {_fit_shadow.options(num_cpus=cpus).remote(job, threads): job for job in missing.values()}
    try:
        while pending:
            (done, *_), _ = ray.wait(list(pending))
            job = pending.pop(done)
            try:
                data: bytes = fetch(done)
            except Exception as error:  # of the job, or of the process that it was in
                failures.append(error)
                continue
            try:
                store.create(shadow_path(job), data)
            except AlreadyExists:
                pass  # another sweep trained the same model meanwhile
            found[job.key] = _from_bytes(job, data)
    finally:
        # the sweep was stopped: nobody waits for these. By force, since an interrupt in the midst of an
        # import would leave a process whose next task finds half a module
        for task in pending:
            ray.cancel(task, force=True)
    if failures:
        first = failures[0]
        raise RayUnlearnError(
            f"{len(failures)} of {len(missing)} shadow models could not be trained ({sentence(first)}); "
            f"the {len(missing) - len(failures)} others are stored and will not be trained again"
        ) from first
    return ShadowModels(
        weights=[found[job.key] for job in jobs],
        cached=cached,
        trained=len(missing),
        seconds=time.monotonic() - began,
        notes=tuple(notes),
    )


def _to_bytes(job: TrainingJob, model: Classifier) -> bytes:
    """Safetensors whose header names the job and the weights, so that any change of the file shows."""
    state = model.state_dict()
    return weights_to_bytes(state, _header(job, state))


def _from_bytes(job: TrainingJob, data: bytes) -> dict[str, Tensor]:
    """The weights in a stored file, which must be those that its header names, of this job."""
    weights = weights_from_bytes(data, shadow_path(job))
    size = int.from_bytes(data[:8], "little")
    if json.loads(data[8 : 8 + size]).get("__metadata__") != _header(job, weights):
        raise IntegrityError(f"{shadow_path(job)} does not hold the weights that its header names")
    return weights


def _header(job: TrainingJob, state: Mapping[str, Tensor]) -> dict[str, str]:
    """One entry: safetensors writes several in any order, and equal models are to be equal files."""
    return {"shadow": f"{job.key} {version_id(state)}"}
