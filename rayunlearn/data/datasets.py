"""Labelled images by name: bundled, from files in one of several layouts, or from code."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path, PurePath

import numpy as np
import torch
from torch import Tensor

from rayunlearn.data.class_lists import places
from rayunlearn.data.code import (
    is_function,
    module_is_there,
    read_function,
    read_torchvision,
    require_torchvision,
)
from rayunlearn.data.files import readable
from rayunlearn.data.parquet import count_classes, read_parquet
from rayunlearn.data.pixel_store import PixelWriter
from rayunlearn.data.raw import Part, Parts, channel_statistics, tell_doubles
from rayunlearn.data.torchvision_layouts import read_cifar10, read_mnist, read_svhn
from rayunlearn.data_root import DATA_VARIABLE, data_root
from rayunlearn.errors import BadInput, IntegrityError, nearest
from rayunlearn.preprocessing import Preprocessing
from rayunlearn.streamed import Images, StreamedImages, chunks, normalised, selected
from rayunlearn.task import CIFAR10_NAMES, DIGIT_NAMES, TASKS, per_channel

PARQUET_PREFIX = "parquet:"
SHARDS = "Parquet shards train*.parquet and test*.parquet"
TORCHVISION_PREFIX = "torchvision:"
FOLDERS = {
    PARQUET_PREFIX: "train*.parquet and, where there is a test part, test*.parquet",
    "imagefolder:": "folders of images named by their classes, maybe in train/ and test/",
    "huggingface:": "what save_to_disk of a Hugging Face data set has written",
}
"""Prefix of a data set's name -> what its folder below $RAYUNLEARN_DATA may hold."""
FORMS = ", ".join([*(f"{prefix}<folder>" for prefix in FOLDERS), f"{TORCHVISION_PREFIX}<name>"])
FORMS += " or package.module:function"
IN_MEMORY_BYTES = 2**30
"""Normalised images that are kept in memory; more are read from a file when they are asked for."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """How the images of a data set are taken, where that is not left to the data.

    Attributes:
        how: the preprocessing; None takes the images as they are.
        mean: per channel, that is subtracted from pixels in [0, 1]; None: what is declared of the data set,
            or that of its training part.
        std: per channel, by which it is divided; None likewise.
        class_names: of the labels 0, 1, ...; None: the data's own. Labels go by the names where both have
            some.
    """

    how: Preprocessing | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    class_names: tuple[str, ...] | None = None


AS_THEY_ARE = Taken()


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledImages:
    """A dataset. A sample's identity is `hash` and its index.

    Attributes:
        images: normalised, `[N, C, H, W]` float32: (pixel in [0, 1] - mean) / std. Of a large set they are
            read when they are asked for.
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

    images: Images
    labels: Tensor
    name: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hash: str
    official_test_ids: Tensor | None = None
    class_names: tuple[str, ...] | None = None

    def at(self, ids: Tensor) -> tuple[Images, Tensor]:
        """Images and labels of these ids, int64; of a large set no image is read yet."""
        return selected(self.images, ids), self.labels[ids]


