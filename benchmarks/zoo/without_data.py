"""What can be measured of a model without data: what a judge can be made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.zoo.before import relapse_curve
from benchmarks.zoo.cache import Weights
from benchmarks.zoo.members import Workshop
from benchmarks.zoo.pictures import drawn, photographed
from benchmarks.zoo.students import even_weights
from rayunlearn.evaluation.synthetic import assess, probe_recall
from rayunlearn.inversion.augmentations import cut_together, moved
from rayunlearn.inversion.deep_inversion import BatchNormStatistics, InversionSettings, SyntheticSet
from rayunlearn.models.classifiers import Classifier, version_model
from rayunlearn.roles import Roles
from rayunlearn.seeds import derive_seed, generator

MIXED = 2
"""Mixtures of each inverted image."""
PICTURES = 300
"""Of a kind."""
FOLDS = 3
RIDGE = 1.0
PROBE_SHOWN = (1, 5)
IMAGES_OF_CLASSES = (
    "inverted", "moved", "cut", "mean", "noise", "more noise", "coarse", "coarse cut", "coarse mean",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What a model makes of some images.

    Attributes:
        features: `[N, D]`.
        logits: `[N, K]`.
        mismatch: distance of the batch's statistics from those of the model's BatchNorms.
    """

    features: Tensor
    logits: Tensor
    mismatch: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Questions:
    """Images of one version, made without data, and what the version answers.

    Attributes:
        images: of each kind, `[N, C, H, W]`.
        version: who was asked.
        answers: of the version, by kind.
        checks: inverted images of all classes, which no method learned from, by how they were made.
        roles: of the request.
        seed: of draws.
    """

    images: dict[str, Tensor]
    version: Classifier
    answers: dict[str, Answer]
    checks: dict[str, SyntheticSet]
    roles: Roles
    seed: int


