"""Shadow models: what they are trained on and for how long, and that no finished one is trained twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rayunlearn.auditing import shadows, training
from rayunlearn.auditing.shadows import ShadowModels, shadow_jobs, shadow_models, shadow_path
from rayunlearn.auditing.training import TrainingJob, fit
from rayunlearn.data.datasets import load_dataset
from rayunlearn.data.splits import split
from rayunlearn.errors import BadInput, RayUnlearnError
from rayunlearn.evaluation.lira import shadow_plan
from rayunlearn.models.weights import version_id, weights_from_bytes, weights_to_bytes
from rayunlearn.storage.store import Store
from tests.serving.tiny import Recording, files_of, memory_store, original_job, same_bits

FORGET = 3


def candidates() -> Tensor:
    """All images of the class, of the training and the test part, as indices into the digits."""
    return (load_dataset("digits").labels == FORGET).nonzero().flatten()


def jobs_of(shadow_count: int = 4, *, epochs: int = 1, seed: int = 0) -> list[TrainingJob]:
    """Jobs of the tiny original's recipe, an epoch each unless said otherwise."""
    job = original_job()
    job = replace(job, train=replace(job.train, epochs=epochs), seed=seed)
    ids = candidates()
    return shadow_jobs(job, [FORGET], ids, shadow_plan(ids, shadow_count, 0))


def steps_of(job: TrainingJob) -> int:
    """Optimizer steps that the job's model took, by a BatchNorm's count of batches."""
    weights = fit(job).state_dict()
    return next(int(v) for name, v in weights.items() if name.endswith("num_batches_tracked"))


class Seen(Exception):
    """Raised in place of training."""