def load_dataset(name: str, taken: Taken = AS_THEY_ARE) -> LabelledImages:
    """The dataset of that name; all but "digits" are read from below $RAYUNLEARN_DATA (see `data_root`).

    - "digits": 1797 images 8x8, bundled with scikit-learn.
    - "mnist": from mnist/ in torchvision's layout.
    - "cifar10": from cifar10/ in torchvision's layout, else as a Parquet folder.
    - "svhn": the cropped digits, from svhn/ in torchvision's layout, else as a Parquet folder.
    - "parquet:<folder>": any other dataset, from the Parquet folder of that path below $RAYUNLEARN_DATA
      (`rayunlearn.data.parquet` has the form). Classes are 0..largest label. Mean and std are of the
      training part; without test shards that is every image, whatever is held out of them later.
    - "imagefolder:<folder>": images in folders named by their classes (`rayunlearn.data.class_folders`).
    - "huggingface:<folder>": what `save_to_disk` has written (`rayunlearn.data.huggingface`).
    - "torchvision:<name>": another set of `rayunlearn.data.code.TORCHVISION`, from <name in lower case>/.
    - "package.module:function": what this function gives (`rayunlearn.data.samples`).

    However many images the files hold are taken: the publishers' counts are not asked for. The last
    dataset is kept in the process, and given again without a look at its files; its tensors are shared, so
    clone what is to be changed. What was left out of a folder, and what is there twice, comes as a
    `DataWarning` at the first call.

    Raises:
        BadInput: the name is unknown, or the data are not where the environment says, or not as they
            should be or are to be taken; test images are training images too.
        IntegrityError: someone wrote into the shared tensors (by torch; writes through numpy go unnoticed).
    """
    if name not in DATASETS and _prefix(str(name)) is None and not is_function_of_operator(str(name)):
        raise BadInput("dataset", name, f"{nearest(str(name), DATASETS)}, or {FORMS}")
    root = data_root(_inside(name), name)
    taken = _without_its_own(name, root, taken)
    dataset, versions = _load(name, root, taken)
    if taken == Taken(how=taken.how):
        _own[name, root, taken.how] = dataset.mean, dataset.std, dataset.class_names
    if _versions(dataset) != versions:
        raise IntegrityError(f"images or labels of {name} were changed in place; clone what is to be changed")
    return dataset


_Own = tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...] | None]
_own: dict[tuple[str, str | None, Preprocessing | None], _Own] = {}
"""Of data sets that were opened as they are: mean, std and names of the classes."""


def _without_its_own(name: str, root: str | None, taken: Taken) -> Taken:
    """The same, less what the data set has by itself: what is stated again must not be loaded again."""
    task = TASKS.get(name)
    own = _own.get((name, root, taken.how))
    if task is not None:
        own = task.input.mean, task.input.std, task.class_names
    if own is None:
        return taken
    mean, std, names = own
    if (taken.mean, taken.std) == (mean, std):
        taken = replace(taken, mean=None, std=None)
    return replace(taken, class_names=None) if taken.class_names == names else taken


def is_function_of_operator(name: str) -> bool:
    """Whether a data set's name is that of the operator's own code: `package.module:function`."""
    return name not in DATASETS and _prefix(name) is None and is_function(name)


def not_there(name: str) -> str | None:
    """Why a dataset cannot be opened here: no folder is named, or it is not there; None where it may be.

    Whether it can be read is not looked at.
    """
    if name == "digits":
        return None
    if is_function_of_operator(name):
        module = name.partition(":")[0]
        return None if module_is_there(name) else f"there is no module {module!r} for {name!r}"
    inside = _inside(name)
    root = data_root(inside, name)
    if root is None:
        return f"the environment variable {DATA_VARIABLE} names no folder for {name!r}"
    folder = Path(root) / inside
    return None if folder.is_dir() else f"there is no folder {str(folder)!r} for {name!r}"


def content_hash(pixels: Tensor, labels: Tensor) -> str:
    """SHA-256 over raw uint8 pixels `[N, C, H, W]` and int64 labels `[N]`, with their shapes."""
    return _hash_of([Part(pixels, labels)])


def _hash_of(parts: list[Part]) -> str:
    """`content_hash` of the parts one after another, of which not all need be in memory."""
    digest = hashlib.sha256()
    labels = torch.cat([part.labels for part in parts])
    n, pixels = len(labels), parts[0].pixels
    digest.update(f"{pixels.dtype}{[sum(len(part.pixels) for part in parts), *pixels.shape[1:]]}:".encode())
    for part in parts:
        for chunk in chunks(part.pixels):
            _update(digest, chunk)
    digest.update(f"{labels.dtype}{[n]}:".encode())
    _update(digest, labels)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, tensor: Tensor) -> None:
    array = tensor.contiguous().numpy()
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    digest.update(array.reshape(-1).view("uint8").data)


