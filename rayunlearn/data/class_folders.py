"""Images in one folder for each class, as torchvision's ImageFolder has them: `train/cat/a.png`.

The classes' numbers are the places of their names in `classes.txt`, or else in the sorted names of the
training part's folders, numbers in the order of their values.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from rayunlearn.data.class_lists import listed_in, places
from rayunlearn.data.files import files_below, listed
from rayunlearn.data.pixel_store import PixelWriter
from rayunlearn.data.raw import Part, Parts, tell
from rayunlearn.errors import BadInput, DataWarning
from rayunlearn.preprocessing import Preprocessing

TEST_FOLDERS = ("test", "val", "validation", "valid")
"""The first that is there is the test part."""


def read_class_folders(
    folder: Path,
    name: str,
    needed: str,
    class_names: tuple[str, ...] | None = None,
    how: Preprocessing | None = None,
) -> Parts:
    """The training part and, where there is such a folder, the test part.

    Args:
        folder: with `train` and maybe a folder of `TEST_FOLDERS`, or with the folders of the classes.
        name: of the data set, for messages.
        needed: what the folder may hold, for messages.
        class_names: of the classes 0, 1, ..., where they are known; folders go by them.
        how: the preprocessing that is stated.

    Raises:
        BadInput: there is no image, a folder is of no class that is known, an image cannot be read or is of
            another shape.
    """
    train = folder / "train"
    if not train.is_dir():
        train, test = folder, None
    else:
        there = [folder / title for title in TEST_FOLDERS if (folder / title).is_dir()]
        test = there[0] if there else None
        if test is not None and test.name != TEST_FOLDERS[0]:
            tell(f"{name}: the folder {test.name} was taken for the test part")
        if left := [place.name for place in there[1:]]:
            tell(f"{name}: folders that are of neither part were not read: {listed(left)}")
    own = _folders(train)
    if not own:
        raise BadInput("folder", str(folder), needed, where=name)
    known = class_names or listed_in(folder, name)
    known = known or tuple(sorted(own, key=lambda c: (int(c), c) if c.isdecimal() else (-1, c)))
    first = _read(train, name, known, None, how)
    if test is None:
        return first, None
    return first, _read(test, name, known, tuple(first.pixels.shape[1:]), how)


def _folders(part: Path) -> list[str]:
    if not part.is_dir():
        return []
    return sorted(place.name for place in part.iterdir() if place.is_dir() and not place.name.startswith("."))


def _read(
    part: Path,
    name: str,
    known: tuple[str, ...],
    shape: tuple[int, ...] | None,
    how: Preprocessing | None,
) -> Part:
    from rayunlearn.data.pixels import called_image, decode, is_image  # here, for Pillow: others need none

    images, labels, no_images = PixelWriter(name), [], []
    own = _folders(part)
    # a folder's number counts where the names are known and it has none of them
    called = [known[int(c)] if _is_number(c, known) else c for c in own]
    if len(set(called)) < len(called):
        raise BadInput(f"folders of {part.name}", own, "one for each class, by name or by number", where=name)
    if any(c not in known for c in called):
        places(called, known, f"the folders of {part.name}", name)  # says which
    for number, title in sorted((known.index(c), c_folder) for c, c_folder in zip(called, own, strict=True)):
        for file in sorted(files_below(part / title), key=str):
            place = str(file.relative_to(part))
            if not is_image(file) and not called_image(file):
                no_images.append(place)
                continue
            pixels = decode(file.read_bytes(), place, name, shape, how)
            shape = shape or pixels.shape
            images.add(pixels)
            labels.append(number)
    if no_images:
        said = f"{name}: not read were files that are no image ({len(no_images)}: {listed(no_images)})"
        warnings.warn(DataWarning(said), stacklevel=2)
    if not labels:
        allowed = "at least 1, in a folder of its class"
        raise BadInput(f"number of images in {part.name}", 0, allowed, where=name)
    return Part(images.pixels(), torch.tensor(labels, dtype=torch.int64), known)


def _is_number(folder: str, known: tuple[str, ...]) -> bool:
    return folder not in known and folder.isascii() and folder.isdecimal() and int(folder) < len(known)
