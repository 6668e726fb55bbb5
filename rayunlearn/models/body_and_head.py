"""What every classifier is: a body and a linear head over its features.

Images are already normalised, `[B, C, H, W]` float32 of the spec's size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

if TYPE_CHECKING:  # the spec looks its architecture up, so it stands above the architectures
    from rayunlearn.models.classifiers import ClassifierSpec


class Classifier(nn.Module):
    """A body and a linear head over its features.

    Subclasses set `head` and define `_run`; everything else is the same for all of them. A map is what
    leaves the ReLU after a convolution, before any pooling; which convolutions have one is the
    architecture's to say.

    Attributes:
        image_sizes: heights and widths that the architecture takes, pixels; empty: any.
    """

    image_sizes: ClassVar[tuple[int, ...]] = ()
    head: nn.Linear

    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__()
        self.spec = spec

    @property
    def head_name(self) -> str:
        """Of the head among this classifier's modules."""
        return "head"

    def _run(self, x: Tensor, maps: list[Tensor] | None) -> Tensor:
        """Features `[B, D]` of images `[B, C, H, W]`; appends feature maps to `maps` unless None."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, K]` of normalised images `[B, C, H, W]`."""
        logits: Tensor = self.head(self.features(x))
        return logits

    def features(self, x: Tensor) -> Tensor:
        """The head's input `[B, D]` for normalised images `[B, C, H, W]`."""
        return self._run(x, None)

    def forward_with_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits `[B, K]` and the body's maps `[B, C_l, H_l, W_l]` from first to last, with their graph."""
        maps: list[Tensor] = []
        features = self._run(x, maps)
        return self.head(features), maps


def scaled(spec: ClassifierSpec, channels: int) -> int:
    """So many channels times the spec's width, rounded, at least 1."""
    return max(1, round(channels * spec.width))


def normalised(channels: int, out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU; the size is kept, or divided by the stride and rounded up."""
    conv = nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())
