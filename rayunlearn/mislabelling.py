"""Which samples get wrong labels on purpose: a setting, apart from `rayunlearn.data`, which deals them.

Recipes are read where no data may be opened, and `rayunlearn.data` cannot be imported there.
"""

from __future__ import annotations

from dataclasses import dataclass

from rayunlearn.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Mislabelling:
    """Which samples get which wrong labels; the paper's task on MNIST is `of=7, to=(2, 3, 7)`.

    Attributes:
        of: the class that loses samples.
        to: labels that they get, in equal shares; `of` may be among them, and then keeps its share.
        share: of the class's samples that are dealt a label, above 0, at most 1 (0.2 is inferred).
    """

    of: int
    to: tuple[int, ...]
    share: float = 0.2

    def __post_init__(self) -> None:
        """Check every field."""
        if not _is_class(self.of):
            raise BadInput("data.mislabelling.of", self.of, "a class: a whole number of at least 0")
        allowed = f"different classes, not {self.of} alone"
        if not isinstance(self.to, (tuple, list)) or not all(map(_is_class, self.to)):
            raise BadInput("data.mislabelling.to", self.to, allowed)
        object.__setattr__(self, "to", tuple(self.to))
        if len(set(self.to)) != len(self.to) or not self.erased:
            raise BadInput("data.mislabelling.to", self.to, allowed)
        number = isinstance(self.share, (int, float)) and not isinstance(self.share, bool)
        if not number or not 0 < self.share <= 1:
            raise BadInput("data.mislabelling.share", self.share, "a number above 0 and at most 1")

    @property
    def erased(self) -> tuple[int, ...]:
        """y_e: the wrong labels, which unlearning is to take away again."""
        return tuple(label for label in self.to if label != self.of)


def _is_class(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
