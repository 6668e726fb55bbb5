"""Model inversion attack: what an adversary can draw of a class from the weights alone.

Source: zero-shot machine unlearning, section V.D and Fig. 3, after Fredrikson et al. 2015 (CCS, "Model
inversion attacks that exploit confidence information"), who denoise and sharpen between gradient steps.

Threat model: the adversary has the weights of the current model (white box) and what is deployed with
them, the range of its pixels; no earlier version of the model, and no idea of what the classes look
like. `invert` is handed nothing else. The class means belong to the auditor, who holds the real images
and scores the adversary's; nothing of them reaches the attack.

What can be compared: models attacked from the same starting images (settings and seed), scored by the
same means. The means of two classes are much alike (those of the digits 0 and 9 correlate at 0.72), so

- the correlation with the class's own mean holds what all classes share, of either sign;
- its lead over the other classes' means needs no knowledge of the class: a model that never saw it can
  still draw "none of the others", which correlates with them negatively;
- `specific` is immune to both, as far as they are linear: no image composed of the other classes'
  means, with whatever signs, scores anything but 0. What it is worth shows beside a gold model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.accuracy import check_images
from rayunlearn.fields import Checked
from rayunlearn.models.classifiers import Classifier, ClassifierSpec
from rayunlearn.models.modes import device_of, evaluating
from rayunlearn.seeds import generator
from rayunlearn.streamed import Images


@dataclass(frozen=True, kw_only=True)
class InversionAttackSettings(Checked, section="audit.inversion"):
    """How a class is attacked; the paper gives 12 attacks and the course, but no other figure.

    Pixels are normalised ones: those of the digits range from -0.8 to 1.8. Blurs are in pixels of the
    image, so 28 x 28 bears wider ones than the 8 x 8 that these defaults are for.
    """

    attacks: PositiveInt = 12
    """Independent attacks on a class, each from noise of its own."""
    epochs: PositiveInt = 10
    """Times that gradient steps and image processing follow each other."""
    steps_per_epoch: PositiveInt = 10
    """Gradient steps before each image processing (n)."""
    lr: PositiveFloat = 0.1
    """Length of a step: root mean square of the pixels' change, or the factor on a plain gradient."""
    step: Literal["normalised", "plain"] = "normalised"
    """plain: x - lr * gradient, as the paper has it, which ends where the model is sure: on digits after
    some steps, with a faint image. normalised (deviation): the same direction at a fixed length. This
    adversary is the stronger one and is not stopped by a masked logit, nor helped by one."""
    noise: PositiveFloat = 0.1
    """Standard deviation of the noise that the attack starts from, around zero."""
    blur: NonNegativeFloat = 0.6
    """Image processing: standard deviation of the Gaussian that smooths; 0: none."""
    sharpen: NonNegativeFloat = 0.5
    """Image processing: weight of what unsharp masking adds after smoothing; 0: none."""
    sharpen_blur: PositiveFloat = 1.0
    """Standard deviation of the unsharp mask's own Gaussian."""


@dataclass(frozen=True, kw_only=True, eq=False)
class InversionAttack:
    """The images that A attacks on one class ended with, and how they are scored; all on CPU.

    A correlation is Pearson's over the C * H * W pixels, in float64. That of a constant image is
    undefined; it counts as 0, and `constant` says so.
    """

    target: int
    """The class attacked."""
    images: Tensor
    """[A, C, H, W], normalised, after the last image processing."""
    confidence: Tensor
    """Probability that the model gives the target class on each image, float64 [A]."""
    predicted: Tensor
    """What the model takes each image for, int64 [A]."""
    correlations: Tensor
    """Of each image with the mean real image of each class, float64 [A, K]."""
    specific: Tensor | None
    """Of each image with what is the target's own: its mean less the best affine combination of the
    other classes' means, float64 [A]. None where such a combination gives the mean itself."""
    constant: Tensor
    """Whether all pixels of an image are equal, bool [A]."""

    @property
    def count(self) -> int:
        """A."""
        return len(self.images)

    @property
    def recognised(self) -> int:
        """Attacks that end in an image which the model takes for the target class."""
        return int((self.predicted == self.target).sum())

    @property
    def own(self) -> Tensor:
        """Correlations with the target's mean, float64 [A]."""
        return self.correlations[:, self.target]

    @property
    def nearest_other(self) -> Tensor:
        """Correlation of each image with the mean of the other class that it is most like, float64 [A]."""
        others = [k for k in range(self.correlations.shape[1]) if k != self.target]
        return self.correlations[:, others].amax(dim=1)

    @property
    def own_sum(self) -> float:
        """Sum of `own` over the attacks."""
        return float(self.own.sum())

    @property
    def specific_sum(self) -> float | None:
        """Sum of `specific` over the attacks; None where there is none."""
        return None if self.specific is None else float(self.specific.sum())


