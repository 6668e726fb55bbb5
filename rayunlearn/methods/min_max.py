"""Error min-max noise: the zero-shot paper's baseline (section IV.B, algorithm 1).

Noise stands in for all data: error-maximising noise of the classes to forget, error-minimising noise of
those to retain. The version learns both, each labelled as its own class, for a few epochs; there is no
repair step.

What the paper leaves open, and no code of this method is published:

- An "impair step" of section V.A is read as an epoch over the noise (algorithm 1, line 24); a step of the
  run is one batch of it.
- The impair steps are UNSIR's, which section V.A cites for them: Adam, batches of 256, train mode. So the
  noise enters the BatchNorm statistics of the model that learns from it, though not of the one it is
  learned from.
- lambda is UNSIR's 0.1. Algorithm 1 penalises ||z||_2, which at 0.1 bounds nothing: on digits the noise
  grows to a norm of 118 in its 400 steps, where an image has 8, and damages all classes alike. UNSIR's
  code, "similar" to which it is learned, squares it; so does the default here, and the norm ends at 4.
- The plateau's patience is that of the authors' training code, 3.
- Classes that earlier requests forgot are forget classes: the version cannot tell what they look like, and
  noise that minimises their error would bring them back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rayunlearn.methods.error_noise import NoiseSettings, NoiseTraining
from rayunlearn.methods.unlearning import Handed, Method


@dataclass(frozen=True, kw_only=True)
class MinMaxSettings(NoiseSettings, section="min_max"):
    """Settings of Error min-max noise; but for the penalty, the paper's for CIFAR-10 (section V.A).

    SVHN took 3 impair epochs at 0.001, MNIST one at 0.01. The fields are those of `NoiseSettings`.
    """

    noise_steps: int = 400
    noise_patience: int | None = 3
    penalty: Literal["norm", "squared_norm"] = "squared_norm"
    impair_epochs: int = 2
    impair_lr: float = 0.01


def begin(handed: Handed, settings: MinMaxSettings, device: str) -> NoiseTraining:
    """A run: its steps are batches of noise.

    Raises:
        BadInput: there is no class to forget.
    """
    roles = handed.roles
    return NoiseTraining(handed, settings, device, maximised=roles.forget, minimised=roles.retain)


METHOD = Method(
    name="min_max",
    summary="learns noise that maximises the error of what to forget and minimises that of the rest",
    source="Zero-Shot Machine Unlearning, section IV.B, algorithm 1",
    data_access=frozenset({"weights"}),
    granularity=frozenset({"classes"}),
    section=MinMaxSettings.section,
    begin=begin,
)
