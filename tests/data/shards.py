"""Small Parquet shards of images."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

FORMS = {
    "struct": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "binary": pa.binary(),
    "large binary": pa.large_binary(),
}


def packed(pixels: Tensor, file_format: str = "PNG", **how: object) -> bytes:
    """An image file of pixels [C, H, W] uint8: grey of one channel, else RGB or, of four, RGBA."""
    array = pixels.permute(1, 2, 0).squeeze(2).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, file_format, **how)
    return buffer.getvalue()


def random_pixels(count: int, channels: int = 3, size: int = 4, seed: int = 0) -> Tensor:
    """Noise, [count, channels, size, size] uint8."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), generator=draw, dtype=torch.uint8)


def write_shard(
    file: Path,
    images: Sequence[bytes | None],
    labels: Sequence[int | None],
    *,
    form: str = "struct",
    column: str = "image",
    label_type: str = "int64",
    names: Sequence[str] | None = None,
) -> None:
    """A Parquet file with these image files, labels and an `index` column, as Hugging Face datasets have.

    The names of the classes stand in Hugging Face's metadata, where there are some.
    """
    content = [{"bytes": image, "path": None} for image in images] if form == "struct" else list(images)
    columns = {
        column: pa.array(content, FORMS[form]),
        "label": pa.array(labels, getattr(pa, label_type)()),
        "index": pa.array(range(len(labels)), pa.int32()),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file)
