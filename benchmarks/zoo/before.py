"""The gate as it was before it had a scale, to compare with: fixed bounds, and a class that comes back."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F

from rayunlearn.evaluation.synthetic import Assessment
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.models.classifiers import Classifier
from rayunlearn.roles import Roles

STEPS, LR, MOMENTUM = 3, 0.01, 0.9


MAX_FORGET, MAX_RETAIN_DROP, MAX_RELAPSE, MAX_PROBE = 0.0, 0.10, 0.5, 0.8
"""What that gate allowed, as shares."""


def relapse_curve(model: Classifier, images: SyntheticSet, roles: Roles) -> list[float]:
    """Accuracy on held-out inverted images of the target after 0 to `STEPS` steps of relearning.

    The bias of each class to forget is first raised until its mean logit on the retain images is level with
    the others'. Then SGD learns the retain images and half of the target's; the other half is measured.
    """
    learner = copy.deepcopy(model).eval().requires_grad_(True)
    forget, retain = images.of(roles.target), images.of(roles.retain)
    shown = torch.arange(len(forget.labels)) % 2 == 0
    x = torch.cat([forget.images[shown], retain.images])
    y = torch.cat([forget.labels[shown], retain.labels])
    with torch.no_grad():
        means = learner(retain.images).mean(dim=0)
        level = means[list(roles.retain)].mean()
        for target in roles.target:
            learner.head.bias[target] += level - means[target]
    optimizer = torch.optim.SGD(learner.parameters(), lr=LR, momentum=MOMENTUM)
    curve = []
    for step in range(STEPS + 1):
        if step:
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(learner(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            said = learner(forget.images[~shown]).argmax(dim=1)
        curve.append(float((said == forget.labels[~shown]).double().mean()))
    return curve


def passed(
    found: Assessment, parent: Assessment, relapse: list[float], recall: float
) -> tuple[bool, bool]:
    """Whether that gate let a model pass: for what it keeps, and for what it has erased."""
    drop = (parent.retain_correct - found.retain_correct) / found.retain_count
    gone = found.forget_correct / found.forget_count <= MAX_FORGET
    return drop <= MAX_RETAIN_DROP, gone and max(relapse) <= MAX_RELAPSE and recall <= MAX_PROBE
