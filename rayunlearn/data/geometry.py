"""Preprocessing by Pillow: to the bit what torchvision's transforms give of a Pillow image."""

from __future__ import annotations

import numpy as np
from PIL import Image

from rayunlearn.errors import BadInput
from rayunlearn.preprocessing import Preprocessing
from rayunlearn.task import height_and_width

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_MODES = {1: "L", 3: "RGB"}


def prepared(image: Image.Image, how: Preprocessing, place: str, name: str) -> Image.Image:
    """An image of mode L or RGB with the channels, size and crop that are stated.

    Args:
        image: 8 bits per channel.
        how: what is stated.
        place: of the image, for messages.
        name: of the data set, for messages.

    Raises:
        BadInput: it is smaller than the crop.
    """
    if how.channels is not None:
        image = image.convert(_MODES[how.channels])
    if how.resize is not None:
        image = image.resize(_size(image.size, how.resize), RESAMPLING[how.interpolation])
    if how.crop is None:
        return image
    height, width = height_and_width(how.crop)
    if image.width < width or image.height < height:
        allowed = f"at least {height}x{width}, as data.preprocessing.crop says; state a resize before it"
        found = f"{image.height}x{image.width}"
        raise BadInput(f"height and width of the image in {place}", found, allowed, where=name)
    # round() as torchvision has it: of an odd rest the even half
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))


def prepared_pixels(pixels: np.ndarray, how: Preprocessing, place: str, name: str) -> np.ndarray:
    """`prepared` of pixels [C, H, W] uint8, grey or RGB; gives the same."""
    grid = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return channels_first(prepared(Image.fromarray(grid), how, place, name))


def channels_first(image: Image.Image) -> np.ndarray:
    """Pixels [C, H, W] uint8 of an image of mode L or RGB."""
    grid = np.asarray(image)
    return grid.reshape(*grid.shape[:2], -1).transpose(2, 0, 1)


def _size(size: tuple[int, int], wanted: int | tuple[int, int]) -> tuple[int, int]:
    """Width and height after a resize.

    >>> _size((640, 480), 256), _size((640, 480), (32, 48))
    ((341, 256), (48, 32))
    """
    if not isinstance(wanted, int):
        return wanted[1], wanted[0]
    width, height = size
    if width <= height:
        return wanted, int(wanted * height / width)
    return int(wanted * width / height), wanted
