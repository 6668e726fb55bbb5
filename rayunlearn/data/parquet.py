"""Images and labels from a folder of Parquet or Arrow shards, in the form that Hugging Face datasets use.

A folder holds `train*.parquet` and, where there is a test part, `test*.parquet`, or the same as `.arrow`
(Arrow's file or stream format): what follows the word
begins with no letter and no digit. The shards of a part are read in the order of their names. Where they are
numbered `-00001-of-00003` all have to be there, each once, whatever follows the number. Other Parquet files
are not read, and a warning names them. Each row has

- `image` (or `img`): an image file's bytes (`rayunlearn.data.pixels`), as binary or as the field `bytes` of a
  struct;
- `label`: a whole number from 0.

Where Hugging Face's own metadata call one other column an `Image`, or one a `ClassLabel`, that is it.
All images have one size, are square, and grey or RGB, where no preprocessing is stated. Other columns are not
read. Where shards name their classes (`ClassLabel` in Hugging Face's own metadata), labels go by the names:
the numbers are those of the first shard, or of the names that are known already.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from rayunlearn.data.class_lists import checked_names, places
from rayunlearn.data.files import SHOWN, files_below, listed
from rayunlearn.data.raw import Part, Parts, tell
from rayunlearn.errors import BadInput
from rayunlearn.preprocessing import Preprocessing

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label",)
_ARROW_FILE = b"ARROW1"
ROWS_AT_ONCE = 1024
SUFFIXES = (".parquet", ".arrow")
PARTS = ("train", "test")
_NUMBERED = re.compile(r"(.*)-(\d+)-of-(\d+)(?!\d)(.*)", re.IGNORECASE | re.DOTALL)
_NAMES_SHOWN = 20


def read_parquet(
    folder: Path,
    name: str,
    needed: str,
    *,
    num_classes: int | None = None,
    class_names: tuple[str, ...] | None = None,
    how: Preprocessing | None = None,
) -> Parts:
    """The training part and, where there are such shards, the test part of a folder.

    Args:
        folder: of the shards.
        name: of the dataset, for messages.
        needed: what the folder may hold, for messages.
        num_classes: of the dataset, where it is known; labels are below it.
        class_names: of the labels 0, 1, ..., where they are known; None takes those of the first shard.
        how: the preprocessing that is stated.

    Raises:
        BadInput: there is no training shard, a numbered shard is missing or there twice, a file's name leaves
            open which part it is of, a file is not such a Parquet file, a row is not such an image and label,
            or a shard's class has a name that is not known. The message names the file and the row, from 0.
    """
    shards = _parts_of(folder, name)
    if not shards["train"]:
        raise BadInput("folder", str(folder), needed, where=name)
    for files in shards.values():
        _require_complete(files, name)
    known = class_names or _names_of_all([*shards["train"], *shards["test"]], name)
    train = read_shards(shards["train"], name, num_classes, None, known, how)
    if not shards["test"]:
        return train, None
    return train, read_shards(shards["test"], name, num_classes, tuple(train.pixels.shape[1:]), known, how)


def shards_in(folder: Path, name: str) -> list[Path]:
    """Every Parquet file in and below a folder, by path; a series of numbered ones has to be whole.

    Raises:
        BadInput: a numbered shard is missing or there twice.
    """
    files = _parquet_files(folder)
    series: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for file in files:
        if numbered := _NUMBERED.fullmatch(file.stem):
            series[file.parent, numbered[1]].append(file)
    for numbered_files in series.values():
        _require_complete(numbered_files, name)
    return files


def read_shards(
    files: Sequence[Path],
    name: str,
    num_classes: int | None,
    shape: tuple[int, ...] | None,
    class_names: tuple[str, ...] | None = None,
    how: Preprocessing | None = None,
) -> Part:
    """Every row of these files, at least one file.

    Args:
        files: read in this order.
        name: of the dataset, for messages.
        num_classes: labels are below it, where it is known.
        shape: of each image, [C, H, W]; None takes that of the first.
        class_names: of the labels 0, 1, ..., where they are known; None takes those of the first file. Files
            that name no classes have the numbers.
        how: the preprocessing that is stated.

    Raises:
        BadInput: as `read_parquet`.
        NotInstalled: Pillow, of the extra `images`.
    """
    from rayunlearn.data.pixel_store import PixelWriter
    from rayunlearn.data.pixels import decode  # here, for Pillow: other datasets need none

    images = PixelWriter(name)
    labels: list[int] = []
    known = class_names or _names_of_all(files, name)
    for file in files:
        before = len(labels)
        numbers = _numbers(file, known, name)
        last = min(len(numbers or known or ()) or math.inf, num_classes or torch.iinfo(torch.int64).max) - 1
        for row, (content, label) in enumerate(_rows(file, name)):
            place = f"row {row} of {file.name}"
            if label is None or not 0 <= label <= last:
                raise BadInput(f"label in {place}", label, f"a whole number in 0..{last}", where=name)
            pixels = decode(content, place, name, shape, how)
            shape = shape or pixels.shape
            images.add(pixels)
            labels.append(numbers[label] if numbers else label)
        if len(labels) == before:
            raise BadInput(f"number of rows in {file.name}", 0, "at least 1", where=name)
    return Part(images.pixels(), torch.tensor(labels, dtype=torch.int64), known)


def count_classes(parts: Parts, name: str) -> int:
    """Number of classes: of the names, else the largest label + 1; each part must have samples of all.

    Raises:
        BadInput: a part lacks classes; the message names the first ten of them.
    """
    names = parts[0].class_names
    top = len(names) - 1 if names else max(int(part.labels.max()) for part in parts if part is not None)
    for part, title in zip(parts, ("training", "test"), strict=True):
        if part is None:
            continue
        present = set(part.labels.unique().tolist())
        absent = list(itertools.islice((c for c in range(top + 1) if c not in present), 10))
        if absent:
            told = (f"{c} ({names[c]})" if names else str(c) for c in absent)
            why = "the last that has a name" if names else "the largest label"
            allowed = f"every class of 0..{top} ({why}); absent: {', '.join(told)}"
            raise BadInput(f"number of classes in the {title} part", len(present), allowed, where=name)
    return top + 1


def _parquet_files(folder: Path) -> list[Path]:
    """Parquet and Arrow files in and below a folder but hidden ones, by path."""
    return sorted(file for file in files_below(folder) if file.suffix.lower() in SUFFIXES)


def _parts_of(folder: Path, name: str) -> dict[str, list[Path]]:
    """The shards of each part, by name; warns of Parquet files that are of neither."""
    found: dict[str, list[Path]] = {part: [] for part in PARTS}
    left_out = []
    for file in _parquet_files(folder):
        words = re.split(r"[^a-z0-9]+", file.stem.lower())
        if file.parent != folder or not words[0].startswith(PARTS):
            left_out.append(str(file.relative_to(folder)))
        elif words[0] not in PARTS or set(PARTS) <= set(words):
            allowed = "train or test, then nothing or what is no letter and no digit; not both words"
            raise BadInput("name of a shard", file.name, allowed, where=name)
        else:
            found[words[0]].append(file)
    if left_out:
        tell(f"{name}: Parquet files that are of neither part were not read: {listed(left_out)}")
    return found


def _require_complete(files: Sequence[Path], name: str) -> None:
    """Refuse shards numbered `-00001-of-00003` of which one is missing or there twice, and two numberings."""
    found = [m for file in files if (m := _NUMBERED.fullmatch(file.stem))]
    if not found:
        return
    names, totals = [file.name for file in files], sorted({int(m[3]) for m in found})
    if len(found) < len(files) or len(totals) > 1:
        allowed = f"all of one numbering (of {' or '.join(map(str, totals))})"
        raise BadInput("shards", names, allowed, where=name)
    (total,) = totals
    there = Counter(int(m[2]) for m in found)
    first = 1 if total in there else 0  # some count from 1
    wanted = range(first, first + total)
    wrong = [f"{i} is missing" for i in itertools.islice((i for i in wanted if i not in there), SHOWN)]
    wrong += [f"{i} is there {there[i]} times" for i in sorted(there) if there[i] > 1][:SHOWN]
    wrong += [f"there is no {i}" for i in sorted(there) if i not in wanted][:SHOWN]
    if wrong:
        allowed = f"all of one numbering, {first} to {first + total - 1} once each; {', '.join(wrong)}"
        raise BadInput("shards", names, allowed, where=name)


def _names_of_all(files: Sequence[Path], name: str) -> tuple[str, ...] | None:
    """The names of the classes that the first of these shards says that says some."""
    said = {file.name: _class_names(file, name) for file in files}
    known = next(filter(None, said.values()), None)
    silent = [file for file, names in said.items() if names is None]
    if known and silent:
        told = f"shards that name no classes, beside others that do: {listed(silent)}"
        tell(f"{name}: {told}; their labels were taken for the numbers of the others")
    return known


def _numbers(file: Path, known: tuple[str, ...] | None, name: str) -> list[int] | None:
    """For each label of a shard the place of its name among the known ones; None where it names none."""
    own = _class_names(file, name)
    if own is None or known is None:
        return None
    return places(own, known, file.name, name)


def _class_names(file: Path, name: str) -> tuple[str, ...] | None:
    """The names of a shard's classes in the order of their numbers; None where it says none."""
    schema = _schema(file, name)
    thing = f"names of classes in {file.name}"
    label = _features(schema, thing, name).get(_columns(schema, file.name, name)[1])
    if not isinstance(label, dict) or label.get("_type") != "ClassLabel":
        return None
    names = label.get("names")
    if names is None:
        return None
    return checked_names(names, thing, name)


