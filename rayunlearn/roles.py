"""Which classes and which single samples play which part in a request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which classes and which single samples play which part in a request.

    A request names classes, or samples of classes that are retained, or labels to erase.

    Attributes:
        retain: classes to retain.
        target: classes to forget now; none where single samples are to be forgotten.
        forgotten: classes forgotten by earlier requests; they cannot be synthesised any more.
        target_samples: training samples to forget now, by their indices in the dataset; else none.
        forgotten_samples: those forgotten by earlier requests; nobody is handed them any more.
        erased: labels that what is like the given examples must no longer get; the classes stay.
    """

    retain: tuple[int, ...]
    target: tuple[int, ...]
    forgotten: tuple[int, ...] = ()
    target_samples: tuple[int, ...] = ()
    forgotten_samples: tuple[int, ...] = ()
    erased: tuple[int, ...] = ()

    @property
    def kind(self) -> str:
        """Of the request: "classes", "samples" or "examples"."""
        if self.target:
            return "classes"
        return "examples" if self.erased else "samples"

    @property
    def forget(self) -> tuple[int, ...]:
        """Every class that must be gone after the request, in order."""
        return tuple(sorted({*self.target, *self.forgotten}))

    @property
    def forget_samples(self) -> tuple[int, ...]:
        """Every single sample that must be gone after the request, in order."""
        return tuple(sorted({*self.target_samples, *self.forgotten_samples}))
