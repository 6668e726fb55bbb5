"""Classifiers: what a scheduler can forget classes from.

A classifier is a body and a linear head. The feature layer is found by structure, not by name: it is
whatever enters `head`. Images are already normalised, `[B, C, H, W]` float32 of the spec's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from rayunlearn.errors import BadInput, nearest
from rayunlearn.fields import AtLeastTwo, Checked
from rayunlearn.models.adapted import Adapted, found_in
from rayunlearn.models.body_and_head import Classifier
from rayunlearn.models.plain_networks import AllCNN, LeNet, LeNet5BN
from rayunlearn.models.residual_networks import PreActResNet18, ResNet9, ResNet50
from rayunlearn.models.sources import Source, digest_of, is_factory, make
from rayunlearn.models.weights import load_into
from rayunlearn.preprocessing import Preprocessing
from rayunlearn.seeds import derive_seed, seeded_default_generators
from rayunlearn.task import Input, Task, check_class_names, height_and_width, per_channel, stated_size

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
    "spec_for",
    "version_model",
]


@dataclass(frozen=True, kw_only=True)
class ClassifierSpec(Checked, where="classifier spec"):
    """All that rebuilds a classifier's architecture; it travels as JSON beside the weights.

    Attributes:
        name: key of `CLASSIFIERS`, or the factory of the source.
        width: multiplier of every channel count, above 0; of no meaning to a network that is not built in.
        in_channels: channels of an image.
        image_size: height and width of an image, pixels: one number where they are the same.
        num_classes: outputs of the head, at least 2.
        mean: per channel, of the training images with pixels in [0, 1].
        std: per channel, above 0.
        class_names: of the classes 0, 1, ..., where the data say them; examples are understood by them.
        source: of a network that is not built in.
        preprocessing: that images go through before mean and std, where one was stated.
    """

    name: str
    width: PositiveFloat
    in_channels: PositiveInt
    image_size: PositiveInt | tuple[PositiveInt, PositiveInt]
    num_classes: AtLeastTwo
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] | None = field(default=None, metadata={"before": None})
    source: Source | None = None
    preprocessing: Preprocessing | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        where = self.where
        if self.source is not None and (type(self.source) is not Source or self.source.factory != self.name):
            raise BadInput("source", self.source, f"one whose factory is {self.name!r}", where=where)
        if self.source is None and self.name not in CLASSIFIERS:
            raise BadInput("name", self.name, nearest(self.name, CLASSIFIERS), where=where)
        if isinstance(self.image_size, tuple) and len(set(self.image_size)) == 1:
            allowed = "one whole number where it is as high as wide, else height and width"
            raise BadInput("image_size", self.image_size, allowed, where=where)
        for name in ("mean", "std"):
            value = per_channel(name, getattr(self, name), self.in_channels, where=where)
            object.__setattr__(self, name, value)
        check_class_names(self.class_names, self.num_classes, where=where)
        sizes = () if self.source is not None else CLASSIFIERS[self.name].image_sizes
        if sizes and self.image_size not in sizes:
            allowed = f"{' or '.join(map(str, sizes))} for {self.name!r}"
            raise BadInput("image_size", self.image_size, allowed, where=where)

    @property
    def input(self) -> Input:
        """The images that it takes."""
        return Input(shape=self.shape, mean=self.mean, std=self.std)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image: channels, height and width."""
        return self.in_channels, *height_and_width(self.image_size)

    @property
    def imports(self) -> tuple[str, ...]:
        """Modules that have to be imported to build it, before a process is sealed."""
        return () if self.source is None else (self.source.module,)

    @property
    def task(self) -> Task:
        """What it is for, whatever its architecture."""
        return Task(input=self.input, num_classes=self.num_classes, class_names=self.class_names)

    @property
    def pixel_range(self) -> tuple[float, float]:
        """Normalised values of pixels 0 and 1: least and greatest over the channels."""
        return self.input.pixel_range

    @classmethod
    def of_task(cls, task: Task, name: str, width: float, source: Source | None = None) -> ClassifierSpec:
        """The spec of an architecture for a task.

        Raises:
            BadInput: the architecture does not take such images.
        """
        channels, height, width_of_image = task.input.shape
        return cls(
            name=name, width=width, in_channels=channels, image_size=stated_size(height, width_of_image),
            num_classes=task.num_classes, mean=task.input.mean, std=task.input.std,
            class_names=task.class_names, source=source,
        )  # fmt: skip

    def for_task(self, task: Task) -> ClassifierSpec:
        """The spec of the same architecture for another task."""
        return replace(
            ClassifierSpec.of_task(task, self.name, self.width, self.source), preprocessing=self.preprocessing
        )

    def to_dict(self) -> dict[str, object]:
        """JSON-able fields, class names only where there are some; `from_dict` gives the same spec back."""
        said = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        for name in ("class_names", "preprocessing"):
            if getattr(self, name) is None:  # as it was before there were any
                del said[name]
        del said["source"]
        return said if self.source is None else {**said, "source": self.source.to_dict()}

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
        source = data.get("source")
        if source is not None:
            data = {**data, "source": Source.from_dict(source)}  # type: ignore[arg-type]  # it checks that
        how = data.get("preprocessing")
        if how is not None:
            data = {**data, "preprocessing": _preprocessing(how)}
        return cls(**data)  # type: ignore[arg-type]  # __post_init__ checks the types


