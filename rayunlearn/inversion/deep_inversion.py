"""DeepInversion: images of chosen classes synthesised from a classifier's weights.

They stand in for real data as stopping criterion (zero-shot paper, appendix B.1 and Fig. 7; the
method is Yin et al. 2020, "Dreaming to distill").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from rayunlearn.errors import BadInput
from rayunlearn.fields import Checked, Degrees, ShareBelowOne
from rayunlearn.inversion.augmentations import turned
from rayunlearn.models.classifiers import Classifier
from rayunlearn.models.normalisation import BATCHNORMS, all_but_channels, batchnorm_layers
from rayunlearn.seeds import generator


@dataclass(frozen=True, kw_only=True)
class InversionSettings(Checked, section="inversion"):
    """How images are synthesised.

    Attributes:
        iterations: Adam steps on the images.
        lr: Adam's learning rate, decayed to 0 along a cosine.
        bn_weight: weight r of the BatchNorm statistics, or of what stands in for them in a model without.
        tv_weight: weight of the mean absolute difference between neighbouring pixels.
        l2_weight: weight of the mean squared pixel.
        jitter: images are moved by up to this many pixels in each step; 0 where the model was trained
            without shifts, whose BatchNorm statistics then hold for centred images only.
        bounded: optimise the images through a sigmoid onto the valid pixel range, which is part of the
            deployed model's preprocessing; otherwise pixels are free, as in the paper.
        min_confidence: an image is kept only if the model gives its class at least this probability.
        coarse: an image is the sum of a map of half and one of a quarter of its size, enlarged. What no
            such map can draw are fine patterns, which this model takes for the class and no other does.
        rotation: each image is turned by up to so many degrees in each step, by a draw of its own, ...
        scaling: ... enlarged or shrunk by up to this share, ...
        shift: ... and moved by up to this share of its size.
    """

    iterations: PositiveInt = 200
    lr: PositiveFloat = 0.3
    bn_weight: NonNegativeFloat = 0.3
    tv_weight: NonNegativeFloat = 1.0
    l2_weight: NonNegativeFloat = 0.0
    jitter: NonNegativeInt = 0
    bounded: bool = True
    min_confidence: ShareBelowOne = 0.5
    coarse: bool = field(default=False, metadata={"before": False})
    rotation: Degrees = field(default=0.0, metadata={"before": 0.0})
    scaling: ShareBelowOne = field(default=0.0, metadata={"before": 0.0})
    shift: ShareBelowOne = field(default=0.0, metadata={"before": 0.0})


def coarse(settings: InversionSettings, model: Classifier) -> InversionSettings:
    """Inversion of a model to coarse images, turned, scaled and moved while they are made.

    Other models of the same classes answer such images nearly as they answer real ones, where they take
    plain inverted images for anything (docs/log.md, 97).

    Args:
        settings: of plain images; a model without BatchNorm has their weight of what stands in for it.
        model: that is inverted.
    """
    normalised = bool(BatchNormStatistics(model).layers)
    return replace(
        settings, iterations=max(1, round(COARSE_SHARE * settings.iterations)), lr=0.3,
        bn_weight=0.1 if normalised else settings.bn_weight, bounded=True, jitter=0, coarse=True,
        rotation=15.0, scaling=0.15, shift=0.05,
    )  # fmt: skip


COARSE_SHARE = 0.5
"""Of a plain image's iterations; a coarse one has fewer pixels of its own (docs/log.md, 99)."""
LEAST_SIZE = 8
"""Pixels in each direction of the finer of a coarse image's two maps, where the image has them."""
ATTEMPTS = 4
"""With less and less weight on the BatchNorm statistics ..."""
EASED = 3.0
"""... by so much each time, while of a class fewer than ..."""
LEAST_ACCEPTED = 0.5
"""... this share of its images is accepted."""


@dataclass(frozen=True, kw_only=True)
class SyntheticSet:
    """Synthesised images `[N, C, H, W]` (normalised) with the class each was made for, `[N]`.

    Images that the model itself does not assign to their class are left out; `requested` says how many
    were made, so that a class which cannot be synthesised shows.
    """

    images: Tensor
    labels: Tensor
    requested: int

    def of(self, classes: Sequence[int]) -> SyntheticSet:
        """The part made for `classes`."""
        chosen = torch.isin(self.labels, torch.tensor(list(classes), dtype=torch.int64))
        return SyntheticSet(images=self.images[chosen], labels=self.labels[chosen], requested=self.requested)


