"""Entropy attack: whether a model's confidence on an image says that it was trained on.

Source: zero-shot machine unlearning, appendix E and Table VII, after Golatkar et al. 2020 (arXiv
2003.02960). The feature of an image is the entropy of the model's output distribution; a support vector
machine tells members from non-members by it.

What is fitted on what: members (label 1) are retain images that the model was trained on, non-members
(label 0) are test images, as in the published code (appendix E says "train set", which would fit the
attack on the very forget images that it is asked about). The paper calls the share of a set's images
that are called members its "attack probability".

Deviations from the published code, which fits the attack on all retain and all test images and then
scores it on the same:

- Every image is scored by an attack that was not fitted on it. Each set is cut into two halves by seed;
  each half is scored by the attack that was fitted on the other halves, and the counts are added.
- Either side of a fit has as many images as the smaller one, drawn by seed: with many more members than
  test images the attack would call everything a member, whatever the model's outputs.

What the attack cannot tell: test images of a forget class, where given among `test`, are labelled 0 and
no retain image is of their class, so an unlearned model's high entropy on the class passes for
non-membership. A share means something beside the same share of a retrained model only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.fields import Checked
from rayunlearn.seeds import generator

SETS = ("retain", "forget", "test")
"""What logits are given for; the training set is retain and forget together."""


@dataclass(frozen=True, kw_only=True)
class EntropyAttackSettings(Checked, section="audit.entropy"):
    """The support vector machine; the published code's values."""

    C: PositiveFloat = 3.0
    """Inverse strength of the penalty."""
    kernel: Literal["rbf", "linear"] = "rbf"
    gamma: Literal["auto", "scale"] = "auto"
    """Of the RBF kernel: auto is 1 over the number of features, here 1 per square nat; scale divides by the
    feature's variance too. By auto, entropies that differ by less than 0.1 nat or so look alike."""
    least_fitted: PositiveInt = 10
    """Fewest images of either side that an attack is fitted on; with fewer, it is refused."""


@dataclass(frozen=True, kw_only=True)
class CalledMembers:
    """How many images of a set the attack calls members.

    Counts of disjoint sets add up, so they are pooled first and divided once:

    >>> (CalledMembers(called_member=3, count=3) + CalledMembers(called_member=0, count=1)).share
    0.75
    """

    called_member: int
    count: int

    def __post_init__(self) -> None:
        """Refuse counts that are none."""
        if not 0 <= self.called_member <= self.count or self.count < 1:
            found = (self.called_member, self.count)
            raise BadInput("(called_member, count)", found, "0 <= called_member <= count, count >= 1")

    def __add__(self, other: CalledMembers) -> CalledMembers:
        """Pool the counts of two sets of images."""
        return CalledMembers(
            called_member=self.called_member + other.called_member, count=self.count + other.count
        )

    @property
    def share(self) -> float:
        """Table VII's attack probability."""
        return self.called_member / self.count


@dataclass(frozen=True, kw_only=True)
class EntropyAttackReport:
    """What the attack says of each set, every image scored once (a row of Table VII)."""

    retain: CalledMembers
    forget: CalledMembers
    test: CalledMembers
    fitted: tuple[int, int]
    """Images of either side that the first and the second fit learned from."""

    @property
    def train(self) -> CalledMembers:
        """Retain and forget together."""
        return self.retain + self.forget


def output_entropy(logits: Tensor) -> Tensor:
    """H(p) = - sum_k p_k log p_k of p = softmax(logits): [N, K] -> float64 [N], nats.

    Log-probabilities do as well as logits.

    >>> import math
    >>> bool((output_entropy(torch.zeros(1, 4)) - math.log(4)).abs() < 1e-12)
    True
    """
    return torch.special.entr(logits.double().softmax(dim=1)).sum(dim=1)


def entropy_attack(
    logits: Mapping[str, Tensor], settings: EntropyAttackSettings, seed: int
) -> EntropyAttackReport:
    """Fit the attack on retain against test images and count whom it calls members, set by set.

    Deterministic: a function of the arguments alone. See the head of the module for what is fitted on
    what, and for the deviations.

    Args:
        logits: one model's logits or log-probabilities, [N, K] for each of the sets
            `retain` (training images of the classes to retain), `forget` (training images of the
            classes to forget) and `test` (images that no model was trained on).
        settings: of the support vector machine.
        seed: of the halves and the balanced draw; give every model that is compared the same.

    Raises:
        BadInput: a set is missing or unknown, has too few images, or holds what are no finite logits.
    """
    _check(logits, settings)
    from sklearn.svm import SVC  # here, since every process imports this module: two seconds each

    features = {name: output_entropy(logits[name].detach().cpu()).numpy() for name in SETS}
    halves = {name: _halves(len(features[name]), seed, name) for name in SETS}
    called = dict.fromkeys(SETS, 0)
    fitted: list[int] = []
    for fit_half, score_half in ((0, 1), (1, 0)):
        n = min(len(halves[name][fit_half]) for name in ("retain", "test"))
        members, others = (features[name][halves[name][fit_half][:n]] for name in ("retain", "test"))
        attack = SVC(C=settings.C, kernel=settings.kernel, gamma=settings.gamma)
        attack.fit(np.concatenate([members, others])[:, None], np.repeat([1, 0], n))
        fitted.append(n)
        for name in SETS:
            scored = features[name][halves[name][score_half]]
            if len(scored):  # a single forget image leaves one half empty
                called[name] += int((attack.predict(scored[:, None]) == 1).sum())

    def result(name: str) -> CalledMembers:
        return CalledMembers(called_member=called[name], count=len(features[name]))

    return EntropyAttackReport(
        retain=result("retain"), forget=result("forget"), test=result("test"), fitted=(fitted[0], fitted[1])
    )


def _halves(n: int, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices 0..n-1 in two halves and a drawn order, so that the first of a half are a draw from it."""
    order = torch.randperm(n, generator=generator(seed, "membership", name)).numpy()
    return order[: n // 2], order[n // 2 :]


def _check(logits: Mapping[str, Tensor], settings: EntropyAttackSettings) -> None:
    """Refuse sets that are not the three, too small ones, and logits that are none; each by its name."""
    where = "entropy_attack"
    if set(logits) != set(SETS):
        allowed = f"exactly {', '.join(SETS)}; the training set is retain and forget together"
        raise BadInput("sets", sorted(logits), allowed, where=where)
    num_classes: int | None = None
    for name in SETS:
        given = logits[name]
        if given.dim() != 2 or not given.is_floating_point() or given.shape[1] < 2:
            found = f"{given.dtype} {list(given.shape)}"
            raise BadInput(f"logits of set {name!r}", found, "floats of shape [N, K], K >= 2", where=where)
        num_classes = num_classes or given.shape[1]
        if given.shape[1] != num_classes:
            thing = f"number of classes of set {name!r}"
            raise BadInput(thing, given.shape[1], f"{num_classes}, as of set {SETS[0]!r}", where=where)
        least = 1 if name == "forget" else 2 * settings.least_fitted
        if len(given) < least:
            why = "" if name == "forget" else f", {settings.least_fitted} in each half to fit the attack on"
            thing = f"number of images of set {name!r}"
            raise BadInput(thing, len(given), f"at least {least}{why}", where=where)
        not_finite = int((~given.isfinite().all(dim=1)).sum())
        if not_finite:
            sentence = f"the logits of set {name!r} are not finite for {not_finite} of {len(given)} images"
            raise BadInput("number of images with NaN or infinite logits", not_finite, "0", where=sentence)
