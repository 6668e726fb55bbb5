"""Measures on synthetic images: what stopping rule and gate see, and all that they see.

Of a single sample there is no synthetic image. A request that names samples has no class to forget, so its
sets hold retain classes alone, and all that is measured of forgetting is 0 of 0.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.accuracy import class_counts, evaluating
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
        BadInput: there are classes to forget and no image of them.
    """
    classes = model.spec.num_classes
    counts = class_counts(model, images.images, images.labels, classes)
    retain_correct, retain_count = counts.sums(roles.retain)
    forget_correct, forget_count = counts.sums(roles.target)
    if roles.target and not forget_count:
        raise BadInput("synthetic forget images", 0, f"at least 1 of the classes {list(roles.target)}")
    with evaluating(model), torch.no_grad():
        device = next(model.parameters()).device
        mass = 0.0
        if roles.target:
            forget_images = images.of(roles.target).images.to(device)
            mass = float(model(forget_images).softmax(dim=1)[:, list(roles.target)].sum(dim=1).mean())
        retain = images.of(roles.retain)
        loss = F.cross_entropy(model(retain.images.to(device)), retain.labels.to(device))
    predicted = counts.predicted.tolist()
    return Assessment(
        retain_correct=retain_correct,
        retain_count=retain_count,
        forget_correct=forget_correct,
        forget_count=forget_count,
        retain_loss=float(loss),
        forget_mass=mass,
        forgotten_share=tuple(predicted[c] / len(images.labels) for c in roles.forgotten),
    )


@dataclass(frozen=True, kw_only=True)
class RelapseSettings:
    """How the gate tries to bring a class back with synthetic images.

    Attributes:
        steps: SGD steps on all parameters.
        lr: learning rate.
        momentum: of SGD.
    """

    steps: int = 3
    lr: float = 0.01
    momentum: float = 0.9

    def __post_init__(self) -> None:
        """Check every field."""
        if self.steps < 0:
            raise BadInput("relapse.steps", self.steps, "a whole number >= 0")
        if not 0 < self.lr < math.inf:
            raise BadInput("relapse.lr", self.lr, "a number above 0")
        if not 0 <= self.momentum < 1:
            raise BadInput("relapse.momentum", self.momentum, "a number in [0, 1)")


def relapse_curve(
    model: Classifier, images: SyntheticSet, roles: Roles, settings: RelapseSettings
) -> tuple[float, ...]:
    """Accuracy on held-out synthetic forget images after 0, 1, ... steps of relearning.

    A class that is erased has to be learned; one that is hidden comes back. First the head's bias of
    each class to forget is raised until its mean logit on the retain images is level with the others':
    that undoes any constant offset, as a reader of the weights would. Then a copy of the model takes
    SGD steps on the retain images and half of the forget images; the other half is measured. The model
    stays in eval mode: a handful of images must not become its BatchNorm statistics.

    Raises:
        BadInput: fewer than two forget images.
    """
    learner = copy.deepcopy(model).eval().requires_grad_(True)
    device = next(learner.parameters()).device
    forget, retain = images.of(roles.target), images.of(roles.retain)
    if len(forget.labels) < 2:
        raise BadInput("synthetic forget images", len(forget.labels), "at least 2")
    # every other image: the set is ordered by class, and each half must hold every class
    shown = torch.arange(len(forget.labels)) % 2 == 0
    held, held_labels = forget.images[~shown].to(device), forget.labels[~shown].to(device)
    x = torch.cat([forget.images[shown], retain.images]).to(device)
    y = torch.cat([forget.labels[shown], retain.labels]).to(device)
    with torch.no_grad():
        means = learner(retain.images.to(device)).mean(dim=0)
        level = means[list(roles.retain)].mean()
        for target in roles.target:
            learner.head.bias[target] += level - means[target]
    optimizer = torch.optim.SGD(learner.parameters(), lr=settings.lr, momentum=settings.momentum)
    curve = [_share_right(learner, held, held_labels)]
    for _ in range(settings.steps):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(learner(x), y).backward()
        optimizer.step()
        curve.append(_share_right(learner, held, held_labels))
    return tuple(curve)


@torch.no_grad()
def _share_right(model: Classifier, images: Tensor, labels: Tensor) -> float:
    return float((model(images).argmax(dim=1) == labels).float().mean())


PROBE_DRAWS = 10
"""Draws of the image that stands for each class in `probe_recall`."""


def probe_recall(model: Classifier, images: SyntheticSet, roles: Roles, seed: int) -> float:
    """What the features hold of the classes to forget, whatever the head says: a share in [0, 1].

    A linear probe learns from one image of each class and is asked about the forget images of the other
    half of the set; mean over `PROBE_DRAWS` draws. It knows a head that was only masked, cut or replaced:
    on digits, every class and three seeds, it recalls 98 to 100 % of such models' forget images, 12 to 34 %
    of a retrained model's and 15 to 50 % of the default method's (docs/log.md, 43).

    Raises:
        BadInput: fewer than two images of a class.
    """
    return probe_recalls(model, images, roles, seed)[0]


def probe_recalls(
    model: Classifier, images: SyntheticSet, roles: Roles, seed: int, *, train_per_class: int = 1
) -> tuple[float, float]:
    """The same of the classes to forget and of the others, from so many images of each class."""
    shown = torch.arange(len(images.labels)) % 2 == 0
    settings = ProbeSettings(train_per_class=train_per_class)
    seeds = [derive_seed(seed, "gate probe", draw) for draw in range(PROBE_DRAWS)]
    return recall(
        linear_probes(
            model, images.images[shown], images.labels[shown], images.images[~shown],
            images.labels[~shown], roles.target, settings, seeds,
        )
    )  # fmt: skip


def balanced_labels(roles: Roles, *, per_retain_class: int, per_forget_class: int) -> Tensor:
    """The labels of a synthetic set `[N]`: so many of each retain class, then of each class to forget."""
    parts: Sequence[Tensor] = [
        torch.tensor(roles.retain, dtype=torch.int64).repeat_interleave(per_retain_class),
        torch.tensor(roles.target, dtype=torch.int64).repeat_interleave(per_forget_class),
    ]
    return torch.cat(list(parts))
