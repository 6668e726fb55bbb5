"""Classifiers of convolutions one after another: AllCNN and LeNet-5 with and without BatchNorm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from rayunlearn.models.body_and_head import Classifier, normalised, scaled

if TYPE_CHECKING:
    from rayunlearn.models.classifiers import ClassifierSpec


class AllCNN(Classifier):
    """All convolutions, BatchNorm after each, global average pool and a linear head.

    Springenberg et al. 2015 (arXiv 1412.6806), model All-CNN-C; BatchNorm and the linear head as
    zero-shot unlearning (arXiv 2201.05629) and its reference code train it. Eight convolutions,
    eight maps; channels are 96 and 192 times `spec.width`, rounded, at least 1. The third convolution
    has All-CNN-C's 96, where the reference code has 192.

    | parameters at width 1, 10 classes | 1 channel | 3 channels |
    |---|---|---|
    | any image size | 1,369,258 | 1,370,986 |
    """

    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__(spec)
        narrow, wide = scaled(spec, 96), scaled(spec, 192)
        # (channels out, kernel, stride)
        plan = [
            (narrow, 3, 1), (narrow, 3, 1), (narrow, 3, 2),
            (wide, 3, 1), (wide, 3, 1), (wide, 3, 2),
            (wide, 3, 1), (wide, 1, 1),
        ]  # fmt: skip
        blocks, channels = [], spec.in_channels
        for out, kernel, stride in plan:
            blocks.append(normalised(channels, out, kernel, stride))
            channels = out
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(channels, spec.num_classes)

    def _run(self, x: Tensor, maps: list[Tensor] | None) -> Tensor:
        for block in self.blocks:
            x = block(x)
            if maps is not None:
                maps.append(x)
        return x.mean(dim=(2, 3))


class LeNet(Classifier):
    """LeNet-5: two 5x5 convolutions, each max-pooled by 2, two hidden layers and a linear head.

    LeCun et al. 1998; ReLU and max pooling in place of its sigmoids and trained subsampling, and no
    BatchNorm, as the reference code of zero-shot unlearning (arXiv 2201.05629) has it. 28x28 images are
    padded to LeNet-5's 32x32, so both sizes have the same parameters; a smaller one would be mostly
    padding and is refused. Two maps. Channels 6 and 16 and hidden units 120 and 84 are times
    `spec.width`, rounded, at least 1.

    | parameters at width 1, 10 classes | 1 channel | 3 channels |
    |---|---|---|
    | 28x28, 32x32 | 61,706 | 62,006 |
    """

    image_sizes = (28, 32)

    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__(spec)
        narrow, wide = scaled(spec, 6), scaled(spec, 16)
        first, second = scaled(spec, 120), scaled(spec, 84)
        padding = (32 - spec.shape[1]) // 2
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(spec.in_channels, narrow, 5, padding=padding), nn.ReLU()),
                nn.Sequential(nn.Conv2d(narrow, wide, 5), nn.ReLU()),
            ]
        )
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(wide * 5 * 5, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU()
        )
        self.head = nn.Linear(second, spec.num_classes)

    def _run(self, x: Tensor, maps: list[Tensor] | None) -> Tensor:
        for block in self.blocks:
            x = block(x)
            if maps is not None:
                maps.append(x)
            x = F.max_pool2d(x, 2)
        features: Tensor = self.hidden(x)
        return features


class LeNet5BN(LeNet):
    """LeNet-5 with a BatchNorm before each convolution, the first one's on the image itself.

    Few-shot unlearning's LeNet5 (appendix D.1: BatchNorm is added before every convolution layer). All
    else is `LeNet`'s, its two maps included.

    | parameters at width 1, 10 classes | 1 channel | 3 channels |
    |---|---|---|
    | 28x28, 32x32 | 61,720 | 62,024 |
    """

    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__(spec)
        inputs = (spec.in_channels, scaled(spec, 6))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(channels), *block.children())
            for channels, block in zip(inputs, self.blocks, strict=True)
        )
