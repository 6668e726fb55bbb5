"""Measures on synthetic images: what stopping rule and gate see, and all that they see.

Of a single sample there is no synthetic image. A request that names samples has no class to forget, so its
sets hold retain classes alone, and all that is measured of forgetting is 0 of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.answers import answers
from rayunlearn.evaluation.probe import ProbeSettings, linear_probes, recall
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.models.classifiers import Classifier
from rayunlearn.roles import Roles
from rayunlearn.seeds import derive_seed


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """A model on one synthetic set, as sums and counts.

    Attributes:
        retain_correct, retain_count: images of retain classes, and those classified as made.
        forget_correct, forget_count: the same for the classes to forget.
        retain_loss: mean cross-entropy on the retain images, nats.
        forget_mass: mean probability of the classes to forget on their images; 0 where there are none.
        forgotten_share: share of all predictions for each class forgotten earlier, in order.
    """

    retain_correct: int
    retain_count: int
    forget_correct: int
    forget_count: int
    retain_loss: float
    forget_mass: float
    forgotten_share: tuple[float, ...]


def assess(model: Classifier, images: SyntheticSet, roles: Roles) -> Assessment:
    """Count what the model makes of a synthetic set; eval mode, its mode is put back.

    Raises:
        BadInput: there are classes to forget and no image of them, or a logit is not finite.
    """
    return assessed(answers(model, images.images), images.labels, roles)


def assessed(logits: Tensor, labels: Tensor, roles: Roles) -> Assessment:
    """`assess` of a model's logits `[N, K]` for images that were made for the classes `labels`, `[N]`."""
    said = logits.argmax(dim=1)
    retain, target = (torch.isin(labels, torch.tensor(c)) for c in (roles.retain, roles.target))
    if roles.target and not target.any():
        raise BadInput("synthetic forget images", 0, f"at least 1 of the classes {list(roles.target)}")
    mass = logits[target].softmax(dim=1)[:, list(roles.target)].sum(dim=1).mean() if roles.target else 0.0
    return Assessment(
        retain_correct=int((said == labels)[retain].sum()),
        retain_count=int(retain.sum()),
        forget_correct=int((said == labels)[target].sum()),
        forget_count=int(target.sum()),
        retain_loss=float(F.cross_entropy(logits[retain], labels[retain])),
        forget_mass=float(mass),
        forgotten_share=tuple(float((said == c).sum()) / len(labels) for c in roles.forgotten),
    )


PROBE_DRAWS = 20
"""Draws of the images that stand for each class in `probe_recall`."""


def probe_recall(
    model: nn.Module, images: SyntheticSet, roles: Roles, seed: int, *, train_per_class: int = 1
) -> tuple[float, float]:
    """What the features hold, whatever the head says: shares of the classes to forget, and of the others.

    A linear probe learns from so many images of each class and is asked about the other half of the set; mean
    over `PROBE_DRAWS` draws. A head that was masked, cut or replaced changes nothing of it.

    Raises:
        BadInput: fewer than two images of a class.
    """
    shown = torch.arange(len(images.labels)) % 2 == 0
    settings = ProbeSettings(train_per_class=train_per_class)
    seeds = [derive_seed(seed, "gate probe", draw) for draw in range(PROBE_DRAWS)]
    return recall(
        linear_probes(
            model, images.images[shown], images.labels[shown], images.images[~shown],
            images.labels[~shown], roles.target, settings, seeds,
        )
    )  # fmt: skip


def mean_probe_recall(
    model: nn.Module, sets: Sequence[SyntheticSet], roles: Roles, seed: int
) -> tuple[float, float]:
    """Means of `probe_recall` over sets of several kinds: what one shows too well, another does not.

    Plain images show what a version's first layers answer to, and are told by whoever kept these. Coarse ones
    show less of what noise or a few steps have hidden (docs/log.md, 110 and 113).
    """
    found = [probe_recall(model, images, roles, seed) for images in sets]
    forget, retain = (sum(shares) / len(found) for shares in zip(*found, strict=True))
    return forget, retain


def balanced_labels(roles: Roles, *, per_retain_class: int, per_forget_class: int) -> Tensor:
    """The labels of a synthetic set `[N]`: so many of each retain class, then of each class to forget."""
    parts: Sequence[Tensor] = [
        torch.tensor(roles.retain, dtype=torch.int64).repeat_interleave(per_retain_class),
        torch.tensor(roles.target, dtype=torch.int64).repeat_interleave(per_forget_class),
    ]
    return torch.cat(list(parts))
