"""What users give as data: image files, folders of Parquet shards, folders of examples.

Here most cases are well made and say something odd. A right answer is a refusal, or every image with its own
pixels and label; whatever is missing, or there twice, has been told.
"""

from __future__ import annotations

import io
import json
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from hypothesis import strategies as st
from PIL import Image

from benchmarks.fuzz.kinds import Answer, Kind, scratch
from benchmarks.fuzz.mutations import mangled
from rayunlearn.data.image_folder import read_image_folder
from rayunlearn.data.parquet import read_parquet
from rayunlearn.data.pixels import decode
from rayunlearn.data.raw import Part, tell_doubles
from rayunlearn.errors import DataWarning

CLASSES = ("cat", "dog", "owl")

# image files

SIDE = 6
LOSSLESS = ("BMP", "GIF", "PNG", "PPM", "TIFF", "WEBP")
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """An image file.

    Attributes:
        made: how it was made.
        content: its bytes.
        seen: the pixels [C, H, W] that it shows; None where 8 bits of grey or RGB cannot hold all of it.
    """

    made: tuple[object, ...]
    content: bytes
    seen: np.ndarray | None

    def __repr__(self) -> str:
        """How it was made, and what there is now."""
        return f"{self.made}: {self.content[:200]!r}"


def deep_png(samples: np.ndarray) -> bytes:
    """A PNG of 16 bits, [H, W] or [H, W, 3 or 4]: Pillow writes no colours of so many."""
    kind = {2: 0, 3: {3: 2, 4: 6}.get(samples.shape[-1], 0)}[samples.ndim]
    height, width = samples.shape[:2]
    rows = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples))
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    """An image of some format, depth and kind; some are cut off, some PNGs, which have checksums, changed."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    what = draw(
        st.sampled_from(["grey", "colours", "few colours", "bits", "alpha", "deep", "float", "frames"])
    )
    form = draw(st.sampled_from(LOSSLESS))
    noise = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    seen: np.ndarray | None = noise
    how: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    if what in ("deep", "float"):
        form = "PNG" if what == "deep" else "TIFF"
        deep = rng.integers(
            0, draw(st.sampled_from([64, 4096, 65536])), (SIDE, SIDE, draw(st.integers(3, 4)))
        )
        made = deep_png(deep if draw(st.booleans()) else deep[..., 0])
        if what == "float":
            made = _saved(Image.fromarray(deep[..., 0].astype(np.float32)), form)
        return Picture((what, form), made, None)
    if what == "grey" and form != "WEBP":
        image = Image.fromarray(noise[..., 0])
        seen = noise[..., :1]
    elif what == "bits" and form in ("PNG", "TIFF"):
        image = Image.fromarray(noise[..., 0] > 127)
        seen = (noise[..., :1] > 127).astype(np.uint8) * 255
    elif form == "GIF" or (what == "few colours" and form not in ("PPM", "WEBP")):
        image = Image.fromarray(noise // 128 * 128).quantize(8)
        seen = np.asarray(image.convert("RGB"))
    elif what == "alpha" and form in ("PNG", "TIFF", "WEBP"):
        opaque = draw(st.booleans())
        alpha = np.full((SIDE, SIDE), 255, dtype=np.uint8)
        alpha[0, 0] = 255 if opaque else draw(st.integers(0, 254))
        image, seen = Image.fromarray(np.dstack([noise, alpha])), noise if opaque else None
        how |= {"exact": True} if form == "WEBP" else {}
    else:
        image = Image.fromarray(noise)
    if what == "frames" and form in ("GIF", "PNG", "TIFF", "WEBP"):
        how |= {"save_all": True, "append_images": [Image.fromarray(255 - noise)]}
        seen = None
    turn = draw(st.sampled_from([1, *TURNS]))
    if form in ("PNG", "TIFF", "WEBP") and what != "frames" and turn > 1:
        noted = Image.Exif()
        noted[0x0112] = turn
        image = image.transpose(TURNS[turn])
        how["exif"] = noted.tobytes()
    content = _saved(image, form, **how)
    change = draw(st.sampled_from(["no", "no", "cut", "bytes"]))
    if change == "cut":
        content = content[: draw(st.integers(0, len(content) - 1))]
    elif change == "bytes" and form == "PNG":  # of the others no checksum tells
        changed = draw(mangled(content))
        # what is changed before the pixels may make it another, whole image
        content = changed if changed[:60] == content[:60] else content
    return Picture((what, form, turn, change), content, None if seen is None else seen.transpose(2, 0, 1))


def _saved(image: Image.Image, form: str, **how: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **how)
    return sink.getvalue()


def _decoded(case: Picture) -> Answer:
    found = decode(case.content, "row 0", "made")
    if case.seen is None:
        return Answer(wrong=["something of it was thrown away"])
    grey = len(found) == 1 and len(case.seen) == 3  # a palette of greys
    same = np.array_equal(np.repeat(found, 3, 0) if grey else found, case.seen)
    return Answer(wrong=[] if same else ["other pixels"])


IMAGES = Kind(name="image files", cases=pictures(), read=_decoded)


# folders of Parquet shards

TRAIN, TEST = 12, 6


@dataclass(frozen=True)
class Shard:
    """A Parquet file: which images, and the names of the classes in the order of its numbers."""

    name: str
    images: tuple[int, ...]
    names: tuple[str, ...] | None


def _class(image: int) -> str:
    return CLASSES[image % len(CLASSES)]


def tile(image: int) -> bytes:
    """A PNG that shows a number."""
    return _saved(Image.fromarray(np.full((4, 4), image, dtype=np.uint8)), "PNG")


@st.composite
def shards(draw: st.DrawFn) -> tuple[Shard, ...]:
    """A folder's shards, whole or with one missing, twice, in the wrong place or under another name."""
    found: list[Shard] = []
    for part, images in (("train", range(TRAIN)), ("test", range(TRAIN, TRAIN + TEST))):
        count = draw(st.integers(1, 3))
        suffix = draw(st.sampled_from(["", "-0a1b2c3d", " copy"]))
        for i in range(count):
            name = f"{part}-{i:05d}-of-{count:05d}{suffix}.parquet"
            if count == 1 and draw(st.booleans()):
                name = f"{part}.parquet"
            order = tuple(draw(st.permutations(CLASSES))) if draw(st.booleans()) else CLASSES
            found.append(Shard(name, tuple(images[i::count]), order))
    if draw(st.integers(0, 3)) == 0:
        found = [Shard(s.name, s.images, None) for s in found]
    for _ in range(draw(st.integers(0, 2))):
        i = draw(st.integers(0, len(found) - 1))
        shard = found[i]
        stem = shard.name.removesuffix(".parquet")
        change = draw(st.sampled_from(["drop", "twice", "copy", "move", "rename", "names"]))
        if (
            change == "drop"
            and "-of-" in shard.name
            and len(found) > 1
            and not shard.name.endswith("00001.parquet")
        ):
            del found[i]
        elif change in ("twice", "copy"):
            more = draw(st.sampled_from([" (1)", "-9f8e7d6c", " - copy", "_2"]))
            found.append(Shard(f"{stem}{more}.parquet", shard.images, shard.names))
        elif change == "move":
            other = {"train": "test", "test": "train"}[stem[:4] if stem[:4] == "test" else "train"]
            found.append(
                Shard(
                    f"{other}{draw(st.sampled_from(['-more', '', '-set']))}.parquet",
                    shard.images,
                    shard.names,
                )
            )
        elif change == "rename":
            word = draw(
                st.sampled_from(["training-set", "testing", "validation", "data/train", "._train", "extra"])
            )
            found.append(Shard(f"{word}.parquet", shard.images, shard.names))
        elif change == "names" and shard.names:
            found[i] = Shard(
                shard.name, shard.images, ("cat", "dog", draw(st.sampled_from(["emu", "dog", "Owl"])))
            )
    return tuple({shard.name: shard for shard in found}.values())


