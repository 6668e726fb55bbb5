"""Preprocessing as others write it down: Hugging Face's `preprocessor_config.json`, timm's config.

What has no meaning here, or another meaning in two libraries, is refused by its name. Images that are
prepared in another way than in the training make every figure wrong without a word.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayunlearn.errors import BadInput
from rayunlearn.preprocessing import Preprocessing
from rayunlearn.task import height_and_width

MOST_BYTES = 2**20
_RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""
_SQUARE = ("BeitImageProcessor", "DeiTImageProcessor", "ViTImageProcessor")
"""Whose size of one number is height and width; of the others it is the shorter side."""
_SHORTEST = ("CLIPImageProcessor", "ConvNextImageProcessor")
_NOT_DONE = (
    "do_pad", "do_flip_channel_order", "do_thumbnail", "do_align_long_axis", "do_reduce_labels"
)  # fmt: skip
_LEAST_UNCROPPED = 384
"""Of ConvNext's size: from here on the image is resized to a square and not cropped."""


@dataclass(frozen=True, kw_only=True)
class PreprocessorFile:
    """What such a file says.

    Attributes:
        preprocessing: of the pixels.
        mean: per channel, of pixels in [0, 1]; None where nothing is normalised.
        std: per channel, likewise.
        size: height and width of what comes out; None where images keep their own.
    """

    preprocessing: Preprocessing
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    size: tuple[int, int] | None


def read_preprocessor(path: Path, flag: str = "--preprocessing") -> PreprocessorFile:
    """The preprocessing that a file says, or a `config.json` of timm's in which it is `pretrained_cfg`.

    Raises:
        BadInput: it cannot be read, is neither of the two, or says what is not done here.
    """
    said = json_file(path, flag)
    where = path.name
    if isinstance(said.get("pretrained_cfg"), Mapping):
        said = said["pretrained_cfg"]
    if "input_size" in said or "crop_pct" in said and "image_processor_type" not in said:
        return _timm(said, where)
    if any(key.startswith("do_") for key in said) or "image_mean" in said:
        return _hugging_face(said, where)
    allowed = "a preprocessor_config.json of Hugging Face, or a config of timm with input_size"
    raise BadInput(f"fields of {where}", sorted(said), allowed)


def json_file(path: Path, flag: str) -> dict[str, Any]:
    """The JSON object in a file that a flag names.

    Raises:
        BadInput: it cannot be read, or is something else.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise BadInput(flag, str(path), f"a file of at most {MOST_BYTES} bytes")
        said = json.loads(content)
    except OSError as error:
        raise BadInput(flag, str(path), f"a readable file ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(flag, str(path), f"a JSON object ({error})") from error
    if not isinstance(said, dict):
        raise BadInput(flag, str(path), "a JSON object")
    return said


def _hugging_face(said: Mapping[str, Any], where: str) -> PreprocessorFile:
    kind = said.get("image_processor_type") or said.get("feature_extractor_type") or ""
    kind = str(kind).removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")
    for name in _NOT_DONE:
        if said.get(name):
            raise BadInput(name, said[name], "false: that is not done here", where=where)
    factor = _number("rescale_factor", said.get("rescale_factor", 1 / 255), where)
    if not said.get("do_rescale", True) or not math.isclose(factor, 1 / 255):
        allowed = "true with rescale_factor 1/255: pixels are from 0 to 1"
        raise BadInput("do_rescale", [said.get("do_rescale", True), factor], allowed, where=where)
    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    if said.get("do_resize", "size" in said):
        resize = _size("size", said.get("size"), kind, where)
        if kind == "ConvNextImageProcessor" and isinstance(resize, int):
            share = _number("crop_pct", said.get("crop_pct") or 224 / 256, where)
            small = resize < _LEAST_UNCROPPED
            resize, crop = (int(resize / share), resize) if small else ((resize, resize), None)
    if said.get("do_center_crop"):
        crop = _crop(said.get("crop_size", said.get("size")), where)
    mean = std = None
    if said.get("do_normalize", "image_mean" in said):
        mean, std = (_numbers(name, said.get(name), where) for name in ("image_mean", "image_std"))
    resample = said.get("resample", 2)
    if resample not in _RESAMPLE:
        raise BadInput("resample", resample, "0 (nearest), 2 (bilinear) or 3 (bicubic)", where=where)
    channels = 3 if said.get("do_convert_rgb") else None
    return _said(resize, crop, _RESAMPLE[resample], channels, mean, std)


def _timm(said: Mapping[str, Any], where: str) -> PreprocessorFile:
    shape = said.get("input_size")
    if not isinstance(shape, list) or len(shape) != 3 or not all(_is_size(side) for side in shape):
        raise BadInput("input_size", shape, "channels, height and width, as [3, 224, 224]", where=where)
    channels, height, width = shape
    share = _number("crop_pct", said.get("crop_pct") or 0.875, where)
    mode = said.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise BadInput("crop_mode", mode, "center or squash", where=where)
    interpolation = said.get("interpolation", "bilinear")
    if interpolation not in _RESAMPLE.values():
        raise BadInput("interpolation", interpolation, "nearest, bilinear or bicubic", where=where)
    resized = math.floor(height / share), math.floor(width / share)
    resize: int | tuple[int, int] = resized
    if mode == "center":
        if height != width:
            allowed = "height and width alike, or crop_mode squash"
            raise BadInput("input_size", shape, allowed, where=where)
        resize = resized[0]
    mean, std = (_numbers(name, said.get(name), where) for name in ("mean", "std"))
    return _said(resize, (height, width), interpolation, 3 if channels == 3 else None, mean, std)


def _said(
    resize: int | tuple[int, int] | None,
    crop: int | tuple[int, int] | None,
    interpolation: Any,
    channels: Any,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> PreprocessorFile:
    size = None
    if crop is not None:
        size = height_and_width(crop)
    elif isinstance(resize, tuple):
        size = resize
    how = Preprocessing(resize=resize, crop=crop, interpolation=interpolation, channels=channels)
    return PreprocessorFile(preprocessing=how, mean=mean, std=std, size=size)


def _size(name: str, value: Any, kind: str, where: str) -> int | tuple[int, int]:
    if isinstance(value, Mapping):
        if set(value) == {"shortest_edge"} and _is_size(value["shortest_edge"]):
            return int(value["shortest_edge"])
        if set(value) == {"height", "width"} and all(map(_is_size, value.values())):
            return value["height"], value["width"]
    elif _is_size(value):
        if kind in _SQUARE:
            return value, value
        if kind in _SHORTEST:
            return int(value)
    elif isinstance(value, list) and len(value) == 2 and all(map(_is_size, value)):
        return value[0], value[1]
    allowed = '{"height": ..., "width": ...} or {"shortest_edge": ...}; one number means either'
    raise BadInput(name, value, allowed, where=where)


def _crop(value: Any, where: str) -> tuple[int, int]:
    if _is_size(value):
        return value, value
    sides = value.values() if isinstance(value, Mapping) and set(value) == {"height", "width"} else [None]
    if all(map(_is_size, sides)):
        return value["height"], value["width"]
    raise BadInput("crop_size", value, '{"height": ..., "width": ...}, or one number', where=where)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _number(name: str, value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise BadInput(name, value, "a number above 0", where=where)
    return float(value)


def _numbers(name: str, value: Any, where: str) -> tuple[float, ...]:
    fits = isinstance(value, list) and value and all(isinstance(v, int | float) for v in value)
    if not fits:
        raise BadInput(name, value, "a list of numbers, one per channel", where=where)
    return tuple(float(v) for v in value)