class BatchNormStatistics:
    """Distance of the batch statistics at every BatchNorm's input from its running statistics.

    A context manager: hooks are removed on leaving, also by an error. `take()` gives the distance of
    the last forward pass, sum over layers of ||mean - running_mean||_2 + ||var - running_var||_2, over
    the whole batch, with the unbiased variance that PyTorch's running statistics hold.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = batchnorm_layers(model)
        self._terms: list[Tensor] = []
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> BatchNormStatistics:
        self._handles = [layer.register_forward_pre_hook(self._observe) for layer in self.layers]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _observe(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, BATCHNORMS) and layer.running_mean is not None
        assert layer.running_var is not None
        (x,) = inputs
        over = all_but_channels(x)
        mean = x.mean(dim=over)
        # `Tensor.var` over these dimensions takes twice as long on a CPU
        centred = x - mean.view(-1, *(1,) * (x.dim() - 2))
        var = centred.square().sum(dim=over) / (x.numel() / x.shape[1] - 1)
        self._terms.append((mean - layer.running_mean).norm() + (var - layer.running_var).norm())

    def take(self) -> Tensor:
        """The distance of the forward passes since the last `take`, a scalar with its graph."""
        total = torch.stack(self._terms).sum()
        self._terms = []
        return total


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference between neighbouring pixels of images `[N, C, H, W]`.

    >>> total_variation(torch.tensor([[[[0., 1.], [0., 1.]]]])).item()
    1.0
    """
    across = (images[..., :, 1:] - images[..., :, :-1]).abs().mean()
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
    return across + down


def deep_inversion(
    model: Classifier, labels: Tensor, settings: InversionSettings, *, seed: int
) -> SyntheticSet:
    """Synthesise one image for each label.

    Minimises CE(M(x), y) + r R_BN(x) + TV(x) + l2(x) over all images at once; the model is in eval
    mode and is left as it was.

    A model without BatchNorm (LeNet) has no statistics to match, and its confidence alone is reached by
    patterns that no other model takes for the class. In place of R_BN(x) the fallback asks for the same
    answer of a disturbed model on a moved image, CE(M'(x'), y): x' is moved by up to `jitter` pixels, at
    least 1, and M' has Gaussian noise on its weights, as large as they are, but not on its biases; both
    are drawn anew in each step. The term is ours, chosen by the share of images that two more LeNets,
    trained from other seeds, recognise (defaults, 100 images): MNIST 100 %, SVHN 94 and 95 %, CIFAR-10
    84 and 89 %. With equal logits of M on x' asked for instead: 96 and 100, 22 and 24, 50 and 67 %.

    A version that has forgotten several classes may have statistics with which one of its own classes does
    not go together: at the digits' weight r, class 6 after four requests, none of whose images is accepted,
    where at a third of it all are (docs/log.md, 41). Where fewer than half of a class's images are, the
    class is made again with r a third of what it was, at most `ATTEMPTS` times in all.

    Args:
        model: the version to invert.
        labels: class wanted for each image, `[N]` int64.
        settings: weights and steps.
        seed: of the starting noise and the jitter.

    Raises:
        BadInput: a label that the model does not have, or no image of a wanted class was accepted.
    """
    spec = model.spec
    if len(labels) < 2:
        raise BadInput("labels", labels.tolist(), "at least 2 labels: statistics are over the batch")
    if not bool(((labels >= 0) & (labels < spec.num_classes)).all()):
        raise BadInput("labels", labels.tolist(), f"classes 0 to {spec.num_classes - 1}")
    made, confidence = _optimised(model, labels, settings, generator(seed, "deep inversion"))
    weight = settings.bn_weight
    for attempt in range(1, ATTEMPTS):
        again = torch.isin(labels, _scarce(labels, confidence >= settings.min_confidence))
        if not bool(again.any()):
            break
        weight /= EASED
        eased, draws = replace(settings, bn_weight=weight), generator(seed, "deep inversion", attempt)
        others, confidences = _optimised(model, labels, eased, draws)
        made = torch.where(again[:, None, None, None], others, made)
        confidence = torch.where(again, confidences, confidence)
    keep = confidence >= settings.min_confidence
    lost = sorted(set(labels.tolist()) - set(labels[keep].tolist()))
    if lost:
        raise BadInput(
            "classes",
            lost,
            "classes that the model can be inverted for (none of their images reached "
            f"inversion.min_confidence={settings.min_confidence})",
            where="deep inversion",
        )
    return SyntheticSet(images=made[keep], labels=labels[keep], requested=len(labels))


