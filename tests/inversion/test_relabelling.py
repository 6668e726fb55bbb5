"""Relabelling: r(y, y_e) by hand, and not by the letter of eq. 10."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rayunlearn.errors import BadInput
from rayunlearn.inversion.relabelling import relabel

SOFT = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.0, 0.5], [0.97, 0.01, 0.01, 0.01]])


def test_the_erased_label_is_gone_and_the_rest_keeps_its_proportions() -> None:
    """By hand for y_e = 3: [1, 2, 3, 0] / 6, all on label 1, and 97 : 1 : 1.

    Negative control: the softmax of eq. 10 taken by the letter leaves y_e above 10 % everywhere.
    """
    expected = torch.tensor(
        [[1 / 6, 2 / 6, 3 / 6, 0], [0, 1, 0, 0], [97 / 99, 1 / 99, 1 / 99, 0]], dtype=torch.float32
    )
    assert torch.allclose(relabel(SOFT, [3]), expected, atol=1e-7)
    by_the_letter = SOFT.index_fill(1, torch.tensor([3]), 0.0).softmax(dim=1)
    assert bool((by_the_letter[:, 3] > 0.1).all())


def test_several_labels_are_erased_from_all_rows() -> None:
    """Labels 2 and 3 of a mislabelling, by hand; a set and a list give the same."""
    expected = torch.tensor([[1 / 3, 2 / 3, 0, 0], [0, 1, 0, 0], [97 / 98, 1 / 98, 0, 0]])
    assert torch.allclose(relabel(SOFT, {2, 3}), expected, atol=1e-7)
    assert torch.equal(relabel(SOFT, [3, 2, 3]), relabel(SOFT, {2, 3}))


def test_a_tensor_erases_one_label_from_each_row() -> None:
    """Each row is what erasing its own label from all rows gives."""
    one_each = relabel(SOFT, torch.tensor([3, 1, 0]))
    for row, label in enumerate([3, 1, 0]):
        assert torch.equal(one_each[row], relabel(SOFT, [label])[row])


def test_where_all_probability_is_erased_the_others_are_equal() -> None:
    """Probability 1 on the erased label, or split over two, leaves equal parts; one in 1e30 leaves itself."""
    soft = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [1.0, 0, 1e-30, 0]])
    one, two = relabel(soft, [0]), relabel(soft, [0, 1])
    assert torch.allclose(one[0], torch.tensor([0, 1 / 3, 1 / 3, 1 / 3]))
    assert torch.equal(two[:2], torch.tensor([[0, 0, 0.5, 0.5]]).expand(2, 4))
    assert torch.equal(one[2], torch.tensor([0.0, 0, 1, 0]))


def test_the_result_is_probabilities_and_the_given_stays() -> None:
    """Rows sum to 1 in the given dtype, on 1000 random rows, which are not changed."""
    soft = (3 * torch.randn(1000, 10, generator=torch.Generator().manual_seed(0))).softmax(dim=1)
    before = soft.clone()
    after = relabel(soft, [4])
    assert after.dtype == torch.float32 and torch.equal(soft, before)
    assert torch.allclose(after.sum(dim=1), torch.ones(1000), atol=1e-6)
    assert int(after[:, 4].count_nonzero()) == 0 and bool((after >= 0).all())


@pytest.mark.parametrize(
    ("soft", "erased", "thing"),
    [
        (4 * SOFT, [3], "rows of soft labels that are no probabilities"),
        (SOFT - 0.25, [3], "rows of soft labels that are no probabilities"),
        (SOFT * torch.nan, [3], "rows of soft labels that are no probabilities"),
        (SOFT, [], "labels to erase"),
        (SOFT, [0, 1, 2, 3], "labels to erase"),
        (SOFT, [4], "labels to erase"),
        (SOFT, [-1], "labels to erase"),
        (SOFT, torch.tensor([1, 2]), "labels to erase"),
        (SOFT, torch.tensor([1.0, 2.0, 3.0]), "labels to erase"),
        (SOFT, torch.tensor([1, 2, 4]), "labels to erase"),
    ],
)
def test_what_cannot_be_relabelled_is_refused(soft: torch.Tensor, erased: Any, thing: str) -> None:
    """Logits, NaN, no label to erase or all of them, labels that there are not, a row without its label."""
    with pytest.raises(BadInput) as error:
        relabel(soft, erased)
    assert error.value.thing == thing
