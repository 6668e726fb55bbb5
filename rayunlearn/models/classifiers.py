"""Classifiers: what a scheduler can forget classes from.

A classifier is a body and a linear head. The feature layer is found by structure, not by name: it is
whatever enters `head`. Images are already normalised, `[B, C, H, W]` float32 of the spec's size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayunlearn.errors import BadInput, nearest
from rayunlearn.models.weights import load_into
from rayunlearn.seeds import derive_seed


@dataclass(frozen=True, kw_only=True)
class ClassifierSpec:
    """All that rebuilds a classifier's architecture; it travels as JSON beside the weights.

    Attributes:
        name: key of `CLASSIFIERS`.
        width: multiplier of every channel count, above 0.
        in_channels: channels of an image.
        image_size: height and width of an image, pixels.
        num_classes: outputs of the head, at least 2.
        mean: per channel, of the training images with pixels in [0, 1].
        std: per channel, above 0.
    """

    name: str
    width: float
    in_channels: int
    image_size: int
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check every field."""
        where = "classifier spec"
        if self.name not in CLASSIFIERS:
            raise BadInput("name", self.name, nearest(str(self.name), CLASSIFIERS), where=where)
        if not _is_number(self.width) or not 0 < self.width < math.inf:
            raise BadInput("width", self.width, "a finite number above 0", where=where)
        for field, least in (("in_channels", 1), ("image_size", 1), ("num_classes", 2)):
            value = getattr(self, field)
            if type(value) is not int or value < least:
                raise BadInput(field, value, f"a whole number of at least {least}", where=where)
        for field in ("mean", "std"):
            value = getattr(self, field)
            if not isinstance(value, (tuple, list)) or len(value) != self.in_channels:
                raise BadInput(field, value, f"{self.in_channels} numbers, one per channel", where=where)
            if not all(_is_number(v) and math.isfinite(v) for v in value):
                raise BadInput(field, value, "finite numbers", where=where)
            object.__setattr__(self, field, tuple(float(v) for v in value))
        if not all(v > 0 for v in self.std):
            raise BadInput("std", self.std, "numbers above 0", where=where)
        sizes = CLASSIFIERS[self.name].image_sizes
        if sizes and self.image_size not in sizes:
            allowed = f"{' or '.join(map(str, sizes))} for {self.name!r}"
            raise BadInput("image_size", self.image_size, allowed, where=where)

    @property
    def pixel_range(self) -> tuple[float, float]:
        """Normalised values of pixels 0 and 1: least and greatest over the channels."""
        low = min((0.0 - m) / s for m, s in zip(self.mean, self.std, strict=True))
        high = max((1.0 - m) / s for m, s in zip(self.mean, self.std, strict=True))
        return low, high

    def to_dict(self) -> dict[str, object]:
        """JSON-able fields; `from_dict` gives the same spec back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> ClassifierSpec:
        """A spec from its fields, refusing unknown and missing ones."""
        names = [f.name for f in fields(cls)]
        for key in data:
            if key not in names:
                raise BadInput("field", key, nearest(str(key), names), where="classifier spec")
        missing = [n for n in names if n not in data]
        if missing:
            raise BadInput("missing fields", missing, f"all of {names}", where="classifier spec")
        return cls(**data)  # type: ignore[arg-type]  # __post_init__ checks the types


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


class AllCNN(Classifier):
    """All convolutions, BatchNorm after each, global average pool and a linear head.

    Springenberg et al. 2015 (arXiv 1412.6806), model All-CNN-C; BatchNorm and the linear head as
    zero-shot unlearning (arXiv 2201.05629) and its reference code train it. Eight convolutions,
    eight maps; channels are 96 and 192 times `spec.width`, rounded, at least 1. The third convolution
    has All-CNN-C's 96, where the reference code has 192.

    | parameters at width 1, 10 classes | 1 channel | 3 channels |
    |---|---|---|
    | any image size | 1,369,258 | 1,370,986 |
    """

    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__(spec)
        narrow, wide = _scaled(spec, 96), _scaled(spec, 192)
        # (channels out, kernel, stride)
        plan = [
            (narrow, 3, 1), (narrow, 3, 1), (narrow, 3, 2),
            (wide, 3, 1), (wide, 3, 1), (wide, 3, 2),
            (wide, 3, 1), (wide, 1, 1),
        ]  # fmt: skip
        blocks, channels = [], spec.in_channels
        for out, kernel, stride in plan:
            blocks.append(_normalised(channels, out, kernel, stride))
            channels = out
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(channels, spec.num_classes)

    def _run(self, x: Tensor, maps: list[Tensor] | None) -> Tensor:
        for block in self.blocks:
            x = block(x)
            if maps is not None:
                maps.append(x)
        return x.mean(dim=(2, 3))


class LeNet(Classifier):
    """LeNet-5: two 5x5 convolutions, each max-pooled by 2, two hidden layers and a linear head.

    LeCun et al. 1998; ReLU and max pooling in place of its sigmoids and trained subsampling, and no
    BatchNorm, as the reference code of zero-shot unlearning (arXiv 2201.05629) has it. 28x28 images are
    padded to LeNet-5's 32x32, so both sizes have the same parameters; a smaller one would be mostly
    padding and is refused. Two maps. Channels 6 and 16 and hidden units 120 and 84 are times
    `spec.width`, rounded, at least 1.

    | parameters at width 1, 10 classes | 1 channel | 3 channels |
    |---|---|---|
    | 28x28, 32x32 | 61,706 | 62,006 |
    """

    image_sizes = (28, 32)

    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__(spec)
        narrow, wide = _scaled(spec, 6), _scaled(spec, 16)
        first, second = _scaled(spec, 120), _scaled(spec, 84)
        padding = (32 - spec.image_size) // 2
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(spec.in_channels, narrow, 5, padding=padding), nn.ReLU()),
                nn.Sequential(nn.Conv2d(narrow, wide, 5), nn.ReLU()),
            ]
        )
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(wide * 5 * 5, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU()
        )
        self.head = nn.Linear(second, spec.num_classes)

    def _run(self, x: Tensor, maps: list[Tensor] | None) -> Tensor:
        for block in self.blocks:
            x = block(x)
            if maps is not None:
                maps.append(x)
            x = F.max_pool2d(x, 2)
        features: Tensor = self.hidden(x)
        return features


class ResNet9(Classifier):
    """Four convolutions with BatchNorm, a residual pair after the second and fourth, and a linear head.

    Page 2018 ("How to train your ResNet"), with 256 channels in its last block instead of 512: the
    "smaller variant of ResNet" that the reference code of zero-shot unlearning (arXiv 2201.05629) has.
    Maps of the four convolutions outside the pairs, as there. Channels are 64, 128, 256 and 256 times
    `spec.width`, rounded, at least 1.

    Deviations from the reference: the body ends in Page's global max pool, so that images of any size
    have the same 256 features (the reference flattens 2x2 positions of 32x32 images); pooling rounds up,
    which changes nothing at 32 and keeps the last row at 28; maps are taken after the ReLU as in the
    other architectures, not before BatchNorm; BatchNorm's momentum is PyTorch's default 0.1 and not 0.9,
    with which the running statistics would be little more than the last batch's.

    | parameters at width 1, 10 classes | 1 channel | 3 channels |
    |---|---|---|
    | any image size | 2,439,114 | 2,440,266 |
    """

    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__(spec)
        first, second, third = (_scaled(spec, channels) for channels in (64, 128, 256))
        self.blocks = nn.ModuleList(
            [
                _normalised(spec.in_channels, first),
                _normalised(first, second),
                _normalised(second, third),
                _normalised(third, third),
            ]
        )
        self.between = nn.ModuleList(
            [
                nn.Identity(),
                nn.Sequential(_halved(), _Residual(second)),
                _halved(),
                nn.Sequential(_halved(), _Residual(third)),
            ]
        )
        self.head = nn.Linear(third, spec.num_classes)

    def _run(self, x: Tensor, maps: list[Tensor] | None) -> Tensor:
        for block, then in zip(self.blocks, self.between, strict=True):
            x = block(x)
            if maps is not None:
                maps.append(x)
            x = then(x)
        return x.amax(dim=(2, 3))


class _Residual(nn.Module):
    """x plus two convolutions of it; no ReLU after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_normalised(channels, channels), _normalised(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = x + self.body(x)
        return changed


CLASSIFIERS: dict[str, type[Classifier]] = {"allcnn": AllCNN, "lenet": LeNet, "resnet9": ResNet9}


def build_classifier(spec: ClassifierSpec, seed: int) -> Classifier:
    """A freshly initialised classifier on CPU, a function of `spec` and `seed` alone.

    The global random number generators are left as they were.
    """
    with torch.random.fork_rng(devices=[]):
        # the default CPU generator alone: torch.manual_seed would also reseed CUDA's
        torch.default_generator.manual_seed(derive_seed(seed, "init", spec.name))
        return CLASSIFIERS[spec.name](spec)


def version_model(spec: ClassifierSpec, weights: Mapping[str, Tensor]) -> Classifier:
    """A classifier of the spec with these weights, in eval mode."""
    model = build_classifier(spec, 0)
    load_into(model, weights)
    return model.eval()


def _scaled(spec: ClassifierSpec, channels: int) -> int:
    return max(1, round(channels * spec.width))


def _normalised(channels: int, out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU; the size is kept, or divided by the stride and rounded up."""
    conv = nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())


def _halved() -> nn.MaxPool2d:
    return nn.MaxPool2d(2, ceil_mode=True)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
