"""A sparse Gaussian process classifier of two classes, on gpytorch (the extra `bayes`).

The moons' model in Nguyen, Low and Jaillet 2020 (appendix on sparse GPs). Its parameters theta are the
whitened inducing values, N(0, I) before any data; given theta, the latent function is
f(x) ~ N(features(x) theta, residual(x)), and label 1 has probability sigmoid(f(x)). Kernel and inducing
inputs are fixed, so that theta is all there is to learn and to unlearn.

Deviation: their f(x) given theta is its mean alone. Here it has its residual variance (0.04 on average at the
moons' points), and log p(D|theta) is E_f[log p(D|f)]: gpytorch's own variational bound, which
`tests/papers/test_sparse_gp.py` compares with.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

with warnings.catch_warnings():
    # Its import compiles with torch.jit.script, which torch deprecates.
    warnings.simplefilter("ignore", FutureWarning)
    from gpytorch.kernels import RBFKernel, ScaleKernel
    from gpytorch.likelihoods.likelihood import _OneDimensionalLikelihood
    from gpytorch.utils.quadrature import GaussHermiteQuadrature1D

from rayunlearn.errors import RayUnlearnError
from rayunlearn.methods.variational_objectives import Gaussian, kl_from_standard

LENGTHSCALES = (2.4232**-0.5, 1.8230**-0.5)
VARIANCE = 4.7432
"""Of the authors' published code, where the first two do not divide a distance but multiply its square."""
JITTER = 1e-6
"""Added to the variances of the inducing values, for the Cholesky factor's sake."""
LEAST_GRADIENT = 1e-7
MAX_ITERATIONS = 2000


class Logistic(_OneDimensionalLikelihood):
    """p(y = 1|f) = sigmoid(f). A y between 0 and 1 is a soft label: its log-likelihood is -cross-entropy.

    Args:
        sites: of the Gauss-Hermite quadrature over f.
    """

    def __init__(self, sites: int = 20) -> None:
        super().__init__()
        self.quadrature = GaussHermiteQuadrature1D(sites)

    def forward(self, f: Tensor) -> Bernoulli:
        """Of latent values `[..., N]`."""
        return Bernoulli(logits=f, validate_args=False)


class SparseGP:
    """A process over latent functions: a distribution of theta and what maps theta to functions.

    Args:
        inducing: inputs `[M, D]`, float64.
        posterior: of theta; None for N(0, I), before any data.
    """

    def __init__(self, inducing: Tensor, posterior: Gaussian | None = None) -> None:
        self.inducing = inducing
        if posterior is None:
            identity = torch.eye(len(inducing), dtype=inducing.dtype)
            posterior = Gaussian(mean=inducing.new_zeros(len(inducing)), cholesky=identity)
        self.posterior = posterior
        self.kernel = rbf_kernel(inducing.shape[1])
        self.likelihood = Logistic()

    def learned(self, inputs: Tensor, labels: Tensor, counts: Tensor | None = None) -> SparseGP:
        """After further data: what is the posterior here is their prior.

        Maximises the evidence lower bound by L-BFGS. Mean and Cholesky factor have one optimum, for the bound
        is concave in them (Challis and Barber 2011): where the search starts does not matter.

        Args:
            inputs: `[N, D]`.
            labels: of each the probability of label 1, `[N]`.
            counts: how many data points each stands for, `[N]`; None for 1.

        Raises:
            RayUnlearnError: no optimum was found.
        """
        weights = torch.ones_like(labels) if counts is None else counts
        features, residual = self.given_theta(inputs)
        offset, slope = features @ self.posterior.mean, features @ self.posterior.cholesky
        shift = torch.zeros_like(self.posterior.mean).requires_grad_()
        scale = torch.eye(len(shift), dtype=shift.dtype).requires_grad_()

        def loss() -> Tensor:
            optimizer.zero_grad()
            lower = scale.tril()
            spread = (residual + (slope @ lower).square().sum(dim=1)).sqrt()
            expected = self.likelihood.expected_log_prob(labels, Normal(offset + slope @ shift, spread))
            value = kl_from_standard(shift, _positive(lower)) - weights @ expected
            value.backward()
            return value

        optimizer = torch.optim.LBFGS(
            [shift, scale],
            max_iter=MAX_ITERATIONS,
            tolerance_grad=LEAST_GRADIENT,
            tolerance_change=0,
            history_size=50,
            line_search_fn="strong_wolfe",
        )
        optimizer.step(loss)
        gradient = max(float(p.grad.abs().max()) for p in (shift, scale) if p.grad is not None)
        if not gradient < 1e4 * LEAST_GRADIENT:
            raise RayUnlearnError(f"no optimum of the evidence lower bound: a gradient of {gradient} is left")
        lower = _positive(scale.detach().tril())
        return self.with_posterior(
            Gaussian(mean=self.posterior.at(shift.detach()), cholesky=self.posterior.cholesky @ lower)
        )

    def with_posterior(self, posterior: Gaussian) -> SparseGP:
        """The same map with another distribution of theta."""
        return SparseGP(self.inducing, posterior)

    def probabilities(self, inputs: Tensor) -> Tensor:
        """E_q[p(y = 1|x)], `[N]`, of inputs `[N, D]`."""
        features, residual = self.given_theta(inputs)
        spread = (residual + (features @ self.posterior.cholesky).square().sum(dim=1)).sqrt()
        latent = Normal(features @ self.posterior.mean, spread)
        found: Tensor = self.likelihood.quadrature(torch.sigmoid, latent)
        return found

    def log_likelihood(self, inputs: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
        """log p(D_e|theta) `[S]` as a function of thetas `[S, M]`, for D_e of `[N, D]` and `[N]`."""
        features, residual = self.given_theta(inputs)
        likelihood = Logistic(sites=5)  # f varies little given theta

        def of(theta: Tensor) -> Tensor:
            latent = Normal(theta @ features.T, residual.sqrt(), validate_args=False)
            total: Tensor = likelihood.expected_log_prob(labels, latent).sum(dim=1)
            return total

        return of

    def given_theta(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[N, M]` and residual variances `[N]` of f at inputs `[N, D]`, given theta."""
        with torch.no_grad():
            within = self.kernel(self.inducing).add_jitter(JITTER).to_dense()
            across = self.kernel(self.inducing, inputs).to_dense()
            features = torch.linalg.solve_triangular(torch.linalg.cholesky(within), across, upper=False).T
            return features, (VARIANCE - features.square().sum(dim=1)).clamp(min=JITTER)


def rbf_kernel(dimensions: int) -> ScaleKernel:
    """The RBF kernel with the published lengthscales and variance, float64, not to be trained."""
    kernel = ScaleKernel(RBFKernel(ard_num_dims=dimensions)).double().requires_grad_(False)
    kernel.base_kernel.lengthscale = torch.tensor(LENGTHSCALES, dtype=torch.float64)
    kernel.outputscale = torch.tensor(VARIANCE, dtype=torch.float64)
    return kernel


def _positive(lower: Tensor) -> Tensor:
    """The Cholesky factor with a diagonal above 0: a column's sign changes no covariance."""
    return lower * lower.diagonal().sign()
