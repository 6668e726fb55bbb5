"""Which samples get wrong labels on purpose: a setting, apart from `rayunlearn.data`, which deals them.

Recipes are read where no data may be opened, and `rayunlearn.data` cannot be imported there.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import NonNegativeInt

from rayunlearn.errors import BadInput
from rayunlearn.fields import Checked, PositiveShare


@dataclass(frozen=True, kw_only=True)
class Mislabelling(Checked, section="data.mislabelling"):
    """Which samples get which wrong labels; the paper's task on MNIST is `of=7, to=(2, 3, 7)`.

    Attributes:
        of: the class that loses samples.
        to: labels that they get, in equal shares; `of` may be among them, and then keeps its share.
        share: of the class's samples that are dealt a label, above 0, at most 1 (0.2 is inferred).
    """

    of: NonNegativeInt
    to: tuple[NonNegativeInt, ...]
    share: PositiveShare = 0.2

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        if len(set(self.to)) != len(self.to) or not self.erased:
            raise BadInput(f"{self.section}.to", self.to, f"different classes, not {self.of} alone")

    @property
    def erased(self) -> tuple[int, ...]:
        """y_e: the wrong labels, which unlearning is to take away again."""
        return tuple(label for label in self.to if label != self.of)
