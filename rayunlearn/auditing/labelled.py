"""The one place where the runtime opens a dataset: never in a driver, never in a sealed process."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import ray
import torch
from torch import Tensor

from rayunlearn.data.datasets import LabelledImages, Taken, content_hash, load_dataset
from rayunlearn.data.mislabelling import Mislabelled, mislabel
from rayunlearn.data.splits import Split, limited, split
from rayunlearn.errors import BadInput
from rayunlearn.execution.remote import fetch
from rayunlearn.recipes import DataSettings


def open_data(data: DataSettings, split_seed: int) -> tuple[LabelledImages, Split]:
    """The dataset of a recipe and its split, within the recipe's limits.

    Where the recipe mislabels, training samples have the labels that they are to be trained with, some of
    them wrong, and the dataset's hash is of these; test samples have their right ones. The split is that
    of the right labels.
    """
    dataset, parts = _right_data(data, split_seed)
    found = _mislabelled(data, dataset, parts)
    if found is not None:
        # in the place of the pixels, which nobody has any more, the hash that they are in
        before = torch.frombuffer(bytearray.fromhex(dataset.hash), dtype=torch.uint8)
        dataset = replace(dataset, labels=found.labels, hash=content_hash(before, found.labels))
    return dataset, parts


def taken(data: DataSettings) -> Taken:
    """How the images of a recipe's dataset are taken."""
    return Taken(how=data.preprocessing, mean=data.mean, std=data.std, class_names=data.class_names)


def mislabelled(data: DataSettings, split_seed: int) -> Mislabelled | None:
    """D_e: the training samples whose label `open_data` gives wrong, and their right labels.

    None where the recipe mislabels nothing.
    """
    return None if data.mislabelling is None else _mislabelled(data, *_right_data(data, split_seed))


def mislabelled_by_task(data: DataSettings, split_seed: int) -> Mislabelled | None:
    """`mislabelled`, asked of another process: the driver itself never opens a dataset."""
    if data.mislabelling is None:
        return None
    found: Mislabelled | None = fetch(_task.remote(data, split_seed))
    return found


def data_hash(data: DataSettings, split_seed: int) -> str:
    """SHA-256 of samples and split, 64 hex digits: what an index or a label means hangs on both.

    Labels are those that are right, whatever the recipe mislabels; of how many test samples it looks at the
    split knows nothing.
    """
    dataset, whole, parts = _opened(data, split_seed)
    return _hash(dataset, parts.train_ids, whole.test_ids)


def _hash(dataset: LabelledImages, train_ids: Tensor, test_ids: Tensor) -> str:
    digest = hashlib.sha256(dataset.hash.encode())
    for ids in (train_ids, test_ids):
        digest.update(f"{len(ids)}:".encode())
        digest.update(ids.numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def _opened(data: DataSettings, split_seed: int) -> tuple[LabelledImages, Split, Split]:
    """The dataset, its whole split, and what the recipe looks at of that."""
    dataset = load_dataset(data.dataset, taken(data))
    whole = split(dataset, data.test_fraction, split_seed)
    limits = {"train_per_class": data.train_per_class, "test_per_class": data.test_per_class}
    return dataset, whole, limited(whole, dataset.labels, **limits)


def _right_data(data: DataSettings, split_seed: int) -> tuple[LabelledImages, Split]:
    dataset, whole, parts = _opened(data, split_seed)
    if data.sha256 is not None:
        found = _hash(dataset, parts.train_ids, whole.test_ids)
        if found != data.sha256:
            allowed = f"{data.sha256}, as when the lineage began; give it the data and the split of then, or "
            allowed += "begin another lineage"
            raise BadInput(f"SHA-256 of the samples of {data.dataset!r} and their split", found, allowed)
    return dataset, parts


def _mislabelled(data: DataSettings, right: LabelledImages, parts: Split) -> Mislabelled | None:
    if data.mislabelling is None:
        return None
    return mislabel(right.labels, parts.train_ids, data.mislabelling, parts.seed)


_task = ray.remote(mislabelled)
