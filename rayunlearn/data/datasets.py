"""Labelled images by name: bundled, from torchvision's layouts, or from folders of Parquet shards."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePath

import numpy as np
import torch
from torch import Tensor

from rayunlearn.data.files import readable
from rayunlearn.data.parquet import count_classes, read_parquet
from rayunlearn.data.raw import Part, Parts, channel_statistics, tell_doubles
from rayunlearn.data.torchvision_layouts import read_cifar10, read_mnist, read_svhn
from rayunlearn.data_root import DATA_VARIABLE, data_root
from rayunlearn.errors import BadInput, IntegrityError, nearest
from rayunlearn.task import CIFAR10_NAMES, DIGIT_NAMES, TASKS

PARQUET_PREFIX = "parquet:"
SHARDS = "Parquet shards train*.parquet and test*.parquet"


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledImages:
    """A dataset in memory. A sample's identity is `hash` and its index.

    Attributes:
        images: normalised, `[N, C, H, W]` float32: (pixel in [0, 1] - mean) / std.
        labels: `[N]` int64 in [0, num_classes).
        name: what `load_dataset` was asked for.
        num_classes: number of classes.
        mean: per channel; a constant of the dataset's declaration, so that no split leaks into it, or
            for a Parquet folder the mean of its training part.
        std: per channel (population); likewise.
        hash: SHA-256 over the raw pixels and the labels, 64 hex digits.
        official_test_ids: the publisher's test part, ascending, where there is one.
        class_names: of the classes 0, 1, ..., where the publisher or the files say them.
    """

    images: Tensor
    labels: Tensor
    name: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hash: str
    official_test_ids: Tensor | None = None
    class_names: tuple[str, ...] | None = None


def load_dataset(name: str) -> LabelledImages:
    """The dataset of that name; all but "digits" are read from below $RAYUNLEARN_DATA (see `data_root`).

    - "digits": 1797 images 8x8, bundled with scikit-learn.
    - "mnist": from mnist/ in torchvision's layout.
    - "cifar10": from cifar10/ in torchvision's layout, else as a Parquet folder.
    - "svhn": the cropped digits, from svhn/ in torchvision's layout, else as a Parquet folder.
    - "parquet:<folder>": any other dataset, from the Parquet folder of that path below $RAYUNLEARN_DATA
      (`rayunlearn.data.parquet` has the form). Classes are 0..largest label. Mean and std are of the
      training part; without test shards that is every image, whatever is held out of them later.

    However many images the files hold are taken: the publishers' counts are not asked for. The last
    dataset is kept in the process, and given again without a look at its files; its tensors are shared, so
    clone what is to be changed. What was left out of a folder, and what is there twice, comes as a
    `DataWarning` at the first call.

    Raises:
        BadInput: the name is unknown, or the data are not where the environment says, or not as they
            should be; test images are training images too.
        IntegrityError: someone wrote into the shared tensors (by torch; writes through numpy go unnoticed).
    """
    if name not in DATASETS and not str(name).startswith(PARQUET_PREFIX):
        raise BadInput("dataset", name, f"{nearest(str(name), DATASETS)}, or {PARQUET_PREFIX}<folder>")
    dataset, versions = _load(name, data_root(name.removeprefix(PARQUET_PREFIX), name))
    if _versions(dataset) != versions:
        raise IntegrityError(f"images or labels of {name} were changed in place; clone what is to be changed")
    return dataset


def not_there(name: str) -> str | None:
    """Why a dataset cannot be opened here: no folder is named, or it is not there; None where it may be.

    Whether it can be read is not looked at.
    """
    if name == "digits":
        return None
    inside = name.removeprefix(PARQUET_PREFIX)
    root = data_root(inside, name)
    if root is None:
        return f"the environment variable {DATA_VARIABLE} names no folder for {name!r}"
    folder = Path(root) / inside
    return None if folder.is_dir() else f"there is no folder {str(folder)!r} for {name!r}"


def content_hash(pixels: Tensor, labels: Tensor) -> str:
    """SHA-256 over raw uint8 pixels `[N, C, H, W]` and int64 labels `[N]`, with their shapes."""
    digest = hashlib.sha256()
    for tensor in (pixels, labels):
        array = tensor.contiguous().numpy()
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{tensor.dtype}{list(tensor.shape)}:".encode())
        digest.update(array.reshape(-1).view("uint8").data)
    return digest.hexdigest()


# One dataset, not more: CIFAR-10 takes 740 MB, in each process that trains.
@functools.lru_cache(maxsize=1)
@torch.inference_mode(mode=False)  # what is shared must do for callers that train too
def _load(name: str, root: str | None) -> tuple[LabelledImages, tuple[int, ...]]:
    """The dataset below this root, and the versions of its tensors."""
    with readable(name, str(root)):
        dataset = DATASETS[name](root) if name in DATASETS else _parquet(name, root)
    return dataset, _versions(dataset)


def _versions(dataset: LabelledImages) -> tuple[int, ...]:
    """How often torch has written into each tensor or a view of it."""
    tensors = (dataset.images, dataset.labels, dataset.official_test_ids)
    return tuple(t._version for t in tensors if t is not None)


def _digits(root: str | None) -> LabelledImages:
    """scikit-learn's copy of the UCI optical digits (test part): 1797 images 8x8, pixels 0..16.

    Its file is read without it: in many a process nothing else needs scikit-learn, whose import takes as
    long as torch's.
    """
    package = find_spec("sklearn")
    assert package is not None and package.origin is not None  # a dependency
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    pixels = torch.from_numpy(table[:, :-1]).to(torch.uint8).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(table[:, -1]).to(torch.int64)
    parts = Part(pixels, labels), None
    return _declared("digits", parts, white=16)


def _mnist(root: str | None) -> LabelledImages:
    """MNIST (LeCun et al. 1998): the training images, then the test images; 60000 and 10000 published."""
    parts = read_mnist(_folder(root, "mnist", "MNIST/raw/ as torchvision lays MNIST out"))
    return _declared("mnist", parts)


def _cifar10(root: str | None) -> LabelledImages:
    """CIFAR-10 (Krizhevsky 2009): the training images, then the test images; 50000 and 10000 published.

    Mean and std are of the published training images.
    """
    needed = f"cifar-10-batches-py/ or cifar-10-python.tar.gz, as torchvision has them, or {SHARDS}"
    folder = _folder(root, "cifar10", needed)
    parts = read_cifar10(folder) or _parquet_32x32(folder, "cifar10", needed, CIFAR10_NAMES)
    return _declared("cifar10", parts)


def _svhn(root: str | None) -> LabelledImages:
    """SVHN's cropped digits (Netzer et al. 2011): the training images, then the test images.

    Published are 73257 and 26032; the 531131 further ones are not read. Mean and std are of the published
    training images.
    """
    needed = f"train_32x32.mat and test_32x32.mat, as torchvision has them, or {SHARDS}"
    folder = _folder(root, "svhn", needed)
    parts = read_svhn(folder) or _parquet_32x32(folder, "svhn", needed, DIGIT_NAMES)
    return _declared("svhn", parts)


def _parquet_32x32(folder: Path, name: str, needed: str, class_names: tuple[str, ...]) -> Parts:
    """A published dataset, both parts, as a Parquet folder."""
    parts = train, test = read_parquet(
        folder, name, needed, num_classes=len(class_names), class_names=class_names
    )
    if test is None:
        raise BadInput("folder", str(folder), needed, where=name)
    shape = list(train.pixels.shape[1:])
    if shape != [3, 32, 32]:
        raise BadInput("shape of the images", shape, "[3, 32, 32]: channels, height, width", where=name)
    return parts


def _parquet(name: str, root: str | None) -> LabelledImages:
    """The Parquet folder that the name says."""
    inside = name.removeprefix(PARQUET_PREFIX)
    if not inside or PurePath(inside).is_absolute() or ".." in PurePath(inside).parts:
        raise BadInput("dataset", name, f"{PARQUET_PREFIX}<folder>, its path below ${DATA_VARIABLE}")
    needed = "train*.parquet and, where there is a test part, test*.parquet"
    parts = read_parquet(_folder(root, name, needed), name, needed)
    mean, std = channel_statistics(parts[0].pixels)
    if 0.0 in std:
        allowed = "above 0: a channel that is the same everywhere cannot be normalised"
        raise BadInput("standard deviation of each channel", std, allowed, where=name)
    counted = count_classes(parts, name)
    return _labelled(name, parts, parts[0].class_names or counted, mean=mean, std=std)


def _folder(root: str | None, name: str, needed: str) -> Path:
    """The dataset's folder below the root; its reader says what is missing there."""
    inside = name.removeprefix(PARQUET_PREFIX)
    if not root:
        allowed = f"a folder with {inside}/, which holds {needed}; set it"
        raise BadInput(f"environment variable {DATA_VARIABLE}", root, allowed, where=name)
    return Path(root) / inside


