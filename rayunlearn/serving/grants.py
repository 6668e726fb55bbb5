"""What a run is handed of real data: exactly what its method declares, and nothing where that is nothing.

The processes of a run are sealed whatever the method: they cannot open a dataset. What a method declares
is read here, in a process that may, and handed over as tensors.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import ray
import torch
from torch import Tensor

from rayunlearn.auditing.labelled import open_data
from rayunlearn.data.datasets import LabelledImages
from rayunlearn.data.splits import Split, at_most
from rayunlearn.errors import BadInput
from rayunlearn.execution.remote import fetch
from rayunlearn.methods.unlearning import Samples
from rayunlearn.recipes import DataSettings
from rayunlearn.roles import Roles
from rayunlearn.unlearning.phases import Granted

_SHOWN = 10
"""Ids that a refusal names."""
MOST_BYTES = 2**32
"""Of the images that one run is handed, as float32: they pass through the driver's memory."""


def grant(data: DataSettings, split_seed: int, roles: Roles, access: Collection[str]) -> Granted:
    """Read what is declared; opens the dataset only where something of it is.

    Classes and single samples forgotten by earlier requests are never handed over: their data is gone.

    Raises:
        BadInput: see `check_samples`; or the images are more than `MOST_BYTES`.
    """
    if not {"forget", "retain"} & set(access):
        return Granted()
    dataset, parts = open_data(data, split_seed)
    _check_samples(dataset, parts, roles)
    ids = not_forgotten(parts.train_ids, dataset.labels, roles)
    named, labels = _among(ids, roles.target_samples), dataset.labels[ids]
    # samples that are named are handed over whatever the limit
    limit = data.granted_per_class
    of_classes = at_most(
        ids[~named & _among(labels, roles.target)], dataset.labels, limit, split_seed, "grant of forget"
    )
    forget = torch.cat([ids[named], of_classes]).sort().values
    retain = at_most(
        ids[~named & _among(labels, roles.retain)], dataset.labels, limit, split_seed, "grant of retain"
    )
    granted = sum(len(part) for name, part in (("forget", forget), ("retain", retain)) if name in access)
    size = 4 * granted * math.prod(dataset.images.shape[1:])
    if size > MOST_BYTES:
        allowed = f"at most {MOST_BYTES}; data.granted_per_class hands over fewer of each class"
        raise BadInput(f"bytes of the {granted} images to hand over", size, allowed)
    return Granted(
        forget=_samples(dataset, forget) if "forget" in access else None,
        retain=_samples(dataset, retain) if "retain" in access else None,
    )


def not_forgotten(ids: Tensor, labels: Tensor, roles: Roles) -> Tensor:
    """Ids without those of classes and single samples that were forgotten by earlier requests.

    Args:
        ids: of samples, `[N]`.
        labels: of the whole dataset.
        roles: what was forgotten.
    """
    return ids[~_among(ids, roles.forgotten_samples) & ~_among(labels[ids], roles.forgotten)]


def check_samples(data: DataSettings, split_seed: int, roles: Roles) -> None:
    """Refuse a request for single samples that cannot be served.

    Raises:
        BadInput: the ids that are no index into the dataset, or none of a training sample; those of a class
            that was forgotten already; those without which a class has no training sample left.
    """
    if roles.target_samples:
        _check_samples(*open_data(data, split_seed), roles)


def _check_samples(dataset: LabelledImages, parts: Split, roles: Roles) -> None:
    target = torch.tensor(roles.target_samples, dtype=torch.int64)
    known = target < len(dataset.labels)
    _refuse(target[~known], f"indices into {dataset.name!r}, 0 to {len(dataset.labels) - 1}")
    training = torch.isin(target, parts.train_ids)
    _refuse(target[~training], f"training samples of {dataset.name!r}; these are not trained on")
    gone = _among(dataset.labels[target], roles.forgotten)
    _refuse(target[gone], f"samples of classes not forgotten already, which are {list(roles.retain)}")
    left = parts.train_ids[~_among(parts.train_ids, roles.forget_samples)]
    last = target[~torch.isin(dataset.labels[target], dataset.labels[left])]
    _refuse(last, "a target that leaves a training sample of each class; a whole class is named as such")


def _refuse(ids: Tensor, allowed: str) -> None:
    if len(ids):
        more = f" ({len(ids)} in all, the first are shown)" if len(ids) > _SHOWN else ""
        raise BadInput("target sample", ids[:_SHOWN].tolist(), allowed + more)


def _among(values: Tensor, chosen: Collection[int]) -> Tensor:
    """Which of `values` `[N]` are among the chosen: a mask `[N]`."""
    return torch.isin(values, torch.tensor(sorted(chosen), dtype=torch.int64))


def _samples(dataset: LabelledImages, ids: Tensor) -> Samples:
    return Samples(images=dataset.images[ids], labels=dataset.labels[ids], ids=ids)


_grant = ray.remote(grant)
_check = ray.remote(check_samples)


def grant_by_task(data: DataSettings, split_seed: int, roles: Roles, access: Collection[str]) -> Granted:
    """`grant`, asked of another process: the driver itself never opens a dataset."""
    if not {"forget", "retain"} & set(access):
        return Granted()
    granted: Granted = fetch(_grant.remote(data, split_seed, roles, tuple(sorted(access))))
    return granted


def check_samples_by_task(data: DataSettings, split_seed: int, roles: Roles) -> None:
    """`check_samples`, asked of another process."""
    if roles.target_samples:
        fetch(_check.remote(data, split_seed, roles))
