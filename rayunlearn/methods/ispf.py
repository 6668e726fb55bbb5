"""ISPF, data-free: a generator held back from the classes to forget, and targets without them.

"Toward Efficient Data-Free Unlearning" (AAAI 2025, arXiv 2412.13790). GKT drops every image in which the
teacher sees a class to forget, and with it what the image says of the others. ISPF drops none:

- Inhibited Synthetic: the generator looks for images on which student and teacher disagree over the
  classes to retain, and agree over those to forget (`inhibited_divergence`);
- PostFilter: where the teacher sees a class to forget, the student is taught that it is the least likely
  one, and the rest of its logit goes to the classes to retain in equal parts (`post_filter`).

Details are the authors' published code's: the sign is flipped class by class within one image's
divergence, not image by image; the row's minimum is over all classes; the generator's step sees the
teacher's own logits and takes gradients through teacher and student, the student in eval mode; each student
step has images of its own, from the generator in eval mode; the generator starts `warmup_epochs` ahead; all
its losses have weight 1; the KL divergence is the mean over images, at temperature 1.

Deviations. The generator is the zero-shot paper's (Table V) behind a sigmoid onto the valid pixels; the
published one has up to twice the channels and no BatchNorm before its sigmoid. The BatchNorm statistics
are compared with the unbiased variance, which is what the running ones hold. The published code keeps the
epoch with the best accuracy on real test data; here the run's checkpoints are judged from outside.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from rayunlearn.errors import BadInput, RayUnlearnError
from rayunlearn.fields import AtLeastTwo, Checked, PositiveShare, ShareBelowOne
from rayunlearn.inversion.deep_inversion import BatchNormStatistics
from rayunlearn.methods.distillation import kl_divergence
from rayunlearn.methods.unlearning import Handed, Method, Unlearning
from rayunlearn.models.classifiers import Classifier, build_classifier
from rayunlearn.models.generators import GeneratorSpec, build_generator
from rayunlearn.models.resuming import Stepped
from rayunlearn.seeds import derive_seed
from rayunlearn.seeds import generator as seeded


@dataclass(frozen=True, kw_only=True)
class ISPFSettings(Checked, section="ispf"):
    """Settings of ISPF; the defaults are the published code's for CIFAR-10.

    Attributes:
        epochs: in which the student learns.
        warmup_epochs: before them, in which the generator alone learns.
        student_steps: student steps in an epoch.
        generator_every: student steps between generator steps, which go on in the warm-up.
        batch_size: images in a batch, of either.
        z_dim: length of the generator's input.
        generator_width: multiplier of the generator's channels.
        threshold: probability above which a class to forget counts as seen (0.001 in the published code
            where there are 100 classes or more); 1 turns the post-filter off.
        inhibited: flip the sign of the adversarial term on the classes to forget; False is the published
            ablation.
        bn_weight: of the distance to the teacher's BatchNorm statistics.
        one_hot_weight: of the cross-entropy between the teacher and its own argmax.
        balance_weight: of the entropy of the batch's mean prediction, which is maximised.
        adversarial_weight: of the divergence between teacher and student, which is maximised.
        generator_lr: of Adam with betas 0.5 and 0.999.
        student_lr: of SGD, lowered along a cosine, epoch by epoch.
        final_lr: what the cosine goes to.
        momentum: of SGD.
        weight_decay: of SGD.
    """

    epochs: PositiveInt = 200
    warmup_epochs: NonNegativeInt = 2
    student_steps: PositiveInt = 50
    generator_every: PositiveInt = 10
    batch_size: AtLeastTwo = 256
    z_dim: PositiveInt = 256
    generator_width: PositiveFloat = 1.0
    threshold: PositiveShare = 0.01
    inhibited: bool = True
    bn_weight: NonNegativeFloat = 1.0
    one_hot_weight: NonNegativeFloat = 1.0
    balance_weight: NonNegativeFloat = 1.0
    adversarial_weight: NonNegativeFloat = 1.0
    generator_lr: PositiveFloat = 1e-3
    student_lr: PositiveFloat = 0.05
    final_lr: NonNegativeFloat = 2e-4
    momentum: ShareBelowOne = 0.9
    weight_decay: NonNegativeFloat = 1e-4

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        if self.final_lr > self.student_lr:
            allowed = f"a number from 0 to student_lr, {self.student_lr}"
            raise BadInput("ispf.final_lr", self.final_lr, allowed)


def post_filter(logits: Tensor, forget: Sequence[int], threshold: float) -> Tensor:
    """What the student is taught of the teacher's logits `[B, K]`: PostFilter.

    A logit of `forget` whose probability is above `threshold` falls to the row's minimum; what it loses
    is added to the logits of the other classes in equal parts, so that the row's sum stays and so do the
    differences between those classes. Other rows stay as they are.

    >>> post_filter(torch.tensor([[5.0, -1.0, 2.0]]), [0], threshold=0.01)
    tensor([[-1.,  2.,  5.]])
    """
    forgotten = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    forgotten[list(forget)] = True
    seen = forgotten & (logits.softmax(dim=1) > threshold)
    lowered = torch.where(seen, logits.amin(dim=1, keepdim=True), logits)
    removed = (logits - lowered).sum(dim=1, keepdim=True)
    return torch.where(forgotten, lowered, lowered + removed / (~forgotten).sum())


def inhibited_divergence(teacher_logits: Tensor, student_logits: Tensor, forget: Sequence[int]) -> Tensor:
    """D_KL(T || S) in nats with the terms of the classes to forget negated: Inhibited Synthetic.

    The mean over the batch of sum_k s_k p_k log(p_k / q_k), with p the teacher's probabilities, q the
    student's, both of logits `[B, K]`, and s_k = -1 where k is in `forget`, else 1. Where it is maximised,
    what teacher and student disagree over is sought among the other classes and shunned among these.
    """
    log_p, log_q = F.log_softmax(teacher_logits, dim=1), F.log_softmax(student_logits, dim=1)
    signs = torch.ones_like(log_p[0])
    signs[list(forget)] = -1.0
    return (signs * log_p.exp() * (log_p - log_q)).sum(dim=1).mean()


def batch_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of the mean prediction over a batch of logits `[B, K]`; at most ln K."""
    log_mean = F.log_softmax(logits, dim=1).logsumexp(dim=0) - math.log(len(logits))
    return -(log_mean.exp() * log_mean).sum()


