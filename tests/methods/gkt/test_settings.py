"""Settings of gated knowledge transfer."""

from __future__ import annotations

import math

import pytest

from rayunlearn.errors import BadInput
from rayunlearn.methods.gkt.settings import GKTSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cycles", 0), ("cycles", 1.5), ("cycles", True), ("generator_steps", 0), ("student_steps", 0),
        ("batch_size", 1), ("z_dim", 0), ("schedule_cycles", 0), ("stall_cycles", 0), ("snapshot_every", 0),
        ("epsilon", 0.0), ("epsilon", 1.01), ("epsilon", math.nan), ("beta", -1.0), ("beta", math.nan),
        ("beta", math.inf), ("temperature", 0.0), ("temperature", math.inf), ("generator_lr", 0.0),
        ("student_lr", -1e-3), ("student_lr", math.nan), ("clip_norm", 0.0), ("generator_width", 0.0),
        ("student_weight_decay", -0.1), ("adversarial_weight", -1.0), ("generator_bn_weight", -1.0),
        ("generator_gate_weight", -1.0), ("inverted_per_class", -1), ("inverted_per_class", 0.5),
        ("replayed_batches", -1), ("generated_share", 1.1), ("stall_pass_rate", -0.1), ("mixing", "cutmix"),
        ("jitter", -1), ("jitter", 2), ("contrast", 0.0), ("contrast", 1.5), ("contrast", 0.5),
        ("divergence", "kld"), ("divergence_mean", "sample"), ("attention", "sqared"), ("targets", "none"),
        ("student_schedule", "onecycle"), ("generator_output", "batchnrm"), ("mixing", "mixup"),
    ],
)  # fmt: skip
def test_settings_refuse_a_bad_value_by_name(name: str, value: object) -> None:
    """The field, the value and what is allowed; a misspelt choice is not taken for the other one."""
    with pytest.raises(BadInput) as error:
        GKTSettings(**{name: value})
    assert error.value.thing == f"gkt.{name}"
    assert error.value.value is value and error.value.allowed


def test_the_defaults_are_the_papers() -> None:
    """Section V.A: batch 256, z of 128, 10 student steps, epsilon 0.01, beta 250, 4000 epochs; one batch."""
    s = GKTSettings()
    assert (s.batch_size, s.z_dim, s.student_steps, s.generator_steps) == (256, 128, 10, 1)
    assert (s.epsilon, s.beta, s.temperature, s.cycles, s.clip_norm) == (0.01, 250.0, 1.0, 4000, 5.0)
    assert not s.learns_from_bank and s.targets == "teacher"
    assert (s.generator_bn_weight, s.generator_gate_weight, s.student_weight_decay) == (0.0, 0.0, 0.0)
