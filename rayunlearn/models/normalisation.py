"""Layers that normalise by the statistics of a batch, and hold those of the training data."""

from __future__ import annotations

from torch import Tensor, nn

BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


def batchnorm_layers(model: nn.Module) -> list[BatchNorm]:
    """Those that have running statistics, in the order of the model's modules."""
    found = [module for module in model.modules() if isinstance(module, BATCHNORMS)]
    return [layer for layer in found if layer.running_mean is not None and layer.running_var is not None]


def all_but_channels(x: Tensor) -> tuple[int, ...]:
    """The axes of `[B, C, ...]` that a layer's statistics are over.

    >>> import torch
    >>> all_but_channels(torch.zeros(2, 3)), all_but_channels(torch.zeros(2, 3, 8, 8))
    ((0,), (0, 2, 3))
    """
    return (0, *range(2, x.dim()))
