"""Going on after a loss: of an actor, a worker process or a node, on what is left of the cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from rayunlearn.errors import RayUnlearnError
from rayunlearn.runtime.cluster import NoRoom

MOST_LOSSES = 8
"""In a row with nothing new between them; then the job ends, and goes on when the same command is given.

The pauses between them, 1 s and doubled each time, add up to two minutes: about what a new node takes."""

_LOSSES = (RayActorError, WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError)

_T = TypeVar("_T")


def is_loss(error: BaseException | None) -> bool:
    """Whether a process or a node is gone, rather than that what it was told to do raised."""
    while isinstance(error, RayTaskError):  # of a process that was waiting for what the lost one makes
        error = error.cause
    return isinstance(error, _LOSSES)


def outlasting(
    work: Callable[[], _T],
    *,
    reached: Callable[[], object],
    tell: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> _T:
    """What `work` returns, begun again after each loss from what it keeps itself.

    Args:
        work: to be done; finds out by itself where it was.
        reached: how far it is; anything that differs when something new was done.
        tell: is told of each loss.
        sleep: passes the time before it is begun again: 1 s, doubled with each loss in a row.

    Raises:
        RayUnlearnError: after `MOST_LOSSES` losses in a row.
        NoRoom: there was no room for it, and nothing was lost before.
    """
    losses, before = 0, reached()
    while True:
        try:
            return work()
        except Exception as error:
            # after a loss the cluster may be too small until the node is back
            if not (is_loss(error) or losses and isinstance(error, NoRoom)):
                raise
            now = reached()
            losses, before = (losses + 1 if now == before else 1), now
            said = next(iter(str(error).splitlines()), "").rstrip(".")
            what = f"lost what it ran on ({type(error).__name__}: {said})"
            if losses == MOST_LOSSES:
                raise RayUnlearnError(
                    f"a run {what}, {losses} times in a row; the same command goes on from there"
                ) from error
            tell(f"the run {what}; it goes on from its last checkpoint")
            sleep(2.0 ** (losses - 1))
