"""The pixels of an image file as whoever looks at it sees them, or a refusal.

A decoder changes pixels without a word where a file holds more than it can give: it takes the high bytes of
16-bit colours, the first of several frames, the colours of transparent pixels. Such files are refused. What
can be turned into 8 bits of grey or RGB without a loss is taken: 1, 2 and 4 bits, palettes, an alpha channel
that is opaque everywhere, an orientation that a camera noted.

What no checksum covers cannot be seen: of all formats only PNG has one, and a JPEG with a changed byte in its
middle is an image.
"""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rayunlearn.data.geometry import channels_first, prepared
from rayunlearn.errors import BadInput
from rayunlearn.preprocessing import Preprocessing

# Formats of whole, still images that are known by their first bytes. Of what Pillow reads besides, some needs
# other programs, and some takes files for images that are none.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
IMAGES = "the bytes of a BMP, GIF, JPEG, PNG, PPM, TIFF or WebP file"
# of Pillow's modes: what is made of them, and how many channels that has
MODES = {
    "1": ("L", 1), "L": ("L", 1), "LA": ("L", 1), "RGB": ("RGB", 3), "RGBA": ("RGB", 3),
    "P": ("RGB", 3), "PA": ("RGB", 3),
}  # fmt: skip
# Pillow's ways to fail on the bytes of an image that is not whole
_DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, OverflowError, struct.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
_BITS_PER_SAMPLE, _SAMPLE_FORMAT, _UNSIGNED = 258, 339, 1  # tags of TIFF, and a value


def is_image(file: Path) -> bool:
    """Whether a file begins as an image of a format that is read; the rest of it may be damaged."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file, formats=FORMATS):
            return True
    except UnidentifiedImageError:
        return False
    except _DAMAGED:
        return True


def called_image(file: Path) -> bool:
    """Whether a file's name ends as those of images do."""
    return file.suffix.lower() in Image.registered_extensions()


def decode(
    content: bytes | None,
    place: str,
    name: str,
    shape: tuple[int, ...] | None = None,
    how: Preprocessing | None = None,
) -> np.ndarray:
    """The pixels [C, H, W] uint8 of an image file, upright: grey has one channel, colours have three.

    A palette of greys alone is grey, but where three channels are asked for. Colour profiles and gamma are
    not applied.

    Args:
        content: the bytes of the file.
        place: where it was found, for messages.
        name: of the dataset, for messages.
        shape: that it has to have, after the preprocessing; None takes any square, and with a preprocessing
            any shape.
        how: the preprocessing that is stated; None takes images as they are.

    Raises:
        BadInput: it is no image, not whole, not square, of another shape, has several frames, more than 8
            bits per channel, colours other than grey and RGB, or transparent pixels; or it is smaller than
            the crop.
    """
    thing = f"image in {place}"
    if content is None:
        raise BadInput(thing, None, "the bytes of an image; paths are not followed", where=name)
    try:
        # of a size between suspicious and refused Pillow only warns; its other warnings are of no pixels
        with warnings.catch_warnings(action="ignore"):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                unfit = _unfit(image, shape, how)
                seen = None if unfit else _seen(image, shape)
    except UnidentifiedImageError as error:
        raise BadInput(thing, content[:8], IMAGES, where=name) from error
    except _DAMAGED as error:
        raise BadInput(thing, "damaged", f"a whole image ({error})", where=name) from error
    if unfit:
        raise BadInput(thing, *unfit, where=name)
    if seen is None:
        raise BadInput(thing, "transparent in places", "opaque: nothing says what is behind it", where=name)
    pixels = channels_first(seen if how is None else prepared(seen, how, place, name))
    if shape is not None and pixels.shape != shape:
        raise BadInput(thing, *_of_another_shape(pixels.shape, shape), where=name)
    return pixels


def _unfit(
    image: Image.Image, shape: tuple[int, ...] | None, how: Preprocessing | None
) -> tuple[object, str] | None:
    """What is wrong with an image by its header, and what is allowed; nothing was decoded yet."""
    mode, (width, height) = image.mode, image.size
    # the further pictures in a camera's JPEG are previews and depths; the first is the image
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames != 1:
        return f"of {frames} frames", "one: which of them is meant is not said"
    if mode not in MODES:
        return f"of mode {mode}", "grey (L) or RGB, 8 bits per channel"
    if _is_deep(image):
        return "of more than 8 bits per channel, or signed", "8 bits, unsigned; nothing is rounded"
    if how is not None:  # what comes of it is looked at
        return None
    if width != height:
        return f"{width}x{height}", "square; data.preprocessing.resize or .crop makes them so"
    if shape is not None and (height, width) != tuple(shape[1:]):
        return _of_another_shape((MODES[mode][1], height, width), shape)
    return None


def _of_another_shape(found: tuple[int, ...], shape: tuple[int, ...]) -> tuple[object, str]:
    allowed = f"{list(shape)} [channels, height, width]: all have one"
    if found[0] != shape[0]:
        what = "repeats grey in three channels" if shape[0] == 3 else "makes grey of colours"
        allowed += f"; data.preprocessing.channels={shape[0]} {what}"
    return list(found), allowed


def _is_deep(image: Image.Image) -> bool:
    """Whether the file holds more of each channel than the 8 bits that Pillow gives of colours."""
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]  # of its class
        signed = set(tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))) != {_UNSIGNED}
        return signed or max(tags.get(_BITS_PER_SAMPLE, (1,))) > 8
    tile = image.tile  # type: ignore[attr-defined]
    arguments = tile[0][3] if tile else ""
    if image.format == "PPM":  # (mode, greatest value) where this is not 255
        return isinstance(arguments, tuple) and int(arguments[1]) > 255
    return image.format == "PNG" and ";16" in str(arguments)


def _seen(image: Image.Image, shape: tuple[int, ...] | None) -> Image.Image | None:
    """The image upright, of mode L or RGB; None where some of it is transparent."""
    made, _ = MODES[image.mode]
    if image.mode in ("P", "PA") and (shape is None or shape[0] == 1) and _has_grey_palette(image):
        made = "L"
    ImageOps.exif_transpose(image, in_place=True)
    upright: Image.Image = image
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        if seen.getchannel("A").getextrema()[0] != 255:
            return None
        upright = seen if image.mode in ("P", "PA", "RGBA") else image
    return upright.convert(made)


def _has_grey_palette(image: Image.Image) -> bool:
    """Whether no entry of a palette is a colour: it is a grey image then, written small."""
    entries = np.array(image.getpalette("RGB")).reshape(-1, 3)
    return bool((entries == entries[:, :1]).all())
