"""Weights that make labels even."""

from __future__ import annotations

from torch import Tensor


def even_weights(labels: Tensor) -> Tensor:
    """Weights `[N]` that sum to 1 and give every label that occurs the same share.

    >>> import torch
    >>> even_weights(torch.tensor([0, 0, 1])).tolist()
    [0.25, 0.25, 0.5]
    """
    _, which, counts = labels.unique(return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[which].float())