def _write(folder: Path, shard: Shard) -> None:
    names = shard.names or CLASSES
    labels = [names.index(_class(i)) if _class(i) in names else len(names) - 1 for i in shard.images]
    content = pa.array([tile(image) for image in shard.images], pa.binary())
    table = pa.table({"image": content, "label": pa.array(labels, pa.int64())})
    if shard.names is not None:
        features = {"label": {"names": list(shard.names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file = folder / shard.name
    file.parent.mkdir(exist_ok=True)
    pq.write_table(table, file)


def _read_folder(case: Sequence[Shard]) -> Answer:
    with scratch() as folder, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", DataWarning)
        for shard in case:
            _write(folder, shard)
        parts = read_parquet(folder, "made", "shards")
        tell_doubles(parts, "made")
    said = " ".join(str(w.message) for w in told)
    wrong = []
    train, test = (None if part is None else _shown(part) for part in parts)
    assert train is not None
    if {i for i, _ in train} & {i for i, _ in test or ()}:
        wrong.append("images are in both parts")
    here = {s.name for s in case}
    for title, part, ids in (("train", train, range(TRAIN)), ("test", test, range(TRAIN, TRAIN + TEST))):
        if part is None:
            continue
        strangers = {i for i, _ in part} - set(ids)
        if strangers and not any(n.startswith(title) and "-more" in n for n in here):
            wrong.append(f"{title} has {sorted(strangers)}")
        if set(ids) - {i for i, _ in part} and f"{title}.parquet" not in here:
            wrong.append(f"{title} lacks images")
        if max(Counter(i for i, _ in part).values()) > 1 and "are only" not in said:
            wrong.append(f"{title} has images twice and nobody was told")
        # what a shard writes under another name in the place of a class's is that, wherever all agree
        named = {_class(i): {s.names[-1] for s in case if s.names and _class(i) not in s.names} for i in ids}
        misnamed = [
            (i, name) for i, name in part if name is not None and name not in {_class(i), *named[_class(i)]}
        ]
        if misnamed:
            wrong.append(f"{title} has other labels: {misnamed[:3]}")
    beside = [n for n in here if not n.startswith(("train", "test", "."))]
    wrong += [f"{n} was not told" for n in beside if n not in said]
    return Answer(wrong=wrong)


def _shown(part: Part) -> list[tuple[int, str | None]]:
    """The number that each image shows, and the name of its class."""
    names = part.class_names or CLASSES
    return [
        (int(pixels[0, 0, 0]), names[label] if label < len(names) else None)
        for pixels, label in zip(part.pixels[:], part.labels.tolist(), strict=True)
    ]


PARQUET = Kind(name="Parquet folders", cases=shards(), read=_read_folder)


# folders of examples

_FOLDERS = (
    "0",
    "1",
    "02",
    "cat",
    "dog",
    "owl",
    "7",
    "thumbs",
    "1/more",
    "cat/a/b",
    "1/0",
    "x/1",
    ".cache/1",
    ".",
)
_FILES = ("a.png", "b", "c.jfif", "d.webp", "e.txt", ".f.png", "g.png.part", "h.tif")


@st.composite
def folders(draw: st.DrawFn) -> tuple[tuple[str, int | None], ...]:
    """Files by their places: images by their numbers, and what are none (None)."""
    places = draw(
        st.lists(
            st.tuples(st.sampled_from(_FOLDERS), st.sampled_from(_FILES)), min_size=1, max_size=6, unique=True
        )
    )
    return tuple(
        (str(PurePosixPath(folder, file)), draw(st.sampled_from([i, i, i, None])))
        for i, (folder, file) in enumerate(places)
    )


def _labels_said(place: str) -> set[int]:
    """The labels that a file's folders name, by a look apart from the reader's."""
    said = set()
    for part in PurePosixPath(place).parts[:-1]:
        if part in ("0", "1", "02", "7"):
            said.add(int(part))
        elif part in CLASSES:
            said.add(CLASSES.index(part))
    return said


def _read_examples(case: Sequence[tuple[str, int | None]]) -> Answer:
    with scratch() as folder, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", DataWarning)
        for place, image in case:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(b"no image" if image is None else tile(image))
        part = read_image_folder(folder, "examples", len(CLASSES), (1, 4, 4), CLASSES)
    said = " ".join(str(w.message) for w in told)
    found = dict(zip(part.pixels[:][:, 0, 0, 0].tolist(), part.labels.tolist(), strict=True))
    wrong = [] if part.pixels.dtype == torch.uint8 else ["other pixels"]
    for place, image in case:
        hidden = any(p.startswith(".") for p in PurePosixPath(place).parts)
        labels = _labels_said(place)
        if hidden and (image in found or place in said):
            wrong.append(f"{place} is hidden")
        elif not hidden and image in found and labels != {found[image]}:
            wrong.append(f"{place} has label {found[image]}")
        elif not hidden and image not in found and place not in said:
            wrong.append(f"{place} is left out and nobody was told")
    return Answer(wrong=wrong)


EXAMPLES = Kind(name="folders of examples", cases=folders(), read=_read_examples)

KINDS = (IMAGES, PARQUET, EXAMPLES)
