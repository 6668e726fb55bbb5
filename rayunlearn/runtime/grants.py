"""What a run is handed of real data: exactly what its method declares, and nothing where that is nothing.

The processes of a run are sealed whatever the method: they cannot open a dataset. What a method declares
is read here, in a process that may, and handed over as tensors.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import ray
import torch
from torch import Tensor

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.methods.unlearning import Samples
from rayunlearn.recipes import DataSettings
from rayunlearn.roles import Roles
from rayunlearn.runtime.labelled import open_data


@dataclass(frozen=True, kw_only=True, eq=False)
class Granted:
    """Real data for a run.

    Attributes:
        forget: training samples of the classes to forget now, where declared.
        retain: training samples of the classes to retain, where declared.
    """

    forget: Samples | None = None
    retain: Samples | None = None


def grant(data: DataSettings, split_seed: int, roles: Roles, access: Collection[str]) -> Granted:
    """Read what is declared; opens the dataset only where something of it is.

    Classes forgotten by earlier requests are never handed over: their data is gone.
    """
    if not {"forget", "retain"} & set(access):
        return Granted()
    dataset, parts = open_data(data, split_seed)
    ids = parts.train_ids
    return Granted(
        forget=_samples(dataset, ids, roles.target) if "forget" in access else None,
        retain=_samples(dataset, ids, roles.retain) if "retain" in access else None,
    )


def _samples(dataset: LabelledImages, ids: Tensor, classes: Collection[int]) -> Samples:
    chosen = ids[torch.isin(dataset.labels[ids], torch.tensor(sorted(classes)))]
    return Samples(images=dataset.images[chosen], labels=dataset.labels[chosen], ids=chosen)


_grant = ray.remote(grant)


def grant_by_task(data: DataSettings, split_seed: int, roles: Roles, access: Collection[str]) -> Granted:
    """`grant`, asked of another process: the driver itself never opens a dataset."""
    if not {"forget", "retain"} & set(access):
        return Granted()
    granted: Granted = ray.get(_grant.remote(data, split_seed, roles, tuple(sorted(access))))
    return granted
