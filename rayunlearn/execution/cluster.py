"""Connecting to a cluster, and reserving a run's place on it within seconds or not at all."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table

from rayunlearn.data_root import DATA_VARIABLE, OF_DRIVER, handed_on
from rayunlearn.errors import BadInput
from rayunlearn.execution.autoscaling import ceiling
from rayunlearn.execution.executor import ColocatedExecutor, SplitExecutor
from rayunlearn.execution.placement import Placement
from rayunlearn.execution.remote import sentence
from rayunlearn.unlearning.executor import Executor

KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
"""Environment in which glibc keeps freed memory for the next tensor of its size. Otherwise each one above
some MiB is asked of the kernel anew and paid for page by page (`python -m benchmarks.allocator`)."""


NODE_WAIT_S = 600.0
"""So long a run waits for its place, while an autoscaler brings nodes or other runs end."""


class NoRoom(BadInput):
    """More is asked for than the cluster has, or has free in time."""


_ADDRESS = re.compile(r"auto|local|\w+://\S+|(\[[^\]\s]+\]|[^\s:/\[\]]+):\d{1,5}")


def connect(address: str | None = None, **options: Any) -> None:
    """Connect to a cluster, or start a local one where none is named.

    A RAYUNLEARN_DATA of this process counts for the workers as well (`rayunlearn.data_root`); relative, it is
    made absolute here, where the user stands.

    Args:
        address: as `ray.init` takes it; None is RAY_ADDRESS where set, else a local cluster.
        options: more for `ray.init` (tests fake GPUs by `num_gpus`).

    Raises:
        BadInput: no cluster answers at the address, or none can be started here.
    """
    # Ray writes a token and turns authentication on for a local cluster unless told otherwise.
    local = address == "local" or address is None and not os.environ.get("RAY_ADDRESS")
    if local:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        for name, value in KEEP_FREED_MEMORY.items():  # of the workers, which have this from the driver
            os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Train waits for its controller's poll at every report: 2 s by default.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    if handed := handed_on(os.environ):
        os.environ[DATA_VARIABLE] = handed[OF_DRIVER]
    if handed and not local:  # the workers of a local one have this process's environment
        given = options.get("runtime_env", {})
        options["runtime_env"] = {**given, "env_vars": {**given.get("env_vars", {}), **handed}}
    options = {"log_to_driver": False, "logging_level": "warning", "configure_logging": True, **options}
    named = address or ("local" if local else None)
    if named == "local":
        options.setdefault("include_dashboard", True)
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    if not _ADDRESS.fullmatch(where):  # Ray would log a traceback of its own
        allowed = "HOST:PORT of a running Ray cluster, ray://HOST:PORT, auto or local"
        raise BadInput("--address", where, allowed)
    try:
        ray.init(address=named, ignore_reinit_error=False, **options)
    except Exception as error:
        # Ray raises a bare Exception, too, of a node that does not start in time
        told = (OSError, ValueError, RuntimeError, RayError)
        if type(error) is not Exception and not isinstance(error, told):
            raise
        allowed = f"the address of a running Ray cluster ({error})"
        if local:  # Ray's own reason says little of a disk that is full
            folder = os.environ.get("RAY_TMPDIR") or "/tmp"
            allowed = f"a machine on which Ray starts, with room in {folder}, which RAY_TMPDIR names"
            allowed += f" ({sentence(error)})"
        raise BadInput("--address", where, allowed) from error


def role_share(total: float, roles: int) -> float:
    """How much of a resource each of `roles` gets where the cluster has `total` whole units of it.

    >>> [role_share(n, 3) for n in (0, 1, 2, 3, 8)]
    [0.0, 0.333, 0.5, 1.0, 1.0]
    """
    units = math.floor(total)
    if units == 0:
        return 0.0
    return 1.0 if units >= roles else math.floor(1000 / math.ceil(roles / units)) / 1000


def bundles(
    placement: Placement,
    cluster: Mapping[str, float],
    *,
    cpus_per_role: float | None = None,
    gpus_per_role: float | None = None,
    workers: int = 1,
    bounded: bool = True,
) -> list[dict[str, float]]:
    """The resource bundles of a run's roles: as asked, or a fair share of what the cluster has.

    Args:
        placement: of the run.
        cluster: what it has, or can have (`ceiling`).
        cpus_per_role: as asked; None is a fair share.
        gpus_per_role: likewise.
        workers: of a colocated run.
        bounded: refuse more than `cluster`; otherwise somebody is about to add nodes.

    Raises:
        NoRoom: more than the cluster can ever give.
        BadInput: none, or no number.
    """
    n = placement.actors(workers)
    cpus = role_share(cluster.get("CPU", 0), n) if cpus_per_role is None else cpus_per_role
    gpus = role_share(cluster.get("GPU", 0), n) if gpus_per_role is None else gpus_per_role
    bundle = {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount > 0}
    if not (cpus >= 0 and gpus >= 0 and bundle):  # NaN is refused, too
        raise BadInput("resources of a role", {"CPU": cpus, "GPU": gpus}, "numbers >= 0, not both 0")
    for name, amount in bundle.items():
        has = cluster.get(name, 0)
        if bounded and amount * n > has + 1e-9:
            raise NoRoom(
                "resources",
                f"{n} x {amount:g} {name} = {n * amount:g} {name}",
                f"at most the {has:g} {name} that the cluster has ({_shown(cluster)})",
                where=f"placement {placement.value}",
            )
    return [dict(bundle) for _ in range(n)]


def reserve(wanted: list[dict[str, float]], *, timeout_s: float = NODE_WAIT_S) -> PlacementGroup:
    """A placement group of these bundles, ready for use; while it waits an autoscaler adds nodes for it.

    Raises:
        NoRoom: it was not placed in time; the message says why and what is free.
    """
    group = placement_group(wanted, strategy="PACK")
    with removed_on_error(group):
        there = group.wait(timeout_s)
    if not there:
        state = placement_group_table(group)["stats"]["scheduling_state"]
        ray.util.remove_placement_group(group)
        raise NoRoom(
            "resources",
            wanted,
            f"what is free within {timeout_s:g} s, which is {_shown(ray.available_resources())} ({state})",
        )
    return group


@contextmanager
def removed_on_error(group: PlacementGroup) -> Iterator[None]:
    """Give a placement group back, with the actors in it, where the inside raises or is interrupted."""
    try:
        yield
    except BaseException:
        ray.util.remove_placement_group(group)
        raise


def open_executor(
    placement: Placement,
    *,
    cpus_per_role: float | None = None,
    gpus_per_role: float | None = None,
    threads: int = 1,
    workers: int = 1,
    node_wait_s: float | None = None,
    imports: Sequence[str] = (),
) -> Executor:
    """Actors for the roles of a run, or so many workers of a colocated one, in one placement group.

    Args:
        placement: of the run.
        cpus_per_role: None is a fair share of what the cluster has or can have.
        gpus_per_role: likewise.
        threads: torch threads of each actor.
        workers: of a colocated run.
        node_wait_s: so long it may take until there is room, also for more than the cluster can have as
            far as is known (`ceiling`); None is `NODE_WAIT_S`, and more than that is refused at once.
        imports: modules of the code that models are built by.

    Raises:
        NoRoom: see `bundles` and `reserve`.
    """
    wanted = bundles(
        placement, ceiling(), cpus_per_role=cpus_per_role, gpus_per_role=gpus_per_role, workers=workers,
        bounded=node_wait_s is None,
    )  # fmt: skip
    kind = SplitExecutor if placement is Placement.SPLIT else ColocatedExecutor
    place = reserve(wanted, timeout_s=NODE_WAIT_S if node_wait_s is None else node_wait_s)
    with removed_on_error(place):
        return kind(place, _options(wanted), threads, imports=imports)


def executor_in(
    group: PlacementGroup, placement: Placement, *, threads: int = 1, imports: Sequence[str] = ()
) -> ColocatedExecutor | SplitExecutor:
    """Actors in a placement group that is somebody else's, one in each of its bundles."""
    kind = SplitExecutor if placement is Placement.SPLIT else ColocatedExecutor
    return kind(group, _options(group.bundle_specs), threads, imports=imports, lent=True)


def _options(wanted: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    return [{"num_cpus": b.get("CPU", 0), "num_gpus": b.get("GPU", 0)} for b in wanted]


def _shown(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
