"""EUBO and RKL: unlearning by a Gaussian approximation of the posterior.

Nguyen, Low and Jaillet, "Variational Bayesian Unlearning" (NeurIPS 2020); comparison systems of the few-shot
paper (section 4). Given are the approximate posterior q(theta|D) and the data to erase, D_e; wanted is
q_u(theta), an approximation of q(theta|D) / p(D_e|theta), normalised: the posterior given D_r.

| symbol | name | here |
|---|---|---|
| q(theta given D) | posterior | `Gaussian` |
| log p(D_e given theta) | log-likelihood | a function of thetas `[S, P]` that gives `[S]` |
| p_adj, lambda | adjusted likelihood | `adjusted_log_likelihood` |
| EUBO | evidence upper bound, to be minimised over q_u | `eubo_loss` |
| RKL | reverse KL divergence, to be minimised over q_u | `rkl_loss` |

Everything happens in the posterior's own coordinates z, theta = mean + cholesky z, in which q(theta|D) is
N(0, I) and q_u is N(`shift`, `scale` `scale`^T). Neither objective changes by that (both are differences of
log-densities); the distance from the mode is |z|, no covariance is ever inverted, and one learning rate fits
all posteriors: it is in their standard deviations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import DocInfo, Le
from pydantic import AllowInfNan, PositiveFloat, PositiveInt
from torch import Tensor

from rayunlearn.errors import BadInput, RayUnlearnError, nearest
from rayunlearn.fields import Checked, check_value
from rayunlearn.seeds import generator

LogLambda = Annotated[float, Le(0), AllowInfNan(True), DocInfo("a number <= 0, or -inf for lambda 0")]
LogLikelihood = Callable[[Tensor], Tensor]
"""log p(D_e|theta) `[S]` of thetas `[S, P]`, differentiable."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Gaussian:
    """A Gaussian with full covariance over all parameters.

    Attributes:
        mean: `[P]`.
        cholesky: `[P, P]`, lower triangular with a positive diagonal; covariance = cholesky cholesky^T.
    """

    mean: Tensor
    cholesky: Tensor

    def __post_init__(self) -> None:
        """Check the shapes and that it is a distribution."""
        p = self.mean.numel()
        if self.mean.dim() != 1 or p == 0 or tuple(self.cholesky.shape) != (p, p):
            found = list(self.mean.shape), list(self.cholesky.shape)
            raise BadInput("shapes of mean and Cholesky factor", found, "[P] and [P, P], P >= 1")
        finite = bool(self.mean.isfinite().all() and self.cholesky.isfinite().all())
        if not finite or bool((self.cholesky.diagonal() <= 0).any()):
            raise BadInput("Cholesky factor", self.cholesky, "finite, with a diagonal above 0")

    def at(self, z: Tensor) -> Tensor:
        """Parameters `[S, P]` at the coordinates z `[S, P]`."""
        return self.mean + z @ self.cholesky.T


@dataclass(frozen=True, kw_only=True)
class UnlearnSettings(Checked, section="last_layer.unlearn"):
    """How an objective is minimised. The defaults are for the moons example.

    The authors' published code takes 30,000 steps of Adam at 1e-3 in theta itself. Here a step is in standard
    deviations of the posterior, and the rate falls to 0 by a cosine, so that the noise of the last steps
    averages out.

    Attributes:
        steps: of Adam.
        samples: thetas drawn anew for each step.
        lr: learning rate of the first step, standard deviations of the posterior.
    """

    steps: PositiveInt = 500
    samples: PositiveInt = 1000
    lr: PositiveFloat = 0.03


def adjusted_log_likelihood(log_likelihood: Tensor, z: Tensor, log_lambda: float) -> Tensor:
    """log p_adj(D_e|theta), `[S]`: 0 where q(theta|D) <= lambda times its mode's density.

    Where the posterior has almost no mass it approximates the exact one badly, and the likelihood of D_e,
    which it does not hold back there, would decide alone. In the coordinates z,
    log q(theta|D) - log q(mode|D) = -|z|^2 / 2.

    Args:
        log_likelihood: log p(D_e|theta), `[S]`.
        z: coordinates of the thetas, `[S, P]`.
        log_lambda: natural logarithm, for lambdas below the least number that there is: -inf is lambda 0
            and adjusts nothing, 0 is lambda 1 and leaves nothing.
    """
    counts = -z.square().sum(dim=1) / 2 > log_lambda
    return torch.where(counts, log_likelihood, torch.zeros_like(log_likelihood))


def kl_from_standard(shift: Tensor, scale: Tensor) -> Tensor:
    """KL divergence of N(`shift` `[P]`, `scale` `scale`^T) from N(0, I), nats.

    >>> float(kl_from_standard(torch.tensor([2.0]), torch.eye(1)))
    2.0
    """
    spread = scale.square().sum() + shift.square().sum() - len(shift)
    return spread / 2 - scale.diagonal().log().sum()