def _features(schema: pa.Schema, thing: str, name: str) -> dict[str, Any]:
    """Column -> what Hugging Face's metadata say of it; empty where they say nothing."""
    written = (schema.metadata or {}).get(b"huggingface")
    if written is None:
        return {}
    try:
        features = json.loads(written)["info"]["features"]
    except (KeyError, TypeError):  # it says something else
        return {}
    except (ValueError, RecursionError) as error:
        raise BadInput(thing, written[:_NAMES_SHOWN], f"readable JSON ({error})", where=name) from error
    return features if isinstance(features, dict) else {}


def _schema(file: Path, name: str) -> pa.Schema:
    with _readable(file, name):
        if file.suffix.lower() != ".arrow":
            return pq.read_schema(file)
        with _arrow(file) as reader:
            return reader.schema


def _arrow(file: Path) -> Any:
    """A reader of Arrow's stream format, as Hugging Face writes it, or of its file format."""
    with file.open("rb") as opened:
        is_file = opened.read(len(_ARROW_FILE)) == _ARROW_FILE
    source = pa.OSFile(str(file))  # not mapped: what was read is no part of this process any more
    return pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)


def _batches(file: Path, columns: list[str]) -> Iterator[Any]:
    if file.suffix.lower() != ".arrow":
        with pq.ParquetFile(file) as shard:
            yield from shard.iter_batches(ROWS_AT_ONCE, columns=columns)
        return
    with _arrow(file) as reader:
        if isinstance(reader, pa.ipc.RecordBatchFileReader):
            found = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            found = iter(reader)
        for batch in found:
            for first in range(0, batch.num_rows, ROWS_AT_ONCE):
                yield batch.slice(first, ROWS_AT_ONCE).select(columns)


