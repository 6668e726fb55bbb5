"""Distance of a model's answers to a retrained model's: only the difference to Retrain means anything.

Retrained models differ from one another too, by seed and order of the data: the distance of a second
retrained model to the first is the scale on which a figure is read. Zero is not the aim.

Everything is a function of `Predictions` and runs no model. Natural logarithms: divergences are in nats.
Log-probabilities are renormalised and summed up in float64, so that no rounding of float32 passes for a
distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import PositiveInt
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.predictions import Predictions, check_classes
from rayunlearn.fields import check_value

LOG_PROB_FLOOR = math.log(2.0**-149)
"""Least log-probability that a divergence tells from 0, nats (-103.3): that of the least positive float32.

Below it a model says "never", and how far below is a matter of its mask's constant alone: one class masked
by 1e4 would make the mean of a thousand images, and one of exactly 0 would make it infinite, which no table
can average. So an image's KL divergence is at most 103.3 nats, and a figure of tens of nats means: the
model excludes what the reference allows. Divergences with such an answer are lower bounds; Jensen-Shannon
and total variation are not affected.
"""


@dataclass(frozen=True, kw_only=True)
class Divergences:
    """How far a model's answers are from a reference's, summed over images."""

    kl_sum: float
    """Sum of KL(reference || model), nats; at most `-LOG_PROB_FLOOR` an image."""
    js_sum: float
    """Sum of Jensen-Shannon divergences, nats; at most ln 2 an image."""
    tv_sum: float
    """Sum of total variation distances; at most 1 an image."""
    agreeing: int
    """Images for which both predict the same class."""
    count: int
    """Images."""

    @property
    def kl(self) -> float:
        """Mean KL(reference || model), nats."""
        return self.kl_sum / self.count

    @property
    def js(self) -> float:
        """Mean Jensen-Shannon divergence, nats, 0 to ln 2."""
        return self.js_sum / self.count

    @property
    def total_variation(self) -> float:
        """Mean total variation distance, 0 to 1."""
        return self.tv_sum / self.count

    @property
    def agreement(self) -> float:
        """Share of the images for which both predict the same class."""
        return self.agreeing / self.count


def divergences(model: Predictions, reference: Predictions) -> Divergences:
    """Divergences of the model's answers from the reference's, image by image.

    With r the reference's probabilities, m the model's and a = (r + m) / 2:

    - KL(reference || model) = sum_k r_k log(r_k / m_k): large where the model excludes what the
      retrained model allows. Not symmetric; the reverse is `divergences(reference, model)`. r_k = 0
      adds 0; r_k and m_k below e^LOG_PROB_FLOOR, 0 included, count as that.
    - Jensen-Shannon = KL(r || a) / 2 + KL(m || a) / 2 (Lin 1991, eq. 4.1): symmetric, at most ln 2.
    - total variation = sum_k |r_k - m_k| / 2: symmetric, at most 1.

    Args:
        model: the unlearned model's answers, say.
        reference: the retrained model's, for the same images in the same order.

    Raises:
        BadInput: no images, other images (judged by number and labels), or another number of classes.

    >>> half = Predictions(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([0]))
    >>> other = Predictions(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0]))
    >>> round(divergences(other, half).kl, 6) == round(0.5 * math.log(4 / 3), 6)
    True
    >>> round(divergences(other, half).total_variation, 6), divergences(other, half).agreeing
    (0.25, 0)
    """
    _check_same_images(model, reference, "divergences")
    log_m, log_r = _log_probs(model), _log_probs(reference)
    return Divergences(
        kl_sum=float(_kl_per_image(log_r, log_m).sum()),
        js_sum=float(_js_per_image(log_r, log_m).sum()),
        tv_sum=float(_tv_per_image(log_r.exp(), log_m.exp()).sum()),
        agreeing=int((model.predicted == reference.predicted).sum()),
        count=len(model.labels),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassMembership:
    """Where a model and a reference put the forget images among the R retain classes.

    Both kinds of distance are needed. That of the *mean* distributions asks whether the forget
    images as a whole go where Retrain sends them, and is 0 for a model that swaps image for image:
    half of the zeros called 6 and half 8, but never the half that Retrain calls so. The mean distance
    *per image* sees the swap, and is never the smaller one (both distances are convex).
    """

    model: Tensor
    """Mean over forget images of the model's probabilities of the retain classes, float64 [R].

    Renormalised over the retain classes image by image, so that each image counts the same however
    much probability its model leaves to them, and a constant taken off the forget logits changes
    nothing: a mask gives the original's distribution. Of a single retain class it is always 1.
    """
    reference: Tensor
    """The same of the reference."""
    js_of_means: float
    """Jensen-Shannon divergence of the two, nats, 0 to ln 2."""
    tv_of_means: float
    """Total variation distance of the two, 0 to 1."""
    js_sum: float
    """Sum over images of the Jensen-Shannon divergence over the retain classes, nats."""
    tv_sum: float
    """Sum over images of the total variation distance over the retain classes."""
    count: int
    """Images."""

    @property
    def js_per_image(self) -> float:
        """Mean over images, nats, 0 to ln 2; at least `js_of_means`."""
        return self.js_sum / self.count

    @property
    def tv_per_image(self) -> float:
        """Mean over images, 0 to 1; at least `tv_of_means`."""
        return self.tv_sum / self.count


def class_membership(model: Predictions, reference: Predictions, retain: Sequence[int]) -> ClassMembership:
    """Distance of two models in where they put the forget images among the retain classes.

    Args:
        model: the unlearned model's answers for forget images: `Predictions.of(forget)`.
        reference: the retrained model's, for the same images in the same order.
        retain: class ids, in the order of the distributions.

    Raises:
        BadInput: as `divergences`; unknown or repeated classes, images of a retain class, or images to which
            a model gives no probability on any retain class.
    """
    where = "class_membership"
    _check_same_images(model, reference, where)
    log_m, log_r = _over_retain(model, retain, where), _over_retain(reference, retain, where)
    mean_m, mean_r = log_m.exp().mean(dim=0), log_r.exp().mean(dim=0)
    return ClassMembership(
        model=mean_m,
        reference=mean_r,
        js_of_means=float(_js_per_image(mean_r.log()[None], mean_m.log()[None])),
        tv_of_means=float(_tv_per_image(mean_r[None], mean_m[None])),
        js_sum=float(_js_per_image(log_r, log_m).sum()),
        tv_sum=float(_tv_per_image(log_r.exp(), log_m.exp()).sum()),
        count=len(model.labels),
    )


@dataclass(frozen=True, eq=False)
class CalibrationError:
    """Confidence and correctness per bin of confidence; bin i is (i / bins, (i + 1) / bins]."""

    count: Tensor
    """Images, int64 [bins]."""
    confidence_sum: Tensor
    """Sum of their predicted classes' probabilities, float64 [bins]."""
    correct: Tensor
    """Images that were predicted right, int64 [bins]."""

    @property
    def value(self) -> float:
        """Expected calibration error, 0 to 1: sum over bins of |correct - confidence| over all images."""
        gaps = (self.correct - self.confidence_sum).abs()
        return float(gaps.sum()) / int(self.count.sum())


