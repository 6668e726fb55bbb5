"""Relabelling: soft labels without the labels to erase (few-shot paper, eq. 10)."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from rayunlearn.errors import BadInput

WHERE = "relabelling"


def relabel(soft_labels: Tensor, erased: Collection[int] | Tensor) -> Tensor:
    """r(y, y_e): the erased labels have probability 0, the others are renormalised (eq. 10).

    Deviation: eq. 10 speaks of a softmax of y with y_e's output as 0. Taken by the letter, a softmax over
    probabilities, it would leave y_e about as likely as any other label, which erases nothing. Where the
    erased labels had all of the probability nothing is left to renormalise: the others get equal parts.

    Args:
        soft_labels: probabilities `[N, K]`.
        erased: labels to erase from all rows; or, as an int64 tensor `[N]`, one from each row.

    Returns:
        `[N, K]` of the same dtype.

    Raises:
        BadInput: rows that are no probabilities; labels that there are not; none to erase, or none left.

    >>> relabel(torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]), [0])
    tensor([[0.0000, 0.5000, 0.5000],
            [0.0000, 0.5000, 0.5000]])
    """
    p = soft_labels.double()
    wrong = int((~((p >= 0).all(dim=1) & ((p.sum(dim=1) - 1).abs() < 1e-3))).sum())
    if wrong:
        raise BadInput("rows of soft labels that are no probabilities", wrong, "0", where=WHERE)
    gone = _erased(p, erased)
    kept = p.masked_fill(gone, 0.0)
    rest = kept.sum(dim=1, keepdim=True)
    uniform = (~gone).double() / (~gone).sum(dim=1, keepdim=True)
    return torch.where(rest > 0, kept / rest, uniform).to(soft_labels.dtype)


def _erased(p: Tensor, erased: Collection[int] | Tensor) -> Tensor:
    """Mask `[N, K]` of the labels to erase."""
    n, k = p.shape
    per_row = isinstance(erased, Tensor)
    labels = erased if isinstance(erased, Tensor) else torch.tensor(sorted(erased), dtype=torch.int64)
    if per_row and (labels.dtype != torch.int64 or tuple(labels.shape) != (n,)):
        allowed = f"int64 of shape [{n}], one for each row"
        raise BadInput(
            "labels to erase", f"{labels.dtype} of shape {list(labels.shape)}", allowed, where=WHERE
        )
    if not bool(((labels >= 0) & (labels < k)).all()):
        raise BadInput("labels to erase", labels.unique().tolist(), f"0 to {k - 1}", where=WHERE)
    if not per_row and not 0 < len(labels.unique()) < k:
        raise BadInput("labels to erase", labels.tolist(), f"some, not all, of 0 to {k - 1}", where=WHERE)
    gone = torch.zeros_like(p, dtype=torch.bool)
    if per_row:
        return gone.scatter(1, labels[:, None].to(p.device), True)
    gone[:, labels.to(p.device)] = True
    return gone
