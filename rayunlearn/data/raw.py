"""Raw pixels and labels: what every reader of files gives."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor

from rayunlearn.errors import BadInput, DataWarning

# Test images that may be training images too, as a share. MNIST has none, nor have CIFAR-10 and SVHN as far
# as they were at hand. The most that was found told of a published set is 10 of Fashion-MNIST's 10000 (its
# issue 44): up to twice that is taken for the data set's own, more for a file in the wrong part.
MOST_IN_BOTH = 0.002


class Part(NamedTuple):
    """The training or the test part of a dataset, in the publisher's order.

    Attributes:
        pixels: `[N, C, H, W]` uint8; need not be contiguous.
        labels: `[N]` int64.
        class_names: of the labels 0, 1, ..., where the files say them.
    """

    pixels: Tensor
    labels: Tensor
    class_names: tuple[str, ...] | None = None


Parts = tuple[Part, Part | None]
"""Training part, and test part where there is one."""


def channel_statistics(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation of pixel / 255, per channel.

    Made from whole-number sums, so that they are the same on every machine and at any number of threads.

    Args:
        pixels: `[N, C, H, W]` uint8, not empty.

    >>> channel_statistics(torch.tensor([[0, 51], [255, 51]], dtype=torch.uint8).view(2, 2, 1, 1))
    ((0.5, 0.2), (0.5, 0.0))
    """
    means, deviations = [], []
    for channel in pixels.unbind(1):
        counts = torch.bincount(channel.flatten(), minlength=256).tolist()
        count = sum(counts)
        total = sum(level * n for level, n in enumerate(counts))
        squares = sum(level * level * n for level, n in enumerate(counts))
        means.append(total / (255 * count))
        deviations.append(math.sqrt(count * squares - total * total) / (255 * count))
    return tuple(means), tuple(deviations)


def tell_doubles(
    parts: Parts, name: str, titles: tuple[str, ...] = ("the training part", "the test part")
) -> None:
    """Count images that are there more than once, pixel for pixel, whatever their labels, and warn of them.

    A few doubles within a part are found in real data. Of an image in both parts a model is asked what it was
    told.

    Raises:
        BadInput: more than `MOST_IN_BOTH` of the test images are training images too.
    """
    seen = [_labels_by_image(part) for part in parts if part is not None]
    for labels, title in zip(seen, titles, strict=False):
        more = [given for given in labels.values() if len(given) > 1]
        if more:
            said = f"{sum(map(len, more))} images of {title} are only {len(more)} different ones"
            differ = sum(len(set(given)) > 1 for given in more)
            tell(f"{name}: {said}" + (f"; {differ} of them have more than one label" if differ else ""))
    if len(seen) == 2:
        train, test = seen
        both = sum(len(given) for image, given in test.items() if image in train)
        most = int(MOST_IN_BOTH * sum(map(len, test.values())))
        if both > most:
            allowed = f"at most {most}: the parts have no image in common, or a published set's few"
            raise BadInput("number of test images that are training images too", both, allowed, where=name)
        if both:
            tell(f"{name}: {both} test images are training images too")


def tell(text: str) -> None:
    """Warn of what is to be known of data, from where they are read."""
    warnings.warn(DataWarning(text), stacklevel=3)


def _labels_by_image(part: Part) -> dict[bytes, list[int]]:
    """Digest of the pixels -> the labels of all images that have them."""
    found: dict[bytes, list[int]] = defaultdict(list)
    images = part.pixels.contiguous().numpy()
    for image, label in zip(images, part.labels.tolist(), strict=True):
        found[hashlib.blake2b(image.data, digest_size=16).digest()].append(label)
    return found