def generator_loss(
    distance: Tensor,
    teacher_logits: Tensor,
    student_logits: Tensor,
    forget: Sequence[int],
    settings: ISPFSettings,
) -> Tensor:
    """The generator's loss, a scalar: images that the teacher knows, all classes, and student errors.

    Args:
        distance: to the teacher's BatchNorm statistics, a scalar.
        teacher_logits: `[B, K]`, not filtered.
        student_logits: `[B, K]`.
        forget: every class to be gone.
        settings: weights.
    """
    one_hot = F.cross_entropy(teacher_logits, teacher_logits.argmax(dim=1))
    inhibited = forget if settings.inhibited else ()
    return (
        settings.bn_weight * distance
        + settings.one_hot_weight * one_hot
        - settings.balance_weight * batch_entropy(teacher_logits)
        - settings.adversarial_weight * inhibited_divergence(teacher_logits, student_logits, inhibited)
    )


class ISPF(Stepped, Unlearning):
    """A run of ISPF. A step is an epoch, those of the warm-up first; a checkpoint falls between epochs.

    Classes forgotten earlier are classes to forget. The student starts with random weights.

    Raises:
        BadInput: the classifier has no BatchNorm, whose statistics the images are made to match.
    """

    saved = {
        "student": "student", "generator": "generator", "optimizers": "optimizers", "taken": "taken",
        "losses": "_losses",
    }  # fmt: skip

    def __init__(self, handed: Handed, settings: ISPFSettings, device: str = "cpu") -> None:
        self.settings = settings
        self.steps = settings.warmup_epochs + settings.epochs
        self.forget = handed.roles.forget
        self.seed = handed.seed
        self.device = torch.device(device)
        self.teacher = handed.model(device).requires_grad_(False)
        if not BatchNormStatistics(self.teacher).layers:
            raise BadInput("classifier of an ISPF run", handed.spec.name, "one with BatchNorm")
        self.student = build_classifier(handed.spec, derive_seed(handed.seed, "student")).to(self.device)
        low, high = handed.spec.pixel_range
        spec = GeneratorSpec(
            channels=handed.spec.in_channels,
            image_size=handed.spec.image_size,
            z_dim=settings.z_dim,
            width=settings.generator_width,
            output="pixel_range",
            low=low,
            high=high,
        )
        self.generator = build_generator(spec, derive_seed(handed.seed, "generator")).to(self.device)
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "student": torch.optim.SGD(
                self.student.parameters(),
                lr=settings.student_lr,
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
            ),
            "generator": torch.optim.Adam(
                self.generator.parameters(), lr=settings.generator_lr, betas=(0.5, 0.999)
            ),
        }
        self.taken = 0
        self._losses: dict[str, list[float]] = {"student": [], "generator": []}

    def _step(self) -> None:
        """An epoch."""
        learned = self.taken - self.settings.warmup_epochs
        if learned >= 0:
            for group in self.optimizers["student"].param_groups:
                group["lr"] = self._student_lr(learned)
        for step in range(self.settings.student_steps):
            number = self.taken * self.settings.student_steps + step
            if step % self.settings.generator_every == 0:
                self._train_generator(number)
            if learned >= 0:
                self._train_student(number)

    def _student_lr(self, learned: int) -> float:
        """The student's rate after so many of its epochs."""
        low, high = self.settings.final_lr, self.settings.student_lr
        return low + (high - low) * 0.5 * (1 + math.cos(math.pi * learned / self.settings.epochs))

    def _images(self, purpose: str, number: int) -> Tensor:
        """The generator's images `[B, C, H, W]` for a step, counted over epochs."""
        size = (self.settings.batch_size, self.settings.z_dim)
        z = torch.randn(size, generator=seeded(self.seed, "ispf z", purpose, number))
        images: Tensor = self.generator(z.to(self.device))
        return images

    def _train_generator(self, number: int) -> None:
        self.generator.train()
        self.student.eval()
        images = self._images("generator", number)
        with BatchNormStatistics(self.teacher) as statistics:
            logits = self.teacher(images)
            distance = statistics.take()
        loss = generator_loss(distance, logits, self.student(images), self.forget, self.settings)
        self._update("generator", self.generator, loss)

    def _train_student(self, number: int) -> None:
        self.generator.eval()
        self.student.train()
        with torch.no_grad():
            images = self._images("student", number)
            targets = post_filter(self.teacher(images), self.forget, self.settings.threshold)
        self._update("student", self.student, kl_divergence(targets, self.student(images)))

    def _update(self, name: str, model: nn.Module, loss: Tensor) -> None:
        """One step of a model's optimizer; the other model takes part in the loss, but gets no gradient."""
        if not bool(torch.isfinite(loss)):
            raise RayUnlearnError(f"the {name}'s loss is {float(loss.detach())} in epoch {self.taken + 1}")
        self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward(inputs=list(model.parameters()))
        self.optimizers[name].step()
        self._losses[name].append(float(loss.detach()))

    def checkpoint(self) -> Classifier:
        """A copy of the student, in eval mode."""
        return copy.deepcopy(self.student).eval()

    def report(self) -> dict[str, Any]:
        """Mean losses since the last report, and the student's steps so far."""
        means = {name: sum(losses) / len(losses) if losses else None for name, losses in self._losses.items()}
        self._losses = {name: [] for name in self._losses}
        learned = max(0, self.taken - self.settings.warmup_epochs)
        return {
            "student_loss": means["student"],
            "generator_loss": means["generator"],
            "student_steps": learned * self.settings.student_steps,
        }


METHOD = Method(
    name="ispf",
    summary="a random student learns from every image of an adversarial generator, by filtered logits",
    source="Toward Efficient Data-Free Unlearning (AAAI 2025), Inhibited Synthetic and PostFilter",
    data_access=frozenset({"weights"}),
    granularity=frozenset({"classes"}),
    section="ispf",
    begin=ISPF,
)
