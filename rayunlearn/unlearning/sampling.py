"""The work behind D', as functions of weights and images that sealed processes run.

This module and all that it imports is loaded there: nothing of it opens files.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rayunlearn.inversion.filtration import Candidates, FiltrationSettings, judge_chunk
from rayunlearn.inversion.model_inversion import ModelInversion, ModelInversionSettings
from rayunlearn.inversion.similarity import features_of, similarity
from rayunlearn.inversion.transformations import transformations
from rayunlearn.models.classifiers import ClassifierSpec, version_model
from rayunlearn.models.weights import Weights


def train_generator(
    spec: ClassifierSpec,
    weights: Weights,
    settings: ModelInversionSettings,
    seed: int,
    given: Weights | None,
    state: dict[str, Any] | None,
    last: int,
    *,
    device: str = "cpu",
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Go on training a generator from a state to iteration `last`: the new state and what is reported."""
    inversion = ModelInversion(spec, weights, settings, seed, device, given)
    if state is not None:
        inversion.load(state)
    inversion.advance(inversion.taken + 1, last)
    return inversion.state(), inversion.report()


def judge(
    spec: ClassifierSpec,
    weights: Weights,
    inversion: ModelInversionSettings,
    state: dict[str, Any],
    settings: FiltrationSettings,
    seed: int,
    label: int,
    chunk: int,
    *,
    device: str = "cpu",
) -> Candidates:
    """`judge_chunk` by a version and a generator given by its training's state."""
    trained = ModelInversion(spec, weights, inversion, seed, device)
    trained.load(state)
    views = transformations(inversion.transformations, background=spec.pixel_range[0])
    return judge_chunk(trained.generator(), trained.classifier, views, settings, seed, label, chunk)


def features(
    spec: ClassifierSpec, weights: Weights, images: Tensor, unit: bool, *, device: str = "cpu"
) -> Tensor:
    """`features_of` images by a version given by its weights, of length 1 if asked for."""
    found = features_of(version_model(spec, weights).to(device), images)
    return F.normalize(found, dim=1) if unit else found


def soft_labels(spec: ClassifierSpec, weights: Weights, images: Tensor, *, device: str = "cpu") -> Tensor:
    """Probabilities that a version gives to images, `[N, K]` on CPU."""
    with torch.no_grad():
        return version_model(spec, weights).to(device)(images.to(device)).softmax(dim=1).cpu()


def score(
    spec: ClassifierSpec,
    weights: Weights,
    images: Tensor,
    unit: bool,
    examples: Tensor,
    kernel: str,
    width: float | None,
    *,
    device: str = "cpu",
) -> Tensor:
    """`similarity` of images to the examples' features."""
    return similarity(features(spec, weights, images, unit, device=device), examples, kernel, width)
