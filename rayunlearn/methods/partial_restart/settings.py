"""Settings of a partial restart."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rayunlearn.fields import AtLeastTwo, Checked, PositiveShare, Share
from rayunlearn.surrogates.procedural import ProceduralSettings

KEPT_SHARE = 0.6
"""Of the layers, where nobody chooses: five of AllCNN's eight, two of LeNet's four (docs/log.md, 108)."""

UNSURE = 0.3
"""Probability of the classes to forget from which on a picture is dropped whatever else is left."""


@dataclass(frozen=True, kw_only=True)
class PartialRestartSettings(Checked, section="partial_restart"):
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

    kept: NonNegativeInt | None = None
    cycles: PositiveInt = 30
    student_steps: PositiveInt = 40
    batch_size: AtLeastTwo = 128
    student_lr: PositiveFloat = 3e-3
    student_weight_decay: NonNegativeFloat = 1e-4
    temperature: PositiveFloat = 1.0
    clip_norm: PositiveFloat = 5.0
    pictures: AtLeastTwo = 20_000
    cut_share: Share = 0.5
    most_forget: PositiveShare = 0.03
    least_share: Share = 0.25
    procedural: ProceduralSettings = field(default_factory=ProceduralSettings)
