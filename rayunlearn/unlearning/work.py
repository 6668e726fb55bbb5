"""What a run computes of weights and synthetic images, as functions that any process can carry out.

This module and all that it imports is what a sealed process loads: nothing of it opens files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from rayunlearn.evaluation.judged import Evidence, judged
from rayunlearn.evaluation.keeping import Keeping
from rayunlearn.evaluation.stand_ins import StandInSettings, stand_in
from rayunlearn.evaluation.synthetic import Assessment, mean_probe_recall
from rayunlearn.inversion.deep_inversion import InversionSettings, SyntheticSet, coarse, deep_inversion
from rayunlearn.models.classifiers import Classifier, ClassifierSpec, version_model
from rayunlearn.roles import Roles


def invert(
    spec: ClassifierSpec,
    weights: dict[str, Tensor],
    labels: Tensor,
    settings: InversionSettings,
    seed: int,
    to_coarse: bool = False,
    *,
    device: str = "cpu",
) -> SyntheticSet:
    """`deep_inversion` of a version given by its weights; runs in a sealed process.

    With `to_coarse` its images are coarse ones.
    """
    model = version_model(spec, weights).to(device)
    return deep_inversion(model, labels, coarse(settings, model) if to_coarse else settings, seed=seed)


def measure(
    spec: ClassifierSpec,
    weights: dict[str, Tensor],
    check_set: Evidence,
    roles: Roles,
    *,
    device: str = "cpu",
) -> Assessment:
    """How a model given by its weights is judged; runs in a sealed process."""
    return judged(version_model(spec, weights).to(device), check_set, roles)


def measure_kept(
    spec: ClassifierSpec,
    weights: dict[str, Tensor],
    version: dict[str, Tensor],
    images: SyntheticSet,
    roles: Roles,
    seed: int,
    *,
    device: str = "cpu",
) -> dict[str, float]:
    """What a model has kept of a version, both given by their weights; runs in a sealed process."""
    model, before = (version_model(spec, of).to(device) for of in (weights, version))
    return Keeping(before, images, roles, seed).measure(model)


Probe = Callable[[Classifier, Sequence[SyntheticSet], Roles, int], Any]
"""What images tell of a model's features: `mean_probe_recall`, or `layer_recalls`."""


def probe(
    spec: ClassifierSpec,
    weights: dict[str, Tensor],
    sets: Sequence[SyntheticSet],
    roles: Roles,
    seed: int,
    known: Probe = mean_probe_recall,
    *,
    device: str = "cpu",
) -> Any:
    """What is `known` of a model given by its weights; runs in a sealed process."""
    return known(version_model(spec, weights).to(device), sets, roles, seed)


def probe_stand_in(
    spec: ClassifierSpec,
    weights: dict[str, Tensor],
    images: SyntheticSet,
    sets: Sequence[SyntheticSet],
    roles: Roles,
    settings: StandInSettings,
    seed: int,
    known: Probe = mean_probe_recall,
    *,
    device: str = "cpu",
) -> Any:
    """What is `known` of a stand-in for a version given by its weights; runs in a sealed process."""
    made = stand_in(version_model(spec, weights).to(device), images, roles, settings, seed)
    return known(made, sets, roles, seed)
