"""Data sets that are code: torchvision's by name, and the operator's own, `package.module:function`.

Both are the operator's choice, by command line or recipe: a request never names one.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from rayunlearn.data.raw import Part, Parts
from rayunlearn.errors import BadInput, nearest
from rayunlearn.preprocessing import Preprocessing

_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

_FLAG: tuple[Mapping[str, Any], ...] = ({"train": True}, {"train": False})
_SPLIT: tuple[Mapping[str, Any], ...] = ({"split": "train"}, {"split": "test"})
_BOTH: tuple[Mapping[str, Any], ...] = ({"split": "trainval"}, {"split": "test"})
_VAL: tuple[Mapping[str, Any], ...] = ({"split": "train"}, {"split": "val"})
_WHOLE: tuple[Mapping[str, Any], ...] = ({},)

TORCHVISION: dict[str, tuple[Mapping[str, Any], ...]] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "QMNIST", "USPS"), _FLAG),
    **dict.fromkeys(
        ("Country211", "DTD", "Flowers102", "Food101", "GTSRB", "PCAM", "RenderedSST2", "STL10", "SVHN",
         "StanfordCars"),
        _SPLIT,
    ),
    **dict.fromkeys(("FGVCAircraft", "OxfordIIITPet"), _BOTH),
    **dict.fromkeys(("Imagenette", "ImageNet"), _VAL),
    **dict.fromkeys(("Caltech101", "Caltech256", "EuroSAT", "SEMEION", "SUN397"), _WHOLE),
}  # fmt: skip
"""Name of a class of `torchvision.datasets` -> the arguments of its training and of its test part."""


def is_function(name: str) -> bool:
    """Whether a data set's name has the form of an operator's function."""
    return _FUNCTION.fullmatch(name) is not None


def module_is_there(name: str) -> bool:
    """Whether the module of an operator's function can be found; nothing of it is run but its packages."""
    try:
        return importlib.util.find_spec(name.partition(":")[0]) is not None
    except (ImportError, ValueError):
        return False


def read_torchvision(
    root: Path,
    set_name: str,
    name: str,
    class_names: tuple[str, ...] | None = None,
    how: Preprocessing | None = None,
) -> Parts:
    """A data set of torchvision from where it was downloaded to before; nothing is downloaded.

    Args:
        root: what torchvision's class is given as its root.
        set_name: key of `TORCHVISION`.
        name: of the data set, for messages.
        class_names: of the classes 0, 1, ..., where they are known; labels go by them.
        how: the preprocessing that is stated.

    Raises:
        BadInput: torchvision does not find it there, or a sample is no image and label.
    """
    from torchvision import datasets

    def part(given: Mapping[str, Any]) -> Any:
        try:
            return getattr(datasets, set_name)(str(root), **given)
        except Exception as error:  # each class fails in its own way
            allowed = f"what torchvision.datasets.{set_name} reads ({type(error).__name__}: {error})"
            raise BadInput("folder", str(root), allowed, where=name) from error

    return _parts([part(given) for given in TORCHVISION[set_name]], name, class_names, how)


def read_function(
    name: str, class_names: tuple[str, ...] | None = None, how: Preprocessing | None = None
) -> Parts:
    """What an operator's function gives: a data set or loader, or a mapping with "train" and maybe "test".

    Args:
        name: `package.module:function`; it is called without arguments.
        class_names: of the classes 0, 1, ..., where they are known; labels go by them.
        how: the preprocessing that is stated.

    Raises:
        BadInput: there is no such function, it fails, or gives something else.
    """
    module, _, function = name.partition(":")
    try:
        call = getattr(import_module(module), function, None)
    except Exception as error:  # another's code may fail in any way
        allowed = "a function of a module that can be imported; put its folder on PYTHONPATH"
        raise BadInput("dataset", name, f"{allowed} ({type(error).__name__}: {error})") from error
    if not callable(call):
        raise BadInput("dataset", name, f"a function of {module}")
    try:
        given = call()
    except Exception as error:
        allowed = f"a function that gives a data set ({type(error).__name__}: {error})"
        raise BadInput("dataset", name, allowed) from error
    if not isinstance(given, Mapping):
        return _parts([given], name, class_names, how)
    if "train" not in given or not set(given) <= {"train", "test"}:
        raise BadInput(f"what {name} gives", sorted(map(str, given)), "train, and test where there is one")
    return _parts([given[part] for part in ("train", "test") if part in given], name, class_names, how)


def _parts(
    sources: list[Any], name: str, class_names: tuple[str, ...] | None, how: Preprocessing | None
) -> Parts:
    from rayunlearn.data.samples import read_samples  # here, for Pillow

    train: Part = read_samples(sources[0], "training part", name, class_names, None, how)
    if len(sources) == 1:
        return train, None
    shape = tuple(train.pixels.shape[1:])
    known = class_names or train.class_names
    return train, read_samples(sources[1], "test part", name, known, shape, how)


def require_torchvision(set_name: str, name: str) -> None:
    """Refuse the name of a data set that is not read.

    Raises:
        BadInput: with the nearest that are.
    """
    if set_name not in TORCHVISION:
        raise BadInput("dataset", name, nearest(set_name, TORCHVISION, n=5))
