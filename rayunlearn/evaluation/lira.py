"""Per-example likelihood ratio attack on samples that a model was made to forget.

Source: Carlini et al. 2022, "Membership Inference Attacks From First Principles" (LiRA, arXiv 2112.03570),
and Hayes et al. 2024, "Inexact Unlearning Needs More Careful Evaluations" (U-LiRA, arXiv 2403.01218).

The question in class unlearning: can the unlearned model's behaviour on samples that it was trained on and
then made to forget be told from its behaviour on samples that it never saw? Members are training images of
the forget classes, non-members are test images of the same classes. Both are candidates alike: each shadow
model is trained on a drawn half of them, so that each candidate has scores of models trained with it (in)
and without it (out), and the attack judges the target's score of a candidate by that candidate's own two
Gaussians.

Deviations. U-LiRA's shadows are themselves unlearned before they are scored; whether these are is up to the
caller, who gives scores and not models. With shadows that were trained and not unlearned, a target that
forgot the class scores far below both Gaussians of every candidate, and what is left of the attack is the
order of the candidates: hence the comparison to a retrained model's curve, measured with the same shadows.
An AUC far from Retrain's tells in either direction. The published LiRA code takes the median and the
population variance, and as the global variance that of all scores about their common mean; here it is the
mean, the unbiased variance, and the variance about each example's own mean.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from pydantic import PositiveFloat
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.accuracy import check_images
from rayunlearn.fields import Checked, Share, check_value
from rayunlearn.seeds import generator

LOW_FPR = 0.01
"""False positive rate up to which the true positive rate is reported; LiRA goes to a tenth of it, which
takes more than a thousand non-members."""


@dataclass(frozen=True, kw_only=True)
class LikelihoodRatioSettings(Checked, section="audit.likelihood_ratio"):
    """The Gaussians that are fitted to the shadow models' scores."""

    variance: Literal["pooled", "per_example"] = "pooled"
    """pooled: one variance of all in-scores and one of all out-scores, about each example's mean, for
    few shadow models (LiRA's "global variance"). per_example: each example has two of its own."""
    least_variance: PositiveFloat = 1e-6
    """Lower bound on a variance, squared log-odds: equal scores would make a Gaussian without width."""


def membership_scores(logits: Tensor, labels: Tensor) -> Tensor:
    """phi = log(p_y / (1 - p_y)), the log-odds of the true class (LiRA, algorithm 1).

    Computed as z_y - logsumexp of the other logits in float64: neither p nor 1 - p is formed, so the score
    is finite wherever the logits are. Log-probabilities do as well as logits.

    Args:
        logits: [N, K], K >= 2.
        labels: [N] integers.

    Returns:
        float64 [N]; greater for samples that the model is surer of.

    Raises:
        BadInput: labels do not fit, or a logit is NaN or infinite.

    >>> round(membership_scores(torch.tensor([[0.9, 0.1]]).log(), torch.tensor([0])).exp().item(), 5)
    9.0
    """
    where = "membership_scores"
    if logits.dim() != 2 or logits.shape[1] < 2 or not logits.is_floating_point():
        found = f"{logits.dtype} {list(logits.shape)}"
        raise BadInput("logits", found, "floats of shape [N, K], K >= 2", where=where)
    check_images(logits, labels, logits.shape[1], where)
    _check_finite(logits, "logits", where)
    z = logits.detach().double().cpu()
    true = labels.detach().cpu().long()[:, None]
    others = z.scatter(1, true, -math.inf)
    return z.gather(1, true).squeeze(1) - others.logsumexp(dim=1)


