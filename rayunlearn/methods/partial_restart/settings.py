"""Settings of a partial restart."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from rayunlearn.errors import BadInput
from rayunlearn.surrogates.procedural import ProceduralSettings

KEPT_SHARE = 0.6
"""Of the layers, where nobody chooses: five of AllCNN's eight, two of LeNet's four (docs/log.md, 108)."""

UNSURE = 0.3
"""Probability of the classes to forget from which on a picture is dropped whatever else is left."""


@dataclass(frozen=True, kw_only=True)
class PartialRestartSettings:
    """How much is kept, what is learned from, and for how long.

    Attributes:
        kept: layers with weights, in order of execution, that keep those of the version; the head is never
            kept. None: the judge chooses, and where there is none, `KEPT_SHARE` of them.
        cycles: of `student_steps` optimizer steps each.
        student_steps: in a cycle.
        batch_size: pictures in a batch.
        student_lr: AdamW's greatest rate, along a one-cycle schedule over all cycles.
        student_weight_decay: decoupled.
        temperature: divides both logits in the divergence.
        clip_norm: largest norm of the gradient.
        pictures: that are made once, and drawn from.
        cut_share: share of a batch that is cut together from two pictures along a smooth random mask.
        most_forget: probability of the classes to forget from which on a picture is dropped: what is a little
            like a class gets a pattern of answers that tells it (docs/log.md, 115 to 117).
        least_share: of the pictures that stays. Where a version is too unsure for that the bound is higher,
            up to `UNSURE`.
        procedural: which pictures.
    """

    kept: int | None = None
    cycles: int = 30
    student_steps: int = 40
    batch_size: int = 128
    student_lr: float = 3e-3
    student_weight_decay: float = 1e-4
    temperature: float = 1.0
    clip_norm: float = 5.0
    pictures: int = 20_000
    cut_share: float = 0.5
    most_forget: float = 0.03
    least_share: float = 0.25
    procedural: ProceduralSettings = field(default_factory=ProceduralSettings)

    def __post_init__(self) -> None:
        """Check every field; whether a network has so many layers is checked where there is one."""
        where = "partial_restart"
        if self.kept is not None and (type(self.kept) is not int or self.kept < 0):
            raise BadInput(f"{where}.kept", self.kept, "a whole number >= 0, or None")
        for name, least in (("cycles", 1), ("student_steps", 1), ("batch_size", 2), ("pictures", 2)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise BadInput(f"{where}.{name}", value, f"a whole number >= {least}")
        for name in ("student_lr", "temperature", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise BadInput(f"{where}.{name}", getattr(self, name), "a number above 0")
        if not 0 <= self.student_weight_decay < math.inf:
            raise BadInput(f"{where}.student_weight_decay", self.student_weight_decay, "a number >= 0")
        for name in ("cut_share", "least_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{where}.{name}", getattr(self, name), "a share in [0, 1]")
        if not 0 < self.most_forget <= 1:
            raise BadInput(f"{where}.most_forget", self.most_forget, "a probability in (0, 1]")
