"""Wrong labels made on purpose: how many, which, and nobody else's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rayunlearn.data.mislabelling import Mislabelling, mislabel
from rayunlearn.errors import BadInput

SEVENS = Mislabelling(of=7, to=(2, 3, 7))

MNIST_TRAINING = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
MNIST_TEST = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
"""Images of each digit in MNIST's two parts."""


def shuffled(counts: tuple[int, ...], seed: int = 0) -> Tensor:
    """So many labels of each class, in random order."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("counts", "changed"), [(MNIST_TEST, {2: 69, 3: 68}), (MNIST_TRAINING, {2: 418, 3: 418})]
)
def test_mnists_counts(counts: tuple[int, ...], changed: dict[int, int], seed: int) -> None:
    """A fifth of the 1028 test 7s is 205 and of the 6265 training 7s 1253; a third of them stay 7s.

    So 137 test images change, the count that the paper's accuracies are multiples of, for every seed.
    """
    right = shuffled(counts)
    given = mislabel(right, torch.arange(len(right)), SEVENS, seed)
    wrong = given.labels[given.changed_ids]
    assert {c: int((wrong == c).sum()) for c in (2, 3)} == changed
    assert len(wrong) == sum(changed.values()) == {1028: 137, 6265: 836}[counts[7]]


def test_nothing_else_is_changed() -> None:
    """D_e is exactly where labels differ: 7s of the part, now 2s and 3s; the given labels stay right."""
    right = shuffled((50,) * 10)
    before = right.clone()
    part = torch.arange(500)[::2]
    given = mislabel(right, part, SEVENS, seed=0)
    assert torch.equal(right, before)
    assert torch.equal(given.changed_ids, (given.labels != right).nonzero().flatten())
    assert torch.equal(given.right_labels, right[given.changed_ids])
    assert bool((right[given.changed_ids] == 7).all())
    assert set(given.labels[given.changed_ids].tolist()) == {2, 3} == set(SEVENS.erased)
    parts = [given.taught([label]) for label in (2, 3)]
    assert [set(given.labels[ids].tolist()) for ids in parts] == [{2}, {3}]
    assert torch.equal(torch.cat(parts).sort().values, given.taught((2, 3)))
    assert torch.equal(given.taught((2, 3, 5)), given.changed_ids)
    assert bool(torch.isin(given.changed_ids, part).all())
    assert given.labels.dtype == given.changed_ids.dtype == torch.int64


def test_every_sample_is_as_likely() -> None:
    """Over 300 seeds each of 30 samples changes in 2/15 of the draws, and as often to 2 as to 3."""
    right = torch.tensor([7] * 30 + [2, 3])
    times = torch.zeros(32, 2)
    for seed in range(300):
        given = mislabel(right, torch.arange(32), SEVENS, seed).labels
        times += torch.stack([(given == c) & (right == 7) for c in (2, 3)], dim=1)
    assert bool((times[30:] == 0).all()) and times.sum(0).tolist() == [600, 600]
    # a count of 300 draws at 1/15 has mean 20 and deviation 4.3
    assert 4 < times[:30].min() and times[:30].max() < 42


def test_a_smaller_share_is_a_part_of_a_larger_one() -> None:
    """The same samples get the same wrong labels; a share of 1 leaves a third of the class."""
    right = shuffled((30,) * 10)
    ids = torch.arange(300)
    tenth, half, whole = (
        mislabel(right, ids, Mislabelling(of=7, to=(2, 3, 7), share=s), 0) for s in (0.1, 0.5, 1)
    )
    for less, more in ((tenth, half), (half, whole)):
        assert torch.equal(less.labels[less.changed_ids], more.labels[less.changed_ids])
        assert len(less.changed_ids) < len(more.changed_ids)
    assert int((whole.labels == 7).sum()) == 10 and len(whole.changed_ids) == 20


def test_without_its_own_label_every_drawn_sample_changes() -> None:
    """`to=(2,)`: half of eight 7s become 2s."""
    right = torch.tensor([7] * 8 + [2])
    given = mislabel(right, torch.arange(9), Mislabelling(of=7, to=(2,), share=0.5), seed=0)
    assert len(given.changed_ids) == 4 and given.labels[given.changed_ids].tolist() == [2] * 4


def test_shares_are_decimals() -> None:
    """0.29 of 100 samples is 29, where 0.29 * 100 in floating point is less and rounds down to 28."""
    assert int(0.29 * 100) == 28
    right = torch.tensor([0] * 100 + [1])
    given = mislabel(right, torch.arange(101), Mislabelling(of=0, to=(1,), share=0.29), seed=0)
    assert len(given.changed_ids) == 29


def test_the_seed_decides() -> None:
    """A seed gives the same samples whatever the order of the ids and the global RNG; others differ."""
    right = shuffled((50,) * 10)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = mislabel(right, torch.arange(500), SEVENS, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    again = mislabel(right, torch.arange(500).flip(0), SEVENS, seed=3)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.changed_ids, mislabel(right, torch.arange(500), SEVENS, seed=4).changed_ids)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("of", -1), ("of", 7.0), ("of", True), ("to", ()), ("to", (7,)), ("to", (2, 2)), ("to", (2, -1)),
        ("to", 2), ("to", ("2",)), ("share", 0), ("share", 1.01), ("share", -0.2), ("share", math.nan),
        ("share", "0.2"), ("share", True),
    ],
)  # fmt: skip
def test_bad_fields_are_named(field: str, value: Any) -> None:
    """A class that is none, labels that teach nothing wrong or twice, a share outside (0, 1]."""
    with pytest.raises(BadInput, match=f"mislabelling.{field} is ") as error:
        Mislabelling(**{"of": 7, "to": (2, 3, 7), field: value})
    assert error.value.value is value


def test_classes_that_are_not_there_are_named() -> None:
    """The class itself or a label to give, absent from the part although the dataset has it."""
    labels = torch.tensor([7, 7, 7, 2, 3])
    for part, missing in ((torch.tensor([3, 4]), 7), (torch.tensor([0, 1, 2, 4]), 2)):
        with pytest.raises(BadInput, match=f"class of the mislabelling is {missing}; allowed: one of"):
            mislabel(labels, part, SEVENS, seed=0)


@pytest.mark.parametrize(("to", "share"), [((2,), 0.24), ((7, 2), 0.25)])
def test_a_share_of_nothing_is_refused(to: tuple[int, ...], share: float) -> None:
    """A quarter of four samples is one: less is none, and the one may keep its label."""
    labels = torch.tensor([7, 7, 7, 7, 2])
    with pytest.raises(BadInput, match="mislabelling.share is .*class 7's 4 samples that a label changes"):
        mislabel(labels, torch.arange(5), Mislabelling(of=7, to=to, share=share), seed=0)
    assert len(mislabel(labels, torch.arange(5), Mislabelling(of=7, to=(2,), share=0.25), 0).changed_ids) == 1
