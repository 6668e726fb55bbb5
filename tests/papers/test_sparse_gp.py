"""The process against gpytorch's own variational classifier."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

gpytorch = pytest.importorskip("gpytorch")

from papers.sparse_gp import JITTER, Logistic, SparseGP, rbf_kernel  # noqa: E402
from rayunlearn.methods.variational_objectives import Gaussian  # noqa: E402


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    """60 points in the plane; label 1 is likely on the right."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(60, 2, generator=draws, dtype=torch.float64)
    y = (2 * x[:, 0] + torch.randn(60, generator=draws, dtype=torch.float64) > 0).double()
    return x, y


@pytest.fixture(scope="module")
def learned(data: tuple[Tensor, Tensor]) -> SparseGP:
    """After the 60 points, with 12 inducing inputs."""
    return SparseGP(data[0][:12]).learned(*data)


class Reference(gpytorch.models.ApproximateGP):
    """The same model, put together by gpytorch's recipe, at a given posterior."""

    def __init__(self, inducing: Tensor, posterior: Gaussian) -> None:
        distribution = gpytorch.variational.CholeskyVariationalDistribution(len(inducing))
        strategy = gpytorch.variational.VariationalStrategy(
            self, inducing, distribution, learn_inducing_locations=False, jitter_val=JITTER
        )
        super().__init__(strategy)
        self.kernel = rbf_kernel(2)
        self.double()
        strategy.variational_params_initialized.fill_(1)
        with torch.no_grad():
            distribution.variational_mean.copy_(posterior.mean)
            distribution.chol_variational_covar.copy_(posterior.cholesky)

    def forward(self, x: Tensor) -> gpytorch.distributions.MultivariateNormal:
        """The prior."""
        return gpytorch.distributions.MultivariateNormal(x.new_zeros(len(x)), self.kernel(x))


def bound_slope(gp: SparseGP, data: tuple[Tensor, Tensor]) -> float:
    """Largest gradient of gpytorch's evidence lower bound, summed over the data, at a process's posterior."""
    model = Reference(gp.inducing, gp.posterior).train()
    bound = gpytorch.mlls.VariationalELBO(Logistic(), model, num_data=len(data[1]))
    (len(data[1]) * bound(model(data[0]), data[1])).backward()
    return max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)


def test_what_is_learned_is_the_optimum_of_gpytorchs_bound(
    learned: SparseGP, data: tuple[Tensor, Tensor]
) -> None:
    """The bound's gradient is 0 at the learned posterior, and not before learning (negative control)."""
    assert bound_slope(learned, data) < 1e-3
    assert bound_slope(SparseGP(learned.inducing), data) > 1


def test_probabilities_are_gpytorchs(learned: SparseGP) -> None:
    """As by sampling gpytorch's latent process, to its Monte Carlo error."""
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, 0.0], [4.0, 4.0]], dtype=torch.float64)
    latent = Reference(learned.inducing, learned.posterior).eval()(x)
    draws = torch.randn(100_000, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sampled = (latent.mean + latent.variance.sqrt() * draws).sigmoid().mean(dim=0)
    found = learned.probabilities(x)
    assert torch.allclose(found, sampled, atol=0.005)
    assert found[0] > 0.8 and found[1] < 0.2
    assert found[3].item() == pytest.approx(0.5, abs=0.05)  # far from all data


def test_the_likelihood_given_theta_averages_to_the_bounds_term(
    learned: SparseGP, data: tuple[Tensor, Tensor]
) -> None:
    """Over theta of the posterior, log p(D|theta) has gpytorch's expected log-likelihood as its mean."""
    draws = torch.randn(20_000, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = learned.log_likelihood(*data)(learned.posterior.at(draws)).mean()
    latent = Reference(learned.inducing, learned.posterior).eval()(data[0])
    expected = Logistic(sites=40).expected_log_prob(data[1], latent).sum()
    assert found.item() == pytest.approx(expected.item(), rel=5e-3)


def test_data_counts_as_often_as_it_is_said_to(learned: SparseGP, data: tuple[Tensor, Tensor]) -> None:
    """Every point twice is the same as `counts` of 2, which move the posterior; soft labels are means."""
    x, y = data
    start = SparseGP(learned.inducing)
    twice = start.learned(torch.cat([x, x]), torch.cat([y, y])).posterior
    counted = start.learned(x, y, torch.full_like(y, 2.0)).posterior
    assert torch.allclose(twice.mean, counted.mean, atol=1e-4)
    assert not torch.allclose(learned.posterior.mean, counted.mean, atol=1e-2)
    both = start.learned(torch.cat([x, x]), torch.cat([y, 1 - y])).posterior
    soft = start.learned(x, torch.full_like(y, 0.5), torch.full_like(y, 2.0)).posterior
    assert torch.allclose(both.mean, soft.mean, atol=1e-4)
    some = torch.arange(60) < 20
    part = start.learned(x[some], y[some]).posterior
    assert torch.allclose(start.learned(x, y, some.double()).posterior.mean, part.mean, atol=1e-4)


def test_a_posterior_is_the_prior_of_what_comes_next(learned: SparseGP, data: tuple[Tensor, Tensor]) -> None:
    """Learning half the data and then the rest is nearly learning all of it; the rest alone is not."""
    x, y = data
    rest = SparseGP(learned.inducing).learned(x[30:], y[30:])
    in_turn = SparseGP(learned.inducing).learned(x[:30], y[:30]).learned(x[30:], y[30:])
    target = learned.probabilities(x)
    near, far = ((gp.probabilities(x) - target).abs().mean() for gp in (in_turn, rest))
    assert near < 0.015 < far / 2
