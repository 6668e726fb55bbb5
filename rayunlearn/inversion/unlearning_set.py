"""What a model relearns from: D', relabelled where it is like the examples (few-shot paper, eq. 9 and 10).

A part of D' is never learned from: it judges checkpoints and the result. Which samples those are depends on
their index alone, so that every part of D' can be put together, or split, wherever it is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.inversion.knee import Knee
from rayunlearn.inversion.relabelling import relabel

HELD_OUT_EVERY = 10
"""Of so many samples of a class in a row one is held out for stopping, and one for the final check."""

EXAMPLE_KEPT_BACK_EVERY = 4
"""Of so many unwanted examples one is never learned from."""

Part = Literal["learn", "stop", "check"]


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """Which samples are like the examples: D'_e.

    What was learned by heart, as a wrong label is, has the features of what it is taken for, so that all of
    that class may lie above the knee. Where the class is to stay, only its most similar samples count: on
    digits of which a fifth of the 7s was labelled 2 or 3, relabelling all above the knee left 2 and 57 % of
    the 2s and 3s right (docs/log.md, 55).

    Attributes:
        knee: the threshold on all samples.
        raised: label -> its own threshold, above the knee's.
        most_of_a_label: share of the samples with such a label that may lie above it, one at least.
    """

    knee: Knee
    raised: Mapping[int, float]
    most_of_a_label: float

    def selects(self, scores: Tensor, answers: Tensor) -> Tensor:
        """Mask `[N]` of samples by their similarity `[N]` and the labels that they get `[N]`."""
        like = self.knee.selects(scores)
        for label, threshold in self.raised.items():
            like = like & ((answers != label) | (scores.double() >= threshold))
        return like


def likeness(
    scores: Tensor, answers: Tensor, knee: Knee, stay: Collection[int], most_of_a_label: float
) -> Likeness:
    """The rule for D'_e, from all samples of D'.

    Args:
        scores: similarity to the examples, `[N]`.
        answers: labels that the version gives, `[N]` int64.
        knee: of the scores.
        stay: labels to erase whose classes stay.
        most_of_a_label: most of the samples with such a label that are D'_e; one may always be.
    """
    raised = {}
    for label in sorted(stay):
        own = scores[answers == label].sort(descending=True).values
        most = max(1, int(most_of_a_label * len(own)))
        if int(knee.selects(own).sum()) > most:
            raised[label] = math.nextafter(float(own[most]), math.inf)
    return Likeness(knee=knee, raised=raised, most_of_a_label=most_of_a_label)


@dataclass(frozen=True, kw_only=True, eq=False)
class UnlearningSet:
    """Samples of D' with what is to be answered to them, on CPU.

    Attributes:
        images: `[N, C, H, W]`.
        targets: `[N, K]` probabilities: the version's own, relabelled where it is like the examples.
        answers: what the version to unlearn from answers, `[N]` int64.
        unwanted: the samples that are like the examples and answered with an erased label, `[N]` bool:
            those on which the model has to change its mind.
    """

    images: Tensor
    targets: Tensor
    answers: Tensor
    unwanted: Tensor

    def __len__(self) -> int:
        return len(self.answers)

    def where(self, chosen: Tensor) -> UnlearningSet:
        """The samples of a mask `[N]` or of indices."""
        return UnlearningSet(
            images=self.images[chosen],
            targets=self.targets[chosen],
            answers=self.answers[chosen],
            unwanted=self.unwanted[chosen],
        )


def unlearning_set(
    images: Tensor, soft_labels: Tensor, like_examples: Tensor, erased: Collection[int]
) -> UnlearningSet:
    """Samples of D' as they are relearned from.

    Args:
        images: `[N, C, H, W]`.
        soft_labels: the version's probabilities, `[N, K]`.
        like_examples: D'_e, mask `[N]` (`Likeness.selects`).
        erased: labels y_e.

    Raises:
        BadInput: as `relabel`.
    """
    answers = soft_labels.argmax(dim=1)
    wrong = torch.isin(answers, torch.tensor(sorted(erased)))
    targets = torch.where(like_examples[:, None], relabel(soft_labels, erased), soft_labels)
    return UnlearningSet(images=images, targets=targets, answers=answers, unwanted=like_examples & wrong)


def kept_back(examples: UnlearningSet) -> Tensor:
    """Which examples are never learned from, mask `[N]`: every fourth of the unwanted ones.

    Whoever learns from examples is judged by those that are kept back. Of less than four unwanted ones none
    is, and all judge.
    """
    place = examples.unwanted.cumsum(dim=0) % EXAMPLE_KEPT_BACK_EVERY
    return examples.unwanted & (place == 0)


def joined(parts: Sequence[UnlearningSet]) -> UnlearningSet:
    """Several sets as one, in order; at least one."""
    return UnlearningSet(
        images=torch.cat([part.images for part in parts]),
        targets=torch.cat([part.targets for part in parts]),
        answers=torch.cat([part.answers for part in parts]),
        unwanted=torch.cat([part.unwanted for part in parts]),
    )


def in_part(indices: Tensor, part: Part) -> Tensor:
    """Which samples belong to a part of D', mask `[N]`, by their indices within their class `[N]`.

    >>> [in_part(torch.arange(20), part).sum().item() for part in ("learn", "stop", "check")]
    [16, 2, 2]
    """
    places = {"stop": HELD_OUT_EVERY // 2 - 1, "check": HELD_OUT_EVERY - 1}
    place = indices % HELD_OUT_EVERY
    if part == "learn":
        return (place != places["stop"]) & (place != places["check"])
    if part not in places:
        raise BadInput("part of D'", part, "learn, stop, check")
    return place == places[part]
