"""What rows of a reproduction share: originals, gold models and generators, each trained once, by content."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import ray

from papers.few_shot_run import data_generator, inverted_generator
from papers.rows import Row
from papers.side_files import read_json
from rayunlearn.auditing.labelled import mislabelled_by_task
from rayunlearn.auditing.training import TrainingJob, describe, fit, fit_gold, training_job
from rayunlearn.execution import torch_process
from rayunlearn.methods.registry import method_named
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.weights import Weights, weights_from_bytes, weights_to_bytes
from rayunlearn.seeds import derive_seed
from rayunlearn.storage.store import Store


def trained(root: str, job: TrainingJob, original: Weights | None, threads: int) -> Weights:
    """An original, or a gold model that is to keep what the original knows; trained once for all rows."""
    torch_process.set_up(threads)
    store, name = Store.open(root), trained_name(job)
    if not store.exists(name):
        began = perf_counter()
        model = fit(job) if original is None else fit_gold(job, original)
        store.put(_seconds_name(job), json.dumps(perf_counter() - began).encode())
        store.put(name, weights_to_bytes(model.state_dict()))
    return weights_from_bytes(store.get(name), name)


def trained_name(job: TrainingJob) -> str:
    """Under which name a model that all rows share is kept in the reproduction's folder."""
    return f"trained/{job.key}.safetensors"


def training_seconds(store: Store, job: TrainingJob) -> float | None:
    """What the training of such a model took, where it is known."""
    name = _seconds_name(job)
    if not store.exists(name):
        return None
    seconds: float = read_json(store, name, (int, float))
    return seconds


def _seconds_name(job: TrainingJob) -> str:
    return f"seconds/{job.key}.json"


def original_job(row: Row, spec: ClassifierSpec, seed: int) -> TrainingJob:
    """The original of a row and a seed."""
    job = training_job(row.recipe, spec, seed)
    return replace(job, seed=derive_seed(seed, "original", "second")) if row.second else job


def forgotten_by_then(row: Row) -> list[tuple[int, ...]]:
    """Every class, or wrong label, forgotten after each of the row's requests."""
    gone: set[int] = set()
    found = []
    for target in row.requests:
        gone |= set(target)
        found.append(tuple(sorted(gone)))
    return found


def request_name(target: Sequence[int]) -> str:
    """The id of the request to forget these classes.

    >>> request_name((1, 2))
    'forget-1-2'
    """
    return "forget-" + "-".join(map(str, target))


class Shared:
    """Tasks whose results several rows wait for, each begun once.

    Args:
        root: the reproduction's folder.
        threads: torch threads of a task.
        remote: what is reserved for each.
    """

    def __init__(self, root: str, threads: int, remote: Mapping[str, float]) -> None:
        self.root, self.threads = root, threads
        self._train, self._invert, self._learn = (
            ray.remote(task).options(**remote) for task in (trained, inverted_generator, data_generator)
        )
        self._specs: dict[tuple[Any, ...], ClassifierSpec] = {}
        self._begun: dict[tuple[Any, ...], Any] = {}

    def spec(self, row: Row) -> ClassifierSpec:
        """Of the row's originals."""
        data, model = row.recipe.data, row.recipe.model
        known = (data.dataset, model)
        if known not in self._specs:
            self._specs[known] = model.spec(describe(data, 0)[0])
        return self._specs[known]

    def original(self, row: Row, seed: int) -> Any:
        """The original of a row and a seed."""
        return self._model(original_job(row, self.spec(row), seed), None)

    def golds(self, row: Row, seed: int) -> list[Any]:
        """For each request, a model retrained without all that was to be forgotten by then."""
        recipe, spec = row.recipe, self.spec(row)
        wrong = mislabelled_by_task(recipe.data, derive_seed(seed, "split"))
        jobs = [
            training_job(recipe, spec, seed, excluded=gone, gold=0)
            if wrong is None
            else training_job(recipe, spec, seed, excluded_samples=wrong.taught(gone).tolist(), gold=0)
            for gone in forgotten_by_then(row)
        ]
        return [self._model(job, self.original(row, seed)) for job in jobs]

    def generator(self, row: Row, seed: int) -> Any:
        """What a few-shot row takes over; None for any other row."""
        if row.kind != "examples":
            return None
        of, spec = row.donor or row, self.spec(row.donor or row)
        recipe, name = of.recipe, request_name(of.requests[0])
        if "pretrained_generator" in method_named(recipe.method).data_access:
            made_by = recipe.data, spec, recipe.few_shot.gan, recipe.few_shot.model_inversion, seed
            return self._once(made_by, self._learn, self.root, recipe, spec, seed, self.threads)
        job = original_job(of, spec, seed)
        arguments = (self.root, recipe, spec, name, seed, self.threads, self._model(job, None))
        return self._once((job.key, name, recipe.few_shot.model_inversion), self._invert, *arguments)

    def _model(self, job: TrainingJob, original: Any) -> Any:
        return self._once((job.key,), self._train, self.root, job, original, self.threads)

    def _once(self, key: tuple[Any, ...], task: Any, *arguments: Any) -> Any:
        if key not in self._begun:
            self._begun[key] = task.remote(*arguments)
        return self._begun[key]
