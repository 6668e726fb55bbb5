"""Losses by which a conditional generator learns from a frozen classifier (few-shot paper, eq. 3 to 7).

| symbol | name | here |
|---|---|---|
| l_ent, eq. 3 | entropy loss | `entropy_loss` |
| l_aug, eq. 4 | augmentation loss | `augmentation_loss` |
| l_div, eq. 5 | diversity loss | `diversity_loss` |
| l_bn, eq. 6 | batch normalization loss | `batchnorm_loss` |
| l_tv, eq. 7 | total variance loss | `total_variation_loss` |

The equations sum over images, pairs and pixels, and give one weight for each loss; sums would tie the
weights to the batch's and the image's size, and exp(-sum) of eq. 5 would be 0 without a gradient. Here, as in
the authors' published code, a loss is a mean over images (and over pairs and pixels); over transformations,
classes, layers and channels it is a sum, as in the equations. That code takes unsquared norms in eq. 4, 6
and 7 and has other weights; here the norms are squared, as the equations are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayunlearn.inversion.deep_inversion import BatchNormStatistics
from rayunlearn.models.normalisation import BATCHNORMS, BatchNorm, all_but_channels


def entropy_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """CE(f(G(z, y)), y) in nats, the mean over images (eq. 3).

    It is the cross-entropy to the label asked for, not the entropy of the prediction.

    Args:
        logits: of the images, `[B, K]`.
        labels: that the generator was asked for, `[B]` int64.
    """
    return F.cross_entropy(logits, labels)


def augmentation_loss(logits: Tensor, transformed: Tensor) -> Tensor:
    """||f(x) - f(phi_l(x))||_2^2, summed over the L transformations, the mean over images (eq. 4).

    f are probabilities (section 2), so that an image and a transformation add at most 2.

    Args:
        logits: of the images, `[B, K]`.
        transformed: of the transformed images, `[L, B, K]`.
    """
    difference = logits.softmax(dim=-1) - transformed.softmax(dim=-1)
    return difference.square().sum(dim=(0, 2)).mean()


def diversity_loss(z: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """exp(-mean over pairs of ||z_1 - z_2||_2^2 ||f_e(x_1) - f_e(x_2)||_1), summed over classes (eq. 5).

    Images of one class that look alike to the classifier for different noise cost 1 a class, the most;
    those that differ cost less. The norms are means over the elements, as in KegNet's published code, from
    which the loss is borrowed. Pairs are of two different samples of a class, each counted once: the
    double sum counts them twice and adds pairs of a sample with itself, which are 0. A class of which
    the batch has less than two samples has no pair and adds nothing.

    Args:
        z: noise, `[B, Z]`.
        features: of the images, `[B, D]`.
        labels: `[B]` int64.
    """
    total = features.new_zeros(())
    for label in labels.unique():
        noise, looks = z[labels == label], features[labels == label]
        first, second = torch.triu_indices(len(looks), len(looks), offset=1, device=looks.device)
        if len(first) > 0:
            noise_distance = (noise[first] - noise[second]).square().mean(dim=1)
            distance = (looks[first] - looks[second]).abs().mean(dim=1)
            total = total + torch.exp(-(noise_distance * distance).mean())
    return total


def batchnorm_loss(inputs: Tensor, layer: BatchNorm) -> Tensor:
    """One layer's ||mean - running_mean||_2^2 + ||var - running_var||_2^2 (a term of eq. 6).

    Args:
        inputs: what enters the layer, `[B, C, ...]`; the statistics are over all axes but C.
        layer: of a trained classifier; its running variance is unbiased, and so is the batch's here.
    """
    assert layer.running_mean is not None and layer.running_var is not None
    over = all_but_channels(inputs)
    mean, var = inputs.mean(dim=over), inputs.var(dim=over, unbiased=True)
    return (mean - layer.running_mean).square().sum() + (var - layer.running_var).square().sum()


class SquaredBatchNormStatistics(BatchNormStatistics):
    """`take()` gives the sum over layers of `batchnorm_loss` (eq. 6), DeepInversion's with norms squared."""

    def _observe(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, BATCHNORMS)
        self._terms.append(batchnorm_loss(inputs[0], layer))


def total_variation_loss(images: Tensor) -> Tensor:
    """Mean squared difference between neighbouring pixels of images `[B, C, H, W]` (eq. 7).

    Of neighbours across and of neighbours down, each pair counted once; the two means are added.

    >>> total_variation_loss(torch.tensor([[[[0., 2.], [0., 2.]]]])).item()
    4.0
    """
    across = (images[..., :, 1:] - images[..., :, :-1]).square().mean()
    down = (images[..., 1:, :] - images[..., :-1, :]).square().mean()
    return across + down