# One dataset, not more: CIFAR-10 takes 740 MB, in each process that trains.
@functools.lru_cache(maxsize=1)
@torch.inference_mode(mode=False)  # what is shared must do for callers that train too
def _load(name: str, root: str | None, taken: Taken) -> tuple[LabelledImages, tuple[int, ...]]:
    """The dataset below this root, and the versions of its tensors."""
    with readable(name, str(root)):
        dataset = DATASETS[name](root, taken) if name in DATASETS else _by_form(name, root, taken)
    return dataset, _versions(dataset)


def _prefix(name: str) -> str | None:
    return next((p for p in (*FOLDERS, TORCHVISION_PREFIX) if name.startswith(p)), None)


def _inside(name: str) -> str:
    """A data set's folder below the root."""
    prefix = _prefix(name)
    if prefix == TORCHVISION_PREFIX:
        return name.removeprefix(prefix).lower()
    return name.removeprefix(prefix or "")


def _versions(dataset: LabelledImages) -> tuple[int, ...]:
    """How often torch has written into each tensor or a view of it."""
    tensors = (dataset.images, dataset.labels, dataset.official_test_ids)
    return tuple(t._version for t in tensors if isinstance(t, Tensor))


def _digits(root: str | None, taken: Taken) -> LabelledImages:
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
    return _declared("digits", parts, taken, white=16)


def _mnist(root: str | None, taken: Taken) -> LabelledImages:
    """MNIST (LeCun et al. 1998): the training images, then the test images; 60000 and 10000 published."""
    parts = read_mnist(_folder(root, "mnist", "MNIST/raw/ as torchvision lays MNIST out"))
    return _declared("mnist", parts, taken)


def _cifar10(root: str | None, taken: Taken) -> LabelledImages:
    """CIFAR-10 (Krizhevsky 2009): the training images, then the test images; 50000 and 10000 published.

    Mean and std are of the published training images.
    """
    needed = f"cifar-10-batches-py/ or cifar-10-python.tar.gz, as torchvision has them, or {SHARDS}"
    folder = _folder(root, "cifar10", needed)
    parts = read_cifar10(folder) or _parquet_32x32(folder, "cifar10", needed, CIFAR10_NAMES)
    return _declared("cifar10", parts, taken)


def _svhn(root: str | None, taken: Taken) -> LabelledImages:
    """SVHN's cropped digits (Netzer et al. 2011): the training images, then the test images.

    Published are 73257 and 26032; the 531131 further ones are not read. Mean and std are of the published
    training images.
    """
    needed = f"train_32x32.mat and test_32x32.mat, as torchvision has them, or {SHARDS}"
    folder = _folder(root, "svhn", needed)
    parts = read_svhn(folder) or _parquet_32x32(folder, "svhn", needed, DIGIT_NAMES)
    return _declared("svhn", parts, taken)


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


def _by_form(name: str, root: str | None, taken: Taken) -> LabelledImages:
    """A data set of which nothing is declared, by the form of its name."""
    parts = _read(name, root, taken)
    pixels = parts[0].pixels
    given = taken.mean is not None and taken.std is not None
    mean, std = (taken.mean, taken.std) if given else channel_statistics(pixels)
    mean, std = taken.mean or mean, taken.std or std
    assert mean is not None and std is not None
    if 0.0 in std:
        allowed = "above 0: a channel that is the same everywhere cannot be normalised; state data.std"
        raise BadInput("standard deviation of each channel", std, allowed, where=name)
    counted = count_classes(parts, name)
    return _labelled(name, parts, parts[0].class_names or counted, mean=mean, std=std)


def _read(name: str, root: str | None, taken: Taken) -> Parts:
    prefix, names, how = _prefix(name), taken.class_names, taken.how
    if prefix is None:
        return read_function(name, names, how)
    if prefix == TORCHVISION_PREFIX:
        set_name = name.removeprefix(prefix)
        require_torchvision(set_name, name)
        folder = _folder(root, name, f"what torchvision.datasets.{set_name} has downloaded")
        return read_torchvision(folder, set_name, name, names, how)
    inside, needed = _inside(name), FOLDERS[prefix]
    if not inside or PurePath(inside).is_absolute() or ".." in PurePath(inside).parts:
        raise BadInput("dataset", name, f"{prefix}<folder>, its path below ${DATA_VARIABLE}")
    folder = _folder(root, name, needed)
    if prefix == PARQUET_PREFIX:
        return read_parquet(folder, name, needed, class_names=names, how=how)
    if prefix == "huggingface:":
        from rayunlearn.data.huggingface import read_saved

        return read_saved(folder, name, needed, names, how)
    from rayunlearn.data.class_folders import read_class_folders

    return read_class_folders(folder, name, needed, names, how)