def _scarce(labels: Tensor, accepted: Tensor) -> Tensor:
    """The classes of which fewer than `LEAST_ACCEPTED` of the images are accepted."""
    shares = {int(c): float(accepted[labels == c].float().mean()) for c in labels.unique()}
    return torch.tensor([c for c, share in shares.items() if share < LEAST_ACCEPTED], dtype=torch.int64)


def _optimised(
    model: Classifier, labels: Tensor, settings: InversionSettings, draws: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Images `[N, C, H, W]` and the probability that the model gives each one's class `[N]`, on CPU."""
    spec = model.spec
    device = next(model.parameters()).device
    low, high = spec.pixel_range
    wanted = labels.to(device)
    channels, height, width = spec.shape
    size = height, width
    free = [
        torch.randn((len(labels), channels, *of), generator=draws).to(device).requires_grad_(True)
        for of in (_coarse_sizes(size) if settings.coarse else (size,))
    ]
    optimizer = torch.optim.Adam(free, lr=settings.lr, betas=(0.9, 0.99), foreach=False)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.iterations)

    def images() -> Tensor:
        whole, *finer = (
            F.interpolate(part, size=size, mode="bilinear", align_corners=False)
            if settings.coarse
            else part
            for part in free
        )
        for part in finer:
            whole = whole + part
        return low + (high - low) * torch.sigmoid(whole) if settings.bounded else whole

    def seen(x: Tensor) -> Tensor:
        if not (settings.rotation or settings.scaling or settings.shift):
            return x
        return turned(x, settings.rotation, settings.scaling, settings.shift, draws)

    modes = [(module, module.training) for module in model.modules()]
    frozen = [p for p in model.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    model.eval()
    try:
        with BatchNormStatistics(model) as statistics:
            for _ in range(settings.iterations):
                x = images()
                moved = _jitter(seen(x), settings.jitter, low, draws)
                logits = model(moved)
                loss = F.cross_entropy(logits, wanted)
                if statistics.layers:
                    loss = loss + settings.bn_weight * statistics.take()
                else:
                    moved = _jitter(seen(x), max(1, settings.jitter), low, draws)
                    again = _disturbed(model, moved, draws)
                    loss = loss + settings.bn_weight * F.cross_entropy(again, wanted)
                loss = loss + settings.tv_weight * total_variation(x) + settings.l2_weight * x.square().mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
        with torch.no_grad():
            made = images().detach().clone()
            confidence = model(made).softmax(dim=1).gather(1, wanted[:, None])[:, 0]
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter in frozen:
            parameter.requires_grad_(True)
    return made.cpu(), confidence.cpu()


def _coarse_sizes(size: tuple[int, int]) -> list[tuple[int, ...]]:
    """Of the maps of a coarse image: a half and a quarter of its own, but no fewer than classes need.

    >>> _coarse_sizes((32, 40)), _coarse_sizes((8, 8))
    ([(16, 20), (8, 10)], [(8, 8), (4, 4)])
    """
    return [
        tuple(min(side, max(least, side // part)) for side in size)
        for least, part in ((LEAST_SIZE, 2), (LEAST_SIZE // 2, 4))
    ]


def _disturbed(model: nn.Module, x: Tensor, draws: torch.Generator) -> Tensor:
    """Logits of the model with Gaussian noise on every weight, of the weights' own root mean square."""
    noisy = {
        name: weight + weight.square().mean().sqrt() * torch.randn(weight.shape, generator=draws).to(weight)
        for name, weight in model.named_parameters()
        if weight.dim() > 1  # biases stay
    }
    logits: Tensor = torch.func.functional_call(model, noisy, (x,))
    return logits


def _jitter(x: Tensor, pixels: int, fill: float, draws: torch.Generator) -> Tensor:
    """Images moved together by up to `pixels` in each direction, padded with the darkest pixel."""
    if pixels == 0:
        return x
    down, across = torch.randint(0, 2 * pixels + 1, (2,), generator=draws).tolist()
    padded = F.pad(x, (pixels, pixels, pixels, pixels), value=fill)
    return padded[..., down : down + x.shape[-2], across : across + x.shape[-1]]
