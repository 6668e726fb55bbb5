"""A classifier whose features are the pixels, and images whose pixels hold the class or do not."""

from __future__ import annotations

import torch
from torch import nn

from rayunlearn.models.classifiers import Classifier, ClassifierSpec

CLASSES, SIZE = 4, 4


class Pixels(Classifier):
    """A classifier whose features are the image's pixels, and whose head is random."""

    def __init__(self, num_classes: int = CLASSES) -> None:
        super().__init__(
            ClassifierSpec(
                name="allcnn", width=1.0, in_channels=1, image_size=SIZE, num_classes=num_classes,
                mean=(0.0,), std=(1.0,),
            )
        )  # fmt: skip
        self.head = nn.Linear(SIZE * SIZE, num_classes)

    def _run(self, x: torch.Tensor, maps: list[torch.Tensor] | None) -> torch.Tensor:
        return x.flatten(1)


def images_of(labels: torch.Tensor, signal: float, seed: int) -> torch.Tensor:
    """Noise [N, 1, 4, 4] plus `signal` at the pixel of the class."""
    noise = torch.randn(len(labels), SIZE * SIZE, generator=torch.Generator().manual_seed(seed))
    noise[torch.arange(len(labels)), labels] += signal
    return noise.reshape(-1, 1, SIZE, SIZE)