def eubo_loss(
    shift: Tensor,
    scale: Tensor,
    posterior: Gaussian,
    log_likelihood: LogLikelihood,
    log_lambda: float,
    noise: Tensor,
) -> Tensor:
    """E_q_u[log p_adj(D_e|theta)] + KL(q_u, q(theta|D)): the evidence upper bound, to be minimised.

    The expectation is over reparametrised samples; its gradient leaves out that the cut of lambda moves, as
    the authors' code does. Deviation: the divergence is in closed form, not over the same samples.

    Args:
        shift: of q_u, `[P]`.
        scale: of q_u, `[P, P]`, lower triangular with a positive diagonal.
        posterior: q(theta|D).
        log_likelihood: of D_e.
        log_lambda: as of `adjusted_log_likelihood`.
        noise: standard normal, `[S, P]`.
    """
    z = shift + noise @ scale.T
    adjusted = adjusted_log_likelihood(log_likelihood(posterior.at(z)), z, log_lambda)
    return adjusted.mean() + kl_from_standard(shift, scale)


def importance_weights(adjusted: Tensor) -> Tensor:
    """w `[S]`, proportional to 1 / p_adj(D_e|theta) and summing to 1, from log p_adj(D_e|theta) `[S]`.

    >>> importance_weights(torch.tensor([0.0, -2000.0, -2000.0]))
    tensor([0.0000, 0.5000, 0.5000])
    """
    return (-adjusted - torch.logsumexp(-adjusted, dim=0)).exp()


def rkl_loss(
    shift: Tensor,
    scale: Tensor,
    posterior: Gaussian,
    log_likelihood: LogLikelihood,
    log_lambda: float,
    noise: Tensor,
) -> Tensor:
    """-E_q(theta|D)[w log q_u(theta)], up to a constant: the reverse KL divergence, to be minimised.

    The thetas come from the posterior, so that nothing is learned of where it has no mass.

    Args:
        shift: of q_u, `[P]`.
        scale: of q_u, `[P, P]`, lower triangular with a positive diagonal.
        posterior: q(theta|D).
        log_likelihood: of D_e.
        log_lambda: as of `adjusted_log_likelihood`.
        noise: standard normal, `[S, P]`: the coordinates of the thetas.
    """
    with torch.no_grad():
        adjusted = adjusted_log_likelihood(log_likelihood(posterior.at(noise)), noise, log_lambda)
        weights = importance_weights(adjusted)
    residual = torch.linalg.solve_triangular(scale, (noise - shift).T, upper=False)
    return weights @ residual.square().sum(dim=0) / 2 + scale.diagonal().log().sum()


OBJECTIVES = {"eubo": eubo_loss, "rkl": rkl_loss}


def unlearn(
    posterior: Gaussian,
    log_likelihood: LogLikelihood,
    method: str,
    log_lambda: float,
    settings: UnlearnSettings,
    seed: int,
) -> Gaussian:
    """q_u: the Gaussian that minimises an objective, from the posterior on, by Adam.

    Args:
        posterior: q(theta|D).
        log_likelihood: of D_e.
        method: a key of `OBJECTIVES`.
        log_lambda: as of `adjusted_log_likelihood`.
        settings: steps, samples and rate.
        seed: of the samples; a step's depend on its number alone.

    Raises:
        BadInput: an unknown method, or a lambda that is none.
        RayUnlearnError: the objective is no number.
    """
    if method not in OBJECTIVES:
        raise BadInput("method", method, nearest(method, OBJECTIVES))
    check_value("log_lambda", log_lambda, LogLambda)
    mean = posterior.mean
    shift = torch.zeros_like(mean).requires_grad_()
    below = torch.zeros_like(posterior.cholesky).requires_grad_()
    log_diagonal = torch.zeros_like(mean).requires_grad_()

    def scale() -> Tensor:
        return below.tril(-1) + log_diagonal.exp().diag()

    optimizer = torch.optim.Adam([shift, below, log_diagonal], lr=settings.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    for step in range(settings.steps):
        draws = generator(seed, "variational unlearning", step)
        noise = torch.randn(settings.samples, len(mean), generator=draws, dtype=mean.dtype).to(mean.device)
        loss = OBJECTIVES[method](shift, scale(), posterior, log_likelihood, log_lambda, noise)
        if not bool(loss.isfinite()):
            raise RayUnlearnError(f"{method} is {loss.item()} at step {step + 1}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return Gaussian(mean=posterior.at(shift), cholesky=posterior.cholesky @ scale())