def class_means(images: Images, labels: Tensor, num_classes: int) -> Tensor:
    """Mean image of each class, [K, C, H, W] of the images' type: what the auditor scores by.

    Args:
        images: [N, C, H, W], real ones, normalised.
        labels: int64 [N].
        num_classes: K.

    Raises:
        BadInput: a class without images has no mean.

    >>> class_means(torch.tensor([1.0, 3.0, 5.0]).reshape(3, 1, 1, 1), torch.tensor([0, 0, 1]), 2).flatten()
    tensor([2., 5.])
    """
    where = "class_means"
    check_images(images, labels, num_classes, where)
    counts = torch.bincount(labels, minlength=num_classes).tolist()
    for class_id, count in enumerate(counts):
        if not count:
            raise BadInput(f"number of images of class {class_id}", 0, "at least 1", where=where)
    means = [images[labels == class_id].double().mean(dim=0) for class_id in range(num_classes)]
    return torch.stack(means).to(images.dtype)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Images [N, C, H, W] smoothed channel by channel; beyond the edge is the nearest pixel.

    Args:
        images: floating point.
        sigma: standard deviation in pixels, cut off at three of them; 0 changes nothing.
    """
    if sigma == 0:
        return images
    radius = math.ceil(3 * sigma)
    at = torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma
    weights = torch.exp(-0.5 * at.square())
    kernel = (weights / weights.sum()).to(images)
    planes = F.pad(images.flatten(0, 1)[:, None], (radius, radius, radius, radius), mode="replicate")
    smooth = F.conv2d(F.conv2d(planes, kernel.reshape(1, 1, -1, 1)), kernel.reshape(1, 1, 1, -1))
    return smooth.reshape(images.shape)


def process_images(images: Tensor, settings: InversionAttackSettings) -> Tensor:
    """The image processing step: smoothed, y = blur(x), then sharpened, y + sharpen * (y - blur'(y)).

    Images [N, C, H, W] -> the same shape. A constant image stays as it is; others can leave the pixel
    range by sharpening, which `invert` puts right.
    """
    smooth = gaussian_blur(images, settings.blur)
    if settings.sharpen == 0:
        return smooth
    return smooth + settings.sharpen * (smooth - gaussian_blur(smooth, settings.sharpen_blur))


def starting_images(
    spec: ClassifierSpec, target: int, settings: InversionAttackSettings, seed: int
) -> Tensor:
    """Zeros with a little noise, [A, C, H, W] on CPU; attack i's depend on seed, target and i alone."""
    noise = [
        torch.randn(spec.shape, generator=generator(seed, "inversion attack", target, i))
        for i in range(settings.attacks)
    ]
    return settings.noise * torch.stack(noise)


def invert(model: Classifier, target: int, starts: Tensor, settings: InversionAttackSettings) -> Tensor:
    """The attack itself: starting images in, inverted images out, on CPU; the model is left as it was.

    Each epoch is `steps_per_epoch` steps of gradient descent on the cross-entropy with the target class,
    then one image processing; after each of them the pixels are cut to the model's range. All attacks
    are one batch and independent of each other: eval mode does not couple them, and the loss is a sum.

    A normalised step goes along the gradient of the log-odds against the target class, which is the
    cross-entropy's up to a factor, and does not vanish where the model is sure. Where it is exactly 0,
    nothing moves.

    Args:
        model: attacked in eval mode.
        target: the class to draw.
        starts: [A, C, H, W] of the model's floating-point type.
        settings: steps and image processing; `attacks` and `noise` are not used.

    Raises:
        BadInput: a class that the model does not have, images of another shape than the model takes, or
            a logit that is NaN or infinite.
    """
    spec = model.spec
    _check_target(model, target)
    shape = list(spec.shape)
    if starts.dim() != 4 or list(starts.shape[1:]) != shape:
        allowed = f"[A, {', '.join(map(str, shape))}]"
        raise BadInput("shape of the starting images", list(starts.shape), allowed, where="inversion attack")
    low, high = spec.pixel_range
    x = starts.detach().to(device_of(model)).clamp(low, high)
    with evaluating(model):
        for _ in range(settings.epochs):
            for _ in range(settings.steps_per_epoch):
                x = (x - settings.lr * _direction(model, x, target, settings.step)).clamp(low, high)
            x = process_images(x, settings).clamp(low, high)
    return x.cpu()


def _direction(model: Classifier, images: Tensor, target: int, step: str) -> Tensor:
    """Which way a step goes down from, [A, C, H, W]: the gradient, or the gradient at unit mean square."""
    x = images.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = _finite_logits(model, x)
        if step == "plain":
            wanted = torch.full((len(x),), target, device=x.device)
            loss = F.cross_entropy(logits, wanted, reduction="sum")
        else:
            others = [k for k in range(logits.shape[1]) if k != target]
            loss = (logits[:, others].logsumexp(dim=1) - logits[:, target]).sum()
        (gradient,) = torch.autograd.grad(loss, x)
    if step == "plain":
        return gradient
    size = gradient.double().square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return (gradient / size.clamp_min(torch.finfo(torch.float64).tiny)).to(gradient.dtype)


def inversion_attack(
    model: Classifier, target: int, means: Tensor, settings: InversionAttackSettings, seed: int
) -> InversionAttack:
    """Attack one class and score what comes of it; deterministic, and the model is left as it was.

    Args:
        model: the current version, which is all that the attack sees.
        target: the class attacked.
        means: [K, C, H, W], the classes' mean real images (`class_means`), for the score alone.
        settings: of the attack; give the models to be compared the same.
        seed: of the starting images; likewise.

    Raises:
        BadInput: a class that the model does not have, means of another shape, constant or not finite
            ones, or a logit that is NaN or infinite.
    """
    _check_target(model, target)
    _check_means(model, means)
    images = invert(model, target, starting_images(model.spec, target, settings, seed), settings)
    with evaluating(model):
        logits = _finite_logits(model, images.to(device_of(model))).double().cpu()
    own = specific_part(means, target)
    return InversionAttack(
        target=target,
        images=images,
        confidence=logits.softmax(dim=1)[:, target],
        predicted=logits.argmax(dim=1),
        correlations=pearson(images, means),
        specific=None if own is None else pearson(images, own[None])[:, 0],
        constant=_constant(images),
    )


def pearson(images: Tensor, patterns: Tensor) -> Tensor:
    """Correlation of each image with each pattern over all pixels, float64 [A, K] on CPU; 0 for constants.

    Args:
        images: [A, ...].
        patterns: [K, ...] of the same shape.

    >>> x = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [5.0, 5.0, 5.0]])
    >>> [round(value, 9) for value in pearson(x, x[:1]).flatten().tolist()]
    [1.0, -1.0, 0.0]
    """
    return _unit(images) @ _unit(patterns).T


def _unit(images: Tensor) -> Tensor:
    """Pixels less their mean, at length 1, float64 [N, D]; zeros for a constant image."""
    flat = images.cpu().double().flatten(1)
    centred = flat - flat.mean(dim=1, keepdim=True)
    unit = centred / centred.norm(dim=1, keepdim=True)
    # not by the norm: of equal pixels, rounding can leave a little, of some direction
    return torch.where(_constant(images)[:, None], 0.0, unit)


def _constant(images: Tensor) -> Tensor:
    """Whether all pixels are exactly equal, bool [N] on CPU."""
    flat = images.cpu().flatten(1)
    return flat.amax(dim=1) == flat.amin(dim=1)


def specific_part(means: Tensor, target: int) -> Tensor | None:
    """What a class's mean has beyond an affine combination of the other classes' means.

    Least squares: m_t - (b + sum over k of a_k m_k), so that it is uncorrelated with every other mean.

    Args:
        means: [K, C, H, W].
        target: t.

    Returns:
        Float64 [C, H, W], or None where nothing is left beyond rounding, as with more classes than pixels.
    """
    flat = means.cpu().double().flatten(1)
    centred = flat - flat.mean(dim=1, keepdim=True)
    own, others = centred[target], centred[[k for k in range(len(means)) if k != target]]
    # gelsd: two classes may have the same mean
    combination = torch.linalg.lstsq(others.T, own[:, None], driver="gelsd").solution
    left: Tensor = own - (others.T @ combination)[:, 0]
    if float(left.norm()) <= 1e-6 * float(own.norm()):
        return None
    return left.reshape(means.shape[1:])


def _finite_logits(model: Classifier, images: Tensor) -> Tensor:
    """Logits [A, K]; an attack on NaN would end in an image of NaN, and its score would look like one."""
    logits: Tensor = model(images)
    not_finite = int((~logits.isfinite().all(dim=1)).sum())
    if not_finite:
        sentence = f"the model's logits are not finite in {not_finite} of {len(images)} attacks"
        raise BadInput("number of attacks with NaN or infinite logits", not_finite, "0", where=sentence)
    return logits


def _check_target(model: Classifier, target: int) -> None:
    num_classes = model.head.out_features
    if not 0 <= target < num_classes:
        raise BadInput("class attacked", target, f"one of 0..{num_classes - 1}", where="inversion attack")


def _check_means(model: Classifier, means: Tensor) -> None:
    """Refuse means that no image could be compared with."""
    where, spec = "inversion attack", model.spec
    shape = [model.head.out_features, *spec.shape]
    if list(means.shape) != shape:
        raise BadInput("shape of the class means", list(means.shape), str(shape), where=where)
    broken = (~means.flatten(1).isfinite().all(dim=1)).nonzero().flatten().tolist()
    if broken:
        raise BadInput("classes whose mean image is not finite", broken, "none", where=where)
    flat = _constant(means).nonzero().flatten().tolist()
    if flat:
        allowed = "none: nothing correlates with a constant"
        raise BadInput("classes whose mean image is constant", flat, allowed, where=where)
