"""Classifiers with shortcuts: ResNet9, PreActResNet-18 and ResNet-50."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from rayunlearn.models.body_and_head import Classifier, normalised, scaled

if TYPE_CHECKING:
    from rayunlearn.models.classifiers import ClassifierSpec


class ResNet9(Classifier):
    """Four convolutions with BatchNorm, a residual pair after the second and fourth, and a linear head.

    Page 2018 ("How to train your ResNet"), with 256 channels in its last block instead of 512: the
    "smaller variant of ResNet" that the reference code of zero-shot unlearning (arXiv 2201.05629) has.
    Maps of the four convolutions outside the pairs, as there. Channels are 64, 128, 256 and 256 times
    `spec.width`, rounded, at least 1.

    Deviations from the reference: the body ends in Page's global max pool, so that images of any size
    have the same 256 features (the reference flattens 2x2 positions of 32x32 images); pooling rounds up,
    which changes nothing at 32 and keeps the last row at 28; maps are taken after the ReLU as in the
    other architectures, not before BatchNorm; BatchNorm's momentum is PyTorch's default 0.1 and not 0.9,
    with which the running statistics would be little more than the last batch's.

    | parameters at width 1, 10 classes | 1 channel | 3 channels |
    |---|---|---|
    | any image size | 2,439,114 | 2,440,266 |
    """

    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__(spec)
        first, second, third = (scaled(spec, channels) for channels in (64, 128, 256))
        self.blocks = nn.ModuleList(
            [
                normalised(spec.in_channels, first),
                normalised(first, second),
                normalised(second, third),
                normalised(third, third),
            ]
        )
        self.between = nn.ModuleList(
            [
                nn.Identity(),
                nn.Sequential(_halved(), _Residual(second)),
                _halved(),
                nn.Sequential(_halved(), _Residual(third)),
            ]
        )
        self.head = nn.Linear(third, spec.num_classes)

    def _run(self, x: Tensor, maps: list[Tensor] | None) -> Tensor:
        for block, then in zip(self.blocks, self.between, strict=True):
            x = block(x)
            if maps is not None:
                maps.append(x)
            x = then(x)
        return x.amax(dim=(2, 3))


class _Residual(nn.Module):
    """x plus two convolutions of it; no ReLU after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(normalised(channels, channels), normalised(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = x + self.body(x)
        return changed


def _halved() -> nn.MaxPool2d:
    return nn.MaxPool2d(2, ceil_mode=True)


class PreActResNet18(Classifier):
    """Pre-activation ResNet-18: BatchNorm and ReLU before each convolution, and before the pool.

    He et al. 2016 (arXiv 1603.05027), four stages of two blocks of two convolutions, for small images: a
    3x3 convolution of stride 1 and no pooling first. Where a block changes the shape, its shortcut is a
    1x1 convolution of the activated input. BatchNorm and ReLU end the body before the global average
    pool, as in the paper; a widespread CIFAR version leaves them out. Five maps: what enters each stage
    and what leaves the last, after their ReLU. Channels 64, 128, 256 and 512 are times `spec.width`,
    rounded, at least 1.

    | parameters at width 1, 10 classes | 1 channel | 3 channels |
    |---|---|---|
    | any image size | 11,171,018 | 11,172,170 |
    """

    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__(spec)
        channels = scaled(spec, 64)
        self.stem = nn.Conv2d(spec.in_channels, channels, 3, padding=1, bias=False)
        blocks = []
        for out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            out = scaled(spec, out)
            blocks += [_PreActBlock(channels, out, stride), _PreActBlock(out, out, 1)]
            channels = out
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, spec.num_classes)
        _draw_convolutions(self)

    def _run(self, x: Tensor, maps: list[Tensor] | None) -> Tensor:
        x = self.stem(x)
        for at, block in enumerate(self.blocks):
            activated, x = block(x)
            if maps is not None and at % 2 == 0:  # the first block of a stage
                maps.append(activated)
        x = F.relu(self.norm(x))
        if maps is not None:
            maps.append(x)
        return x.mean(dim=(2, 3))


class _PreActBlock(nn.Module):
    """Two convolutions of the activated input, added to the input where the shape stays."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        changes = stride != 1 or channels != out
        self.shortcut = nn.Conv2d(channels, out, 1, stride=stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The activated input, and the block's output."""
        activated = F.relu(self.norm1(x))
        changed = self.conv2(F.relu(self.norm2(self.conv1(activated))))
        return activated, changed + (x if self.shortcut is None else self.shortcut(activated))


class ResNet50(Classifier):
    """torchvision's ResNet-50 with a stem for small images: a 3x3 convolution of stride 1, no max pool.

    He et al. 2015 (arXiv 1512.03385), stages of 3, 4, 6 and 3 bottlenecks whose stride is at the 3x3
    convolution. Its names and shapes are torchvision's, but for the stem's kernel and `head` in place of
    `fc`; written out here because importing torchvision imports its datasets, which a sealed process
    refuses. Five maps: what leaves the stem and each stage. Channels of the stem and in the bottlenecks, 64,
    128, 256 and 512, are times `spec.width`, rounded, at least 1; a bottleneck ends in four times as many.

    | parameters at width 1, 10 classes | 1 channel | 3 channels |
    |---|---|---|
    | any image size | 23,519,690 | 23,520,842 |
    """

    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__(spec)
        first, second, third, fourth = (scaled(spec, channels) for channels in (64, 128, 256, 512))
        self.conv1 = nn.Conv2d(spec.in_channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _bottlenecks(first, first, 3, stride=1)
        self.layer2 = _bottlenecks(4 * first, second, 4, stride=2)
        self.layer3 = _bottlenecks(4 * second, third, 6, stride=2)
        self.layer4 = _bottlenecks(4 * third, fourth, 3, stride=2)
        self.head = nn.Linear(4 * fourth, spec.num_classes)
        _draw_convolutions(self)

    def _run(self, x: Tensor, maps: list[Tensor] | None) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        if maps is not None:
            maps.append(x)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            if maps is not None:
                maps.append(x)
        return x.mean(dim=(2, 3))


class _Bottleneck(nn.Module):
    """1x1 to fewer channels, 3x3, 1x1 to four times as many; ReLU after the sum."""

    def __init__(self, channels: int, inner: int, stride: int) -> None:
        super().__init__()
        out = 4 * inner
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels != out:
            shortcut = nn.Conv2d(channels, out, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        changed = F.relu(self.bn1(self.conv1(x)))
        changed = F.relu(self.bn2(self.conv2(changed)))
        changed = self.bn3(self.conv3(changed))
        return F.relu(changed + (x if self.downsample is None else self.downsample(x)))


def _bottlenecks(channels: int, inner: int, count: int, stride: int) -> nn.Sequential:
    """A stage: the first block takes the stride."""
    first = _Bottleneck(channels, inner, stride)
    return nn.Sequential(first, *(_Bottleneck(4 * inner, inner, 1) for _ in range(count - 1)))


def _draw_convolutions(model: nn.Module) -> None:
    """Normal convolution weights of variance 2 / fan-out (He et al., arXiv 1502.01852), as torchvision's."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
