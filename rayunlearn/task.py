"""What is known of a model besides its weights: which images it takes, and which classes it tells apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import DocInfo
from pydantic import PositiveInt

from rayunlearn.errors import BadInput
from rayunlearn.fields import AtLeastTwo, Checked

DIGIT_NAMES = tuple("0123456789")
CIFAR10_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

_SHAPE = "channels, height and width, whole numbers > 0, as 3,32,32"


@dataclass(frozen=True, kw_only=True)
class Input(Checked, where="input"):
    """The images that a model takes: pixels in [0, 1], less the mean, by the standard deviation.

    Attributes:
        shape: channels, height and width in pixels, each at least 1.
        mean: per channel.
        std: per channel, above 0.
    """

    shape: Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], DocInfo(_SHAPE)]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        for name in ("mean", "std"):
            value = per_channel(name, getattr(self, name), self.shape[0], where=self.where)
            object.__setattr__(self, name, value)

    @property
    def pixel_range(self) -> tuple[float, float]:
        """Normalised values of pixels 0 and 1: least and greatest over the channels."""
        low = min((0.0 - m) / s for m, s in zip(self.mean, self.std, strict=True))
        high = max((1.0 - m) / s for m, s in zip(self.mean, self.std, strict=True))
        return low, high


@dataclass(frozen=True, kw_only=True)
class Task(Checked, where="task"):
    """What a classifier is for.

    Attributes:
        input: the images that it takes.
        num_classes: at least 2.
        class_names: of the classes 0, 1, ..., where they are known.
    """

    input: Input
    num_classes: AtLeastTwo
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        check_class_names(self.class_names, self.num_classes, where=self.where)


def height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """Of an image whose size is stated: one number where it is as high as wide.

    >>> height_and_width(8), height_and_width((28, 40))
    ((8, 8), (28, 40))
    """
    return (size, size) if isinstance(size, int) else size


def stated_size(height: int, width: int) -> int | tuple[int, int]:
    """The size of an image as it is stated.

    >>> stated_size(8, 8), stated_size(28, 40)
    (8, (28, 40))
    """
    return height if height == width else (height, width)


def per_channel(name: str, value: tuple[float, ...], channels: int, *, where: str) -> tuple[float, ...]:
    """One number for each channel, above 0 for `std`.

    Raises:
        BadInput: it is something else.
    """
    if len(value) != channels:
        raise BadInput(name, value, f"{channels} numbers, one per channel", where=where)
    if name == "std" and not all(v > 0 for v in value):
        raise BadInput(name, value, "numbers above 0", where=where)
    return tuple(float(v) for v in value)


def check_class_names(names: tuple[str, ...] | None, num_classes: int, *, where: str) -> None:
    """Refuse names that are not one for each class, each its own; None names no class.

    Raises:
        BadInput: they are something else.
    """
    if names is not None and not len(set(names)) == len(names) == num_classes:
        allowed = f"{num_classes} different texts, one for each class, or None"
        raise BadInput("class_names", names, allowed, where=where)


def _declared(
    shape: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...], names: tuple[str, ...]
) -> Task:
    return Task(
        input=Input(shape=shape, mean=mean, std=std), num_classes=len(names), class_names=names
    )


TASKS: dict[str, Task] = {
    "digits": _declared((1, 8, 8), (0.3053,), (0.3760,), DIGIT_NAMES),
    "mnist": _declared((1, 28, 28), (0.1307,), (0.3081,), DIGIT_NAMES),
    "cifar10": _declared((3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), CIFAR10_NAMES),
    "svhn": _declared((3, 32, 32), (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), DIGIT_NAMES),
}
"""Of the data sets that are known by name: what a model of theirs takes, without a look at any image.

Mean and std are of all images for the digits, of the published training images for the others.
"""
