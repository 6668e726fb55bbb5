"""Bad Teacher: the model learns from a random one on what it must forget, from itself on the rest.

Chundawat, Tarun, Mandal and Kankanhalli, "Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks
Using an Incompetent Teacher" (AAAI 2023): the loss is D_KL(bad teacher || student) on samples to forget
and D_KL(original || student) on samples to retain, over shuffled batches of both.

A random model's answers are near to uniform, so a class is forgotten when its probability has come down
to about 1 / K; the argmax of such an answer is close to a draw. Digits, AllCNN width 0.125, class 0, six
runs at lr 1e-3 and batch 32: after one epoch forget accuracy 0 to 16 % and mean probability 0.04 to 0.15,
after three epochs 17 to 78 % and 0.13 to 0.19. Judge it by the probability, not by the accuracy alone.

The published code averages the divergence over B * K elements, here over the B samples: K times as long
a gradient, which Adam's step does not see.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from rayunlearn.fields import AtLeastTwo, Checked, PositiveShare
from rayunlearn.methods.distillation import kl_divergence
from rayunlearn.methods.retrain import redrawn
from rayunlearn.methods.unlearning import (
    Handed,
    Method,
    Samples,
    Stage,
    StagedTraining,
    batch_ids,
    batches_per_epoch,
    required,
)
from rayunlearn.models.classifiers import Classifier
from rayunlearn.seeds import generator


@dataclass(frozen=True, kw_only=True)
class BadTeacherSettings(Checked, section="bad_teacher"):
    """How the student is taught, by Adam; the defaults are those of the authors' published code.

    Attributes:
        epochs: passes over the samples to forget and the share of those to retain.
        batch_size: samples in a batch.
        lr: Adam's learning rate.
        temperature: divides the logits of teachers and student.
        retain_share: share of the samples to retain that the student is taught with.
    """

    epochs: PositiveInt = 1
    batch_size: AtLeastTwo = 256
    lr: PositiveFloat = 1e-4
    temperature: PositiveFloat = 1.0
    retain_share: PositiveShare = 0.3


@torch.no_grad()
def answers(teacher: Classifier, images: Tensor, batch_size: int) -> Tensor:
    """Logits `[N, K]` of a teacher in eval mode."""
    return torch.cat([teacher(batch) for batch in images.split(batch_size)])


def begin(handed: Handed, settings: BadTeacherSettings, device: str) -> StagedTraining:
    """A run over the samples of both kinds; a step is one of Adam.

    Both teachers are fixed and in eval mode, so they are asked once about every image, at the beginning.
    """
    forget: Samples = required(handed, "forget", METHOD.name).to(device)
    retain: Samples = required(handed, "retain", METHOD.name).to(device)
    share = max(1, round(settings.retain_share * len(retain)))
    kept = torch.randperm(len(retain), generator=generator(handed.seed, "retain share"))[:share]
    original = handed.model(device)
    bad_teacher = redrawn(handed, "bad teacher").to(device).eval()
    images = torch.cat([forget.images, retain.images[kept]])
    taught = torch.cat(
        [
            answers(bad_teacher, forget.images, settings.batch_size),
            answers(original, retain.images[kept], settings.batch_size),
        ]
    )

    def loss(student: Classifier, step: int) -> Tensor:
        ids = batch_ids(len(images), settings.batch_size, step, handed.seed)
        return kl_divergence(taught[ids], student(images[ids]), settings.temperature)

    stage = Stage(
        steps=settings.epochs * batches_per_epoch(len(images), settings.batch_size),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=settings.lr),
        loss=loss,
    )
    return StagedTraining(original, [stage])


METHOD = Method(
    name="bad_teacher",
    summary="learns from a random teacher on what to forget, from the original on the rest",
    source='Chundawat et al., "Can Bad Teaching Induce Forgetting?" (AAAI 2023)',
    data_access=frozenset({"weights", "forget", "retain"}),
    granularity=frozenset({"classes", "samples"}),
    section="bad_teacher",
    begin=begin,
    fixed_length=True,
)
