"""What a decoder does to pixels: nothing without a word."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rayunlearn.data.pixels import FORMATS, decode, is_image
from rayunlearn.errors import BadInput

GREY = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def written(image: Image.Image, file_format: str = "PNG", **how: object) -> bytes:
    """An image file."""
    sink = io.BytesIO()
    image.save(sink, file_format, **how)
    return sink.getvalue()


def png(samples: np.ndarray, depth: int, colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand, [H, W] or [H, W, channels] of 8 or 16 bits; Pillow writes no 16-bit colours."""
    rows = samples.astype(">u2" if depth == 16 else "u1")
    size = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], depth, colour_type, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", size), *chunks, (b"IDAT", packed), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + body


def read(content: bytes, **how: object) -> np.ndarray:
    """The pixels [H, W, C], as Pillow and numpy hold them."""
    return decode(content, "row 0", "made", **how).transpose(1, 2, 0)


DEEP = np.random.default_rng(2).integers(0, 64, (8, 8, 3))
"""What a 16-bit colour image may hold whose high bytes are all 0."""
MPO = written(Image.fromarray(COLOURS), "MPO", save_all=True, append_images=[Image.fromarray(COLOURS)])


@pytest.mark.parametrize("file_format", [f for f in FORMATS if f not in ("JPEG", "GIF")])
def test_every_lossless_format_gives_its_pixels(file_format: str) -> None:
    """Grey and RGB, each to the pixel; WebP has no grey."""
    how = {"lossless": True} if file_format == "WEBP" else {}
    assert np.array_equal(read(written(Image.fromarray(COLOURS), file_format, **how)), COLOURS)
    if file_format != "WEBP":
        assert np.array_equal(read(written(Image.fromarray(GREY), file_format))[..., 0], GREY)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (written(Image.fromarray(GREY > 127)), (GREY > 127)[..., None] * 255),  # 1 bit
        (png(np.full((8, 4), 0x05), 4, 0)[:16], None),  # the control: cut off, it is refused
        (written(Image.fromarray(GREY).quantize(16, kmeans=0)), "palette"),
        (written(Image.fromarray(GREY), "GIF"), GREY[..., None]),
        (written(Image.fromarray(np.dstack([COLOURS, np.full_like(GREY, 255)]))), COLOURS),
        (written(Image.fromarray(np.dstack([GREY, np.full_like(GREY, 255)]), "LA")), GREY[..., None]),
        (png(COLOURS, 8, 2, (b"tRNS", struct.pack(">HHH", 300, 300, 300))), COLOURS),  # a colour not there
        (MPO, "jpeg"),
    ],
)
def test_what_can_be_turned_without_a_loss_is(content: bytes, expected: object) -> None:
    """1 bit as 0 and 255, palettes as their colours, alpha that is opaque, a camera's main picture."""
    if expected is None:
        with pytest.raises(BadInput, match="damaged"):
            read(content)
        return
    with Image.open(io.BytesIO(content)) as image:
        shown = np.asarray(image.convert("RGB"))
    assert np.array_equal(np.broadcast_to(read(content), (8, 8, 3)), shown)
    if not isinstance(expected, str):
        assert np.array_equal(read(content), expected)


