"""Where the parts of a run are; Ray is not imported for the words."""

from __future__ import annotations

from enum import StrEnum


class Placement(StrEnum):
    """Where the parts of a run are."""

    SPLIT = "split"
    COLOCATED = "colocated"

    def actors(self, workers: int = 1) -> int:
        """How many actors a run has; `workers` are for one that is colocated."""
        return 3 if self is Placement.SPLIT else workers
