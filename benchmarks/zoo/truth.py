"""What real data say of a model: the truth that the judge has to find out without them."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.zoo.cache import Weights
from benchmarks.zoo.members import Workshop
from rayunlearn.evaluation.accuracy import class_counts
from rayunlearn.evaluation.anamnesis import RelearnSettings, relearn
from rayunlearn.evaluation.probe import ProbeSettings, linear_probes, recall
from rayunlearn.models.classifiers import version_model
from rayunlearn.roles import Roles
from rayunlearn.seeds import derive_seed

TEST = 5000
"""Test images at most, the first ones."""
PROBE_SHOWN = (1, 10)
"""Real training images a class from which a linear probe learns ..."""
PROBE_DRAWS = {1: 6, 10: 2}
"""... in so many draws ..."""
PROBE_ASKED = 100
"""... and test images a class that it is asked about."""
RELEARN = RelearnSettings(batch_size=64, lr=0.05, max_steps=20)
RELEARN_SHOWN, RELEARN_ASKED = 200, 100
"""Training images a class from which a model relearns, and test images of each forget class."""


def truth(shop: Workshop, weights: Weights, roles: Roles) -> dict[str, Any]:
    """Accuracies on the test images, and what of the classes to be gone probe and relearning find.

    Returns:
        correct, count, predicted: by class, on the test images.
        probe_1, probe_10: shares of the forget and of the other classes' test images that a probe knows.
        relearned: of `relearn_count` forget images those recognised after 0, 1, ... steps of relearning.
    """
    model = version_model(shop.spec, weights)
    dataset, test = shop.dataset, shop.parts.test_ids[:TEST]
    counts = class_counts(model, dataset.images[test], dataset.labels[test], shop.spec.num_classes)
    shown = first_images(shop, shop.parts.train_ids, RELEARN_SHOWN)
    asked = first_images(shop, test, PROBE_ASKED)
    row: dict[str, Any] = {
        "correct": counts.correct.tolist(), "count": counts.total.tolist(),
        "predicted": counts.predicted.tolist(),
    }  # fmt: skip
    for per_class in PROBE_SHOWN:
        seeds = [derive_seed(shop.seed, "zoo probe", draw) for draw in range(PROBE_DRAWS[per_class])]
        settings = ProbeSettings(train_per_class=per_class)
        found = linear_probes(model, *shown, *asked, roles.forget, settings, seeds)
        row[f"probe_{per_class}"] = recall(found)
    images, labels = first_images(shop, test, RELEARN_ASKED)
    gone = torch.isin(labels, torch.tensor(roles.forget))
    curve = relearn(
        model, *shown, images[gone], labels[gone], 1.0, RELEARN, derive_seed(shop.seed, "zoo relearning")
    )
    return row | {"relearned": list(curve.correct), "relearn_count": curve.count}


def first_images(shop: Workshop, ids: torch.Tensor, per_class: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first images of each class."""
    labels = shop.dataset.labels[ids]
    chosen = torch.cat(
        [ids[(labels == c).nonzero().flatten()[:per_class]] for c in range(shop.spec.num_classes)]
    )
    return shop.dataset.images[chosen], shop.dataset.labels[chosen]
