"""Which classes play which part in a request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which classes play which part in a request.

    Attributes:
        retain: classes to retain.
        target: classes to forget now; none where single samples are to be forgotten.
        forgotten: classes forgotten by earlier requests; they cannot be synthesised any more.
    """

    retain: tuple[int, ...]
    target: tuple[int, ...]
    forgotten: tuple[int, ...] = ()

    @property
    def forget(self) -> tuple[int, ...]:
        """Every class that must be gone after the request, in order."""
        return tuple(sorted({*self.target, *self.forgotten}))