def questions(shop: Workshop, parent: Weights, roles: Roles) -> Questions:
    """Inverted images of the retain classes, these disturbed in several ways, and pictures of no class."""
    sizes, spec, seed = shop.recipe.validation, shop.spec, derive_seed(shop.seed, "questions")
    version = version_model(spec, parent)
    of_version = parent, roles, "check", sizes.per_retain_class, sizes.per_forget_class
    checks = {
        "inverted": shop.inverted(*of_version),
        "coarse": shop.inverted(*of_version, coarse(shop.recipe.inversion, version)),
    }
    inverted, coarse_ones = (check.of(roles.retain).images for check in checks.values())
    draws = generator(seed, "mixtures")
    shift = max(1, spec.image_size // 8)

    def others(pool: Tensor = inverted) -> Tensor:
        return torch.cat([pool[torch.randperm(len(pool), generator=draws)] for _ in range(MIXED)])

    def noise(scale: float) -> Tensor:
        below = others()
        return below + scale * inverted.std() * torch.randn(below.shape, generator=draws)

    moves = torch.randint(2 * shift + 1, (2, len(inverted)), generator=draws)
    pictures = {"drawn": drawn, "photographs": photographed}
    images = {
        "inverted": inverted,
        "moved": moved(inverted, shift, moves),
        "cut": cut_together(others(), others(), draws),
        "mean": (others() + others()) / 2,
        "noise": noise(0.5),
        "more noise": noise(1.0),
        "coarse": coarse_ones,
        "coarse cut": cut_together(others(coarse_ones), others(coarse_ones), draws),
        "coarse mean": (others(coarse_ones) + others(coarse_ones)) / 2,
        **{kind: make(spec, PICTURES, derive_seed(seed, kind)) for kind, make in pictures.items()},
    }
    under = inverted[torch.randint(len(inverted), (PICTURES,), generator=draws)]
    images |= {f"over {kind}": 0.6 * under + 0.4 * images[kind] for kind in pictures}
    return asked_of(version, images, checks, roles, seed)


def coarse(settings: InversionSettings, version: Classifier) -> InversionSettings:
    """Inversion to coarse images, turned, scaled and moved while they are made (docs/log.md, 97)."""
    normalised = bool(BatchNormStatistics(version).layers)
    return replace(
        settings, iterations=150, lr=0.3, bn_weight=0.1 if normalised else settings.bn_weight, bounded=True,
        jitter=0, coarse=True, rotation=15.0, scaling=0.15, shift=0.05,
    )  # fmt: skip


def asked_of(
    version: Classifier,
    images: Mapping[str, Tensor],
    checks: Mapping[str, SyntheticSet],
    roles: Roles,
    seed: int,
) -> Questions:
    """The images with a version's answers."""
    return Questions(
        images=dict(images), version=version, answers=answered(images, version), checks=dict(checks),
        roles=roles, seed=seed,
    )  # fmt: skip


def answered(images: Mapping[str, Tensor], model: Classifier) -> dict[str, Answer]:
    """A model's answers by kind of image."""
    return {kind: _answer(model, x) for kind, x in images.items()}


@torch.no_grad()
def _answer(model: Classifier, images: Tensor) -> Answer:
    """All images are one batch, whose statistics are compared; a model without BatchNorm has mismatch 0."""
    with BatchNormStatistics(model) as statistics:
        features = model.features(images)
        mismatch = float(statistics.take()) if statistics.layers else 0.0
    return Answer(features=features, logits=model.head(features), mismatch=mismatch)


def measured(asked: Questions, model: Classifier, answers: Mapping[str, Answer]) -> dict[str, Any]:
    """What a model says of a version's images.

    Returns:
        agreement, confidence, closeness: by kind of image, over the retain classes, each of the version's
            answers with the same weight: share that the model repeats, mean probability of its own answer,
            and mean of 1 - total variation from the version's answer.
        explained: by class, the share of the variance of the version's centred logit that a ridge regression
            on the model's features explains, cross-validated, over all images; `explained_pictures` over
            those that were not made for a class.
        explains: by class, the same of the model's logit by the version's features.
        assessment: counts of the gate.
        relapse: of the gate as it was.
        probes: by how images were made and how many are shown of each class, shares of the held-out ones of
            the target and of the other classes that a linear probe knows; the gate's is that from one.
        mismatch: by kind, distance of the batch's statistics from those of the model's BatchNorms.
        kept_direction, stable_rank: by layer of more than one dimension, cosine similarity with the version's
            weights, and squared Frobenius norm over squared spectral norm.
    """
    kept = list(asked.roles.retain)
    agreement, confidence, closeness = {}, {}, {}
    for kind, answer in answers.items():
        probability, wanted = (a.logits[:, kept].softmax(dim=1) for a in (answer, asked.answers[kind]))
        said = wanted.argmax(dim=1)
        weights = even_weights(said)
        weights = weights / weights.sum()
        agreement[kind] = float((weights * (probability.argmax(dim=1) == said)).sum())
        confidence[kind] = float((weights * probability.amax(dim=1)).sum())
        closeness[kind] = float((weights * torch.minimum(probability, wanted).sum(dim=1)).sum())
    (inner, own), (known, told) = (
        (torch.cat([a.features for a in of.values()]), torch.cat([a.logits for a in of.values()]))
        for of in (answers, asked.answers)
    )
    pictures = torch.cat(
        [torch.full((len(x),), kind not in IMAGES_OF_CLASSES) for kind, x in asked.images.items()]
    )
    directions, ranks = _layers(asked.version, model)
    return {
        "agreement": agreement,
        "confidence": confidence,
        "closeness": closeness,
        "explained": _explained(inner, told, asked.seed),
        "explained_pictures": _explained(inner[pictures], told[pictures], asked.seed),
        "explains": _explained(known, own, asked.seed),
        "assessment": asdict(assess(model, asked.checks["inverted"], asked.roles)),
        "relapse": relapse_curve(model, asked.checks["inverted"], asked.roles),
        "probes": {
            made: {
                str(shown): probe_recall(model, check, asked.roles, asked.seed, train_per_class=shown)
                for shown in PROBE_SHOWN
            }
            for made, check in asked.checks.items()
        },
        "mismatch": {kind: answer.mismatch for kind, answer in answers.items()},
        "kept_direction": directions,
        "stable_rank": ranks,
    }


def _explained(features: Tensor, logits: Tensor, seed: int) -> list[float]:
    x = features.double()
    x = (x - x.mean(dim=0)) / (x.std(dim=0) + 1e-6)
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    y = logits.double()
    y = y - y.mean(dim=1, keepdim=True)
    fold = torch.randperm(len(x), generator=generator(seed, "folds")) % FOLDS
    wrong = torch.zeros(y.shape[1], dtype=torch.float64)
    for held in range(FOLDS):
        known, left = x[fold != held], x[fold == held]
        squares = known.T @ known + RIDGE * torch.eye(x.shape[1], dtype=torch.float64)
        slopes = torch.linalg.solve(squares, known.T @ y[fold != held])
        wrong += (y[fold == held] - left @ slopes).square().sum(dim=0)
    explained: list[float] = (1 - wrong / (y - y.mean(dim=0)).square().sum(dim=0)).tolist()
    return explained


def _layers(version: Classifier, model: Classifier) -> tuple[list[float], list[float]]:
    directions, ranks = [], []
    for before, after in zip(version.parameters(), model.parameters(), strict=True):
        if after.dim() > 1:
            one, other = before.detach().flatten(1), after.detach().flatten(1)
            directions.append(float((one * other).sum() / (one.norm() * other.norm())))
            ranks.append(float(other.square().sum() / torch.linalg.matrix_norm(other, ord=2).square()))
    return directions, ranks
