"""Images and labels from a folder of Parquet shards, in the form that Hugging Face datasets use.

A folder holds `train*.parquet` and, where there is a test part, `test*.parquet`; the shards of a part are
read in the order of their names, and other files are not read. Each row has

- `image` (or `img`): a PNG or JPEG file's bytes, as binary or as the field `bytes` of a struct;
- `label`: a whole number from 0.

All images have one size, are square, and grey (mode L) or RGB. Other columns are not read.
"""

from __future__ import annotations

import io
import itertools
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from PIL import Image, UnidentifiedImageError

from rayunlearn.data.raw import Part, Parts
from rayunlearn.errors import BadInput

IMAGE_COLUMNS = ("image", "img")
CHANNELS = {"L": 1, "RGB": 3}  # of Pillow's modes
ROWS_AT_ONCE = 1024
# Pillow's ways to fail on the bytes of an image that is not whole
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def read_parquet(folder: Path, name: str, needed: str, *, num_classes: int | None = None) -> Parts:
    """The training part and, where there are such shards, the test part of a folder.

    Args:
        folder: of the shards.
        name: of the dataset, for messages.
        needed: what the folder may hold, for messages.
        num_classes: of the dataset, where it is known; labels are below it.

    Raises:
        BadInput: there is no training shard, a numbered shard is missing, a file is not such a Parquet
            file, or a row is not such an image and label. The message names the file and the row, from 0.
    """
    shards = {prefix: sorted(folder.glob(f"{prefix}*.parquet")) for prefix in ("train", "test")}
    if not shards["train"]:
        raise BadInput("folder", str(folder), needed, where=name)
    for files in shards.values():
        _check_complete(files, name)
    train = _read_part(shards["train"], name, num_classes, None)
    if not shards["test"]:
        return train, None
    return train, _read_part(shards["test"], name, num_classes, tuple(train.pixels.shape[1:]))


def read_shards(
    files: Sequence[Path], name: str, num_classes: int | None, shape: tuple[int, ...] | None
) -> Part:
    """Every row of these files, at least one file.

    Args:
        files: read in this order.
        name: of the dataset, for messages.
        num_classes: labels are below it, where it is known.
        shape: of each image, [C, H, W]; None takes that of the first.

    Raises:
        BadInput: as `read_parquet`.
    """
    return _read_part(files, name, num_classes, shape)


def count_classes(parts: Parts, name: str) -> int:
    """Number of classes: the largest label + 1; every part must have samples of every class.

    Raises:
        BadInput: a part lacks classes; the message names the first ten of them.
    """
    top = max(int(part.labels.max()) for part in parts if part is not None)
    for part, title in zip(parts, ("training", "test"), strict=True):
        if part is None:
            continue
        present = set(part.labels.unique().tolist())
        absent = list(itertools.islice((c for c in range(top + 1) if c not in present), 10))
        if absent:
            allowed = f"every class of 0..{top} (the largest label); absent: {', '.join(map(str, absent))}"
            raise BadInput(f"number of classes in the {title} part", len(present), allowed, where=name)
    return top + 1


def _check_complete(files: Sequence[Path], name: str) -> None:
    """Refuse shards numbered `-00001-of-00003` that are not all there, or that two numberings mix."""
    totals = {m[1] for f in files if (m := re.search(r"-\d+-of-(\d+)\.parquet$", f.name))}
    if totals and (len(totals) > 1 or len(files) != int(min(totals))):
        names = [f.name for f in files]
        raise BadInput("shards", names, f"all of one numbering ({' or '.join(sorted(totals))})", where=name)


def _read_part(
    files: Sequence[Path], name: str, num_classes: int | None, shape: tuple[int, ...] | None
) -> Part:
    """Every row of these files; `shape` [C, H, W] is asked of each image, or is that of the first."""
    last = (num_classes or torch.iinfo(torch.int64).max) - 1
    images: list[np.ndarray] = []
    labels: list[int] = []
    for file in files:
        before = len(labels)
        for row, (content, label) in enumerate(_rows(file, name)):
            place = f"row {row} of {file.name}"
            if label is None or not 0 <= label <= last:
                raise BadInput(f"label in {place}", label, f"a whole number in 0..{last}", where=name)
            pixels = decode(content, place, name)
            shape = shape or pixels.shape
            if pixels.shape != shape:
                allowed = f"{list(shape)} [channels, height, width]: all have one"
                raise BadInput(f"image in {place}", list(pixels.shape), allowed, where=name)
            images.append(pixels)
            labels.append(label)
        if len(labels) == before:
            raise BadInput(f"number of rows in {file.name}", 0, "at least 1", where=name)
    return Part(torch.from_numpy(np.stack(images)), torch.tensor(labels, dtype=torch.int64))


def _rows(file: Path, name: str) -> Iterator[tuple[bytes | None, int | None]]:
    """The image bytes and the label of each row."""
    try:
        with pq.ParquetFile(file) as shard:
            columns = _columns(shard.schema_arrow, file.name, name)
            for batch in shard.iter_batches(ROWS_AT_ONCE, columns=columns):
                image, label = (batch.column(column) for column in columns)
                if pa.types.is_struct(image.type):
                    image = pc.struct_field(image, "bytes")
                yield from zip(image.to_pylist(), label.to_pylist(), strict=True)
    except (pa.ArrowException, OSError) as error:
        raise BadInput("file", str(file), f"a readable Parquet file ({error})", where=name) from error


def _columns(schema: pa.Schema, file: str, name: str) -> list[str]:
    """The names of the image and of the label column."""
    found = [c for c in IMAGE_COLUMNS if c in schema.names][:1] + [c for c in ("label",) if c in schema.names]
    if len(found) < 2:
        raise BadInput(f"columns of {file}", schema.names, "image (or img) and label among them", where=name)
    image, label = (schema.field(c).type for c in found)
    content = image
    if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0:
        content = image.field("bytes").type
    if not (pa.types.is_binary(content) or pa.types.is_large_binary(content)):
        allowed = "binary, or a struct with binary bytes"
        raise BadInput(f"{found[0]} in {file}", str(image), allowed, where=name)
    if not pa.types.is_integer(label):
        raise BadInput(f"label in {file}", str(label), "a whole-number type", where=name)
    return found


def decode(content: bytes | None, place: str, name: str) -> np.ndarray:
    """The pixels [C, H, W] uint8 of a PNG or JPEG file, as they are stored in it."""
    thing = f"image in {place}"
    if content is None:
        raise BadInput(thing, None, "the bytes of an image; paths are not followed", where=name)
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            mode, (width, height) = image.mode, image.size
            pixels = np.asarray(image)
    except UnidentifiedImageError as error:
        raise BadInput(thing, content[:8], "the bytes of a PNG or JPEG file", where=name) from error
    except DAMAGED as error:
        raise BadInput(thing, "damaged", f"a whole PNG or JPEG file ({error})", where=name) from error
    if mode not in CHANNELS:
        raise BadInput(thing, f"of mode {mode}", "grey (L) or RGB", where=name)
    if width != height:
        raise BadInput(thing, f"{width}x{height}", "square", where=name)
    return pixels.reshape(height, width, CHANNELS[mode]).transpose(2, 0, 1)
