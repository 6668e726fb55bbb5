"""What is known of a model besides its weights: which images it takes, and which classes it tells apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rayunlearn.errors import BadInput

DIGIT_NAMES = tuple("0123456789")
CIFAR10_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Input:
    """The images that a model takes: pixels in [0, 1], less the mean, by the standard deviation.

    Attributes:
        shape: channels, height and width in pixels, each at least 1.
        mean: per channel.
        std: per channel, above 0.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check every field."""
        whole = isinstance(self.shape, tuple | list) and all(type(n) is int and n >= 1 for n in self.shape)
        if not whole or len(self.shape) != 3:
            allowed = "channels, height and width, whole numbers of at least 1, as 3,32,32"
            raise BadInput("shape", self.shape, allowed, where="input")
        object.__setattr__(self, "shape", tuple(self.shape))
        for name in ("mean", "std"):
            value = per_channel(name, getattr(self, name), self.shape[0], where="input")
            object.__setattr__(self, name, value)

    @property
    def pixel_range(self) -> tuple[float, float]:
        """Normalised values of pixels 0 and 1: least and greatest over the channels."""
        low = min((0.0 - m) / s for m, s in zip(self.mean, self.std, strict=True))
        high = max((1.0 - m) / s for m, s in zip(self.mean, self.std, strict=True))
        return low, high


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a classifier is for.

    Attributes:
        input: the images that it takes.
        num_classes: at least 2.
        class_names: of the classes 0, 1, ..., where they are known.
    """

    input: Input
    num_classes: int
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        if type(self.num_classes) is not int or self.num_classes < 2:
            allowed = "a whole number of at least 2"
            raise BadInput("num_classes", self.num_classes, allowed, where="task")
        if self.class_names is not None:
            names = names_of_classes(self.class_names, self.num_classes, where="task")
            object.__setattr__(self, "class_names", names)


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


def per_channel(name: str, value: object, channels: int, *, where: str) -> tuple[float, ...]:
    """One finite number for each channel, above 0 for `std`.

    Raises:
        BadInput: it is something else.
    """
    if not isinstance(value, tuple | list) or len(value) != channels:
        raise BadInput(name, value, f"{channels} numbers, one per channel", where=where)
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    if not numbers or not all(math.isfinite(v) for v in value):
        raise BadInput(name, value, "finite numbers", where=where)
    if name == "std" and not all(v > 0 for v in value):
        raise BadInput(name, value, "numbers above 0", where=where)
    return tuple(float(v) for v in value)


def names_of_classes(names: object, num_classes: int, *, where: str) -> tuple[str, ...]:
    """One text of its own for each class.

    Raises:
        BadInput: it is something else.
    """
    listed = isinstance(names, tuple | list) and all(isinstance(n, str) for n in names)
    if not isinstance(names, tuple | list) or not listed or not len(set(names)) == len(names) == num_classes:
        allowed = f"{num_classes} different texts, one for each class, or None"
        raise BadInput("class_names", names, allowed, where=where)
    return tuple(names)


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
