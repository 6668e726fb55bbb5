"""The source: pictures made by arithmetic, drawn evenly over what the teacher sees in them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.inversion.augmentations import cut_together
from rayunlearn.methods.partial_restart.settings import PartialRestartSettings
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.seeds import generator
from rayunlearn.surrogates.procedural import procedural_images

AT_ONCE = 512
"""Pictures that are made at once."""


class Source:
    """Draws the pictures that the student learns from.

    Args:
        spec: of the classifier: size of the pictures, and how they are normalised.
        settings: of the run.
        seed: of the run; pictures and draws come from it and the cycle's number.
        device: where the pictures are kept, in bytes.
    """

    def __init__(
        self, spec: ClassifierSpec, settings: PartialRestartSettings, seed: int, device: str = "cpu"
    ) -> None:
        self.spec, self.settings, self.seed = spec, settings, seed
        self.device = torch.device(device)
        made = [
            _as_bytes(
                procedural_images(
                    range(first, min(first + AT_ONCE, settings.pictures)), shape=spec.shape, seed=seed,
                    settings=settings.procedural,
                )
            )
            for first in range(0, settings.pictures, AT_ONCE)
        ]  # fmt: skip
        self.pictures = torch.cat(made).to(self.device)
        self.weights = torch.ones(len(self.pictures))

    def candidates(self) -> Tensor:
        """All pictures `[N, C, H, W]`, uint8."""
        return self.pictures

    def weigh(self, weights: Tensor) -> int:
        """Draw the pictures by these weights `[N]` from now on; returns how many can be drawn.

        Raises:
            BadInput: the teacher takes every picture for one of a class to forget.
        """
        usable = int((weights > 0).sum())
        if not usable:
            allowed = "at least 1 that the version takes for one of a class to retain"
            raise BadInput("pictures", 0, f"{allowed}, of partial_restart.pictures {len(self.pictures)}")
        self.weights = weights.cpu()
        return usable

    def supply(self, cycle: int) -> Tensor:
        """Student batches `[S, B, C, H, W]`, normalised; some pictures are cut together with another one."""
        draws = generator(self.seed, "partial restart supply", cycle)
        steps, batch = self.settings.student_steps, self.settings.batch_size
        drawn = self._drawn(steps * batch, draws)
        images = drawn.view(steps, batch, *drawn.shape[1:])
        cut = round(self.settings.cut_share * batch)
        if cut:
            parts, others = images[:, :cut], self._drawn(steps * cut, draws)
            images[:, :cut] = cut_together(parts.flatten(0, 1), others, draws).view(parts.shape)
        return images

    def _drawn(self, count: int, draws: torch.Generator) -> Tensor:
        ids = torch.multinomial(self.weights, count, replacement=True, generator=draws)
        return normalised(self.pictures[ids.to(self.device)], self.spec)

    def report(self) -> dict[str, Any]:
        """The share of the pictures that can be drawn, as a generator's pass rate."""
        return {"pass_rate": float((self.weights > 0).float().mean())}

    def state(self) -> dict[str, Any]:
        """Nothing: pictures and weights are made anew from seed and version."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""


def normalised(pictures: Tensor, spec: ClassifierSpec) -> Tensor:
    """Pictures `[N, C, H, W]` in bytes, as the classifier takes them."""
    mean, std = (torch.tensor(v, device=pictures.device).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
    return (pictures.float() / 255 - mean) / std


def _as_bytes(pictures: Tensor) -> Tensor:
    return (pictures * 255).round().to(torch.uint8)
