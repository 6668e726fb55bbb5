"""Objectives against Bayesian linear regression, where the posterior without D_e is known exactly."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from rayunlearn.errors import BadInput, RayUnlearnError
from rayunlearn.methods.variational_objectives import (
    Gaussian,
    LogLikelihood,
    UnlearnSettings,
    adjusted_log_likelihood,
    eubo_loss,
    importance_weights,
    kl_from_standard,
    rkl_loss,
    unlearn,
)

DTYPE = torch.float64
SETTINGS = UnlearnSettings(steps=300, samples=1000, lr=0.05)


def draws(seed: int) -> torch.Generator:
    """A generator of a test's own."""
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Regression:
    """y = X theta + N(0, 0.7^2), theta ~ N(0, 4 I): 40 points, of which the last 8 are D_e."""

    x: Tensor
    y: Tensor

    def posterior(self, points: slice) -> Gaussian:
        """The exact one given these points."""
        x, y = self.x[points], self.y[points]
        precision = x.T @ x / 0.49 + torch.eye(3, dtype=DTYPE) / 4
        covariance = precision.inverse()
        return Gaussian(mean=covariance @ x.T @ y / 0.49, cholesky=torch.linalg.cholesky(covariance))

    @property
    def log_likelihood(self) -> LogLikelihood:
        """Of D_e, up to a constant."""
        return lambda theta: -(self.y[32:] - theta @ self.x[32:].T).square().sum(dim=1) / 0.98


@pytest.fixture(scope="module")
def regression() -> Regression:
    """D_e pulls the third parameter away: 1.5 of the posterior's standard deviations."""
    x = torch.randn(40, 3, generator=draws(0), dtype=DTYPE)
    theta = torch.tensor([1.0, -2.0, 0.5], dtype=DTYPE)
    y = x @ theta + 0.7 * torch.randn(40, generator=draws(1), dtype=DTYPE)
    y[32:] += 0.6 * x[32:, 2]
    return Regression(x, y)


def normal(gaussian: Gaussian) -> MultivariateNormal:
    """The same in torch's terms."""
    return MultivariateNormal(gaussian.mean, scale_tril=gaussian.cholesky)


def divergence(a: Gaussian, b: Gaussian) -> float:
    """KL(a, b), nats."""
    return float(kl_divergence(normal(a), normal(b)))


@pytest.mark.learned
@pytest.mark.parametrize("method", ["eubo", "rkl"])
def test_both_reach_the_exact_posterior_without_the_erased_data(method: str, regression: Regression) -> None:
    """Within 0.05 nats of the posterior given D_r (0.004 +- 0.006), from more than 1 nat away."""
    full, remaining = regression.posterior(slice(0, 40)), regression.posterior(slice(0, 32))
    assert divergence(remaining, full) > 1
    unlearned = unlearn(full, regression.log_likelihood, method, -math.inf, SETTINGS, 0)
    assert divergence(remaining, unlearned) < 0.05
    assert divergence(unlearned, remaining) < 0.05


@pytest.mark.learned
@pytest.mark.parametrize("method", ["eubo", "rkl"])
def test_lambda_one_unlearns_nothing(method: str, regression: Regression) -> None:
    """At lambda 1 the likelihood counts nowhere: the result is the posterior (negative control)."""
    full, remaining = regression.posterior(slice(0, 40)), regression.posterior(slice(0, 32))
    unlearned = unlearn(full, regression.log_likelihood, method, 0.0, SETTINGS, 0)
    assert divergence(full, unlearned) < 0.01
    assert divergence(remaining, unlearned) > 1


@pytest.mark.learned
@pytest.mark.parametrize("method", ["eubo", "rkl"])
def test_the_cut_holds_back(method: str, regression: Regression) -> None:
    """The further out lambda cuts, the nearer to the exact result: at 1e-1 farther from it than at 1e-9."""
    full, remaining = regression.posterior(slice(0, 40)), regression.posterior(slice(0, 32))
    far, near = (
        divergence(remaining, unlearn(full, regression.log_likelihood, method, math.log(value), SETTINGS, 0))
        for value in (1e-1, 1e-9)
    )
    assert far > near + 0.05