def test_a_palette_of_greys_is_grey_but_where_colours_are_asked_for() -> None:
    """One channel by itself and where one is asked for; three where three are; a colour in it is a colour."""
    content = written(Image.fromarray(GREY).convert("P"), "GIF")
    assert np.array_equal(read(content, shape=(1, 8, 8)), GREY[..., None])
    assert np.array_equal(read(content, shape=(3, 8, 8)), np.dstack([GREY] * 3))
    colours = written(Image.fromarray(COLOURS // 64 * 64).quantize(64), "GIF")
    with pytest.raises(BadInput, match=r"is \[3, 8, 8\]; allowed: \[1, 8, 8\]"):
        read(colours, shape=(1, 8, 8))


@pytest.mark.parametrize("depth", [2, 4])
def test_few_bits_of_grey_are_spread_over_all_values(depth: int) -> None:
    """The greatest value is white whatever its bits: v / (2^bits - 1) of 255."""
    values = np.arange(8) % 2**depth
    bits = "".join(format(v, f"0{depth}b") for v in values)
    row = np.frombuffer(int(bits, 2).to_bytes(depth), dtype=np.uint8)
    image = png(np.tile(row, (8, 1)), depth, 0).replace(
        *(struct.pack(">IIB", width, 8, depth) for width in (depth, 8))
    )
    header = struct.pack(">IIBBBBB", 8, 8, depth, 0, 0, 0, 0)
    image = image[:29] + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + image[33:]
    assert np.array_equal(read(image)[..., 0], np.tile(values * 255 // (2**depth - 1), (8, 1)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_an_image_is_upright_as_its_orientation_says(orientation: int, file_format: str) -> None:
    """Written turned and noted as turned, it is read as it was; the control: unnoted, it stays turned."""
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    turned = Image.fromarray(COLOURS)
    if orientation in turns:
        turned = turned.transpose(turns[orientation])
    noted = Image.Exif()
    noted[0x0112] = orientation
    how = {"lossless": True} if file_format == "WEBP" else {}
    assert np.array_equal(read(written(turned, file_format, exif=noted.tobytes(), **how)), COLOURS)
    assert np.array_equal(read(written(turned, file_format, **how)), np.asarray(turned))


def test_a_photograph_is_upright() -> None:
    """A camera that was held upright notes 6 (a quarter to the right); the control: unnoted it lies."""
    noted = Image.Exif()
    noted[0x0112] = 6
    lying = read(written(Image.fromarray(COLOURS), "JPEG"))
    assert np.array_equal(read(written(Image.fromarray(COLOURS), "JPEG", exif=noted)), np.rot90(lying, -1))
    assert not np.array_equal(lying, np.rot90(lying, -1))


def tiff(array: np.ndarray, mode: str | None = None, **how: object) -> bytes:
    """A TIFF."""
    return written(Image.fromarray(array, mode), "TIFF", **how)


ALPHA = np.where(GREY > 0, 255, 254).astype(np.uint8)
ALPHA[0, 0] = 254
FRAMES = {"save_all": True, "append_images": [Image.fromarray(COLOURS[::-1])]}
BOMB = png(np.zeros((1, 1)), 8, 0).replace(struct.pack(">II", 1, 1), struct.pack(">II", 10_000, 10_000))
BOMB = BOMB[:29] + struct.pack(">I", zlib.crc32(BOMB[12:29])) + BOMB[33:]
ANIMATED = written(Image.fromarray(COLOURS), "PNG", **FRAMES)
SIGNED = tiff(GREY, tiffinfo={339: 2})

REFUSED = {
    "16-bit colours": (png(DEEP, 16, 2), "more than 8 bits"),
    "16-bit colours and alpha": (png(np.dstack([DEEP, DEEP[..., :1]]), 16, 6), "more than 8 bits"),
    "16-bit grey and alpha": (png(DEEP[..., :2], 16, 4), "more than 8 bits"),
    "16-bit grey": (png(DEEP[..., 0], 16, 0), "of mode I;16"),
    "16-bit TIFF": (tiff(DEEP[..., 0].astype(np.uint16)), "of mode I;16"),
    "float TIFF": (tiff(GREY.astype(np.float32)), "of mode F"),
    "32-bit TIFF": (tiff(GREY.astype(np.int32)), "of mode I'"),
    "signed TIFF": (SIGNED, "or signed"),
    "CMYK": (written(Image.fromarray(COLOURS).convert("CMYK"), "JPEG"), "of mode CMYK"),
    "16-bit PPM": (b"P6 8 8 65535\n" + DEEP.astype(">u2").tobytes(), "more than 8 bits"),
    "alpha": (written(Image.fromarray(np.dstack([COLOURS, ALPHA]))), "transparent in places"),
    "grey and alpha": (written(Image.fromarray(np.dstack([GREY, ALPHA]), "LA")), "transparent in places"),
    "a transparent colour": (
        png(COLOURS, 8, 2, (b"tRNS", struct.pack(">HHH", *COLOURS[0, 0].tolist()))), "transparent in places",
    ),
    "a transparent entry of a palette": (
        written(Image.fromarray(GREY).quantize(4), transparency=0), "transparent in places",
    ),
    "animated GIF": (written(Image.fromarray(COLOURS), "GIF", **FRAMES), "of 2 frames"),
    "animated PNG": (ANIMATED, "of 2 frames"),
    "animated WebP": (written(Image.fromarray(COLOURS), "WEBP", **FRAMES), "of 2 frames"),
    "two pages": (written(Image.fromarray(COLOURS), "TIFF", **FRAMES), "of 2 frames"),
    "a bomb": (BOMB, "damaged.*exceeds limit"),
    "not square": (written(Image.fromarray(COLOURS[:4])), "8x4"),
    "another program's": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "b'%!PS-Ado"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "said"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_changed_is_refused(content: bytes, said: str) -> None:
    """Whatever a decoder would round, drop or choose on its own: by place, value and what is allowed."""
    with pytest.raises(BadInput, match=f"^made: image in row 0 is .*{said}"):
        read(content)


def test_what_a_decoder_alone_makes_of_them() -> None:
    """The control: 16-bit colours are zeros, and of frames the first is taken; nobody would know."""
    for name, expected in (("16-bit colours", np.zeros((8, 8, 3))), ("animated PNG", COLOURS)):
        with Image.open(io.BytesIO(REFUSED[name][0])) as image:
            assert np.array_equal(np.asarray(image.convert("RGB")), expected)


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_image_that_is_cut_off_is_refused(file_format: str) -> None:
    """At whatever byte; but for the last few, which hold no pixels, and then all pixels are right."""
    content = written(Image.fromarray(COLOURS), file_format)
    whole, taken = read(content), 0
    for length in range(1, len(content)):
        try:
            found = read(content[:length])
        except BadInput:
            continue
        taken += 1
        assert np.array_equal(found, whole), length
    assert taken <= 24


def test_another_shape_is_refused_before_it_is_decoded() -> None:
    """The value is the shape that the header says: of a bomb too no pixel is made."""
    small = BOMB.replace(struct.pack(">II", 10_000, 10_000), struct.pack(">II", 9000, 9000))
    small = small[:29] + struct.pack(">I", zlib.crc32(small[12:29])) + small[33:]
    with pytest.raises(BadInput, match=r"is \[1, 9000, 9000\]; allowed: \[3, 8, 8\]"):
        read(small, shape=(3, 8, 8))
    assert read(written(Image.fromarray(COLOURS)), shape=(3, 8, 8)).shape == (8, 8, 3)


def test_an_image_is_known_by_its_content(tmp_path: Path) -> None:
    """Whatever it is called, and however little of it is there; what needs another program is none."""
    cases = {
        "a.txt": (written(Image.fromarray(GREY)), True), "b": (written(Image.fromarray(GREY), "TIFF"), True),
        "c.png": (b"text", False), "d.png": (written(Image.fromarray(GREY))[:60], True),
        "e.eps": (REFUSED["another program's"][0], False), "f.png": (b"", False),
    }  # fmt: skip
    for name, (content, expected) in cases.items():
        (tmp_path / name).write_bytes(content)
        assert is_image(tmp_path / name) is expected, name
