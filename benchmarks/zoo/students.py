"""Students of a model's answers, on images of one kind, from one start."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.zoo.cache import Weights
from rayunlearn.balance import even_weights
from rayunlearn.inversion.augmentations import cut_together
from rayunlearn.methods.distillation import kl_divergence, lower_to_minimum
from rayunlearn.models.classifiers import Classifier
from rayunlearn.seeds import generator


@dataclass(frozen=True, kw_only=True)
class StudentSettings:
    """How long a student learns.

    Attributes:
        steps: of AdamW, along a one-cycle rate.
        batch_size: images.
        lr: greatest rate.
        weight_decay: decoupled.
    """

    steps: int = 300
    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 1e-4


def evened(teacher: Classifier, pool: Tensor, forget: Sequence[int], most: float = 0.3) -> tuple[Tensor, ...]:
    """Of a pool `[N, C, H, H]` the images not of a forget class, their answers, and a weight each.

    The weights make the teacher's answers even over the classes that it gives.
    """
    with torch.no_grad():
        logits = torch.cat([teacher(part).float() for part in pool.split(256)])
    keep = logits.softmax(dim=1)[:, list(forget)].sum(dim=1) < most
    answers = lower_to_minimum(logits[keep], forget)
    return pool[keep], answers, even_weights(answers.argmax(dim=1))


def taught(
    student: Classifier, teacher: Classifier, pool: Tensor, forget: Sequence[int],
    settings: StudentSettings, seed: int,
) -> Weights:  # fmt: skip
    """The student's weights in the end; it is changed in place.

    Each batch is drawn by weight. Half of its images are cut together with another one (CutMix), and the
    teacher answers what came of it.
    """
    images, _, weights = evened(teacher, pool, forget)
    optimizer = torch.optim.AdamW(student.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=settings.steps)
    for step in range(settings.steps):
        draws = generator(seed, "student batch", step)
        ids = torch.multinomial(weights, settings.batch_size, replacement=True, generator=draws)
        x, half = images[ids], settings.batch_size // 2
        x[:half] = cut_together(x[:half], x[half : 2 * half], draws)
        with torch.no_grad():
            told = lower_to_minimum(teacher(x).float(), forget)
        student.train()
        answers = student(x).float()
        loss = kl_divergence(told, answers)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return copy.deepcopy({name: weight.detach() for name, weight in student.state_dict().items()})


def shaken(weights: Weights, scale: float, seed: int) -> Weights:
    """Noise on every weight of more than one dimension, `scale` times its root mean square.

    The noise's direction is the seed's alone.
    """
    return {
        name: w + scale * w.square().mean().sqrt() * torch.randn(w.shape, generator=generator(seed, name))
        if w.dim() > 1
        else w
        for name, w in weights.items()
    }
