"""Datasets as torchvision lays them out on disk, read by torchvision's own classes and never downloaded."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import torch

from rayunlearn.data.raw import Part, Parts
from rayunlearn.errors import BadInput

MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def read_mnist(folder: Path) -> Parts:
    """MNIST from `folder`/MNIST/raw, where each file may be decompressed already.

    Raises:
        BadInput: a file is missing, or is no gzip or no idx.
    """
    raw = folder / "MNIST" / "raw"
    absent = [f for f in MNIST_FILES if not (raw / f"{f}.gz").is_file() and not (raw / f).is_file()]
    if absent:
        allowed = f"MNIST's files, each with or without .gz; missing: {', '.join(absent)}"
        raise BadInput("folder", str(raw), allowed, where="mnist")
    # the given folder may be read-only: torchvision reads a decompressed copy
    with tempfile.TemporaryDirectory(prefix="rayunlearn-mnist-") as copy:
        copy_raw = Path(copy) / "MNIST" / "raw"
        copy_raw.mkdir(parents=True)
        for file in MNIST_FILES:
            _decompress(raw, file, copy_raw / file)
        return _mnist_part(copy, train=True), _mnist_part(copy, train=False)


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


def _mnist_part(root: str, *, train: bool) -> Part:
    from torchvision.datasets import MNIST

    try:
        part = MNIST(root, train=train, download=False)
    # its parser's ways to fail on bytes that are not idx
    except (AssertionError, ValueError, IndexError, KeyError, RuntimeError) as error:
        files = "training files" if train else "test files"
        allowed = f"MNIST's own idx files ({type(error).__name__} {error})"
        raise BadInput(files, "unreadable", allowed, where="mnist") from error
    return Part(part.data.unsqueeze(1), part.targets.to(torch.int64))


def read_cifar10(folder: Path) -> Parts | None:
    """CIFAR-10 from `folder`/cifar-10-batches-py, or from the archive that it comes in; None without both.

    The batches are pickles, which can run code when they are read: none is opened before the md5 sums of
    all are found to be the published ones (and torchvision makes the same check again).

    Raises:
        BadInput: a file is missing or not the published one.
    """
    from torchvision.datasets import CIFAR10

    archive = folder / CIFAR10.filename
    if (folder / CIFAR10.base_folder).is_dir():
        return _cifar10_batches(folder)
    if not archive.is_file():
        return None
    _check_published(folder, [(archive.name, CIFAR10.tgz_md5)], "cifar10")
    with tempfile.TemporaryDirectory(prefix="rayunlearn-cifar10-") as copy:
        with tarfile.open(archive) as packed:
            packed.extractall(copy, filter="data")
        return _cifar10_batches(Path(copy))


def _cifar10_batches(folder: Path) -> Parts:
    from torchvision.datasets import CIFAR10

    meta = (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    files = [(name, md5) for name, md5 in (*CIFAR10.train_list, *CIFAR10.test_list, meta)]
    _check_published(folder / CIFAR10.base_folder, files, "cifar10")
    return _cifar10_part(folder, train=True), _cifar10_part(folder, train=False)


def _cifar10_part(folder: Path, *, train: bool) -> Part:
    from torchvision.datasets import CIFAR10

    part = CIFAR10(str(folder), train=train, download=False)
    return Part(torch.from_numpy(part.data).permute(0, 3, 1, 2), torch.tensor(part.targets))


def read_svhn(folder: Path) -> Parts | None:
    """SVHN's cropped digits from train_32x32.mat and test_32x32.mat; None without both.

    The label is the digit: torchvision turns the files' 10 into 0. The files are read once their md5 sums
    are found to be the published ones.

    Raises:
        BadInput: a file is missing or not the published one.
    """
    from torchvision.datasets import SVHN

    files = [(name, md5) for _, name, md5 in (SVHN.split_list["train"], SVHN.split_list["test"])]
    if not any((folder / name).is_file() for name, _ in files):
        return None
    _check_published(folder, files, "svhn")
    return _svhn_part(folder, "train"), _svhn_part(folder, "test")


def _svhn_part(folder: Path, split: str) -> Part:
    from torchvision.datasets import SVHN

    part = SVHN(str(folder), split=split, download=False)
    return Part(torch.from_numpy(part.data), torch.from_numpy(part.labels))


def _check_published(folder: Path, files: Iterable[tuple[str, str]], where: str) -> None:
    """Refuse files that are missing or whose md5 sums are not the published ones."""
    from torchvision.datasets.utils import check_integrity

    wrong = [name for name, md5 in files if not check_integrity(str(folder / name), md5)]
    if wrong:
        allowed = "the published files; missing, incomplete or changed: " + ", ".join(wrong)
        raise BadInput("folder", str(folder), allowed, where=where)
