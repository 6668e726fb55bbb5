"""What can be measured of a model without data: what a judge can be made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.zoo.cache import Weights
from benchmarks.zoo.members import Workshop
from benchmarks.zoo.pictures import drawn, photographed
from rayunlearn.evaluation.feature_layer import features_of
from rayunlearn.evaluation.synthetic import RelapseSettings, probe_recall, relapse_curve
from rayunlearn.inversion.augmentations import cut_together
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.models.classifiers import Classifier, version_model
from rayunlearn.roles import Roles
from rayunlearn.seeds import derive_seed, generator

MIXED = 3
"""Mixtures of each inverted image."""
PICTURES = 500
"""Of a kind."""
FOLDS = 3
RIDGE = 1.0
RELAPSE = RelapseSettings(steps=6)


@dataclass(frozen=True, kw_only=True, eq=False)
class Questions:
    """Images of one version, made without data, and what the version answers.

    Attributes:
        images: of each kind, `[N, C, H, H]`.
        logits: of the version for them, `[N, K]`.
        check: inverted images of all classes, which no method learned from.
        roles: of the request.
        seed: of draws.
    """

    images: dict[str, Tensor]
    logits: dict[str, Tensor]
    check: SyntheticSet
    roles: Roles
    seed: int


def questions(shop: Workshop, parent: Weights, roles: Roles) -> Questions:
    """Inverted images of the retain classes, these disturbed in several ways, and pictures of no class."""
    sizes, spec, seed = shop.recipe.validation, shop.spec, derive_seed(shop.seed, "questions")
    check = shop.inverted(parent, roles, "check", sizes.per_retain_class, sizes.per_forget_class)
    inverted, draws = check.of(roles.retain).images, generator(seed, "mixtures")

    def others() -> Tensor:
        return inverted[torch.randperm(len(inverted), generator=draws)]

    def noise(scale: float) -> Callable[[], Tensor]:
        return lambda: inverted + scale * inverted.std() * torch.randn(inverted.shape, generator=draws)

    def several(make: Callable[[], Tensor]) -> Tensor:
        return torch.cat([make() for _ in range(MIXED)])

    pictures = {"drawn": drawn, "photographs": photographed}
    images = {
        "inverted": inverted,
        "cut": several(lambda: cut_together(others(), others(), draws)),
        "mean": several(lambda: (others() + others()) / 2),
        "noise": several(noise(0.5)),
        "more noise": several(noise(1.0)),
        **{kind: make(spec, PICTURES, derive_seed(seed, kind)) for kind, make in pictures.items()},
    }
    under = inverted[torch.randint(len(inverted), (PICTURES,), generator=draws)]
    images |= {f"over {kind}": 0.6 * under + 0.4 * images[kind] for kind in pictures}
    version = version_model(spec, parent)
    with torch.no_grad():
        logits = {kind: torch.cat([version(part) for part in x.split(256)]) for kind, x in images.items()}
    return Questions(images=images, logits=logits, check=check, roles=roles, seed=seed)


def measured(asked: Questions, model: Classifier) -> dict[str, Any]:
    """What a model says of a version's images.

    Returns:
        agreement, confidence: by kind of image, over the retain classes, each of the version's answers with
            the same weight: share that the model repeats, and mean probability of its own answer.
        explained: by class, the share of the variance of the version's centred logit that a ridge regression
            on the model's features explains, cross-validated, over all images.
        relapse, probe: of today's gate.
    """
    kept = list(asked.roles.retain)
    agreement, confidence = {}, {}
    for kind, images in asked.images.items():
        with torch.no_grad():
            own = torch.cat([model(part) for part in images.split(256)])[:, kept].softmax(dim=1)
        said = asked.logits[kind][:, kept].argmax(dim=1)
        weights = 1 / said.bincount(minlength=len(kept)).clamp(min=1)[said].double()
        weights = weights / weights.sum()
        agreement[kind] = float((weights * (own.argmax(dim=1) == said)).sum())
        confidence[kind] = float((weights * own.amax(dim=1)).sum())
    return {
        "agreement": agreement,
        "confidence": confidence,
        "explained": _explained(asked, model),
        "relapse": list(relapse_curve(model, asked.check, asked.roles, RELAPSE)),
        "probe": probe_recall(model, asked.check, asked.roles, asked.seed),
    }


def _explained(asked: Questions, model: Classifier) -> list[float]:
    x = features_of(model, torch.cat(list(asked.images.values()))).double()
    x = (x - x.mean(dim=0)) / (x.std(dim=0) + 1e-6)
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    y = torch.cat(list(asked.logits.values())).double()
    y = y - y.mean(dim=1, keepdim=True)
    fold = torch.randperm(len(x), generator=generator(asked.seed, "folds")) % FOLDS
    wrong = torch.zeros(y.shape[1], dtype=torch.float64)
    for held in range(FOLDS):
        known, left = x[fold != held], x[fold == held]
        squares = known.T @ known + RIDGE * torch.eye(x.shape[1], dtype=torch.float64)
        slopes = torch.linalg.solve(squares, known.T @ y[fold != held])
        wrong += (y[fold == held] - left @ slopes).square().sum(dim=0)
    explained: list[float] = (1 - wrong / (y - y.mean(dim=0)).square().sum(dim=0)).tolist()
    return explained
