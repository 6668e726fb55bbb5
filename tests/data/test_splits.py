"""Claims about splits."""

import dataclasses

import pytest
import torch

from rayunlearn.data.datasets import LabelledImages, load_dataset
from rayunlearn.data.splits import limited, retain_forget, split
from rayunlearn.errors import BadInput


def dataset(labels, official=None, num_classes=3):
    """A dataset of blank images with these labels."""
    labels = torch.tensor(labels)
    return LabelledImages(
        images=torch.zeros(len(labels), 1, 2, 2), labels=labels, name="made", num_classes=num_classes,
        mean=(0.0,), std=(1.0,), hash="h", official_test_ids=official,
    )  # fmt: skip


def test_every_class_is_split_by_the_fraction():
    """On digits each class's test part is its size times the fraction, rounded; the parts are a partition."""
    data = load_dataset("digits")
    parts = split(data, 0.2, seed=0)
    for label in range(10):
        whole = (data.labels == label).sum().item()
        assert (data.labels[parts.test_ids] == label).sum().item() == round(0.2 * whole)
    together = torch.cat([parts.train_ids, parts.test_ids])
    assert together.sort().values.tolist() == list(range(1797))
    assert parts.dataset_hash == data.hash


@pytest.mark.parametrize("fraction", [1e-6, 0.5, 1 - 1e-6])
def test_no_class_is_left_out_of_a_part(fraction):
    """Classes of 2 and 3 samples have at least one in each part at any fraction."""
    data = dataset([0, 0, 1, 1, 1, 2, 2])
    parts = split(data, fraction, seed=1)
    for ids in (parts.train_ids, parts.test_ids):
        assert set(data.labels[ids].tolist()) == {0, 1, 2}


def test_split_is_the_seeds_alone():
    """Equal seeds agree whatever the global RNG; another seed differs."""
    data = load_dataset("digits")
    torch.manual_seed(1)
    first = split(data, 0.2, seed=0)
    torch.manual_seed(2)
    assert torch.equal(split(data, 0.2, seed=0).test_ids, first.test_ids)
    assert not torch.equal(split(data, 0.2, seed=1).test_ids, first.test_ids)


def test_official_test_part():
    """None takes the publisher's part as it is, at any seed; without one it is refused."""
    data = dataset([0, 1, 2, 0, 1], official=torch.tensor([3, 4]))
    for seed in (0, 1):
        parts = split(data, None, seed)
        assert parts.train_ids.tolist() == [0, 1, 2]
        assert parts.test_ids.tolist() == [3, 4]
    with pytest.raises(BadInput, match="no official test part"):
        split(dataclasses.replace(data, official_test_ids=None), None, 0)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan"), True, "0.2"])
def test_bad_fractions_are_refused(fraction):
    """A fraction outside (0, 1) or of another type is refused by name."""
    with pytest.raises(BadInput, match="test_fraction"):
        split(dataset([0, 0, 1, 1, 2, 2]), fraction, 0)


def test_too_small_a_class_is_named():
    """A class of one sample cannot be in both parts."""
    with pytest.raises(BadInput, match="class 1"):
        split(dataset([0, 0, 1, 2, 2]), 0.5, 0)


def test_limits_are_per_class_and_part():
    """Each class has so many training samples or, where it has fewer, all; the test part is as it was."""
    data = dataset([0] * 10 + [1] * 3 + [2] * 6, official=torch.tensor([0, 10, 13]))
    parts = split(data, None, seed=0)
    small = limited(parts, data.labels, train_per_class=4)
    assert data.labels[small.train_ids].bincount().tolist() == [4, 2, 4]
    assert torch.isin(small.train_ids, parts.train_ids).all()
    assert torch.equal(small.train_ids, small.train_ids.sort().values)
    assert torch.equal(small.test_ids, parts.test_ids)
    assert (small.train_per_class, small.test_per_class) == (4, None)


def test_a_smaller_limits_samples_are_among_a_larger_ones():
    """Nested, drawn and not the first ones; the same seed draws the same, another seed others."""
    data = load_dataset("digits")
    parts = split(data, 0.5, seed=0)
    few, more = (limited(parts, data.labels, train_per_class=n, test_per_class=n) for n in (5, 20))
    for name in ("train_ids", "test_ids"):
        assert torch.isin(getattr(few, name), getattr(more, name)).all()
        assert data.labels[getattr(more, name)].bincount().tolist() == [20] * 10
    assert not torch.equal(few.train_ids, limited(parts, data.labels, train_per_class=5).test_ids)
    assert torch.equal(few.train_ids, limited(parts, data.labels, train_per_class=5).train_ids)
    other = limited(dataclasses.replace(parts, seed=1), data.labels, train_per_class=5)
    assert not torch.equal(few.train_ids, other.train_ids)
    first = torch.cat([parts.train_ids[data.labels[parts.train_ids] == c][:5] for c in range(10)])
    assert not torch.equal(few.train_ids, first.sort().values)


def test_without_limits_a_split_is_as_it_was():
    """None keeps all samples of both parts."""
    data = dataset([0, 0, 1, 1, 2, 2])
    parts = split(data, 0.5, seed=0)
    same = limited(parts, data.labels)
    assert torch.equal(same.train_ids, parts.train_ids) and torch.equal(same.test_ids, parts.test_ids)
    assert (same.seed, same.dataset_hash, same.train_per_class) == (0, "h", None)


@pytest.mark.parametrize("limit", [0, -1, 1.0, True, "5", float("nan")])
@pytest.mark.parametrize("name", ["train_per_class", "test_per_class"])
def test_bad_limits_are_refused(name, limit):
    """A limit that is no whole number above 0 is refused by name."""
    data = dataset([0, 0, 1, 1, 2, 2])
    with pytest.raises(BadInput, match=name):
        limited(split(data, 0.5, 0), data.labels, **{name: limit})


def test_a_limited_split_is_not_limited_again():
    """Its manifest would no longer say how it was drawn."""
    data = dataset([0, 0, 1, 1, 2, 2])
    small = limited(split(data, 0.5, 0), data.labels, test_per_class=1)
    with pytest.raises(BadInput, match="limits of the split"):
        limited(small, data.labels, train_per_class=1)


def test_retain_and_forget_partition_the_samples():
    """Forget ids are exactly those of the classes named; nothing to forget retains all."""
    labels = torch.tensor([2, 0, 1, 2, 0])
    retain, forget = retain_forget(labels, [0, 2])
    assert retain.tolist() == [2]
    assert forget.tolist() == [0, 1, 3, 4]
    assert retain_forget(labels, [])[0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("wrong", [3, -1, 1.0, True, "1"])
def test_absent_class_is_refused(wrong):
    """A class that does not occur, or no class at all, is refused rather than giving an empty part."""
    with pytest.raises(BadInput, match="class to forget"):
        retain_forget(torch.tensor([0, 1, 2]), [wrong])
