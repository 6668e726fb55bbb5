"""Where a run tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Where a run, or a service, tells how far it is."""

    def phase(self, title: str, phase: str, *, total: int | None = None) -> None:
        """A phase begins; `total` is its number of cycles, where it has them."""

    def advance(self, n: int = 1, **figures: float) -> None:
        """The phase went on by so many cycles."""

    def done(self, note: str = "") -> None:
        """The phase is over."""

    def say(self, text: str) -> None:
        """Something that is to be known at once."""


class Quiet:
    """Progress that nobody sees: where services run side by side, or in a benchmark."""

    def phase(self, title: str, phase: str, *, total: int | None = None) -> None:
        """Nothing."""

    def advance(self, n: int = 1, **figures: float) -> None:
        """Nothing."""

    def done(self, note: str = "") -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""
