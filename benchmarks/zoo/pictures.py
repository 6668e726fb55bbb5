"""Pictures that are of no data set: drawn by arithmetic, or cut from scikit-learn's two photographs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.seeds import generator

SHAPES = 12
"""Of a drawn picture, one upon another."""


def drawn(spec: ClassifierSpec, count: int, seed: int) -> Tensor:
    """Dead leaves: ellipses and bars of heavy-tailed sizes upon a ground, normalised `[N, C, H, H]`.

    Lee, Mumford and Huang 2001 for the model, Baradad et al. 2021 (arXiv 2106.05963) for learning from it.
    """
    draws, (channels, size, _) = generator(seed, "pictures"), spec.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=draws)

    at = (torch.arange(size) + 0.5) / size
    rows, columns = at.view(1, -1, 1), at.view(1, 1, -1)
    pictures = uniform(count, channels, 1, 1).expand(-1, -1, size, size).clone()
    for _ in range(SHAPES):
        y, x, turn = uniform(count, 1, 1), uniform(count, 1, 1), torch.pi * uniform(count, 1, 1)
        radius = 0.05 * uniform(count, 1, 1).clamp(min=1e-3) ** -0.7  # few large ones, many small ones
        along = (rows - y) * turn.cos() + (columns - x) * turn.sin()
        across = (columns - x) * turn.cos() - (rows - y) * turn.sin()
        slim = 1 + 4 * uniform(count, 1, 1)
        round_ = (along / radius) ** 2 + (slim * across / radius) ** 2
        square = torch.maximum((along / radius).abs(), (slim * across / radius).abs())
        inside = torch.where(uniform(count, 1, 1) < 0.5, round_, square)[:, None] < 1
        pictures = torch.where(inside, uniform(count, channels, 1, 1), pictures)
    noise = 0.1 * uniform(count, 1, 1, 1) * torch.randn(pictures.shape, generator=draws)
    return _normalised((pictures + noise).clamp(0, 1), spec)


def photographed(spec: ClassifierSpec, count: int, seed: int) -> Tensor:
    """Crops of the two photographs that scikit-learn ships, of a fifth to all of their height."""
    from sklearn.datasets import load_sample_images

    draws, (_, size, _) = generator(seed, "photographs"), spec.shape
    pixels = [torch.from_numpy(p.copy()).permute(2, 0, 1) for p in load_sample_images().images]
    photographs = [p.float() / 255 for p in pixels]
    crops = []
    for _ in range(count):
        which, share, y, x = torch.rand(4, generator=draws).tolist()
        photograph = photographs[int(which * len(photographs))]
        height, width = photograph.shape[1:]
        side = int(height * (0.2 + 0.8 * share))
        top, left = int(y * (height - side)), int(x * (width - side))
        crop = photograph[None, :, top : top + side, left : left + side]
        crops.append(F.interpolate(crop, size=(size, size), mode="area")[0])
    images = torch.stack(crops)
    if spec.in_channels == 1:
        images = images.mean(dim=1, keepdim=True)
    return _normalised(images, spec)


def _normalised(pixels: Tensor, spec: ClassifierSpec) -> Tensor:
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
    return (pixels - mean) / std
