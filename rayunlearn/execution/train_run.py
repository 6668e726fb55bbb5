"""Work on data shared by workers, as a call: the same function on each, and what the first one returned.

Several workers are a Ray Train run. One worker is an actor: a Train run would start four processes beside it,
which takes longer than to train a small model. These processes may be handed data and are never those of an
unlearning run.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from pydantic import PositiveInt

from rayunlearn.access import seal
from rayunlearn.errors import BadInput, RayUnlearnError
from rayunlearn.execution import torch_process
from rayunlearn.execution.remote import fetch, is_loss, original, sentence
from rayunlearn.execution.signals import handlers_as_before
from rayunlearn.execution.wire import pack, unpack
from rayunlearn.fields import check_value
from rayunlearn.storage.store import StoreFailed

Shard = tuple[int, int]
"""(rank, world) of a worker."""


def train_run(
    name: str,
    work: Callable[[Any, Shard], Any],
    given: Any,
    scratch: str | Path,
    *,
    workers: int,
    cpus_per_worker: float,
    gpus_per_worker: float,
    threads: int,
    sealed: bool = False,
) -> Any:
    """What `work(given, shard)` returns on the first worker of a run; every worker does the same call.

    Args:
        name: of the run, in words for errors: "training gold models".
        work: called on each worker, of several inside a process group of all of them.
        given: handed to each; tensors in it travel as arrays.
        scratch: folder that all workers reach, for Train's own files; nothing stays there.
        workers: at least 1.
        cpus_per_worker: reserved for each.
        gpus_per_worker: reserved for each; 0 works on CPU over gloo.
        threads: torch threads in each.
        sealed: whether each is sealed before it unpacks what it is given.

    Raises:
        BadInput: no worker, or what a worker refused.
        StoreFailed: there is no room in `scratch`.
        RayError: a worker's process or node is gone.
        RayUnlearnError: the run failed for another reason.
    """
    check_value("workers", workers, PositiveInt, where=name)
    resources = {"CPU": cpus_per_worker} | ({"GPU": gpus_per_worker} if gpus_per_worker else {})
    handed = [ray.put((work, pack(given)))]  # in a list, or Ray would load it before the call
    if workers == 1:
        return _alone(name, handed, resources, threads, sealed)
    # here, since every process of a run imports this module and few begin a Train run: a second each
    from ray.train import RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
    from ray.train.torch import TorchConfig, TorchTrainer

    def on_worker() -> Any:
        import ray.train.torch

        if gpus_per_worker:  # of the node's GPUs, which Train shows to each of its workers
            torch.cuda.set_device(ray.train.torch.get_device())
        context = ray.train.get_context()
        shard = context.get_world_rank(), context.get_world_size()
        made = _worked(handed, shard, threads, sealed)
        return made if shard[0] == 0 else None

    place = Path(scratch).absolute()
    try:
        place.mkdir(parents=True, exist_ok=True)
        # a folder of its own: a run of the same name as an earlier one would go on from what that left
        own = tempfile.TemporaryDirectory(prefix="train-", dir=place)
    except OSError as error:
        raise StoreFailed(f"could not make a folder in {place} for a run: {error.strerror}") from error
    with own as folder, _sigint_as_before():
        trainer = TorchTrainer(
            on_worker,
            torch_config=TorchConfig(backend="nccl" if gpus_per_worker else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=gpus_per_worker > 0, resources_per_worker=resources
            ),
            run_config=RunConfig(name="run", storage_path=folder),
        )
        try:
            result: Any = trainer.fit()  # of Train v2, which has a return value; its stub is of v1
            return unpack(result.return_value)
        except TrainingFailedError as error:
            failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
            # Train wraps what a worker raised
            raised = [original(getattr(failure, "_base_exc", failure)) for failure in failures]
            for first in raised:
                if isinstance(first, BadInput) or is_loss(first):
                    raise first from error
            raise RayUnlearnError(f"{name} failed: {sentence([*raised, error][0])}") from error


def _worked(handed: Sequence[ray.ObjectRef[Any]], shard: Shard, threads: int, sealed: bool) -> Any:
    """What a worker of a shard does, packed.

    It is handed a reference to what it does and to what, since whatever is loaded is loaded behind the seal.
    """
    if sealed:
        seal()
    torch_process.set_up(threads)
    work, packed = fetch(handed[0])
    return pack(work(unpack(packed), shard))


class _Alone:
    """The process of one worker. An actor, since Ray gives the process of a task to other tasks."""

    def run(self, *given: Any) -> Any:
        """See `_worked`."""
        return _worked(*given)


_AloneActor: Any = ray.remote(_Alone)


def _alone(
    name: str,
    handed: Sequence[ray.ObjectRef[Any]],
    resources: dict[str, float],
    threads: int,
    sealed: bool,
) -> Any:
    """`train_run` of one worker."""
    actor = _AloneActor.options(num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0)).remote()
    try:
        return unpack(fetch(actor.run.remote(handed, (0, 1), threads, sealed)))
    except Exception as error:
        if isinstance(error, BadInput) or is_loss(error):
            raise
        raise RayUnlearnError(f"{name} failed: {sentence(error)}") from error
    finally:
        ray.kill(actor)


@contextmanager
def _sigint_as_before() -> Iterator[None]:
    """Undo what Train does to Ctrl-C: it sets a handler that exits with 0, and leaves it there."""
    try:
        with handlers_as_before(signal.SIGINT):
            yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