def trained_on(job: TrainingJob, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    """Images and labels that the job hands to training."""
    seen: list[Any] = []

    def look(model: Any, images: Tensor, labels: Tensor, *_: Any, **__: Any) -> None:
        seen.extend((images, labels))
        raise Seen

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_classifier", look)
        with pytest.raises(Seen):
            fit(job)
    return seen[0], seen[1]


def test_shadows_train_on_retain_and_the_included_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly the retain images of the training part and the included images of the class, of either part."""
    dataset = load_dataset("digits")
    for job in jobs_of()[:2]:
        parts = split(dataset, job.data.test_fraction, job.split_seed)
        retain = [i for i in parts.train_ids.tolist() if int(dataset.labels[i]) != FORGET]
        images, labels = trained_on(job, monkeypatch)
        expected = sorted([*retain, *job.included])
        assert torch.equal(images, dataset.images[expected])
        assert torch.equal(labels, dataset.labels[expected])
        from_test = set(job.included) & set(parts.test_ids.tolist())
        assert 0 < len(from_test) < len(job.included)


def test_jobs_follow_the_plan() -> None:
    """Each candidate is included in half of the jobs; all have the original's recipe and split, and each
    its own seed."""
    ids, original = candidates(), original_job()
    jobs = shadow_jobs(original, [FORGET], ids, shadow_plan(ids, 6, 0))
    counts = [sum(i in job.included for job in jobs) for i in ids.tolist()]
    assert counts == [3] * len(ids)
    for job in jobs:
        assert (job.train, job.spec, job.data, job.split_seed, job.excluded) == (
            original.train, original.spec, original.data, original.split_seed, (FORGET,)
        )  # fmt: skip
    assert len({job.seed for job in jobs}) == len({job.key for job in jobs}) == 6


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_shadow_takes_no_fewer_steps_than_the_original(share: float) -> None:
    """Fewer samples make an epoch shorter, so a shadow takes as many more as make up for it, no more."""
    (job, *_) = jobs_of(epochs=2)
    ids = candidates().tolist()
    job = replace(
        job, included=tuple(ids[: round(share * len(ids))]), train=replace(job.train, batch_size=48)
    )
    dataset = load_dataset("digits")
    labels = dataset.labels[split(dataset, job.data.test_fraction, job.split_seed).train_ids]
    original_steps = 2 * (len(labels) // 48)
    an_epoch = (int((labels != FORGET).sum()) + len(job.included)) // 48
    steps = steps_of(job)
    assert original_steps <= steps < original_steps + an_epoch
    assert steps % an_epoch == 0


def test_the_key_tells_jobs_apart() -> None:
    """Jobs that could train different weights have different keys; equal jobs share one."""
    (job, *_) = jobs_of()
    others = [
        replace(job, excluded=(2, 3)), replace(job, included=job.included[1:]), replace(job, split_seed=1),
        replace(job, seed=1), replace(job, train=replace(job.train, lr=0.02)),
        replace(job, spec=replace(job.spec, width=0.25)),
        replace(job, data=replace(job.data, test_fraction=0.2)),
    ]  # fmt: skip
    assert len({j.key for j in [job, *others]}) == 1 + len(others)
    assert jobs_of()[0].key == job.key
    assert shadow_path(job) == f"shadows/{job.key}.safetensors"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"excluded": (3, 2)}, r"TrainingJob.excluded is \(3, 2\); allowed: different ids, ascending"),
        ({"included": (5, 4)}, r"TrainingJob.included is \(5, 4\)"),
        ({"included": (4, 4)}, "TrainingJob.included"),
    ],
)
def test_jobs_that_would_have_two_names_are_refused(changes: dict[str, Any], message: str) -> None:
    """Ids that are not ascending or not different."""
    with pytest.raises(BadInput, match=message):
        replace(jobs_of()[0], **changes)


@pytest.mark.parametrize("wrong", [-1, 1797, 1])
def test_samples_of_other_classes_are_refused(wrong: int) -> None:
    """An index that is none of the dataset's, or a retain image (image 1 is a one), ends before training.

    So does any where no class is left out, which would train an original under another name.
    """
    with pytest.raises(BadInput, match=rf"included samples is \[{wrong}\]; allowed: samples of digits"):
        fit(replace(jobs_of()[0], included=(wrong,)))
    with pytest.raises(BadInput, match=r"included samples is \[3\]; allowed: .* of the classes \[\]"):
        fit(replace(original_job(), included=(FORGET,)))


def test_plans_that_do_not_fit_are_refused() -> None:
    """A plan of other candidates, or of numbers."""
    ids = candidates()
    for plan in (torch.zeros(4, 2).bool(), torch.zeros(4, len(ids))):
        with pytest.raises(BadInput, match="plan is"):
            shadow_jobs(original_job(), [FORGET], ids, plan)


# With Ray.


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any task that is started fails the test."""

    class Refusing:
        def options(self, **_: Any) -> None:
            raise AssertionError("a task was started")

    with monkeypatch.context() as patch:
        patch.setattr(shadows, "_fit_shadow", Refusing())
        yield


def sweep(jobs: list[TrainingJob], store: Store) -> ShadowModels:
    """The models, by tasks of one CPU."""
    return shadow_models(jobs, store)


@pytest.fixture(scope="module")
def stored(cluster: None) -> dict[str, bytes]:
    """The files of a sweep of three jobs."""
    store = memory_store()
    sweep(jobs_of()[:3], store)
    return files_of(store)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_tasks_train_bit_for_bit_what_is_trained_here() -> None:
    """In the jobs' order, a job given twice trained once, and stored under its name; the record counts."""
    jobs = jobs_of()[:2]
    store = memory_store()
    models = sweep([*jobs, jobs[0]], store)
    here = [dict(fit(job).state_dict()) for job in jobs]
    assert len(models.weights) == 3 and not same_bits(here[0], here[1])
    for trained, expected in zip(models.weights, [*here, here[0]], strict=True):
        assert same_bits(trained, expected)
    assert store.list() == sorted(shadow_path(job) for job in jobs)
    for job, expected in zip(jobs, here, strict=True):
        assert same_bits(weights_from_bytes(store.get(shadow_path(job))), expected)
    assert (models.cached, models.trained, models.notes) == (0, 2, ())
    assert models.models_per_second == 2 / models.seconds > 0


@pytest.mark.ray
@pytest.mark.usefixtures("no_training")
def test_the_second_call_trains_nothing(stored: dict[str, bytes]) -> None:
    """No task is started, nothing is written, and the weights are the stored ones; throughput is no figure.

    Negative control: with one more job a task is started.
    """
    jobs = jobs_of()
    store = Recording()
    for name, data in stored.items():
        store.put(name, data)
    store.before.clear()
    models = sweep(jobs[:3], store)
    assert (models.cached, models.trained, models.models_per_second) == (3, 0, None)
    assert store.before == []
    for job, weights in zip(jobs[:3], models.weights, strict=True):
        assert same_bits(weights, weights_from_bytes(stored[shadow_path(job)]))
    with pytest.raises(AssertionError, match="a task was started"):
        sweep(jobs, store)


def bit_flipped(data: bytes) -> bytes:
    """One bit of the last weight is another: still safetensors of the same names and shapes."""
    return data[:-1] + bytes([data[-1] ^ 1])


def without_header(data: bytes) -> bytes:
    """The same weights, as another program would store them."""
    return weights_to_bytes(weights_from_bytes(data))


@pytest.mark.ray
def test_damaged_files_are_trained_again_with_a_sentence(stored: dict[str, bytes]) -> None:
    """A file cut short, one with a flipped bit, and one of another job under this job's name are each
    replaced by the very bytes that were there first, and said; the sound ones are left alone."""
    jobs = jobs_of()[:3]
    first, second, third = (shadow_path(job) for job in jobs)
    damages = [
        {first: stored[first][:-40], second: bit_flipped(stored[second])},
        {first: stored[second], third: b""},
        {second: without_header(stored[second])},
    ]
    for damage in damages:
        store = memory_store(stored | damage)
        models = sweep(jobs, store)
        assert files_of(store) == stored
        assert (models.trained, models.cached) == (len(damage), 3 - len(damage))
        assert len(models.notes) == len(damage)
        for name in damage:
            (note,) = (note for note in models.notes if note.startswith(name))
            assert note.startswith(f"{name} was damaged and is trained again: ")
        assert same_bits(models.weights[0], weights_from_bytes(stored[first]))


def test_a_flipped_bit_still_loads() -> None:
    """Why the header names the weights: safetensors alone reads the damaged file without a word."""
    state = {"w": torch.ones(3)}
    flipped = weights_from_bytes(bit_flipped(weights_to_bytes(state)))
    assert flipped.keys() == state.keys() and not same_bits(flipped, state)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_failed_job_loses_nothing_that_was_finished(stored: dict[str, bytes]) -> None:
    """One of four jobs asks for a sample that does not exist: the error says why, the three others are
    stored, and the next call trains the one that was mended and no other."""
    jobs = jobs_of()
    broken = replace(jobs[0], included=(99999,))
    store = memory_store({shadow_path(jobs[1]): stored[shadow_path(jobs[1])]})
    with pytest.raises(RayUnlearnError) as caught:
        sweep([broken, *jobs[1:]], store)
    assert str(caught.value) == (
        "1 of 3 shadow models could not be trained (training job: included samples is [99999]; allowed: "
        "samples of digits of the classes [3]); the 2 others are stored and will not be trained again"
    )
    assert store.list() == sorted(shadow_path(job) for job in jobs[1:])
    models = sweep(jobs, store)
    assert (models.cached, models.trained) == (3, 1)


class Stopping(Recording):
    """A store in memory whose process is stopped as it is about to store the second model."""

    def create(self, name: str, data: bytes) -> None:
        """Store, once."""
        if self.before:
            raise KeyboardInterrupt
        super().create(name, data)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_stopped_sweep_keeps_what_was_done() -> None:
    """Stopped after the first of three models: that one is stored whole, and the next call trains two."""
    jobs = jobs_of()[:3]
    store = Stopping()
    with pytest.raises(KeyboardInterrupt):
        sweep(jobs, store)
    (kept,) = store.list()
    models = sweep(jobs, memory_store(files_of(store)))
    assert (models.cached, models.trained, models.notes) == (1, 2, ())
    (number,) = (i for i, job in enumerate(jobs) if shadow_path(job) == kept)
    assert same_bits(models.weights[number], weights_from_bytes(store.get(kept)))


class Overtaken(Recording):
    """A store in memory in which another sweep has just stored each model that is to be."""

    def create(self, name: str, data: bytes) -> None:
        """Fail, as the name is taken by then."""
        super().create(name, data)
        super().create(name, data)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_another_sweep_may_be_quicker() -> None:
    """A model that was stored by another process meanwhile is left as it is, and given all the same."""
    (job, *_) = jobs_of()
    store = Overtaken()
    models = sweep([job], store)
    assert store.list() == [shadow_path(job)] and models.trained == 1
    assert same_bits(models.weights[0], weights_from_bytes(store.get(shadow_path(job))))


def test_no_jobs_are_no_models() -> None:
    """Nothing to do needs no Ray."""
    models = shadow_models([], memory_store())
    assert (models.weights, models.cached, models.trained) == ([], 0, 0)


@pytest.mark.ray
def test_the_header_is_that_of_the_job(stored: dict[str, bytes]) -> None:
    """Stored files name their job and the version of their weights, which any reader can check."""
    for job in jobs_of()[:3]:
        data = stored[shadow_path(job)]
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        assert header == {"shadow": f"{job.key} {version_id(weights_from_bytes(data))}"}
