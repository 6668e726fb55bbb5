"""Going on after a loss: of an actor, a worker process or a node, on what is left of the cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ray.exceptions import (
    AuthenticationError,
    LocalRayletDiedError,
    OutOfDiskError,
    RaySystemError,
    RpcError,
)

from rayunlearn.errors import Interrupted, RayUnlearnError, StorageHeld
from rayunlearn.execution.cluster import NoRoom
from rayunlearn.execution.remote import is_loss, original, sentence
from rayunlearn.storage.store import StoreFailed

MOST_LOSSES = 8
"""In a row with nothing new between them; then the run has failed.

The pauses between them, 1 s and doubled each time, add up to two minutes: about what a new node takes."""

CLUSTER_ERRORS = (AuthenticationError, LocalRayletDiedError, OutOfDiskError, RaySystemError, RpcError)
"""What Ray raises where the cluster itself is gone or refuses."""

_OF_THE_SERVICE = (StorageHeld, StoreFailed, Interrupted, *CLUSTER_ERRORS)

_T = TypeVar("_T")


def is_of_the_service(error: BaseException) -> bool:
    """Whether no run has to do with it: the storage, the lease to it, or the cluster is gone.

    Such an error ends the job, and requests go on waiting. Any other is the fault of the run that raised it.
    """
    return isinstance(original(error), _OF_THE_SERVICE) or not isinstance(error, Exception)


def outlasting(
    work: Callable[[], _T],
    *,
    reached: Callable[[], object],
    tell: Callable[[str], None],
    losses: int = 0,
    most: int = MOST_LOSSES,
    sleep: Callable[[float], None] = time.sleep,
) -> _T:
    """What `work` returns, begun again after each loss from what it keeps itself.

    Args:
        work: to be done; finds out by itself where it was.
        reached: how far it is; anything that differs when something new was done.
        tell: is told of each loss.
        losses: in a row before this call.
        most: losses in a row that end it.
        sleep: passes the time before it is begun again: 1 s, doubled with each loss in a row.

    Raises:
        RayUnlearnError: after `most` losses in a row.
        NoRoom: there was no room for it, and nothing was lost before; or there was none again after so many.
    """
    before = reached()
    while True:
        try:
            return work()
        except Exception as error:
            # after a loss the cluster may be too small until the node is back
            if not (is_loss(error) or losses and isinstance(error, NoRoom)):
                raise
            now = reached()
            losses, before = (losses + 1 if now == before else 1), now
            what = f"lost what it ran on ({sentence(error).rstrip('.')})"
            if losses >= most:
                if isinstance(error, NoRoom):
                    raise
                raise RayUnlearnError(f"the run {what}, {losses} times in a row") from error
            tell(f"the run {what}; it goes on from its last checkpoint")
            sleep(2.0 ** (losses - 1))
