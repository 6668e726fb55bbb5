"""EUBO and RKL in the last layer of a classifier of digits."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.errors import BadInput, RayUnlearnError
from rayunlearn.methods.last_layer import (
    HeadPosterior,
    LastLayerEdit,
    LastLayerSettings,
    fit_posterior,
    head_log_likelihood,
    predict,
    unlearn_head,
)
from rayunlearn.methods.unlearning import Edit
from rayunlearn.methods.variational_objectives import UnlearnSettings
from rayunlearn.models.classifiers import Classifier

ERASED, K = 3, 10
SETTINGS = LastLayerSettings()
PAPERS = LastLayerSettings(log_lambda_per_parameter=-math.inf)
QUICK = LastLayerSettings(unlearn=UnlearnSettings(steps=5, samples=8, lr=0.05))

Halves = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def version(digits_version: object) -> Classifier:
    """A small AllCNN that knows all ten digits."""
    model: Classifier = digits_version()  # type: ignore[operator]
    return model


@pytest.fixture(scope="module")
def halves(version: Classifier, digits_data: LabelledImages) -> Halves:
    """Features and labels of the digits it was trained on, and of the others."""
    with torch.no_grad():
        features = version.features(digits_data.images)
    labels = digits_data.labels
    return features[::2], labels[::2], features[1::2], labels[1::2]


@pytest.fixture(scope="module")
def posterior(halves: Halves) -> HeadPosterior:
    """Given all ten digits."""
    return fit_posterior(halves[0], halves[1], K, SETTINGS)


def accuracies(posterior: HeadPosterior, halves: Halves) -> tuple[float, float]:
    """On D_r's and on D_e's classes, of digits that were not trained on."""
    right = predict(posterior, halves[2]).argmax(dim=1) == halves[3]
    erased = halves[3] == ERASED
    return float(right[~erased].double().mean()), float(right[erased].double().mean())


def unlearned(
    posterior: HeadPosterior, halves: Halves, method: str, settings: LastLayerSettings
) -> HeadPosterior:
    """The class unlearned, by all its training samples."""
    erased = halves[1] == ERASED
    return unlearn_head(posterior, halves[0][erased], halves[1][erased], method, settings, 0)


@pytest.mark.learned
def test_the_posterior_classifies(posterior: HeadPosterior, halves: Halves) -> None:
    """Over 95 % on all classes: there is something to unlearn."""
    assert min(accuracies(posterior, halves)) > 0.95


@pytest.mark.learned
def test_the_posterior_is_laplaces(halves: Halves) -> None:
    """At its mean the log-posterior's gradient is 0, and its inverse covariance is minus its Hessian."""
    features, labels = halves[0][:60, :5], halves[1][:60] % 3
    found = fit_posterior(features, labels, 3, LastLayerSettings(prior_precision=0.5))
    likelihood = head_log_likelihood(features, labels, 3)

    def log_posterior(theta: Tensor) -> Tensor:
        return likelihood(theta[None])[0] - 0.25 * theta.square().sum()

    mean = found.theta.mean
    assert float(torch.func.grad(log_posterior)(mean).abs().max()) < 0.01
    hessian = torch.func.hessian(log_posterior)(mean)
    covariance = found.theta.cholesky @ found.theta.cholesky.T
    assert torch.allclose(-hessian @ covariance, torch.eye(18, dtype=torch.float64), atol=1e-6)


def test_the_likelihood_is_that_of_a_linear_head(halves: Halves) -> None:
    """As minus the summed cross-entropy of torch's own layer, for each of three thetas."""
    features, labels = halves[0][:20].double(), halves[1][:20]
    theta = torch.randn(3, K * (features.shape[1] + 1), generator=torch.Generator().manual_seed(0)).double()
    found = head_log_likelihood(features, labels, K)(theta)
    for one, value in zip(theta.view(3, K, -1), found, strict=True):
        logits = F.linear(features, one[:, :-1], one[:, -1])
        assert torch.isclose(value, -F.cross_entropy(logits, labels, reduction="sum"))


