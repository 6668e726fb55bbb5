"""Map-style data sets and loaders of another's code, turned into raw pixels and labels.

What one of them may give: pairs of an image and a label, or of batches of both. An image is a Pillow image of
mode L or RGB, uint8 pixels, or floats that are whole numbers of 255ths. Normalised images are none of these:
mean and std are stated elsewhere, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from rayunlearn.data.class_lists import checked_names, places
from rayunlearn.data.geometry import channels_first, prepared_pixels
from rayunlearn.data.pixel_store import PixelWriter
from rayunlearn.data.raw import Part, tell
from rayunlearn.errors import BadInput
from rayunlearn.preprocessing import Preprocessing

_IMAGES = (
    "a Pillow image of mode L or RGB, uint8 pixels (a tensor [C, H, W] or an array [H, W, C]), or floats "
    "that are whole numbers of 255ths; mean and std are stated to rayunlearn, which applies them"
)
_ROUNDING = 1e-3


def read_samples(
    source: Any,
    title: str,
    name: str,
    class_names: tuple[str, ...] | None = None,
    shape: tuple[int, ...] | None = None,
    how: Preprocessing | None = None,
) -> Part:
    """Every sample of a data set or a loader, in its order.

    Args:
        source: with `len()` and indexing by number, or to be iterated over.
        title: of the part, for messages.
        name: of the data set, for messages.
        class_names: of the labels 0, 1, ..., where they are known; labels go by the source's own names,
            where it has some as `classes`.
        shape: of each image, [C, H, W]; None takes that of the first.
        how: the preprocessing that is stated.

    Raises:
        BadInput: naming the sample and what is wrong with it; or a loader that shuffles.
    """
    own = _names_of(source, title, name)
    known = class_names or own
    numbers = None if own is None or known is None else places(own, known, f"the {title}", name)
    if own is None and known is not None:
        tell(f"{name}: the {title} names no classes; its labels were taken for the numbers of those known")
    last = len(own or known or ()) - 1
    images, labels = PixelWriter(name), []
    for number, (image, label) in enumerate(_samples(source, title, name)):
        place = f"sample {number} of the {title}"
        found = _whole(label)
        if found is None or found < 0 or 0 <= last < found:
            allowed = f"a whole number in 0..{last}" if last >= 0 else "a whole number of at least 0"
            raise BadInput(f"label of {place}", label, allowed, where=name)
        pixels = _pixels(image, place, name)
        if how is not None:
            pixels = prepared_pixels(pixels, how, place, name)
        if shape is not None and pixels.shape != tuple(shape):
            allowed = f"{list(shape)} of all [channels, height, width]; data.preprocessing makes them so"
            raise BadInput(f"shape of {place}", list(pixels.shape), allowed, where=name)
        shape = pixels.shape
        images.add(pixels)
        labels.append(numbers[found] if numbers else found)
    if not labels:
        raise BadInput(f"number of samples of the {title}", 0, "at least 1", where=name)
    return Part(images.pixels(), torch.tensor(labels, dtype=torch.int64), known)


def _names_of(source: Any, title: str, name: str) -> tuple[str, ...] | None:
    """What a data set calls its classes; it may be inside a loader or a subset."""
    for _ in range(4):
        for attribute in ("classes", "class_names"):
            found = getattr(source, attribute, None)
            if isinstance(found, list | tuple) and found:
                return checked_names(found, f"{attribute} of the {title}", name)
        source = getattr(source, "dataset", None)
    return None


def _samples(source: Any, title: str, name: str) -> Iterator[tuple[Any, Any]]:
    """Images and labels one by one, whatever of these the source gives."""
    sampler = getattr(source, "sampler", None)
    if sampler is not None and not isinstance(sampler, torch.utils.data.SequentialSampler):
        allowed = "SequentialSampler (shuffle=False): a sample is known by its place"
        raise BadInput(f"sampler of the {title}", type(sampler).__name__, allowed, where=name)
    items = _items(source, title, name)
    for number in range(2**62):
        try:
            item = next(items)
        except StopIteration:
            return
        except BadInput:
            raise
        except Exception as error:  # another's code may fail in any way
            allowed = f"one that can be read ({type(error).__name__}: {error})"
            raise BadInput(f"item {number} of the {title}", "unreadable", allowed, where=name) from error
        if not isinstance(item, tuple | list) or len(item) != 2:
            allowed = "an image and its label, or a batch of both"
            raise BadInput(f"item {number} of the {title}", type(item).__name__, allowed, where=name)
        images, labels = item
        if isinstance(images, torch.Tensor | np.ndarray) and images.ndim == 4:
            if not isinstance(labels, torch.Tensor | np.ndarray) or len(labels) != len(images):
                allowed = f"{len(images)} labels, one for each image"
                raise BadInput(f"labels of batch {number} of the {title}", labels, allowed, where=name)
            yield from zip(images, labels, strict=True)
        else:
            yield images, labels


def _items(source: Any, title: str, name: str) -> Iterator[Any]:
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return (source[i] for i in range(len(source)))
    if hasattr(source, "__iter__"):
        return iter(source)
    allowed = "a data set with len() and indexing, or a loader to iterate over"
    raise BadInput(f"the {title}", type(source).__name__, allowed, where=name)


def _whole(label: Any) -> int | None:
    if isinstance(label, torch.Tensor | np.ndarray):
        label = label.item() if label.ndim == 0 or label.size == 1 else label
    if isinstance(label, np.integer):
        label = int(label)
    return label if isinstance(label, int) and not isinstance(label, bool) else None


def _pixels(image: Any, place: str, name: str) -> np.ndarray:
    """Pixels [C, H, W] uint8, of one channel or of three."""
    thing, found = f"image of {place}", type(image).__name__
    if isinstance(image, Image.Image):
        if image.mode not in ("L", "RGB"):
            raise BadInput(thing, f"a Pillow image of mode {image.mode}", _IMAGES, where=name)
        return channels_first(image)
    if isinstance(image, torch.Tensor):
        pixels = image.detach().cpu().numpy()
    elif isinstance(image, np.ndarray):
        pixels = image if image.ndim == 2 else image.transpose(2, 0, 1) if image.ndim == 3 else image
    else:
        raise BadInput(thing, found, _IMAGES, where=name)
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    found = f"{pixels.dtype} {list(pixels.shape)}"
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3) or not pixels.size:
        raise BadInput(thing, found, _IMAGES, where=name)
    if np.issubdtype(pixels.dtype, np.floating):
        levels = pixels.astype(np.float64) * 255
        whole = levels.round()
        # not (... <= ...), so that NaN is refused too
        if not (np.abs(levels - whole) <= _ROUNDING).all() or whole.min() < 0 or whole.max() > 255:
            found += f" from {pixels.min():.4g} to {pixels.max():.4g}"
            raise BadInput(thing, found, _IMAGES, where=name)
        return whole.astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise BadInput(thing, found, _IMAGES, where=name)
    return pixels