def _preprocessing(said: object) -> Preprocessing:
    known = {f.name for f in fields(Preprocessing)}
    if not isinstance(said, Mapping) or not said.keys() <= known:
        allowed = f"a mapping of {', '.join(sorted(known))}"
        raise BadInput("preprocessing", said, allowed, where="classifier spec")
    # JSON has no tuples
    told: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in said.items()}
    return Preprocessing(**told)


CLASSIFIERS: dict[str, type[Classifier]] = {
    "allcnn": AllCNN,
    "lenet": LeNet,
    "lenet5_bn": LeNet5BN,
    "resnet9": ResNet9,
    "preactresnet18": PreActResNet18,
    "resnet50": ResNet50,
}


SIDES = (8, 384)
"""Height and width that images of a network may have that is not built in, pixels."""


def spec_for(
    task: Task, name: str, width: float = 1.0, *, arguments: str = "{}", head: str | None = None
) -> ClassifierSpec:
    """The spec of a classifier that is built in, or of a factory's network, which is built to be looked at.

    Args:
        task: what the classifier is for.
        name: of it, or its factory.
        width: of one that is built in.
        arguments: of a factory.
        head: of a factory's network, where it is not to be looked for.

    Raises:
        BadInput: naming what does not go together.
    """
    if not is_factory(name):
        return ClassifierSpec.of_task(task, name, width)
    shape = task.input.shape
    if not all(SIDES[0] <= side <= SIDES[1] for side in shape[1:]):
        raise BadInput("--input", ",".join(map(str, shape)), f"{SIDES[0]} to {SIDES[1]} pixels high and wide")
    with seeded_default_generators(derive_seed(0, "init", name)):
        net = make(name, arguments)
    found = found_in(net, shape, head=head)
    if found.num_classes != task.num_classes:
        allowed = (
            f"{found.num_classes}, the outputs of the head {found.head!r}; a factory takes its number as an "
            'argument, as --model-args \'{"num_classes": ' + str(task.num_classes) + "}'"
        )
        raise BadInput("--classes", task.num_classes, allowed)
    source = Source(
        factory=name, arguments=arguments, head=found.head, maps=tuple(found.maps), digest=digest_of(name)
    )
    return ClassifierSpec.of_task(task, name, width, source)


def build_classifier(spec: ClassifierSpec, seed: int) -> Classifier:
    """A freshly initialised classifier on CPU, a function of `spec` and `seed` alone.

    The global random number generators are left as they were.
    """
    with seeded_default_generators(derive_seed(seed, "init", spec.name)):
        return CLASSIFIERS[spec.name](spec) if spec.source is None else Adapted(spec)


def version_model(spec: ClassifierSpec, weights: Mapping[str, Tensor]) -> Classifier:
    """A classifier of the spec with these weights, in eval mode."""
    model = build_classifier(spec, 0)
    load_into(model, weights)
    return model.eval()
