"""What the parts of a service share: where things are kept, by what settings, and whom to tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from rayunlearn.ledger.ledger import Ledger
from rayunlearn.recipes import Recipe
from rayunlearn.storage.lease import Lease
from rayunlearn.storage.store import Store
from rayunlearn.unlearning.progress import Progress

Clock = Callable[[], datetime]


@dataclass(frozen=True, kw_only=True)
class Context:
    """Shared by the service, its scheduler and its auditor.

    Attributes:
        store: the storage location.
        ledger: its one appender.
        recipe: settings of the service.
        seed: root of every draw.
        clock: gives the time that is recorded, UTC.
        progress: told how far the service is.
        generators: where runs share generators that model inversion trained alike, by content; None where
            each trains its own. What is there outlives the runs, so it is for experiments.
        sweep: whose winner's settings the recipe has; None where nobody searched.
        lease: to the storage location, checked before each publication; None where the ledger alone keeps
            others out.
    """

    store: Store
    ledger: Ledger
    recipe: Recipe
    seed: int
    clock: Clock
    progress: Progress
    generators: Store | None = None
    sweep: str | None = None
    lease: Lease | None = None

    def check_lease(self) -> None:
        """Make sure that the location is still held, where it is leased.

        Raises:
            StorageHeld: another scheduler has it.
        """
        if self.lease is not None:
            self.lease.check()
