"""A conditional generator trained on data: what the few-shot paper's "Ours+" begins with.

The paper (section 4.2) names DCGAN (Radford et al., arXiv 1511.06434) and conditional GANs (Mirza and
Osindero, arXiv 1411.1784) and says no more. Here the discriminator mirrors `ConditionalGenerator` with
DCGAN's strided convolutions, and takes the label by projection (Miyato and Koyama, arXiv 1802.05637).
On digits (Adam 1e-3, batches of 64, z_dim 32, widths 0.5, one seed) by which of its images another classifier
takes for the class asked for, and the deviation within a class over that of the data, in %:

| the label enters the discriminator | the generator's label vectors start at | 90 steps | 270 steps |
|---|---|---|---|
| one-hot, as planes beside the image | N(0, 1) | 89, 13 | 65, 23 |
| one-hot, as planes beside the image | N(0, 0.2) | 53, 39 | 79, 58 |
| by projection | N(0, 1) | 98, 12 | 89, 10 |
| by projection | N(0, 0.2) | 88, 33 | 79, 73 |

Label vectors as large as the noise let the generator pass without the noise: few looks of each class, and
no more with more steps (540: 100, 9). The generator is the caller's; begin from one whose noise counts.

Each step takes a batch of real images and as many generated ones with the same labels, so that a class is
asked for as often as the data have it. The discriminator's update comes first; both losses see the same
generated images.

The images are training data: whoever uses such a generator has had access to them, and declares it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from rayunlearn.errors import BadInput, RayUnlearnError
from rayunlearn.fields import AtLeastTwo, Checked, ShareBelowOne
from rayunlearn.methods.unlearning import batch_ids, batches_per_epoch
from rayunlearn.models.conditional_generator import ConditionalGenerator, ConditionalGeneratorSpec
from rayunlearn.models.resuming import Stepped
from rayunlearn.seeds import derive_seed, seeded_default_generators
from rayunlearn.seeds import generator as seeded
from rayunlearn.task import height_and_width

RANGE_SLACK = 1e-3
"""By so much a normalised pixel may pass the generator's range: what rounding can make, and no more."""


@dataclass(frozen=True, kw_only=True)
class ConditionalGANSettings(Checked, section="few_shot.gan"):
    """Settings of the training on data; optimizer and batch are DCGAN's, the number of epochs is ours.

    Attributes:
        epochs: passes over the images.
        batch_size: real images of a step, and generated ones.
        lr: Adam's learning rate, of both networks.
        betas: Adam's, of both networks.
        discriminator_width: multiplier of the discriminator's channels 64 and 128.
    """

    epochs: PositiveInt = 25
    batch_size: AtLeastTwo = 128
    lr: PositiveFloat = 2e-4
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.5, 0.999)
    discriminator_width: PositiveFloat = 1.0


