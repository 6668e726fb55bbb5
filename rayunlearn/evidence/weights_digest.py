"""The id of a version from its safetensors file, without torch: the same as `models.weights.version_id`.

Format: huggingface/safetensors, README, "Format": 8 bytes of the header's length, the header as JSON, the
tensors' bytes, little end first.
"""

from __future__ import annotations

import hashlib
import math
import os
from io import BufferedIOBase
from typing import Any

from rayunlearn.errors import BadInput
from rayunlearn.evidence.envelope import read_json

DTYPES = {
    "F64": ("float64", 8), "F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2),
    "I64": ("int64", 8), "I32": ("int32", 4), "I16": ("int16", 2), "I8": ("int8", 1), "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}  # fmt: skip
"""Type of safetensors -> the name that a version's id has for it, and its bytes."""

_LONGEST_HEADER = 100_000_000
_AT_ONCE = 1 << 20


def weights_digest(file: BufferedIOBase) -> tuple[str, str]:
    """The SHA-256 of a safetensors file, and the id of the version that it holds, both hex.

    Raises:
        BadInput: it is no whole safetensors file.
    """
    whole = hashlib.file_digest(file, "sha256").hexdigest()
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
        raise BadInput("header of the model file in bytes", length, f"2 to {size - 8}: a safetensors file")
    header = dict(read_json(file.read(length), "header of the model file"))
    header.pop("__metadata__", None)
    begin = 8 + length
    tensors = {name: _described(name, told, size - begin) for name, told in header.items()}
    places = sorted((start, end) for _, _, start, end in tensors.values() if start < end)
    if [start for start, _ in places] + [size - begin] != [0] + [end for _, end in places]:
        raise BadInput("data_offsets of the model file", places[:5], "all bytes, each of one tensor")
    digest = hashlib.sha256(b"rayunlearn-weights-1\n")
    for name in sorted(tensors, key=str.encode):
        dtype, shape, start, end = tensors[name]
        for part in (name.encode(), dtype.encode(), shape.encode()):
            digest.update(b"%d:" % len(part) + part)
        digest.update(b"%d:" % (end - start))
        file.seek(begin + start)
        for at in range(start, end, _AT_ONCE):
            digest.update(file.read(min(_AT_ONCE, end - at)))
    return whole, digest.hexdigest()


def _described(name: str, told: Any, room: int) -> tuple[str, str, int, int]:
    """Type, shape and place of a tensor."""
    try:
        dtype, width = DTYPES[told["dtype"]]
        shape = [int(n) for n in told["shape"]]
        start, end = (int(n) for n in told["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"tensor {name!r}", told, "dtype, shape and data_offsets of safetensors") from error
    if not 0 <= start <= end <= room or end - start != math.prod(shape) * width:
        raise BadInput(f"data_offsets of tensor {name!r}", [start, end], f"its bytes, within {room}")
    return dtype, ",".join(map(str, shape)), start, end
