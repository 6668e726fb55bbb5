"""Settings of gated knowledge transfer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rayunlearn.errors import BadInput
from rayunlearn.fields import AtLeastTwo, Checked, PositiveShare, Share


@dataclass(frozen=True, kw_only=True)
class GKTSettings(Checked, section="gkt"):
    """Settings of gated knowledge transfer; the defaults are the paper's (section V.A).

    Attributes:
        cycles: most cycles a run may take (the paper's "epochs").
        generator_steps: generator steps in a cycle.
        student_steps: student steps in a cycle.
        batch_size: images in a batch.
        z_dim: length of the generator's input.
        generator_width: multiplier of the generator's channels.
        generator_output: "batchnorm" (Table V) or "pixel_range" (squashed onto the valid pixels).
        epsilon: threshold of the band-pass filter (eq. 10).
        beta: weight of the attention loss (eq. 9).
        temperature: divides both logits in the divergence.
        divergence: "kl" (eq. 7) or "js" (section V.E.2).
        divergence_mean: over "samples" (eq. 7) or "elements" (B * K of them, the published code).
        attention: "squared" (the published code) or "norm" (eq. 8).
        targets: "teacher" hands on the teacher's logits as they are; "masked" gives the forget classes
            probability 0, so that what is below epsilon does not add up over the cycles;
            "row_minimum" gives them the image's lowest retain logit, which says the same for every image.
        generator_lr, student_lr: Adam's learning rates.
        student_weight_decay: decoupled weight decay of the student.
        student_schedule: "constant"; "one_cycle": linear warm-up over the first tenth of
            `schedule_cycles`, then a cosine down to 1 % of `student_lr`, held from there on; "plateau":
            torch's ReduceLROnPlateau by one half, as in the published code, but by the loss on synthetic
            retain images where that code takes real test data.
        generator_halving: cycles between halvings of the generator's rate, 0 for a constant one. The
            published code has a plateau schedule on the generator too, but hands it a loss that never
            changes, which halves the rate every 150 cycles.
        schedule_cycles: horizon of the one-cycle schedule.
        plateau_checkpoints: checkpoints whose mean loss the plateau schedule hears as one.
        plateau_patience: means in a row without a gain that it lets pass; the next one halves the rate.
        clip_norm: largest gradient norm of student and generator.
        adversarial_weight: weight of the generator's -D(T || S).
        generator_bn_weight: weight of the distance to the teacher's BatchNorm statistics in the
            generator's loss; 0 in the paper.
        generator_attention: the generator maximises beta L_at besides the divergence, an ablation (section
            V.E.2); False in the paper's default.
        generator_gate_weight: weight of -log(1 - sum of forget probabilities) in the generator's loss,
            which pulls it out of the region that the filter refuses; 0 in the paper.
        inverted_per_class: DeepInversion images a retain class that the student learns from besides the
            generator's; 0 in the paper.
        replayed_batches: recent generator batches kept to learn from again; 0 in the paper, which
            repeats the cycle's one batch `student_steps` times.
        generated_share: share of images drawn from the replayed batches where there are inverted ones.
        mixing: "none", or "cutmix": each image is cut together from two along a smooth random mask.
        jitter: pixels by which each image that the student learns from is moved, at most.
        contrast: least contrast that such an image may have left, of the full 1. Both are for models without
            BatchNorm, whose inverted images have no statistics to match and cover little of what real ones
            are (docs/log.md, 46).
        stall_pass_rate, stall_cycles: the generator has stalled when its pass rate stays below the
            first for this many of its steps running (one a cycle in the paper); it then goes back to its
            last healthy snapshot.
        snapshot_every: healthy generator steps between snapshots.
    """

    cycles: PositiveInt = 4000
    generator_steps: PositiveInt = 1
    student_steps: PositiveInt = 10
    batch_size: AtLeastTwo = 256
    z_dim: PositiveInt = 128
    generator_width: PositiveFloat = 1.0
    generator_output: Literal["batchnorm", "pixel_range"] = "batchnorm"
    epsilon: PositiveShare = 0.01
    beta: NonNegativeFloat = 250.0
    temperature: PositiveFloat = 1.0
    divergence: Literal["kl", "js"] = "kl"
    divergence_mean: Literal["samples", "elements"] = "elements"
    attention: Literal["squared", "norm"] = "squared"
    targets: Literal["teacher", "masked", "row_minimum"] = "teacher"
    generator_lr: PositiveFloat = 1e-3
    student_lr: PositiveFloat = 1e-3
    student_weight_decay: NonNegativeFloat = 0.0
    student_schedule: Literal["constant", "one_cycle", "plateau"] = "constant"
    generator_halving: NonNegativeInt = 0
    schedule_cycles: PositiveInt = 4000
    plateau_checkpoints: PositiveInt = 10
    plateau_patience: NonNegativeInt = 2
    clip_norm: PositiveFloat = 5.0
    adversarial_weight: NonNegativeFloat = 1.0
    generator_bn_weight: NonNegativeFloat = 0.0
    generator_attention: bool = False
    generator_gate_weight: NonNegativeFloat = 0.0
    inverted_per_class: NonNegativeInt = 0
    replayed_batches: NonNegativeInt = 0
    generated_share: Share = 0.5
    mixing: Literal["none", "cutmix"] = "none"
    jitter: NonNegativeInt = 0
    contrast: PositiveShare = 1.0
    stall_pass_rate: Share = 0.1
    stall_cycles: PositiveInt = 10
    snapshot_every: PositiveInt = 10

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        for field, neutral in (("mixing", "none"), ("jitter", 0), ("contrast", 1.0)):
            if getattr(self, field) != neutral and not self.learns_from_bank:
                allowed = f"{neutral!r} without inverted_per_class or replayed_batches"
                raise BadInput(f"{self.section}.{field}", getattr(self, field), allowed)

    @property
    def learns_from_bank(self) -> bool:
        """Whether student batches are drawn from a bank rather than being the cycle's one batch."""
        return self.inverted_per_class > 0 or self.replayed_batches > 0


@dataclass(frozen=True, kw_only=True)
class GatedInversionSettings(GKTSettings, section="gated_inversion"):
    """The same settings with the project's own defaults; those of `GKTSettings` are the paper's.

    The student learns from DeepInversion images of the retain classes and from replayed generator
    batches, cut together, a fresh batch each step. Targets (forget logits at the row's minimum),
    temperature, schedule and generator losses differ as well; docs/log.md has the trials.
    """

    cycles: int = 60
    batch_size: int = 128
    generator_output: Literal["batchnorm", "pixel_range"] = "pixel_range"
    divergence_mean: Literal["samples", "elements"] = "samples"
    beta: float = 0.0
    targets: Literal["teacher", "masked", "row_minimum"] = "row_minimum"
    student_lr: float = 3e-3
    student_weight_decay: float = 1e-4
    student_schedule: Literal["constant", "one_cycle", "plateau"] = "one_cycle"
    schedule_cycles: int = 60
    generator_gate_weight: float = 1.0
    generator_bn_weight: float = 0.01
    inverted_per_class: int = 60
    replayed_batches: int = 8
    generated_share: float = 0.25
    mixing: Literal["none", "cutmix"] = "cutmix"
