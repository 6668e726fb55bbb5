"""A place on a cluster for one run of a caller in a notebook or script; nothing of it is left afterwards."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from torch import nn

from rayunlearn.errors import BadInput
from rayunlearn.execution.cluster import Placement, connect, open_executor
from rayunlearn.execution.executor import ColocatedExecutor
from rayunlearn.execution.user_code import found_by_workers
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.given import Make, hold

_OWN = ("torch", "rayunlearn")


@contextmanager
def on_cluster(
    spec: ClassifierSpec, held: tuple[str | None, Make | None], *, threads: int, gpu: bool
) -> Iterator[ColocatedExecutor]:
    """One sealed process on the connected cluster, or on one that is connected to, or started, for the time.

    Args:
        spec: of the model.
        held: the key and the builder of a network that is given as an object; None and None of others.
        threads: torch threads.
        gpu: whether it has a GPU.

    Raises:
        NoRoom: the cluster has no place.
    """
    key, make = held
    modules = _modules_of(make)
    with _connected(modules):
        executor = open_executor(
            Placement.COLOCATED, gpus_per_role=1.0 if gpu else 0.0, threads=threads,
            imports=(*spec.imports, *modules),
        )  # fmt: skip
        assert isinstance(executor, ColocatedExecutor), "as placed"
        try:
            if key is not None and make is not None:
                executor.everywhere(hold, key, make)
            yield executor
        finally:
            executor.close()


@contextmanager
def _connected(modules: Sequence[str]) -> Iterator[None]:
    """Connect for the time, where the caller has not; the environment is left as it was."""
    if ray.is_initialized():
        yield
        return
    before = dict(os.environ)
    try:
        connect(**_found(modules))
        yield
    finally:
        ray.shutdown()
        os.environ.update(before)
        for name in os.environ.keys() - before.keys():
            del os.environ[name]


def _found(modules: Sequence[str]) -> dict[str, Any]:
    """Options by which workers find these modules."""
    places: list[str] = []
    for name in modules:
        try:
            options = found_by_workers(f"{name}:network", None)
        except (BadInput, ValueError):  # made in memory: it travels with the network
            continue
        places += options.get("runtime_env", {}).get("py_modules", [])
    return {"runtime_env": {"py_modules": sorted(set(places))}} if places else {}


def _modules_of(make: Make | None) -> tuple[str, ...]:
    """Names of the modules that a network's code is in, as far as its objects say."""
    if make is None:
        return ()
    net = getattr(make, "net", None)
    parts = list(net.modules()) if isinstance(net, nn.Module) else []
    found = {type(part).__module__ for part in parts} | {getattr(make, "__module__", None)}
    named = {name for name in found if name and name.split(".")[0] not in _OWN and name in sys.modules}
    return tuple(sorted(named - {"__main__"}))
