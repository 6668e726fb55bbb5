"""Relearning by workers of its own: the steps of a few-shot run, shared out over workers.

Everything else of the run stays where it is. The workers are handed the run's state, its parts of D' by
reference and nothing of the dataset, and are sealed as the processes of any run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from torch import Tensor

from rayunlearn.execution.cluster import role_share
from rayunlearn.execution.device import own_device
from rayunlearn.execution.remote import fetch
from rayunlearn.execution.train_run import Shard, train_run
from rayunlearn.execution.wire import pack, unpack
from rayunlearn.inversion.unlearning_set import UnlearningSet, joined
from rayunlearn.methods.few_shot import Relearning
from rayunlearn.unlearning.executor import Executor, Job, RunInputs


class TrainExecutor:
    """A run whose steps are those of workers; from checkpoint to checkpoint by one `train_run`.

    Args:
        inner: holds the run and takes checkpoints.
        scratch: folder that all workers reach, for Train's own files.
        workers: of each; from two on it is a Ray Train run.
        threads: torch threads of each worker.
    """

    def __init__(self, inner: Executor, scratch: str | Path, *, workers: int, threads: int) -> None:
        self.inner, self.scratch = inner, scratch
        self.workers, self.threads = workers, threads
        self._parts: list[Any] = []

    def map(self, jobs: Sequence[Job]) -> list[Any]:
        """As the inner one does."""
        return self.inner.map(jobs)

    def receive(self, part: UnlearningSet) -> None:
        """Take a part of what the run is to learn from; it lies in Ray's object store, not in the driver."""
        self._parts.append(ray.put(pack(part)))
        self.inner.receive(part)

    def begin(self, inputs: RunInputs) -> int:
        """Build the run."""
        self.inputs = inputs
        return self.inner.begin(inputs)

    def advance(self, first: int, last: int) -> None:
        """Take steps `first` to `last`, both included."""
        given = (self.inputs, self._parts, self.inner.state(), first, last)
        cluster = ray.cluster_resources()
        state = train_run(
            "relearning from D'",
            _advance,
            given,
            self.scratch,
            workers=self.workers,
            cpus_per_worker=role_share(cluster.get("CPU", 0), self.workers + 1),
            gpus_per_worker=role_share(cluster.get("GPU", 0), self.workers + 1),
            threads=self.threads,
            sealed=True,
        )
        self.inner.load(state)

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Figures since the last checkpoint, and the weights as they would be published."""
        return self.inner.checkpoint()

    def state(self) -> dict[str, Any]:
        """The whole state of the run."""
        return self.inner.state()

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.inner.load(state)

    def close(self) -> None:
        """Let go of processes and resources."""
        self._parts = []
        self.inner.close()


def _advance(given: tuple[RunInputs, list[Any], dict[str, Any], int, int], shard: Shard) -> dict[str, Any]:
    """A worker's part of the steps; the state after them, which is the same on every worker."""
    inputs, references, state, first, last = given
    parts = [unpack(part) for part in fetch(references)]
    device = own_device()
    handed = replace(inputs.handed, approximated=joined(parts))
    run = Relearning(handed, inputs.settings, device, shard)
    run.load(state)
    run.advance(first, last)
    return run.state()