class Discriminator(nn.Module):
    """Tells real images of a class from generated ones.

    Two 4x4 convolutions of stride 2, LeakyReLU 0.2 after each and BatchNorm in the second, flattened to
    phi(x) `[B, D]`; the logit is <w + v_y, phi(x)> + b, where v_y is learned for each class.

    Args:
        spec: of the generator.
        width: multiplier of the channels 64 and 128.
        seed: of the weights, which start as DCGAN's, from N(0, 0.02).
    """

    def __init__(self, spec: ConditionalGeneratorSpec, width: float, seed: int) -> None:
        super().__init__()
        first, second = (max(1, round(channels * width)) for channels in (64, 128))
        high, across = height_and_width(spec.image_size)
        flat = second * (high // 4) * (across // 4)
        with seeded_default_generators(seed):  # torch's own initial weights, which do not stay
            self.body = nn.Sequential(
                nn.Conv2d(spec.channels, first, 4, stride=2, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(first, second, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(second),
                nn.LeakyReLU(0.2),
                nn.Flatten(),
            )
            self.whole = nn.Linear(flat, 1)
            self.of_class = nn.Embedding(spec.num_classes, flat)
        draws = seeded(seed, "init", "discriminator")
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02, generator=draws)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Logits `[B]`, above 0 for real, of images `[B, C, H, W]` and their labels `[B]` int64."""
        phi = self.body(x)
        logits: Tensor = self.whole(phi).squeeze(1) + (self.of_class(y) * phi).sum(dim=1)
        return logits


def discriminator_loss(real: Tensor, generated: Tensor) -> Tensor:
    """-mean log D(x, y) - mean log(1 - D(G(z, y), y)) in nats, from the logits `[B]` of each.

    >>> import math
    >>> blind = torch.zeros(3)
    >>> bool(torch.isclose(discriminator_loss(blind, blind), torch.tensor(2 * math.log(2))))
    True
    """
    return F.softplus(-real).mean() + F.softplus(generated).mean()


def generator_loss(generated: Tensor) -> Tensor:
    """-mean log D(G(z, y), y) in nats, from the logits `[B]`: the form that does not saturate.

    >>> import math
    >>> bool(torch.isclose(generator_loss(torch.zeros(3)), torch.tensor(math.log(2))))
    True
    """
    return F.softplus(-generated).mean()


class ConditionalGAN(Stepped):
    """A training of a conditional generator on labelled images.

    It goes as an `Unlearning` does: advanced, looked at, saved and loaded. A step is a batch: an update
    of the discriminator, then one of the generator.

    Args:
        generator: to begin from; a copy is trained.
        images: normalised, `[N, C, H, W]`, at least 2.
        labels: `[N]` int64.
        settings: of the training.
        seed: of the discriminator's weights, the order of the images and the noise.
        device: where it is trained.

    Attributes:
        steps: how many the settings make of the images.

    Raises:
        BadInput: the images or labels do not fit each other or the generator.
    """

    saved = {
        "generator": "_generator", "discriminator": "_discriminator", "generator_adam": "_generator_adam",
        "discriminator_adam": "_discriminator_adam", "taken": "taken",
        "losses": ("_generator_sum", "_discriminator_sum", "_count"),
    }  # fmt: skip

    def __init__(
        self,
        generator: ConditionalGenerator,
        images: Tensor,
        labels: Tensor,
        settings: ConditionalGANSettings,
        seed: int,
        device: str = "cpu",
    ) -> None:
        _check(images, labels, generator.spec)
        self.images, self.labels = images.to(device), labels.to(device)
        self.settings, self.seed, self.device = settings, seed, device
        self.steps = settings.epochs * batches_per_epoch(len(images), settings.batch_size)
        self.taken = 0
        self._generator = copy.deepcopy(generator).to(device).train()
        self._discriminator = Discriminator(generator.spec, settings.discriminator_width, seed).to(device)
        self._generator_adam, self._discriminator_adam = (
            torch.optim.Adam(network.parameters(), lr=settings.lr, betas=settings.betas)
            for network in (self._generator, self._discriminator)
        )
        self._generator_sum, self._discriminator_sum, self._count = 0.0, 0.0, 0

    def _step(self) -> None:
        order = derive_seed(self.seed, "conditional gan images")
        ids = batch_ids(len(self.images), self.settings.batch_size, self.taken, order)
        real, y = self.images[ids], self.labels[ids]
        draws = seeded(self.seed, "conditional gan z", self.taken)
        z = torch.randn(len(ids), self._generator.spec.z_dim, generator=draws).to(self.device)
        generated = self._generator(z, y)

        told = discriminator_loss(self._discriminator(real, y), self._discriminator(generated.detach(), y))
        self._update(self._discriminator_adam, told)
        passed = generator_loss(self._discriminator(generated, y))
        self._update(self._generator_adam, passed)
        self._discriminator_sum += float(told.detach())
        self._generator_sum += float(passed.detach())
        self._count += 1

    def _update(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        if not bool(torch.isfinite(loss)):
            raise RayUnlearnError(
                f"the conditional GAN's loss is {float(loss.detach())} at step {self.taken + 1}"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def generator(self) -> ConditionalGenerator:
        """A copy of the generator as it is now, in eval mode."""
        return copy.deepcopy(self._generator).eval()

    def report(self) -> dict[str, Any]:
        """Mean losses since the last report, nats, and the steps taken."""
        sums = {"generator_loss": self._generator_sum, "discriminator_loss": self._discriminator_sum}
        means = {name: total / self._count if self._count else None for name, total in sums.items()}
        self._generator_sum, self._discriminator_sum, self._count = 0.0, 0.0, 0
        return {**means, "generator_steps": self.taken}


def _check(images: Tensor, labels: Tensor, spec: ConditionalGeneratorSpec) -> None:
    """Images of the generator's shape and range, each with a label that it knows."""
    where = "conditional GAN"
    shape = (spec.channels, *height_and_width(spec.image_size))
    if images.dim() != 4 or images.shape[1:] != shape or len(images) < 2:
        allowed = f"[N, {', '.join(map(str, shape))}], as the generator makes them, N >= 2"
        raise BadInput("shape of the images", list(images.shape), allowed, where=where)
    low, high = images.min().item(), images.max().item()
    if not (spec.low - RANGE_SLACK <= low and high <= spec.high + RANGE_SLACK):
        allowed = f"within ({spec.low}, {spec.high}), the generator's"
        raise BadInput("range of the images", (low, high), allowed, where=where)
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        found = f"{labels.dtype} {list(labels.shape)}"
        raise BadInput("labels", found, f"torch.int64 [{len(images)}], one per image", where=where)
    known = range(spec.num_classes)
    unknown = sorted(set(labels.tolist()) - set(known))
    if unknown:
        raise BadInput("labels", unknown, f"{known[0]} to {known[-1]}, the generator's", where=where)