def test_eubo_is_the_divergence_from_the_exact_posterior(regression: Regression) -> None:
    """EUBO differs between two q_u as KL(q_u, p(theta|D_r)) does; with the likelihood flipped it does not."""
    full, remaining = regression.posterior(slice(0, 40)), regression.posterior(slice(0, 32))
    noise = torch.randn(200_000, 3, generator=draws(2), dtype=DTYPE)
    shifts = torch.tensor([[0.0, 0.0, 0.0], [0.5, -0.3, 1.0]], dtype=DTYPE)
    scales = torch.stack([torch.eye(3), torch.tensor([[0.8, 0, 0], [0.3, 1.2, 0], [-0.2, 0.1, 0.9]])]).to(
        DTYPE
    )

    def difference(likelihood: LogLikelihood) -> float:
        losses = [
            float(eubo_loss(shift, scale, full, likelihood, -math.inf, noise))
            for shift, scale in zip(shifts, scales, strict=True)
        ]
        return losses[1] - losses[0]

    exact = [
        divergence(Gaussian(mean=full.at(shift), cholesky=full.cholesky @ scale), remaining)
        for shift, scale in zip(shifts, scales, strict=True)
    ]
    assert difference(regression.log_likelihood) == pytest.approx(exact[1] - exact[0], abs=0.02)
    flipped = difference(lambda theta: -regression.log_likelihood(theta))
    assert abs(flipped - (exact[1] - exact[0])) > 0.5


def test_rkl_is_least_at_the_weighted_moments(regression: Regression) -> None:
    """On given samples the minimum is at their weighted mean and covariance, not at the unweighted ones."""
    full = regression.posterior(slice(0, 40))
    noise = torch.randn(400, 3, generator=draws(3), dtype=DTYPE)
    weights = importance_weights(regression.log_likelihood(full.at(noise)))

    def slope(weights: Tensor) -> float:
        shift = weights @ noise
        centred = noise - shift
        scale = torch.linalg.cholesky(centred.T @ (weights[:, None] * centred))
        shift, scale = shift.requires_grad_(), scale.requires_grad_()
        rkl_loss(shift, scale, full, regression.log_likelihood, -math.inf, noise).backward()
        assert shift.grad is not None and scale.grad is not None
        return max(float(shift.grad.abs().max()), float(scale.grad.tril().abs().max()))

    assert slope(weights) < 1e-10
    assert slope(torch.full_like(weights, 1 / 400)) > 0.1


def test_the_cut_is_where_the_density_says() -> None:
    """As by the densities themselves, q(theta|D) > lambda q(mode|D), in a posterior with correlations."""
    root = torch.tensor([[2.0, 0.0], [1.5, 0.3]], dtype=DTYPE)
    posterior = Gaussian(mean=torch.tensor([3.0, -1.0], dtype=DTYPE), cholesky=root)
    z = 2 * torch.randn(500, 2, generator=draws(4), dtype=DTYPE)
    density = normal(posterior)
    log_ratio = density.log_prob(posterior.at(z)) - density.log_prob(posterior.mean)
    likelihood = torch.full((500,), -7.0, dtype=DTYPE)
    for value in (1e-1, 1e-5, 0.5):
        counted = adjusted_log_likelihood(likelihood, z, math.log(value)) == -7
        assert 0 < int(counted.sum()) < 500
        assert torch.equal(counted, log_ratio > math.log(value))
    assert torch.equal(adjusted_log_likelihood(likelihood, z, -math.inf), likelihood)
    assert not adjusted_log_likelihood(likelihood, z, 0.0).any()