def shadow_plan(sample_ids: Tensor, shadows: int, seed: int) -> Tensor:
    """Which shadow model is trained with which candidate: each candidate is in exactly half of them.

    A candidate's column depends on its id, the number of shadows and the seed alone.

    Args:
        sample_ids: [N] integers, each once: forget-class samples, members and non-members alike.
        shadows: S, even and at least 4, so that each candidate has two models with and two without it.
        seed: of the draw.

    Returns:
        bool [S, N], every column with S / 2 true.

    Raises:
        BadInput: the number of shadows, no candidate, or one given twice.

    >>> shadow_plan(torch.tensor([3, 7, 9]), 4, 0).sum(dim=0).tolist()
    [2, 2, 2]
    """
    where = "shadow_plan"
    if type(shadows) is not int or shadows < 4 or shadows % 2:
        raise BadInput("shadows", shadows, "an even number >= 4", where=where)
    if sample_ids.dim() != 1 or sample_ids.is_floating_point() or not len(sample_ids):
        found = f"{sample_ids.dtype} {list(sample_ids.shape)}"
        raise BadInput("sample ids", found, "integers of shape [N], at least one", where=where)
    ids = sample_ids.tolist()
    if len(set(ids)) != len(ids):
        raise BadInput("number of different sample ids", len(set(ids)), f"{len(ids)}, each once", where=where)
    plan = torch.zeros(shadows, len(ids), dtype=torch.bool)
    for column, sample in enumerate(ids):
        order = torch.randperm(shadows, generator=generator(seed, "shadow plan", sample))
        plan[order[: shadows // 2], column] = True
    return plan


def likelihood_ratios(
    target: Tensor, shadow_scores: Tensor, included: Tensor, settings: LikelihoodRatioSettings
) -> Tensor:
    """log N(phi; mean_in, var_in) - log N(phi; mean_out, var_out) of the target's scores (LiRA, algorithm 1).

    Args:
        target: [N], scores of the model under attack, one an example.
        shadow_scores: [S, N], scores of the shadow models.
        included: bool [S, N], whether the shadow model was trained with the example.
        settings: whose variance a Gaussian has.

    Returns:
        float64 [N]; above 0 where the score is likelier of a model trained with the example.

    Raises:
        BadInput: shapes do not fit, a score is NaN or infinite, or an example has fewer than two shadow
            models with it or without it; the first such example is named.
    """
    where = "likelihood_ratios"
    if target.dim() != 1 or not len(target) or not target.is_floating_point():
        found = f"{target.dtype} {list(target.shape)}"
        raise BadInput("target's scores", found, "floats of shape [N], at least one", where=where)
    if shadow_scores.dim() != 2 or shadow_scores.shape[1] != len(target):
        allowed = f"[S, {len(target)}], a column for each of the target's scores"
        raise BadInput("shape of the shadow scores", list(shadow_scores.shape), allowed, where=where)
    if included.shape != shadow_scores.shape or included.dtype is not torch.bool:
        found = f"{included.dtype} {list(included.shape)}"
        raise BadInput("included", found, f"torch.bool {list(shadow_scores.shape)}", where=where)
    _check_finite(target, "target's scores", where)
    _check_finite(shadow_scores, "shadow scores", where)
    with_it, without_it = included.sum(dim=0), (~included).sum(dim=0)
    few = ((with_it < 2) | (without_it < 2)).nonzero().flatten().tolist()
    if few:
        counts = (int(with_it[few[0]]), int(without_it[few[0]]))
        thing = f"number of shadow models with and without example {few[0]}"
        raise BadInput(thing, counts, "at least 2 of each", where=where)
    phi, scores = target.double(), shadow_scores.double()
    return _log_density(phi, scores, included, settings) - _log_density(phi, scores, ~included, settings)


def _log_density(phi: Tensor, scores: Tensor, mask: Tensor, settings: LikelihoodRatioSettings) -> Tensor:
    """Log density of phi [N] by the Gaussian of each example's masked scores [S, N]."""
    count = mask.sum(dim=0).double()
    mean = scores.where(mask, 0.0).sum(dim=0) / count
    squares = (scores - mean).where(mask, 0.0).square().sum(dim=0)
    if settings.variance == "pooled":
        variance = (squares.sum() / (count - 1).sum()).expand_as(phi)
    else:
        variance = squares / (count - 1)
    variance = variance.clamp(min=settings.least_variance)
    return -((phi - mean).square() / variance + (2 * math.pi * variance).log()) / 2


@dataclass(frozen=True, kw_only=True)
class AttackCurve:
    """ROC of an attack in counts: who is called a member as the threshold falls from above all scores.

    Each distinct value of the scores is one point, so examples that score alike are called together.
    """

    true_positives: tuple[int, ...]
    """Members called members at each threshold: 0 first, the number of members last."""
    false_positives: tuple[int, ...]
    """Non-members called members at the same thresholds."""

    def __post_init__(self) -> None:
        """Refuse counts that are no curve."""
        tp, fp = self.true_positives, self.false_positives
        for counts in (tp, fp):
            rising = all(a <= b for a, b in zip(counts, counts[1:], strict=False))
            if len(tp) != len(fp) or not counts or counts[0] != 0 or counts[-1] < 1 or not rising:
                allowed = "as many of either, from 0 to at least 1, never falling"
                raise BadInput("counts of the curve", (tp, fp), allowed, where="AttackCurve")

    @property
    def members(self) -> int:
        """Members scored."""
        return self.true_positives[-1]

    @property
    def non_members(self) -> int:
        """Non-members scored."""
        return self.false_positives[-1]

    @property
    def roc(self) -> list[tuple[float, float]]:
        """(false positive rate, true positive rate) at each threshold, from (0, 0) to (1, 1)."""
        return [
            (fp / self.non_members, tp / self.members)
            for fp, tp in zip(self.false_positives, self.true_positives, strict=True)
        ]

    def points(self, most: int = 200) -> list[tuple[int, int]]:
        """(false positives, true positives at no more than these): the ROC in at most so many points.

        From no false positive to the least number of them at which all members are found; of more counts
        than `most` those evenly spaced by their logarithm.

        >>> attack_curve(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 0.0])).points()
        [(0, 1), (1, 2)]
        """
        check_value("most", most, Annotated[int, Ge(3)], where="AttackCurve")
        last = self.false_positives[self.true_positives.index(self.members)]
        counts = list(range(last + 1))
        if len(counts) > most:
            counts = sorted({0, *(round(last ** (i / (most - 2))) for i in range(most - 1))})
        return [(fp, self.true_positives[bisect_right(self.false_positives, fp) - 1]) for fp in counts]

    @property
    def auc(self) -> float:
        """P(member > non-member) + P(tie) / 2 over all pairs: Mann-Whitney's U over its maximum.

        Summed in whole numbers and divided once, so it is exact up to that division.
        """
        tp, fp = self.true_positives, self.false_positives
        twice = sum((fp[i] - fp[i - 1]) * (tp[i] + tp[i - 1]) for i in range(1, len(tp)))
        return twice / (2 * self.members * self.non_members)

    def caught(self, max_fpr: float = LOW_FPR) -> int:
        """Most members called members while at most `max_fpr` of the non-members are; not interpolated."""
        check_value("max_fpr", max_fpr, Share, where="AttackCurve")
        allowed = max_fpr * self.non_members + 1e-9
        pairs = zip(self.true_positives, self.false_positives, strict=True)
        return max(tp for tp, fp in pairs if fp <= allowed)

    def tpr(self, max_fpr: float = LOW_FPR) -> float:
        """True positive rate at a false positive rate of at most `max_fpr`."""
        return self.caught(max_fpr) / self.members

    @property
    def resolution(self) -> float:
        """Smallest false positive rate above 0 that this many non-members can show."""
        return 1 / self.non_members

    @property
    def note(self) -> str:
        """What the rate at `LOW_FPR` means where it is not what it says; empty where it is."""
        if self.resolution <= LOW_FPR:
            return ""
        return (
            f"one of {self.non_members} non-members is {self.resolution:.2%}: "
            f"the true positive rate at {LOW_FPR:.0%} is that at no false positive"
        )


def attack_curve(members: Tensor, non_members: Tensor) -> AttackCurve:
    """The ROC of scores (likelihood ratios, say) that are to be greater for members.

    Args:
        members: [M], of samples that the target was trained on.
        non_members: [N], of samples that it never saw.

    Raises:
        BadInput: no member or no non-member, or a score that is NaN or infinite.

    >>> curve = attack_curve(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0]))
    >>> curve.roc, curve.auc
    ([(0.0, 0.0), (0.0, 0.5), (0.5, 1.0), (1.0, 1.0)], 0.875)
    """
    where = "attack_curve"
    for name, scores in (("members", members), ("non-members", non_members)):
        if scores.dim() != 1 or not len(scores):
            raise BadInput(f"shape of the {name}", list(scores.shape), "[N], at least one", where=where)
        _check_finite(scores, f"scores of the {name}", where)
    scores = torch.cat([members.double(), non_members.double()]).cpu()
    is_member = torch.arange(len(scores)) < len(members)
    _, group = scores.neg().unique(sorted=True, return_inverse=True)
    size = int(group.max()) + 1

    def up_to_threshold(part: Tensor) -> tuple[int, ...]:
        return (0, *torch.bincount(group[part], minlength=size).cumsum(0).tolist())

    return AttackCurve(true_positives=up_to_threshold(is_member), false_positives=up_to_threshold(~is_member))


def _check_finite(values: Tensor, name: str, where: str) -> None:
    not_finite = int((~values.isfinite()).sum())
    if not_finite:
        thing = f"number of {name} that are NaN or infinite"
        raise BadInput(thing, not_finite, f"0 of {values.numel()}", where=where)
