"""Labelled images by name: the digits bundled with scikit-learn, and MNIST from a local folder."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rayunlearn.errors import BadInput, nearest

DATA_VARIABLE = "RAYUNLEARN_DATA"
MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledImages:
    """A dataset in memory. A sample's identity is `hash` and its index.

    Attributes:
        images: normalised, `[N, C, H, W]` float32: (pixel in [0, 1] - mean) / std.
        labels: `[N]` int64 in [0, num_classes).
        name: key of `DATASETS`.
        num_classes: number of classes.
        mean: per channel; a constant of the dataset's declaration, so that no split leaks into it.
        std: per channel (population); likewise.
        hash: SHA-256 over the raw pixels and the labels, 64 hex digits.
        official_test_ids: the publisher's test part, ascending, where there is one.
    """

    images: Tensor
    labels: Tensor
    name: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hash: str
    official_test_ids: Tensor | None = None


def load_dataset(name: str) -> LabelledImages:
    """The dataset of that name: "digits" (1797 images 8x8) or "mnist" (70000 images 28x28).

    Raises:
        BadInput: the name is unknown, or the data are not where the environment says.
    """
    if name not in DATASETS:
        raise BadInput("dataset", name, nearest(str(name), DATASETS))
    return DATASETS[name]()


def content_hash(pixels: Tensor, labels: Tensor) -> str:
    """SHA-256 over raw uint8 pixels `[N, C, H, W]` and int64 labels `[N]`, with their shapes."""
    digest = hashlib.sha256()
    for tensor in (pixels, labels):
        array = tensor.contiguous().numpy()
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{tensor.dtype}{list(tensor.shape)}:".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _digits() -> LabelledImages:
    """scikit-learn's copy of the UCI optical digits (test part): 1797 images 8x8, pixels 0..16."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    return _labelled("digits", pixels, labels, 10, white=16, mean=(0.3053,), std=(0.3760,))


def _mnist() -> LabelledImages:
    """MNIST (LeCun et al. 1998): the 60000 training images, then the 10000 test images."""
    root = os.environ.get(DATA_VARIABLE)
    needed = f"a folder with mnist/MNIST/raw/{MNIST_FILES[0]}.gz and so on, as torchvision lays MNIST out"
    if not root:
        raise BadInput(f"environment variable {DATA_VARIABLE}", root, f"{needed}; set it", where="mnist")
    raw = Path(root) / "mnist" / "MNIST" / "raw"
    absent = [f for f in MNIST_FILES if not (raw / f"{f}.gz").is_file() and not (raw / f).is_file()]
    if absent:
        allowed = f"{needed}; missing: {', '.join(absent)}"
        raise BadInput(f"environment variable {DATA_VARIABLE}", root, allowed, where="mnist")
    # the given folder may be read-only: torchvision reads a decompressed copy
    with tempfile.TemporaryDirectory(prefix="rayunlearn-mnist-") as copy:
        copy_raw = Path(copy) / "MNIST" / "raw"
        copy_raw.mkdir(parents=True)
        for file in MNIST_FILES:
            _decompress(raw, file, copy_raw / file)
        train_pixels, train_labels = _read_mnist(copy, train=True)
        test_pixels, test_labels = _read_mnist(copy, train=False)
    pixels = torch.cat([train_pixels, test_pixels]).unsqueeze(1)
    labels = torch.cat([train_labels, test_labels])
    test_ids = torch.arange(len(train_labels), len(labels))
    return _labelled("mnist", pixels, labels, 10, white=255, mean=(0.1307,), std=(0.3081,), test_ids=test_ids)


def _decompress(raw: Path, file: str, target: Path) -> None:
    packed = raw / f"{file}.gz"
    try:
        if packed.is_file():
            with gzip.open(packed, "rb") as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
        else:
            shutil.copyfile(raw / file, target)
    except (OSError, EOFError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        raise BadInput("file", str(packed), f"a readable gzip file ({error})", where="mnist") from error


def _read_mnist(root: str, *, train: bool) -> tuple[Tensor, Tensor]:
    from torchvision.datasets import MNIST

    try:
        part = MNIST(root, train=train, download=False)
    # its parser's ways to fail on bytes that are not idx
    except (AssertionError, ValueError, IndexError, KeyError, RuntimeError) as error:
        files = "training files" if train else "test files"
        allowed = f"MNIST's own idx files ({type(error).__name__} {error})"
        raise BadInput(files, "unreadable", allowed, where="mnist") from error
    return part.data, part.targets.to(torch.int64)


def _labelled(
    name: str,
    pixels: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    white: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    test_ids: Tensor | None = None,
) -> LabelledImages:
    """Normalise raw uint8 pixels `[N, C, H, W]`, of which `white` is the greatest value."""
    shape = (1, len(mean), 1, 1)
    scaled = pixels.to(torch.float32) / white
    images = (scaled - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    return LabelledImages(
        images=images,
        labels=labels,
        name=name,
        num_classes=num_classes,
        mean=mean,
        std=std,
        hash=content_hash(pixels, labels),
        official_test_ids=test_ids,
    )


DATASETS: dict[str, Callable[[], LabelledImages]] = {"digits": _digits, "mnist": _mnist}
