"""Images in folders named by their labels: `9/a.png`, `9/b.webp`, `2/more/c`, or by the names of classes."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from rayunlearn.data.files import files_below, listed
from rayunlearn.data.pixel_store import PixelWriter
from rayunlearn.data.pixels import called_image, decode, is_image
from rayunlearn.data.raw import Part
from rayunlearn.errors import BadInput, DataWarning
from rayunlearn.preprocessing import Preprocessing


def read_image_folder(
    folder: Path,
    name: str,
    num_classes: int,
    shape: tuple[int, ...],
    class_names: tuple[str, ...] | None = None,
    how: Preprocessing | None = None,
) -> Part:
    """Every image in or below a folder of a label, in the order of label and path.

    What is an image is seen by its content, whatever its name. Files and folders whose names begin with a dot
    are passed over; what else is no image, or lies below no folder of a label, is counted in a warning.

    Args:
        folder: with the folders of labels, at any depth.
        name: of the dataset, for messages.
        num_classes: labels are below it.
        shape: of each image, [C, H, W].
        class_names: of the labels 0, 1, ..., where they are known; a folder may have such a name.
        how: the preprocessing that is stated.

    Raises:
        BadInput: no image, an image that cannot be read or is of another shape, a file that is called an
            image and is none, a label that there is not, an image in folders of two labels.
    """
    found: list[tuple[int, str, Path]] = []
    elsewhere, no_images = [], []
    for file in files_below(folder):
        place = file.relative_to(folder)
        label = _label_of(place, num_classes, class_names, name)
        if not (file.is_file() and is_image(file)):
            if label is not None and called_image(file):
                decode(_content(file, name), str(place), name, shape, how)  # says what is wrong with it
            no_images.append(str(place))
        elif label is None:
            elsewhere.append(str(place))
        else:
            found.append((label, str(place), file))
    left_out = [
        f"{what} ({len(places)}: {listed(places)})"
        for places, what in (
            (elsewhere, "images in no folder of a label"),
            (no_images, "files that are no image"),
        )
        if places
    ]
    if not found:
        allowed = "; ".join([f"at least 1 in {folder}/<label>/", *left_out])
        raise BadInput("number of images", 0, allowed, where=name)
    if left_out:
        warnings.warn(DataWarning(f"{name}: not read were {' and '.join(left_out)}"), stacklevel=2)
    found.sort(key=lambda image: image[:2])
    images = PixelWriter(name)
    for _, inside, path in found:
        images.add(decode(_content(path, name), inside, name, shape, how))
    labels = torch.tensor([label for label, _, _ in found], dtype=torch.int64)
    return Part(images.pixels(), labels, class_names)


def is_image_folder(folder: Path, class_names: tuple[str, ...] | None = None) -> bool:
    """Whether there is a file in or below a folder that is named by a label."""
    return any(
        _numbers(part, class_names)
        for file in files_below(folder)
        for part in file.relative_to(folder).parts[:-1]
    )


def _label_of(place: Path, num_classes: int, class_names: tuple[str, ...] | None, name: str) -> int | None:
    """The label that one of a file's folders is named by; None where none is."""
    named = {part: numbers for part in place.parts[:-1] if (numbers := _numbers(part, class_names))}
    labels = {number for numbers in named.values() for number in numbers}
    known = {label for label in labels if label < num_classes}
    if len(known) > 1:
        allowed = "in folders that name one label; these name " + ", ".join(map(str, sorted(known)))
        raise BadInput("image", str(place), allowed, where=name)
    if labels and not known:
        raise BadInput("folder of a label", next(iter(named)), f"0 to {num_classes - 1}", where=name)
    return next(iter(known), None)


def _numbers(part: str, class_names: tuple[str, ...] | None) -> set[int]:
    """The labels that a folder's name may mean: a number, or the name of a class."""
    numbers = {int(part)} if part.isascii() and part.isdigit() else set()
    if class_names and part in class_names:
        numbers.add(class_names.index(part))
    return numbers


def _content(file: Path, name: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadInput("file", str(file), f"a readable file ({error.strerror})", where=name) from error