def calibration_error(predictions: Predictions, bins: int = 15) -> CalibrationError:
    """How far a model's confidence is from its accuracy (expected calibration error).

    Guo et al. 2017 (arXiv 1706.04599), eq. 3, with bins of equal width: sum_b |B_b| / N *
    |accuracy(B_b) - confidence(B_b)|. Confidence is the probability of the predicted class. The value
    is above 0 for a calibrated model of few images, and of images of a class that the model must not
    know it is the mean confidence: compare it with a retrained model's on the same images.

    Raises:
        BadInput: no images, or fewer than one bin.

    >>> sure = Predictions(torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log(), torch.tensor([0, 1]))
    >>> round(calibration_error(sure).value, 6)  # two answers at 0.9, one of them right
    0.4
    """
    where = "calibration_error"
    check_value("bins", bins, PositiveInt, where=where)
    _check_some_images(predictions, where)
    predicted = predictions.predicted
    confidence = _log_probs(predictions).gather(1, predicted[:, None])[:, 0].exp()
    edges = torch.arange(1, bins, dtype=torch.float64) / bins  # between bins
    bin_ids = torch.bucketize(confidence, edges)
    right = predicted == predictions.labels
    return CalibrationError(
        count=torch.bincount(bin_ids, minlength=bins),
        confidence_sum=torch.bincount(bin_ids, weights=confidence, minlength=bins),
        correct=torch.bincount(bin_ids[right], minlength=bins),
    )


def _log_probs(predictions: Predictions) -> Tensor:
    """Float64 [N, K], normalised anew: rounded to float32 they sum to 1 within 1e-7 only."""
    return predictions.log_probs.double().log_softmax(dim=1)


def _over_retain(predictions: Predictions, retain: Sequence[int], where: str) -> Tensor:
    """Log-probabilities of the retain classes alone, normalised over them, float64 [N, R]."""
    ids = check_classes(retain, predictions.num_classes, where)
    _check_some_images(predictions, where)
    shown = sorted(set(predictions.labels.tolist()) & set(ids))
    if shown:
        allowed = "none: the images are those of forget classes"
        raise BadInput("retain classes among the labels", shown, allowed, where=where)
    log_probs = predictions.log_probs[:, ids].double()
    nowhere = int(log_probs.isneginf().all(dim=1).sum())
    if nowhere:
        thing = "number of images without any probability on retain classes"
        raise BadInput(thing, nowhere, "0", where=where)
    return log_probs.log_softmax(dim=1)


def _kl_per_image(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of each row, nats: [N, K] twice -> [N]; never negative, by rounding either."""
    ratio = log_p.clamp(min=LOG_PROB_FLOOR) - log_q.clamp(min=LOG_PROB_FLOOR)
    return (log_p.exp() * ratio).sum(dim=1).clamp(min=0)


def _js_per_image(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jensen-Shannon divergence of each row, nats: [N, K] twice -> [N]."""
    log_mixture = torch.logaddexp(log_p, log_q) - math.log(2)
    return (_kl_per_image(log_p, log_mixture) + _kl_per_image(log_q, log_mixture)) / 2


def _tv_per_image(p: Tensor, q: Tensor) -> Tensor:
    """Total variation distance of each row of probabilities: [N, K] twice -> [N]."""
    return (p - q).abs().sum(dim=1) / 2


def _check_some_images(predictions: Predictions, where: str) -> None:
    if not len(predictions.labels):
        raise BadInput("number of images", 0, "at least 1", where=where)


def _check_same_images(model: Predictions, reference: Predictions, where: str) -> None:
    """Refuse answers for other images, as far as labels show it, or among other classes."""
    _check_some_images(reference, where)
    for thing, ours, theirs in (
        ("number of classes of the model", model.num_classes, reference.num_classes),
        ("number of the model's images", len(model.labels), len(reference.labels)),
    ):
        if ours != theirs:
            raise BadInput(thing, ours, f"{theirs}, that of the reference", where=where)
    different = int((model.labels != reference.labels).sum())
    if different:
        thing = "number of images with another label than the reference's"
        raise BadInput(thing, different, "0: the same images in the same order", where=where)