def _folder(root: str | None, name: str, needed: str) -> Path:
    """The dataset's folder below the root; its reader says what is missing there."""
    inside = _inside(name)
    if not root:
        allowed = f"a folder with {inside}/, which holds {needed}; set it"
        raise BadInput(f"environment variable {DATA_VARIABLE}", root, allowed, where=name)
    return Path(root) / inside


def _declared(name: str, parts: Parts, taken: Taken, white: int = 255) -> LabelledImages:
    """Parts of a data set that is known by name, normalised by what is declared of it or stated."""
    task = TASKS[name]
    assert task.class_names is not None, "the classes of each of them have names"
    names = task.class_names
    if taken.class_names is not None and set(taken.class_names) != set(names):
        raise BadInput("names of the classes", taken.class_names, f"those of {name}: {', '.join(names)}")
    if taken.class_names not in (None, names):
        numbers = torch.tensor(places(names, taken.class_names, "the data set", name))
        train, test = parts
        turned = train._replace(labels=numbers[train.labels])
        parts = turned, test and test._replace(labels=numbers[test.labels])
        names = taken.class_names
    if taken.how is not None:
        train, test = parts
        parts = _prepared(train, taken.how, name), test and _prepared(test, taken.how, name)
    mean, std = taken.mean or task.input.mean, taken.std or task.input.std
    return _labelled(name, parts, names, mean=mean, std=std, white=white)


def _prepared(part: Part, how: Preprocessing, name: str) -> Part:
    """A part whose pixels no file of images holds, after the preprocessing."""
    from rayunlearn.data.geometry import prepared_pixels  # here, for Pillow

    images = PixelWriter(name)
    for number in range(len(part.labels)):
        pixels = part.pixels[number : number + 1][0].numpy()
        images.add(prepared_pixels(pixels, how, f"sample {number}", name))
    return part._replace(pixels=images.pixels())


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
    both = [part for part in parts if part is not None]
    labels = torch.cat([part.labels for part in both])
    test_ids = torch.arange(len(both[0].labels), len(labels)) if len(both) > 1 else None
    shape = both[0].pixels.shape
    if len(mean) != shape[1] and shape[1] in (1, 3):
        allowed = f"{len(mean)}, as mean and std have; data.preprocessing.channels makes 1 or 3 of them"
        raise BadInput("channels of the images", shape[1], allowed, where=name)
    mean, std = (per_channel(n, v, shape[1], where=name) for n, v in (("mean", mean), ("std", std)))
    digest = _hash_of(both)
    size = 4 * len(labels) * shape[1] * shape[2] * shape[3]
    whole = [part.pixels for part in both if isinstance(part.pixels, Tensor)]
    if size > IN_MEMORY_BYTES or len(whole) < len(both):
        images: Images = StreamedImages([part.pixels for part in both], mean, std, white)
    else:  # in place: a second copy of the images would be four times the raw pixels again
        pixels = torch.cat(whole) if len(whole) > 1 else whole[0]
        images = normalised(pixels.contiguous().to(torch.float32), mean, std, white)
    return LabelledImages(
        images=images,
        labels=labels,
        name=name,
        num_classes=classes if isinstance(classes, int) else len(classes),
        mean=mean,
        std=std,
        hash=digest,
        official_test_ids=test_ids,
        class_names=None if isinstance(classes, int) else classes,
    )


DATASETS: dict[str, Callable[[str | None, Taken], LabelledImages]] = {
    "digits": _digits,
    "mnist": _mnist,
    "cifar10": _cifar10,
    "svhn": _svhn,
}