def test_a_lambda_below_every_number_cuts_where_it_should() -> None:
    """lambda 10^-2410 (Fig. 5) is no float; its logarithm cuts at |z|^2 = 2 * 2410 ln 10."""
    radius = math.sqrt(2 * 2410 * math.log(10))
    z = torch.tensor([[0.999 * radius, 0.0], [1.001 * radius, 0.0]], dtype=DTYPE)
    likelihood = torch.tensor([-5.0, -5.0], dtype=DTYPE)
    assert adjusted_log_likelihood(likelihood, z, -2410 * math.log(10)).tolist() == [-5, 0]


def test_weights_of_tiny_likelihoods_are_finite() -> None:
    """1 / p overflows at log p = -1000; by logsumexp the weights are those of the differences."""
    weights = importance_weights(torch.tensor([-1000.0, -1001.0, -5000.0], dtype=DTYPE))
    expected = torch.tensor([-4000.0, -3999.0, 0.0], dtype=DTYPE).exp()
    assert torch.allclose(weights, expected / expected.sum())
    assert float(weights.sum()) == pytest.approx(1)


def test_the_closed_form_divergence() -> None:
    """As torch's for full covariances."""
    scale = torch.tensor([[0.5, 0.0], [-1.0, 2.0]], dtype=DTYPE)
    shift = torch.tensor([0.3, -0.7], dtype=DTYPE)
    standard = MultivariateNormal(torch.zeros(2, dtype=DTYPE), torch.eye(2, dtype=DTYPE))
    expected = kl_divergence(MultivariateNormal(shift, scale_tril=scale), standard)
    assert torch.isclose(kl_from_standard(shift, scale), expected)


def test_a_run_is_its_seeds(regression: Regression) -> None:
    """The same seed gives the same bits, another one others; posterior and global RNG are left alone."""
    full = regression.posterior(slice(0, 40))
    before, state = copy.deepcopy(full), torch.get_rng_state()
    settings = UnlearnSettings(steps=5, samples=20, lr=0.05)
    first, again, other = (
        unlearn(full, regression.log_likelihood, "rkl", -math.inf, settings, seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first.mean, again.mean) and torch.equal(first.cholesky, again.cholesky)
    assert not torch.equal(first.mean, other.mean)
    assert torch.equal(before.mean, full.mean) and torch.equal(before.cholesky, full.cholesky)
    assert torch.equal(state, torch.get_rng_state())


def test_an_infinite_objective_is_an_error(regression: Regression) -> None:
    """A likelihood of NaN ends the run with the step; it does not become a posterior."""
    full = regression.posterior(slice(0, 40))
    with pytest.raises(RayUnlearnError, match="eubo is nan at step 1"):
        unlearn(full, lambda theta: theta.sum(dim=1) * math.nan, "eubo", -math.inf, SETTINGS, 0)


def test_what_cannot_be_is_refused(regression: Regression) -> None:
    """Unknown methods, lambdas above 1, bad settings and what is no distribution, each by name."""
    full = regression.posterior(slice(0, 40))
    with pytest.raises(BadInput, match="method is 'elbo'"):
        unlearn(full, regression.log_likelihood, "elbo", -math.inf, SETTINGS, 0)
    for value in (0.1, math.nan):
        with pytest.raises(BadInput, match="log_lambda"):
            unlearn(full, regression.log_likelihood, "eubo", value, SETTINGS, 0)
    for name, value in (("steps", 0), ("samples", 2.5), ("lr", math.nan), ("lr", 0.0)):
        with pytest.raises(BadInput, match=f"unlearn.{name}"):
            UnlearnSettings(**{name: value})
    with pytest.raises(BadInput, match="shapes"):
        Gaussian(mean=full.mean, cholesky=full.cholesky[:2])
    with pytest.raises(BadInput, match="diagonal above 0"):
        Gaussian(mean=full.mean, cholesky=-full.cholesky)
