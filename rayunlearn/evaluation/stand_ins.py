"""Stand-ins for Retrain: models that never saw a class, made without data.

Whoever judges an unlearned model wants to know what a retrained one is like, and has no data to retrain on. A
stand-in is a network of the same kind, trained from random weights on inverted images of the retain classes
alone. It is told the class that the version names, and not the version's probabilities, which would say what
is like the classes to forget. So whatever a stand-in's features know of these, nobody taught it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from rayunlearn.errors import BadInput
from rayunlearn.fields import AtLeastTwo, Checked
from rayunlearn.inversion.augmentations import cut_together
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.models.classifiers import Classifier, build_classifier
from rayunlearn.models.modes import evaluating
from rayunlearn.roles import Roles
from rayunlearn.seeds import derive_seed, generator


@dataclass(frozen=True, kw_only=True)
class StandInSettings(Checked, section="stand_ins"):
    """How stand-ins are trained.

    Attributes:
        number: of stand-ins, each from weights of its own.
        steps: of AdamW, along a one-cycle rate; what a probe knows of a stand-in hardly changes from 50 on.
        batch_size: images; half of them are cut together with another one.
        lr: greatest rate.
        weight_decay: decoupled.
    """

    number: PositiveInt = 2
    steps: PositiveInt = 50
    batch_size: AtLeastTwo = 64
    lr: PositiveFloat = 3e-3
    weight_decay: NonNegativeFloat = 1e-4


def stand_in(
    version: Classifier, images: SyntheticSet, roles: Roles, settings: StandInSettings, seed: int
) -> Classifier:
    """A stand-in for the version retrained without the classes to forget, in eval mode.

    Args:
        version: answers what the stand-in is shown; it is left as it was.
        images: synthetic; those of the retain classes are used, and no others.
        roles: which classes are kept.
        settings: steps and rate.
        seed: of weights and batches.

    Raises:
        BadInput: no image of a retain class.
    """
    pool = images.of(roles.retain).images
    if not len(pool):
        raise BadInput("images of retain classes", 0, "at least 1", where="stand-in")
    device = next(version.parameters()).device
    kept = torch.tensor(roles.retain, device=device)
    student = build_classifier(version.spec, derive_seed(seed, "stand-in")).to(device).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=settings.steps)
    for step in range(settings.steps):
        draws = generator(seed, "stand-in batch", step)
        shown = pool[torch.randint(len(pool), (settings.batch_size,), generator=draws)]
        half = settings.batch_size // 2
        shown[:half] = cut_together(shown[:half], shown[half : 2 * half], draws)
        shown = shown.to(device)
        with evaluating(version):
            told = kept[version(shown)[:, kept].argmax(dim=1)]
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(student(shown), told).backward()
        optimizer.step()
        schedule.step()
    return student.eval()
