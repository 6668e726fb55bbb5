"""The images that the model inversion attack drew, as an audit's processes hand them on.

Apart from their figure, so that a process that draws none does not import matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rayunlearn.errors import BadInput


@dataclass(frozen=True, kw_only=True, eq=False)
class InvertedImages:
    """What the model inversion attack drew of a class. Pixels are in [0, 1], C is 1 or 3.

    Attributes:
        class_id: the class attacked.
        mean: the class's mean training image, [C, H, W].
        attacks: name of a subject -> the images that its attacks ended with, [A, C, H, W].
    """

    class_id: int
    mean: np.ndarray
    attacks: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        """Refuse images that cannot be shown beside each other."""
        shape = self.mean.shape
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise BadInput("shape of the mean image", shape, "[C, H, W] with C of 1 or 3")
        if not self.attacks:
            raise BadInput("subjects of the inversion attack", [], "at least one")
        for subject, images in self.attacks.items():
            if images.ndim != 4 or not len(images) or images.shape[1:] != shape:
                allowed = f"[A, {', '.join(map(str, shape))}], A of at least 1"
                raise BadInput(f"shape of the inverted images of {subject}", images.shape, allowed)