def _declared(name: str, parts: Parts, white: int = 255) -> LabelledImages:
    """Parts of a data set that is known by name, normalised by what is declared of it."""
    task = TASKS[name]
    assert task.class_names is not None, "the classes of each of them have names"
    mean, std = task.input.mean, task.input.std
    return _labelled(name, parts, task.class_names, mean=mean, std=std, white=white)


def _labelled(
    name: str,
    parts: Parts,
    classes: tuple[str, ...] | int,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    white: int = 255,
) -> LabelledImages:
    """Join the parts and normalise their pixels, of which `white` is the greatest value.

    `classes` are their names, or how many there are.
    """
    tell_doubles(parts, name)
    train, test = parts
    pixels, labels = train.pixels.contiguous(), train.labels
    test_ids = None
    if test is not None:
        pixels = torch.cat([train.pixels, test.pixels]).contiguous()
        labels = torch.cat([train.labels, test.labels])
        test_ids = torch.arange(len(train.labels), len(labels))
    shape = (1, len(mean), 1, 1)
    # in place: a second copy of the images would be four times the raw pixels again
    images = pixels.to(torch.float32).div_(white)
    images.sub_(torch.tensor(mean).view(shape)).div_(torch.tensor(std).view(shape))
    return LabelledImages(
        images=images,
        labels=labels,
        name=name,
        num_classes=classes if isinstance(classes, int) else len(classes),
        mean=mean,
        std=std,
        hash=content_hash(pixels, labels),
        official_test_ids=test_ids,
        class_names=None if isinstance(classes, int) else classes,
    )


DATASETS: dict[str, Callable[[str | None], LabelledImages]] = {
    "digits": _digits,
    "mnist": _mnist,
    "cifar10": _cifar10,
    "svhn": _svhn,
}
