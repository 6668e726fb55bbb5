"""EUBO and RKL on image classifiers: unlearning in the last layer alone.

A full covariance over all weights of a network cannot be held, so the few-shot paper makes the last layer
Bayesian and leaves the rest as it is; so does this. theta is the head, K (D + 1) parameters in the order of
`[weight | bias]` `[K, D + 1]` (850 for LeNet-5 with ten classes). What the body knows of D_e stays: a probe
on the features finds it.

The posterior is Laplace's: mode and exact Hessian of softmax regression with a Gaussian prior. That problem
is convex, so the mode is one and needs no seed, and the whole covariance comes out of one Cholesky
factorisation; variational inference would have to find P (P + 1) / 2 entries of it by noisy steps.

At lambda 0 and for a whole class EUBO's optimum is far outside the posterior, and the steps do not reach it:
their number decides what becomes of D_r. A lambda above 0 holds q_u back. Of the three that forget on MNIST,
e^(-P) is the default, by the reason at `LastLayerSettings`; P is the number of parameters. Test accuracy on
D_r and D_e, %, one seed (-: not run); digits with AllCNN width 0.125 (P = 250), MNIST with LeNet5 with
BatchNorm (850):

| | before | EUBO, ln lambda = -0.6 P | -0.8 P | -P | -1.2 P | lambda 0 | RKL, lambda 0 |
|---|---|---|---|---|---|---|---|
| digits, class 0 | 98, 99 | 98, 0 | 98, 0 | 98, 0 | 96, 0 | 32, 0 | 98, 99 |
| digits, class 3 | 98, 97 | 98, 0 | 98, 0 | 97, 0 | 97, 0 | 16, 0 | 98, 96 |
| digits, class 9 | 98, 97 | 98, 0 | 89, 0 | 85, 0 | 65, 0 | 11, 0 | 99, 96 |
| MNIST, class 9 | 99, 98 | 99, 98 | 99, 50 | 84, 1 | 89, 1 | 2, 0 | - |
| MNIST, class 9, 3 % of D_e given | 99, 98 | 87, 1 | 82, 0 | 59, 0 | 54, 0 | 5, 0 | - |

The few-shot paper found the like on MNIST, class 9, lambda 0: 30 and 0 for EUBO, 98 and 76 for RKL.

Predictions, and the head that is published, are those of the mean parameters: a model of the same
architecture, which is what every other method publishes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from rayunlearn.errors import BadInput, RayUnlearnError
from rayunlearn.fields import Checked
from rayunlearn.methods.variational_objectives import (
    Gaussian,
    LogLambda,
    LogLikelihood,
    UnlearnSettings,
    unlearn,
)
from rayunlearn.models.classifiers import Classifier

LEAST_GRADIENT = 1e-5
"""At the mode, as a share of the number of samples."""


@dataclass(frozen=True, kw_only=True)
class LastLayerSettings(Checked, section="last_layer"):
    """The posterior, and how it unlearns.

    Attributes:
        prior_precision: of each parameter, N(0, 1 / prior_precision).
        max_iterations: of L-BFGS on the way to the mode.
        log_lambda_per_parameter: natural logarithm of the adjusted likelihood's lambda over P, the number of
            parameters; -inf for the paper's 0. The posterior's samples are at log q - log q(mode) of about
            -P / 2, so that any above -0.5 leaves next to nothing of the likelihood, in a head of any size. At
            the default q_u's samples count as long as its mean is no farther from the mode than the
            posterior's own samples are. (The paper's 10^-2410, chosen on real accuracies, is -1.1 of the
            5130 parameters of PreActResNet-18's head.)
        unlearn: of the objective.
    """

    prior_precision: PositiveFloat = 1.0
    max_iterations: PositiveInt = 500
    log_lambda_per_parameter: LogLambda = -1.0
    unlearn: UnlearnSettings = field(default_factory=lambda: UnlearnSettings(steps=200, samples=32, lr=0.05))


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadPosterior:
    """q(theta|D) over a head.

    Attributes:
        theta: over the K (D + 1) parameters, float64.
        classes: K.
    """

    theta: Gaussian
    classes: int

    @property
    def mean(self) -> Tensor:
        """Of weight and bias, `[K, D + 1]`."""
        return self.theta.mean.view(self.classes, -1)


def fit_posterior(
    features: Tensor, labels: Tensor, classes: int, settings: LastLayerSettings
) -> HeadPosterior:
    """Laplace's approximation of the head's posterior given D.

    Args:
        features: `[N, D]`, of all of D.
        labels: `[N]` int64.
        classes: K.
        settings: prior and iterations.

    Raises:
        BadInput: features or labels that are none of a head.
        RayUnlearnError: the mode was not found.
    """
    inputs = _with_bias(features, labels, classes)
    mode = _mode(inputs, labels, classes, settings)
    precision = _hessian(inputs, mode) + settings.prior_precision * torch.eye(mode.numel(), dtype=mode.dtype)
    covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))
    theta = Gaussian(mean=mode.flatten(), cholesky=torch.linalg.cholesky(covariance))
    return HeadPosterior(theta=theta, classes=classes)


def _mode(inputs: Tensor, labels: Tensor, classes: int, settings: LastLayerSettings) -> Tensor:
    """Most probable weight and bias, `[K, D + 1]`."""
    weights = inputs.new_zeros(classes, inputs.shape[1]).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=settings.max_iterations,
        tolerance_grad=LEAST_GRADIENT,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        prior = settings.prior_precision * weights.square().sum() / 2
        value = F.cross_entropy(inputs @ weights.T, labels) + prior / len(inputs)
        value.backward()
        return value

    optimizer.step(loss)
    assert weights.grad is not None, "L-BFGS has evaluated the loss"
    left = float(weights.grad.abs().max())
    if not left <= 100 * LEAST_GRADIENT:
        raise RayUnlearnError(
            f"the head's most probable parameters were not found: a gradient of {left} is left after "
            f"{settings.max_iterations} iterations of L-BFGS (last_layer.max_iterations)"
        )
    return weights.detach()


def _hessian(inputs: Tensor, weights: Tensor) -> Tensor:
    """Of the negative log-likelihood in theta, `[P, P]`: sum of (diag(p) - p p^T) (x) x x^T over samples."""
    (classes, width), p = weights.shape, (inputs @ weights.T).softmax(dim=1)
    hessian = inputs.new_zeros(classes, width, classes, width)
    for k in range(classes):
        for other in range(k + 1):
            curvature = p[:, k] * (float(k == other) - p[:, other])
            block = inputs.T @ (curvature[:, None] * inputs)
            hessian[k, :, other] = hessian[other, :, k] = block
    return hessian.view(classes * width, classes * width)


def head_log_likelihood(features: Tensor, labels: Tensor, classes: int) -> LogLikelihood:
    """log p(labels|theta) `[S]` of thetas `[S, K (D + 1)]`, summed over the samples `[N, D]`, `[N]`."""
    inputs = _with_bias(features, labels, classes)
    chosen = F.one_hot(labels, classes).to(inputs.dtype)

    def of(theta: Tensor) -> Tensor:
        logits = torch.einsum("nd,skd->snk", inputs, theta.view(len(theta), classes, -1))
        return (logits * chosen).sum(dim=(1, 2)) - logits.logsumexp(dim=2).sum(dim=1)

    return of


def unlearn_head(
    posterior: HeadPosterior,
    features_e: Tensor,
    labels_e: Tensor,
    method: str,
    settings: LastLayerSettings,
    seed: int,
) -> HeadPosterior:
    """q_u by EUBO or RKL.

    Args:
        posterior: given D.
        features_e: of D_e, `[N, D]`.
        labels_e: `[N]` int64.
        method: "eubo" or "rkl".
        settings: lambda, steps, samples and rate.
        seed: of the samples.
    """
    likelihood = head_log_likelihood(features_e, labels_e, posterior.classes)
    log_lambda = settings.log_lambda_per_parameter * posterior.theta.mean.numel()
    theta = unlearn(posterior.theta, likelihood, method, log_lambda, settings.unlearn, seed)
    return HeadPosterior(theta=theta, classes=posterior.classes)


def predict(posterior: HeadPosterior, features: Tensor) -> Tensor:
    """Probabilities `[N, K]` under the mean parameters."""
    return F.linear(features.double(), posterior.mean[:, :-1], posterior.mean[:, -1]).softmax(dim=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class LastLayerEdit:
    """Unlearning in the last layer as one edit of a model, for `rayunlearn.methods.unlearning.Edit`.

    Attributes:
        features: the body's, of all of D, `[N, D]`.
        labels: `[N]` int64.
        erased: which samples are D_e, mask `[N]`.
        method: "eubo" or "rkl".
        settings: posterior and objective.
        seed: of the samples.
    """

    features: Tensor
    labels: Tensor
    erased: Tensor
    method: str
    settings: LastLayerSettings
    seed: int

    def __call__(self, model: Classifier) -> Classifier:
        """A copy with the head that unlearned; the given head is not used, its posterior is fitted anew."""
        head = model.head
        posterior = fit_posterior(self.features, self.labels, head.out_features, self.settings)
        part = self.features[self.erased], self.labels[self.erased]
        unlearned = unlearn_head(posterior, *part, self.method, self.settings, self.seed)
        edited = copy.deepcopy(model)
        with torch.no_grad():
            edited.head.weight.copy_(unlearned.mean[:, :-1])
            edited.head.bias.copy_(unlearned.mean[:, -1])
        return edited


def _with_bias(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Features and a column of ones, `[N, D + 1]` float64, on CPU; checks what a head is given.

    Raises:
        BadInput: wrong shapes, no sample, features that are not finite, labels that there are not.
    """
    if features.dim() != 2 or 0 in features.shape or labels.shape != features.shape[:1]:
        found = list(features.shape), list(labels.shape)
        raise BadInput(
            "shapes of features and labels", found, "[N, D] and [N], not empty", where="last_layer"
        )
    if not bool(features.isfinite().all()):
        raise BadInput("features", features, "finite", where="last_layer")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        found_labels = sorted(set(labels.tolist()))
        raise BadInput("labels", found_labels, f"0 to {classes - 1}", where="last_layer")
    return F.pad(features.detach().cpu().double(), (0, 1), value=1.0)
