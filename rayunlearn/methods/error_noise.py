"""Noise that a classifier errs on, or does not, and steps that unlearn by it.

What Error min-max noise (zero-shot paper, section IV.B, algorithm 1) and UNSIR (Tarun et al., "Fast Yet
Effective Machine Unlearning", arXiv 2111.08947) share. Noise that maximises the error of a class to
forget, labelled as that class, stands in for its data: learning it damages what the model knew of the
class. This is the *impair* step.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.fields import AtLeastTwo, Checked
from rayunlearn.methods.unlearning import Handed, Samples, Stage, StagedTraining, batch_ids, batches_per_epoch
from rayunlearn.models.classifiers import Classifier
from rayunlearn.seeds import derive_seed, generator


@dataclass(frozen=True, kw_only=True)
class NoiseSettings(Checked, section="noise"):
    """What both methods set.

    Attributes:
        noise_images: noise images of a class.
        noise_steps: Adam steps on them.
        noise_lr: Adam's learning rate.
        noise_patience: steps in a row without a new least loss that are let pass; the next one halves the
            rate. None for a constant rate.
        penalty: what keeps error-maximising noise small, the mean over images of "norm", ||z||_2, or of
            "squared_norm", ||z||_2^2.
        penalty_weight: lambda.
        batch_size: images in a step of the model.
        impair_epochs: epochs of impair steps.
        impair_lr: Adam's learning rate in them.
    """

    noise_images: PositiveInt = 256
    noise_steps: PositiveInt
    noise_lr: PositiveFloat = 0.1
    noise_patience: NonNegativeInt | None
    penalty: Literal["norm", "squared_norm"]
    penalty_weight: NonNegativeFloat = 0.1
    batch_size: AtLeastTwo = 256
    impair_epochs: PositiveInt
    impair_lr: PositiveFloat


def noise_loss(
    logits: Tensor, labels: Tensor, noise: Tensor, settings: NoiseSettings, *, maximise: bool
) -> Tensor:
    """What noise minimises: its error L (eq. 6), or -L + lambda ||z||_2 (algorithm 1, line 9).

    L is the cross-entropy in nats; L and the penalty are means over images, so that lambda weighs an
    image's error against its own size whatever the number of images.

    Args:
        logits: `[N, K]` of the noise.
        labels: `[N]`, the class whose noise it is.
        noise: `[N, C, H, W]`.
        settings: which penalty, and lambda.
        maximise: whether noise is to maximise the error.

    >>> import math
    >>> settings = NoiseSettings(
    ...     noise_steps=1, noise_patience=None, penalty="squared_norm", penalty_weight=0.5,
    ...     impair_epochs=1, impair_lr=0.1,
    ... )
    >>> logits, labels, noise = torch.zeros(1, 2), torch.tensor([0]), torch.full((1, 1, 2, 2), 3.0)
    >>> loss = noise_loss(logits, labels, noise, settings, maximise=True)
    >>> bool(torch.isclose(loss, torch.tensor(-math.log(2) + 0.5 * 36)))
    True
    """
    error = F.cross_entropy(logits, labels)
    if not maximise:
        return error
    sizes = noise.flatten(1).norm(dim=1)
    if settings.penalty == "squared_norm":
        sizes = sizes.square()
    return settings.penalty_weight * sizes.mean() - error


def error_noise(
    model: Classifier, label: int, settings: NoiseSettings, *, maximise: bool, seed: int
) -> Tensor:
    """Noise images `[N, C, H, W]` of a class that minimise or maximise the model's error on it.

    From N(0, I), by Adam on the pixels. The model is in eval mode, in which images do not see each other
    and noise does not enter the BatchNorm statistics; it is left as it was.

    Algorithm 1 writes a plain gradient step; Adam is what UNSIR's published code takes, which the
    error-maximising noise follows "in a manner similar to". That the rate is halved "if the loss doesn't
    improve" (section V.A) is read as: below its least so far, by however little. A margin relative to the
    least, as torch's plateau schedule has by default, would count every step as a gain where the loss is
    negative.

    Args:
        model: the version to forget from.
        label: class of the noise.
        settings: number of images, steps, rate and penalty.
        maximise: whether to maximise the error.
        seed: of the starting noise, which differs between classes.
    """
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    device = next(frozen.parameters()).device
    spec = model.spec
    shape = (settings.noise_images, *spec.shape)
    start = torch.randn(shape, generator=generator(seed, "error noise", label))
    labels = torch.full((settings.noise_images,), label, device=device)
    noise = start.to(device).requires_grad_()
    optimizer = torch.optim.Adam([noise], lr=settings.noise_lr)
    plateau = None
    if settings.noise_patience is not None:
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.5, patience=settings.noise_patience, threshold=0.0
        )
    for _ in range(settings.noise_steps):
        loss = noise_loss(frozen(noise), labels, noise, settings, maximise=maximise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if plateau is not None:
            plateau.step(float(loss.detach()))
    return noise.detach()


def adam_stage(
    images: Tensor, labels: Tensor, order: Tensor, *, epochs: int, lr: float, batch_size: int, seed: int
) -> Stage:
    """Epochs of Adam on the cross-entropy of labelled images, in train mode as UNSIR's published code.

    Args:
        images: `[M, C, H, W]`, read at each step.
        labels: `[M]`.
        order: `[N]`, which images an epoch takes, one as often as it stands there; shuffled.
        epochs: how many.
        lr: Adam's learning rate.
        batch_size: images in a step; an epoch's last may have fewer.
        seed: of the shuffling.
    """

    def loss(model: Classifier, step: int) -> Tensor:
        ids = order[batch_ids(len(order), batch_size, step, seed)].to(images.device)
        return F.cross_entropy(model(images[ids]), labels[ids])

    steps = epochs * batches_per_epoch(len(order), batch_size)
    return Stage(steps=steps, optimizer=partial(torch.optim.Adam, lr=lr), loss=loss)


class NoiseTraining(StagedTraining):
    """Impair steps on noise that the version makes of itself, and the stages that come after.

    The noise is learned before the first step and is part of the state, so that a run that is loaded does
    not learn it again.

    Args:
        handed: version, roles and seed.
        settings: noise and impair steps.
        device: of model and images.
        maximised: classes to forget, whose noise maximises the error.
        minimised: classes whose noise minimises the error.
        copies: how often an epoch of impair steps takes each noise image.
        retain: real images that it takes once, on the device.
        after: stages after the impair steps.

    Attributes:
        classes: those that noise is learned for, in order.
        noise: `[len(classes) * noise_images, C, H, W]`, class by class; zeros before the first step.
    """

    def __init__(
        self,
        handed: Handed,
        settings: NoiseSettings,
        device: str,
        *,
        maximised: Sequence[int],
        minimised: Sequence[int] = (),
        copies: int = 1,
        retain: Samples | None = None,
        after: Sequence[Stage] = (),
    ) -> None:
        if not maximised:
            raise BadInput("classes to forget", tuple(maximised), "at least one: noise is made for classes")
        spec = handed.spec
        self.settings = settings
        self.seed = handed.seed
        self.maximised = frozenset(maximised)
        self.classes = sorted({*maximised, *minimised})
        labels = torch.tensor(self.classes, device=device).repeat_interleave(settings.noise_images)
        images = torch.zeros(len(labels), *spec.shape, device=device)
        order = torch.arange(len(labels)).repeat(copies)
        if retain is not None:
            order = torch.cat([order, len(labels) + torch.arange(len(retain))])
            images, labels = torch.cat([images, retain.images]), torch.cat([labels, retain.labels])
        self.noise = images[: len(self.classes) * settings.noise_images]  # a view: the impair steps read it
        impair = adam_stage(
            images, labels, order, epochs=settings.impair_epochs, lr=settings.impair_lr,
            batch_size=settings.batch_size, seed=derive_seed(handed.seed, "impair"),
        )  # fmt: skip
        super().__init__(handed.model(device), [impair, *after])

    def advance(self, first: int, last: int) -> None:
        """Take optimizer steps `first` to `last`; the noise is learned before the first."""
        if self.taken == 0:
            for label, part in zip(self.classes, self.noise.split(self.settings.noise_images), strict=True):
                maximise = label in self.maximised
                part.copy_(error_noise(self.model, label, self.settings, maximise=maximise, seed=self.seed))
        super().advance(first, last)

    def state(self) -> dict[str, Any]:
        """That of the training, and the noise."""
        return super().state() | {"noise": self.noise.cpu().clone()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        super().load(state)
        self.noise.copy_(state["noise"])
