"""Classifiers: what a scheduler can forget classes from.

A classifier is a body and a linear head. The feature layer is found by structure, not by name: it is
whatever enters `head`. Images are already normalised, `[B, C, H, W]` float32 of the spec's size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields

from torch import Tensor

from rayunlearn.errors import BadInput, nearest
from rayunlearn.models.body_and_head import Classifier
from rayunlearn.models.plain_networks import AllCNN, LeNet, LeNet5BN
from rayunlearn.models.residual_networks import PreActResNet18, ResNet9, ResNet50
from rayunlearn.models.weights import load_into
from rayunlearn.seeds import derive_seed, seeded_default_generators

__all__ = [
    "CLASSIFIERS",
    "AllCNN",
    "Classifier",
    "ClassifierSpec",
    "LeNet",
    "LeNet5BN",
    "PreActResNet18",
    "ResNet50",
    "ResNet9",
    "build_classifier",
    "version_model",
]


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
        class_names: of the classes 0, 1, ..., where the data say them; examples are understood by them.
    """

    name: str
    width: float
    in_channels: int
    image_size: int
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] | None = field(default=None, metadata={"before": None})

    def __post_init__(self) -> None:
        """Check every field."""
        where = "classifier spec"
        if self.name not in CLASSIFIERS:
            raise BadInput("name", self.name, nearest(str(self.name), CLASSIFIERS), where=where)
        if not _is_number(self.width) or not 0 < self.width < math.inf:
            raise BadInput("width", self.width, "a finite number above 0", where=where)
        for name, least in (("in_channels", 1), ("image_size", 1), ("num_classes", 2)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise BadInput(name, value, f"a whole number of at least {least}", where=where)
        for name in ("mean", "std"):
            value = getattr(self, name)
            if not isinstance(value, (tuple, list)) or len(value) != self.in_channels:
                raise BadInput(name, value, f"{self.in_channels} numbers, one per channel", where=where)
            if not all(_is_number(v) and math.isfinite(v) for v in value):
                raise BadInput(name, value, "finite numbers", where=where)
            object.__setattr__(self, name, tuple(float(v) for v in value))
        if not all(v > 0 for v in self.std):
            raise BadInput("std", self.std, "numbers above 0", where=where)
        if self.class_names is not None:
            names = self.class_names
            texts = isinstance(names, (tuple, list)) and all(isinstance(n, str) for n in names)
            if not texts or len(names) != self.num_classes or len(set(names)) < len(names):
                allowed = f"{self.num_classes} different texts, one for each class, or None"
                raise BadInput("class_names", names, allowed, where=where)
            object.__setattr__(self, "class_names", tuple(names))
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
        """JSON-able fields, class names only where there are some; `from_dict` gives the same spec back."""
        said = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        if self.class_names is None:  # as it was before there were any
            del said["class_names"]
        return said

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> ClassifierSpec:
        """A spec from its fields, refusing unknown and missing ones."""
        names = [f.name for f in fields(cls)]
        for key in data:
            if key not in names:
                raise BadInput("field", key, nearest(str(key), names), where="classifier spec")
        missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in data]
        if missing:
            raise BadInput("missing fields", missing, f"all of {names}", where="classifier spec")
        return cls(**data)  # type: ignore[arg-type]  # __post_init__ checks the types


CLASSIFIERS: dict[str, type[Classifier]] = {
    "allcnn": AllCNN,
    "lenet": LeNet,
    "lenet5_bn": LeNet5BN,
    "resnet9": ResNet9,
    "preactresnet18": PreActResNet18,
    "resnet50": ResNet50,
}


def build_classifier(spec: ClassifierSpec, seed: int) -> Classifier:
    """A freshly initialised classifier on CPU, a function of `spec` and `seed` alone.

    The global random number generators are left as they were.
    """
    with seeded_default_generators(derive_seed(seed, "init", spec.name)):
        return CLASSIFIERS[spec.name](spec)


def version_model(spec: ClassifierSpec, weights: Mapping[str, Tensor]) -> Classifier:
    """A classifier of the spec with these weights, in eval mode."""
    model = build_classifier(spec, 0)
    load_into(model, weights)
    return model.eval()


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
