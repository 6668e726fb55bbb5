"""Nearest-neighbour probe: how near a forget class's images still lie to each other in the features.

It has no parameters to fit, where the linear probe has; otherwise the same is measured, on the same
samples, and the same holds: a gold model's features group a class that it never saw too, so only the
distance to gold's recall means anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import PositiveInt
from torch import Tensor, nn

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.probe import ProbeReport, probe_tasks
from rayunlearn.fields import Checked


@dataclass(frozen=True, kw_only=True)
class NeighbourSettings(Checked, section="audit.neighbours"):
    """Who votes, and with what weight."""

    k: PositiveInt = 5
    """Neighbours that vote. With fewer training images of a class, images of others outvote it."""
    weights: Literal["uniform", "distance"] = "uniform"
    """uniform: a vote each; distance: 1 / distance each."""
    metric: Literal["euclidean", "cosine"] = "euclidean"
    """Distance between standardised features; cosine: 1 - cosine of their angle at the training mean."""
    train_per_class: PositiveInt | None = None
    """Few-sample probe: training images per class, those of the linear probe; None: all of them."""


def knn_probe(
    model: nn.Module,
    train_images: Tensor,
    train_labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    forget: Sequence[int],
    settings: NeighbourSettings,
    seed: int,
) -> ProbeReport:
    """Let the k nearest training images name each test image, and count what is right.

    Deterministic: a function of the arguments alone. The model is left as it was. Among classes of
    equally many votes the one whose voters are nearer wins (smaller sum of distances), not the one of
    the smaller id: with few images a class ties are the rule, and a forget class 0 would win them all.

    Args:
        model: its `features` are compared, standardised by the training images' mean and deviation.
        train_images: [N, C, H, W], retain and forget classes.
        train_labels: int64 [N].
        test_images: [M, C, H, W], retain and forget classes.
        test_labels: int64 [M].
        forget: class ids that the model was made to forget.
        settings: number and weight of votes, metric, few-sample setting.
        seed: of the few-sample draw; unused without `train_per_class`.

    Returns:
        The linear probe's report; `converged` is always True, for there is nothing to fit.

    Raises:
        BadInput: a class has too few images, fewer training images than k, one class only, or features
            that are not finite.
    """
    from sklearn.neighbors import KNeighborsClassifier  # here, as in `linear_probe`

    where = "knn_probe"
    (task,) = probe_tasks(
        model, train_images, train_labels, test_images, test_labels, forget,
        settings.train_per_class, [seed], where=where,
    )  # fmt: skip
    if len(task.train_y) < settings.k:
        allowed = f"at least k = {settings.k}, the number of neighbours"
        raise BadInput("number of training images", len(task.train_y), allowed, where=where)
    neighbours = KNeighborsClassifier(
        n_neighbors=settings.k,
        weights="distance" if settings.weights == "distance" else _votes,
        metric=settings.metric,
        algorithm="brute",
    )
    neighbours.fit(task.train_x, task.train_y)
    return task.report(neighbours.predict(task.test_x), converged=True)


def _votes(distances: np.ndarray) -> np.ndarray:
    """Weights [M, k] of one vote each and, to settle ties, a bit more the nearer the voter is.

    The k extras are below one vote in sum, so that they never outvote one.
    """
    k = distances.shape[1]
    farthest = distances.max(axis=1, keepdims=True)
    nearness = 1 - np.divide(distances, farthest, out=np.ones_like(distances), where=farthest > 0)
    votes: np.ndarray = 1 + nearness / (k + 1)
    return votes
