"""Images in folders named by their labels: `9/a.png`, `9/b.png`, `2/c.jpg`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rayunlearn.data.parquet import decode
from rayunlearn.data.raw import Part
from rayunlearn.errors import BadInput

SUFFIXES = (".png", ".jpg", ".jpeg")


def is_image_folder(folder: Path) -> bool:
    """Whether there is a folder below it that is named by a label."""
    return any(_is_label(inside) for inside in folder.iterdir())


def read_image_folder(folder: Path, name: str, num_classes: int, shape: tuple[int, ...]) -> Part:
    """Every image in a folder's folders of labels, in the order of label and file name.

    Args:
        folder: with the folders of labels; what else is in it is not read.
        name: of the dataset, for messages.
        num_classes: labels are below it.
        shape: of each image, [C, H, W].

    Raises:
        BadInput: no image, an image that cannot be read or is of another shape, a label that there is not.
    """
    images, labels = [], []
    for inside in sorted(filter(_is_label, folder.iterdir()), key=lambda p: int(p.name)):
        label = int(inside.name)
        if label >= num_classes:
            raise BadInput("folder of a label", inside.name, f"0 to {num_classes - 1}", where=name)
        for file in sorted(f for f in inside.iterdir() if f.suffix.lower() in SUFFIXES):
            place = f"{inside.name}/{file.name}"
            try:
                content = file.read_bytes()
            except OSError as error:
                allowed = f"a readable file ({error.strerror})"
                raise BadInput("file", str(file), allowed, where=name) from error
            pixels = decode(content, place, name)
            if pixels.shape != shape:
                allowed = f"{list(shape)} [channels, height, width]: all have one"
                raise BadInput(f"image in {place}", list(pixels.shape), allowed, where=name)
            images.append(pixels)
            labels.append(label)
    if not images:
        raise BadInput("number of images", 0, f"at least 1 in {folder}/<label>/*{SUFFIXES[0]}", where=name)
    return Part(torch.from_numpy(np.stack(images)), torch.tensor(labels, dtype=torch.int64))


def _is_label(path: Path) -> bool:
    return path.is_dir() and path.name.isascii() and path.name.isdigit()
