"""What a model relearns from: relabelled where it is like the examples, and split by index alone."""

import pytest
import torch

from rayunlearn.errors import BadInput
from rayunlearn.inversion.knee import Knee
from rayunlearn.inversion.unlearning_set import in_part, likeness, unlearning_set

SOFT = torch.tensor([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.2, 0.7, 0.1]])
KNEE = Knee(threshold=5.0, curve=(10.0, 0.0), method="knee", reason="")
LIKE = torch.tensor([True, False, True, False])


def test_only_what_is_like_the_examples_is_relabelled() -> None:
    """The erased label's probability goes to the others in proportion; the other samples keep theirs."""
    given = unlearning_set(torch.zeros(4, 1, 2, 2), SOFT, LIKE, [0])
    expected = torch.tensor([[0.0, 1.0, 0.0], [0.9, 0.1, 0.0], [0.0, 0.875, 0.125], [0.2, 0.7, 0.1]])
    assert torch.allclose(given.targets, expected)
    assert given.answers.tolist() == [0, 0, 1, 1]


def test_unwanted_is_what_is_answered_with_an_erased_label() -> None:
    """Like the examples but answered otherwise is nothing to unlearn; nor is the label elsewhere."""
    given = unlearning_set(torch.zeros(4, 1, 2, 2), SOFT, LIKE, [0])
    assert given.unwanted.tolist() == [True, False, False, False]
    assert len(given.where(given.unwanted)) == 1


def test_the_parts_are_disjoint_whole_and_fixed_by_the_index() -> None:
    """Every index is in exactly one part, and which one does not depend on the other samples."""
    indices = torch.arange(137)
    masks = torch.stack([in_part(indices, part) for part in ("learn", "stop", "check")])
    assert masks.sum(dim=0).tolist() == [1] * 137
    assert masks.sum(dim=1).tolist() == [110, 14, 13]
    scattered = indices[torch.randperm(137, generator=torch.Generator().manual_seed(0))]
    assert torch.equal(in_part(scattered, "stop"), masks[1][scattered])


def test_of_a_class_that_stays_the_most_similar_tenth_counts() -> None:
    """All of label 1 and half of label 2 lie above the knee; 1 stays, 2 goes as a whole, 0 is not erased."""
    like, unlike = torch.linspace(9.0, 10.0, 100), torch.linspace(0.0, 0.5, 900)
    scores = torch.cat([like, unlike]).double()
    answers = torch.cat([torch.tensor([1, 2]).repeat(50), torch.zeros(850), torch.full((50,), 2)]).long()
    rule = likeness(scores, answers, KNEE, stay=(1,), most_of_a_label=0.1)
    chosen = rule.selects(scores, answers)
    assert [int(chosen[answers == label].sum()) for label in (0, 1, 2)] == [0, 5, 50]
    assert scores[chosen & (answers == 1)].min() > scores[~chosen & (answers == 1)].max()
    all_go = likeness(scores, answers, KNEE, stay=(), most_of_a_label=0.1)
    assert torch.equal(all_go.selects(scores, answers), scores >= KNEE.threshold)


def test_a_minority_of_a_class_is_left_to_the_knee() -> None:
    """What is below a tenth of its label already keeps the common threshold; of a rare label one counts."""
    scores = torch.cat([torch.linspace(9.0, 10.0, 20), torch.linspace(0.0, 0.5, 480)]).double()
    answers = torch.cat([torch.ones(17), torch.full((3,), 2.0), torch.ones(480)]).long()
    rule = likeness(scores, answers, KNEE, stay=(1, 2, 3), most_of_a_label=0.1)
    assert set(rule.raised) == {2}
    chosen = rule.selects(scores, answers)
    assert int(chosen[answers == 1].sum()) == 17 and int(chosen[answers == 2].sum()) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_at_a_labels_threshold_are_not_let_in(dtype: torch.dtype) -> None:
    """Five of a label stand out and 45 tie at 9.1, above the knee; a tenth of the label is five, not all.

    Negative control: compared in 32 bits, the threshold is rounded to the tie and selects all 50.
    """
    scores = torch.cat([torch.full((5,), 10.0), torch.full((45,), 9.1), torch.zeros(50)]).to(dtype)
    answers = torch.cat([torch.ones(50), torch.zeros(50)]).long()
    rule = likeness(scores, answers, KNEE, stay=(1,), most_of_a_label=0.1)
    assert torch.equal(rule.selects(scores, answers), scores == 10)
    assert int((scores.float() >= rule.raised[1]).sum()) == 50


def test_another_part_is_refused() -> None:
    """The error names the parts that there are."""
    with pytest.raises(BadInput, match="learn, stop, check"):
        in_part(torch.arange(3), "test")  # type: ignore[arg-type]
