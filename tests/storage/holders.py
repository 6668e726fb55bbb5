"""Claims to test with: holders on machines that are not there, a time that passes when somebody sleeps."""

from __future__ import annotations

from collections.abc import Callable

from rayunlearn.storage.lease import Holder, Pace
from rayunlearn.storage.store import Store


def elsewhere(name: str) -> Holder:
    """A process of another machine, of which nobody here can tell whether it is alive."""
    return Holder(host=name, pid=7, since="2025-06-01 12:00:00 UTC", system=f"system of {name}", began="1")


A, B, C = (elsewhere(name) for name in ("node-a", "node-b", "node-c"))


class Time:
    """Time that passes when somebody sleeps, and calls what is due meanwhile."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.due: list[Callable[[], object]] = []

    def sleep(self, seconds: float) -> None:
        """So many seconds later; what others do in each is done."""
        self.now += seconds
        for act in self.due:
            act()

    @property
    def pace(self) -> Pace:
        """The usual one, in this time."""
        return Pace(clock=lambda: self.now, sleep=self.sleep)


def leases(store: Store) -> list[str]:
    """The names of the leases' files, without their folder."""
    return [name.removeprefix("claims/") for name in store.list("claims")]