def _rows(file: Path, name: str) -> Iterator[tuple[bytes | None, int | None]]:
    """The image bytes and the label of each row."""
    with _readable(file, name):
        columns = _columns(_schema(file, name), file.name, name)
        for batch in _batches(file, columns):
            image, label = (batch.column(column) for column in columns)
            if pa.types.is_struct(image.type):
                image = pc.struct_field(image, "bytes")
            yield from zip(image.to_pylist(), label.to_pylist(), strict=True)


@contextmanager
def _readable(file: Path, name: str) -> Iterator[None]:
    """Say of whatever Parquet's reader raises which file it is of."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        allowed = f"a readable {file.suffix[1:].capitalize()} file ({error})"
        raise BadInput("file", str(file), allowed, where=name) from error


def _columns(schema: pa.Schema, file: str, name: str) -> list[str]:
    """The names of the image and of the label column."""
    said = _features(schema, f"metadata of {file}", name)
    found: list[str] = []
    for names, kind in ((IMAGE_COLUMNS, "Image"), (LABEL_COLUMNS, "ClassLabel")):
        known = [c for c in names if c in schema.names][:1]
        typed = [c for c in schema.names if isinstance(said.get(c), dict) and said[c].get("_type") == kind]
        found += known or (typed if len(typed) == 1 else [])
    if len(found) < 2:
        allowed = "image (or img) and label among them, or one Image and one ClassLabel"
        raise BadInput(f"columns of {file}", schema.names, allowed, where=name)
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