@pytest.mark.learned
def test_eubo_removes_the_class(posterior: HeadPosterior, halves: Halves) -> None:
    """At lambda 0: under 20 % on D_e, and D_r suffers, as the paper found; the default's lambda keeps D_r."""
    retain, forget = accuracies(unlearned(posterior, halves, "eubo", PAPERS), halves)
    kept, gone = accuracies(unlearned(posterior, halves, "eubo", SETTINGS), halves)
    assert forget < 0.2 and gone < 0.2 and kept > 0.9 and retain < 0.5


@pytest.mark.learned
def test_rkl_keeps_what_is_retained(posterior: HeadPosterior, halves: Halves) -> None:
    """Over 95 % on D_r; D_e's likelihood goes down, but not so far that its accuracy has to.

    Over eleven root seeds its logarithm becomes 3 to 38 times what it was.

    None of the posterior's samples is as far out as the default's lambda: the bits are those of lambda 0.
    """
    result = unlearned(posterior, halves, "rkl", SETTINGS)
    assert accuracies(result, halves)[0] > 0.95
    erased = halves[1] == ERASED
    likelihood = head_log_likelihood(halves[0][erased], halves[1][erased], K)
    start, end = (float(likelihood(p.theta.mean[None])) for p in (posterior, result))
    assert start < 0
    assert end / start > 1
    assert torch.equal(result.mean, unlearned(posterior, halves, "rkl", PAPERS).mean)


@pytest.mark.learned
@pytest.mark.parametrize("method", ["eubo", "rkl"])
def test_without_the_likelihood_the_class_stays(
    method: str, posterior: HeadPosterior, halves: Halves
) -> None:
    """At lambda 1 the term is zero everywhere and nothing is unlearned (negative control)."""
    retain, forget = accuracies(
        unlearned(posterior, halves, method, replace(SETTINGS, log_lambda_per_parameter=0.0)), halves
    )
    assert retain > 0.95 and forget > 0.9


def test_as_an_edit_it_changes_the_head_alone(version: Classifier, halves: Halves) -> None:
    """The run's model predicts as `predict` says; body and given weights stay; the seed decides the bits."""
    before = copy.deepcopy(version.state_dict())
    features, labels = halves[:2]

    def run(seed: int) -> Classifier:
        change = LastLayerEdit(
            features=features, labels=labels, erased=labels == ERASED, method="rkl", settings=QUICK, seed=seed
        )
        edit = Edit(version, change)
        edit.advance(1, 1)
        return edit.checkpoint()

    first, again, other = run(0), run(0), run(1)
    assert all(torch.equal(before[name], value) for name, value in version.state_dict().items())
    changed = {name for name, value in first.state_dict().items() if not torch.equal(before[name], value)}
    assert changed == {"head.weight", "head.bias"}
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    expected = predict(unlearned(fit_posterior(features, labels, K, QUICK), halves, "rkl", QUICK), halves[2])
    with torch.no_grad():
        assert torch.allclose(first.head(halves[2]).softmax(dim=1).double(), expected, atol=1e-4)


def test_what_cannot_be_is_refused(halves: Halves) -> None:
    """Features and labels that do not fit, settings out of range, a mode that is not reached."""
    features, labels = halves[:2]
    for bad, match in (
        ((features[:5], labels), "shapes"),
        ((features[:0], labels[:0]), "shapes"),
        ((features * math.nan, labels), "features"),
        ((features, labels + 1), "labels"),
    ):
        with pytest.raises(BadInput, match=match):
            fit_posterior(*bad, K, SETTINGS)
    for name, value in (
        ("prior_precision", 0.0),
        ("prior_precision", math.nan),
        ("max_iterations", 0),
        ("log_lambda_per_parameter", 0.5),
        ("log_lambda_per_parameter", math.nan),
    ):
        with pytest.raises(BadInput, match=f"last_layer.{name}"):
            LastLayerSettings(**{name: value})
    with pytest.raises(RayUnlearnError, match=r"last_layer\.max_iterations"):
        fit_posterior(features, labels, K, LastLayerSettings(max_iterations=1))
