"""Splits of a dataset into training and test, and into retain and forget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from pydantic import PositiveInt
from torch import Tensor

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.errors import BadInput
from rayunlearn.fields import check_value
from rayunlearn.held_out import OFFICIAL_OR_HALF, TestFraction
from rayunlearn.seeds import generator


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Which samples train and which test; ids are indices into the dataset of `dataset_hash`.

    Attributes:
        train_ids: ascending, `[N_train]` int64.
        test_ids: ascending, `[N_test]` int64, disjoint from `train_ids`.
        dataset_hash: `LabelledImages.hash`.
        dataset_name: `LabelledImages.name`.
        seed: the seed that the split was drawn with.
        test_fraction: share of every class for the test, or None for the publisher's own test part.
        train_per_class: the most training samples of a class, or None for all.
        test_per_class: the most test samples of a class, or None for all.
    """

    train_ids: Tensor
    test_ids: Tensor
    dataset_hash: str
    dataset_name: str
    seed: int
    test_fraction: float | None
    train_per_class: int | None = None
    test_per_class: int | None = None


def split(dataset: LabelledImages, test_fraction: TestFraction, seed: int) -> Split:
    """Split every class by the same fraction, a function of the dataset, the fraction and the seed.

    Args:
        dataset: all samples.
        test_fraction: of every class, between 0 and 1; every class keeps at least one sample in each
            part, and the publisher's test part counts for nothing. None takes the publisher's test part;
            "official_or_half" does so where the dataset has one, and is 0.5 elsewhere.
        seed: the user's root seed.

    Raises:
        BadInput: the fraction is not allowed, or a class has fewer than two samples.
    """
    check_value("test_fraction", test_fraction, TestFraction, where="split")
    labels = dataset.labels
    if test_fraction == OFFICIAL_OR_HALF:
        test_fraction = 0.5 if dataset.official_test_ids is None else None
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    if test_fraction is None:
        if dataset.official_test_ids is None:
            allowed = f"a number between 0 and 1 ({dataset.name} has no official test part)"
            raise BadInput("test_fraction", None, allowed, where="split")
        is_test[dataset.official_test_ids] = True
    else:
        for label in range(dataset.num_classes):
            members = (labels == label).nonzero().flatten()
            if len(members) < 2:
                allowed = "at least 2 samples, one to train and one to test"
                raise BadInput(f"class {label}", len(members), allowed, where=f"split of {dataset.name}")
            count = min(max(round(len(members) * test_fraction), 1), len(members) - 1)
            order = torch.randperm(len(members), generator=generator(seed, "split", label))
            is_test[members[order[:count]]] = True
    return Split(
        train_ids=(~is_test).nonzero().flatten(),
        test_ids=is_test.nonzero().flatten(),
        dataset_hash=dataset.hash,
        dataset_name=dataset.name,
        seed=seed,
        test_fraction=test_fraction,
    )


def limited(
    parts: Split, labels: Tensor, *, train_per_class: int | None = None, test_per_class: int | None = None
) -> Split:
    """The split with at most so many samples of each class in each part; what is left out is in neither.

    For a run at a smaller scale. A function of the split, its seed and the limits; a smaller limit's
    samples are among a larger one's, and one part's limit does not change the other.

    Args:
        parts: the split, not limited yet.
        labels: of the whole dataset, `[N]` int64.
        train_per_class: for the training part; a class that has fewer keeps all. None keeps all of every.
        test_per_class: likewise for the test part.

    Raises:
        BadInput: a limit is no whole number above 0, or the split is limited already.
    """
    if parts.train_per_class is not None or parts.test_per_class is not None:
        limits = (parts.train_per_class, parts.test_per_class)
        raise BadInput("limits of the split", limits, "none yet: limit a split once", where="limited")
    for name, limit in (("train_per_class", train_per_class), ("test_per_class", test_per_class)):
        check_value(name, limit, PositiveInt | None, where="limited")
    return replace(
        parts,
        train_ids=at_most(parts.train_ids, labels, train_per_class, parts.seed, "train"),
        test_ids=at_most(parts.test_ids, labels, test_per_class, parts.seed, "test"),
        train_per_class=train_per_class,
        test_per_class=test_per_class,
    )


def at_most(ids: Tensor, labels: Tensor, limit: int | None, seed: int, part: str) -> Tensor:
    """Of these ids at most so many of each class, drawn by the seed and the part's name, ascending."""
    if limit is None or not len(ids):
        return ids
    kept = []
    for label in labels[ids].unique().tolist():
        members = ids[labels[ids] == label]
        order = torch.randperm(len(members), generator=generator(seed, "split limit", part, label))
        kept.append(members[order[:limit]])
    return torch.cat(kept).sort().values


def retain_forget(labels: Tensor, forget: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Indices of the samples to retain and to forget: a partition, both ascending.

    Args:
        labels: `[N]` int64.
        forget: class ids; each must occur in `labels`.

    >>> retain, forget = retain_forget(torch.tensor([0, 1, 2, 1]), [1])
    >>> retain.tolist(), forget.tolist()
    ([0, 2], [1, 3])
    """
    present = set(labels.unique().tolist())
    for label in forget:
        if isinstance(label, bool) or not isinstance(label, int) or label not in present:
            raise BadInput("class to forget", label, f"one of {sorted(present)}")
    is_forget = torch.isin(labels, torch.tensor(list(forget), dtype=labels.dtype, device=labels.device))
    return (~is_forget).nonzero().flatten(), is_forget.nonzero().flatten()
