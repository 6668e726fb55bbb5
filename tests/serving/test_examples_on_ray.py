"""Requests that give examples, on sealed actors and by a worker: the same version wherever it is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rayunlearn.execution.cluster import Placement, open_executor
from rayunlearn.execution.train_executor import TrainExecutor
from rayunlearn.methods.unlearning import Samples
from rayunlearn.recipes import Recipe
from rayunlearn.serving.examples import reference, to_bytes
from rayunlearn.serving.service import Place, Service
from rayunlearn.settings import override
from rayunlearn.storage.inbox import Inbox
from rayunlearn.unlearning.executor import Executor
from tests.serving.test_examples import asked, given, recipe, served
from tests.serving.tiny import NOON, memory_store, rows, stored_original, tiny_context, tiny_scheduler

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def rarely_checked() -> Recipe:
    """With checkpoints half as far apart as the run is long: to each a worker's process is started."""
    return override(recipe(), ["validation.checkpoint_every=14"])


@pytest.fixture(scope="module")
def whole() -> str:
    """The version that one process publishes."""
    return str(served(memory_store(), of=rarely_checked()).version)


def published(opened: Executor) -> str:
    """The version that a run on this executor publishes."""
    store = memory_store()
    scheduler = tiny_scheduler(store, rarely_checked(), open_executor=lambda: opened, of=stored_original())
    outcome = scheduler.serve(asked(given(store), whole=True))
    assert outcome.version is not None, outcome.reason
    return outcome.version


class Counting(TrainExecutor):
    """Counts how often its workers are begun."""

    advanced = 0

    def advance(self, first: int, last: int) -> None:
        """Take steps by a worker."""
        self.advanced += 1
        super().advance(first, last)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_makes_the_same_d_prime(cluster: None, whole: str, workers: int) -> None:
    """Draws come from a sample's index: the version is the same to the bit."""
    opened = open_executor(Placement.COLOCATED, cpus_per_role=0.5, workers=workers)
    assert published(opened) == whole


def test_a_worker_relearns_to_the_same_bits(cluster: None, whole: str, tmp_path: Path) -> None:
    """A worker of its own gives the version that the run's own process gives; it is sealed."""
    inner = Counting(open_executor(Placement.COLOCATED, cpus_per_role=0.5), tmp_path, workers=1, threads=1)
    assert published(inner) == whole
    assert inner.advanced > 1


def test_examples_of_the_inbox_fit_the_model_or_are_rejected(cluster: None) -> None:
    """They are looked at where they were handed over, and again once they are kept."""
    store = memory_store()
    service = Service(tiny_context(store, recipe()), Place())
    shape = (1, service.spec.in_channels, service.spec.image_size, service.spec.image_size)
    for name, label in (("good", 9), ("bad", 8)):
        given = Samples(images=torch.zeros(shape), labels=torch.tensor([label]), ids=torch.tensor([0]))
        request = replace(asked(reference(given), name=name), received_at=None)
        Inbox(store).add(request, now=NOON, examples=to_bytes(given))
    for _ in range(2):
        assert [r.request_id for r in service.take_in_inbox().pending] == ["good"]
    (bad,) = rows(store, "requests", event="rejected")
    assert bad["request_id"] == "bad" and "labels of the examples is [8]" in bad["reason"]
