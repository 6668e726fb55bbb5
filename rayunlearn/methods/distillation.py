"""Losses by which a student learns from a teacher (zero-shot paper, eq. 7 to 10).

| symbol | name | here |
|---|---|---|
| D_KL(T || S), eq. 7 | divergence | `kl_divergence`, `js_divergence` |
| f(A_l) / ||f(A_l)||, eq. 8 | attention map | `attention_map` |
| L_at, eq. 8 | attention loss | `attention_loss` |
| F(x_p), eq. 10 | band-pass filter | `band_pass_filter` |
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MASKED_LOGIT = -1e4
"""Stands for a logit of minus infinity: its probability is exactly 0 in float32, its gradient finite."""


def kl_divergence(teacher_logits: Tensor, student_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """D_KL(T || S) in nats, summed over classes and averaged over the batch (eq. 7).

    Both logits `[B, K]` are divided by `temperature` (tau); there is no factor tau^2. The authors'
    published code averages over B * K elements instead, which is this divided by K.

    >>> t, s = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.25, 0.75]]))
    >>> bool(torch.isclose(kl_divergence(t, s), torch.tensor(0.5 * math.log(4 / 3))))
    True
    """
    target = F.log_softmax(teacher_logits / temperature, dim=1)
    log_s = F.log_softmax(student_logits / temperature, dim=1)
    return (target.exp() * (target - log_s)).sum(dim=1).mean()


def js_divergence(teacher_logits: Tensor, student_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Jensen-Shannon divergence in nats, averaged over the batch (section V.E.2); at most ln 2.

    >>> t, s = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]])
    >>> bool(torch.isclose(js_divergence(t, s), torch.tensor(math.log(2.0))))
    True
    """
    log_t = F.log_softmax(teacher_logits / temperature, dim=1)
    log_s = F.log_softmax(student_logits / temperature, dim=1)
    log_m = torch.logaddexp(log_t, log_s) - math.log(2.0)
    left = (log_t.exp() * (log_t - log_m)).sum(dim=1)
    right = (log_s.exp() * (log_s - log_m)).sum(dim=1)
    return ((left + right) / 2).mean()


def equivalent_beta(beta: float, num_classes: int) -> float:
    """The beta that goes with eq. 7's divergence where `beta` goes with its mean over B * K elements.

    (1/K) KL + beta L_at = (1/K) (KL + K beta L_at): the same direction, K times as long, and Adam's
    step does not see the length. The paper's 250 over 10 classes:

    >>> equivalent_beta(250.0, 10)
    2500.0
    """
    return beta * num_classes


def attention_map(features: Tensor) -> Tensor:
    """f(A) = mean over channels of A^2, flattened and divided by its l2 norm (eq. 8).

    Maps `[B, C, H, W]` to `[B, H * W]`: all that has to travel between teacher and student.
    """
    return F.normalize(features.square().mean(dim=1).flatten(1), dim=1)


def attention_loss(teacher: Sequence[Tensor], student: Sequence[Tensor], *, squared: bool) -> Tensor:
    """Distance of the attention maps `[B, P_l]`, summed over layers and averaged over the batch.

    `squared=False` is eq. 8: the l2 norm of the difference. `squared=True` is what the authors'
    published code computes and what their beta = 250 goes with: the mean over elements of the squared
    difference, that is norm^2 / P_l.
    """
    terms = []
    for t, s in zip(teacher, student, strict=True):
        difference = t - s
        terms.append(difference.square().mean() if squared else difference.norm(dim=1).mean())
    return torch.stack(terms).sum()


def band_pass_filter(teacher_logits: Tensor, forget: Sequence[int], epsilon: float) -> Tensor:
    """Which images may reach the student: F(x) = prod over C_f of (t_i < epsilon) (eq. 10).

    Args:
        teacher_logits: `[B, K]`.
        forget: every class forgotten so far in the lineage, and the ones to forget now.
        epsilon: probability below which a forget class counts as absent.

    Returns:
        Mask `[B]`, True where the image passes.
    """
    return (teacher_logits.softmax(dim=1)[:, list(forget)] < epsilon).all(dim=1)


def mask_classes(logits: Tensor, classes: Sequence[int]) -> Tensor:
    """Logits `[B, K]` with `classes` given probability 0 and the rest renormalised."""
    masked = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    masked[list(classes)] = True
    return logits.masked_fill(masked, MASKED_LOGIT)


def lower_to_minimum(logits: Tensor, classes: Sequence[int]) -> Tensor:
    """Logits `[B, K]` with those of `classes` replaced by the image's lowest other logit.

    What a student learns of `classes` then is "no likelier than the least likely class", the same for
    every image, so nothing about which images are theirs. A logit pushed to minus infinity tells more:
    it is pushed down only where the student was taught, and stands out on the images held back
    (compare the lowering of forget logits in ISPF, AAAI 2025).

    >>> lower_to_minimum(torch.tensor([[5.0, -1.0, 2.0]]), [0])
    tensor([[-1., -1.,  2.]])
    """
    lowered = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    lowered[list(classes)] = True
    least = logits.masked_fill(lowered, torch.inf).amin(dim=1, keepdim=True)
    return torch.where(lowered, least, logits)
