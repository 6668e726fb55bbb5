"""Classifiers: what a scheduler can forget classes from.

A classifier is a body and a linear head. The feature layer is found by structure, not by name: it is
whatever enters `head`. Images are already normalised, `[B, C, H, W]` float32 of the spec's size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import torch
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

    Subclasses set `head` and define `_run`; everything else is the same for all of them.
    """

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
    eight maps (after ReLU); channels are 96 and 192 times `spec.width`, rounded, at least 1.
    """

    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__(spec)
        narrow, wide = max(1, round(96 * spec.width)), max(1, round(192 * spec.width))
        # (channels out, kernel, stride)
        plan = [
            (narrow, 3, 1), (narrow, 3, 1), (narrow, 3, 2),
            (wide, 3, 1), (wide, 3, 1), (wide, 3, 2),
            (wide, 3, 1), (wide, 1, 1),
        ]  # fmt: skip
        blocks, channels = [], spec.in_channels
        for out, kernel, stride in plan:
            conv = nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2, bias=False)
            blocks.append(nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU()))
            channels = out
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(channels, spec.num_classes)

    def _run(self, x: Tensor, maps: list[Tensor] | None) -> Tensor:
        for block in self.blocks:
            x = block(x)
            if maps is not None:
                maps.append(x)
        return x.mean(dim=(2, 3))


CLASSIFIERS: dict[str, type[Classifier]] = {"allcnn": AllCNN}


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


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
