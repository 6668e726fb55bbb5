"""Raw pixels and labels: what every reader of files gives."""

from __future__ import annotations

import hashlib
import math
import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rayunlearn.errors import BadInput, DataWarning
from rayunlearn.streamed import Pixels, chunks

# Test images that may be training images too, as a share. MNIST has none, nor have CIFAR-10 and SVHN as far
# as they were at hand. The most that was found told of a published set is 10 of Fashion-MNIST's 10000 (its
# issue 44): up to twice that is taken for the data set's own, more for a file in the wrong part.
MOST_IN_BOTH = 0.002
_DIGEST = np.dtype([("first", "<u8"), ("second", "<u8")])


class Part(NamedTuple):
    """The training or the test part of a dataset, in the publisher's order.

    Attributes:
        pixels: `[N, C, H, W]` uint8; need not be contiguous. Many of them lie in a file.
        labels: `[N]` int64.
        class_names: of the labels 0, 1, ..., where the files say them.
    """

    pixels: Pixels
    labels: Tensor
    class_names: tuple[str, ...] | None = None


Parts = tuple[Part, Part | None]
"""Training part, and test part where there is one."""


def channel_statistics(pixels: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation of pixel / 255, per channel.

    Made from whole-number sums, so that they are the same on every machine and at any number of threads.

    Args:
        pixels: `[N, C, H, W]` uint8, not empty.

    >>> channel_statistics(torch.tensor([[0, 51], [255, 51]], dtype=torch.uint8).view(2, 2, 1, 1))
    ((0.5, 0.2), (0.5, 0.0))
    """
    levels = torch.zeros(pixels.shape[1], 256, dtype=torch.int64)
    for chunk in chunks(pixels):
        for number, channel in enumerate(chunk.unbind(1)):
            levels[number] += torch.bincount(channel.flatten(), minlength=256)
    means, deviations = [], []
    for counts in levels.tolist():
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
    keys = [_digests(part.pixels) for part in parts if part is not None]
    for key, part, title in zip(keys, parts, titles, strict=False):
        assert part is not None, "the first always is there"
        _, images, counts = np.unique(key, return_inverse=True, return_counts=True)
        more = counts > 1
        if more.any():
            said = f"{counts[more].sum()} images of {title} are only {more.sum()} different ones"
            pairs = np.unique(np.stack([images, part.labels.numpy()]), axis=1)
            differ = int((np.bincount(pairs[0]) > 1).sum())
            tell(f"{name}: {said}" + (f"; {differ} of them have more than one label" if differ else ""))
    if len(keys) == 2:
        train, test = keys
        both = int(np.isin(test, train).sum())
        most = int(MOST_IN_BOTH * len(test))
        if both > most:
            allowed = f"at most {most}: the parts have no image in common, or a published set's few"
            raise BadInput("number of test images that are training images too", both, allowed, where=name)
        if both:
            tell(f"{name}: {both} test images are training images too")


def tell(text: str) -> None:
    """Warn of what is to be known of data, from where they are read."""
    warnings.warn(DataWarning(text), stacklevel=3)


def _digests(pixels: Pixels) -> np.ndarray:
    """Of each image a digest of its pixels, `[N]`: 16 bytes each."""
    found = bytearray()
    for chunk in chunks(pixels):
        for image in chunk.contiguous().numpy():
            found += hashlib.blake2b(image.data, digest_size=16).digest()
    return np.frombuffer(bytes(found), dtype=_DIGEST)
