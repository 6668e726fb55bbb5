"""The bounds that settings declare, written down a second time: a bound that moves is seen.

What each sentence takes and refuses is in `test_fields`; here it is which sentence a setting has.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest

from rayunlearn.errors import BadInput
from rayunlearn.fields import Checked, Digest, _allowed, _declared, check_value
from rayunlearn.methods.last_layer import LastLayerSettings
from rayunlearn.recipes import digits
from rayunlearn.recipes.recipe import AuditSettings
from rayunlearn.scheduling.plan import PlanSettings

BOUNDS: dict[str, tuple[str, ...]] = {
    "a tuple, each a finite number > 0, or None": ["data: std"],
    "a finite number > 0": (
        "amnesiac_relabel: lr",
        "amnesiac_rollback: lr",
        "audit.entropy: C",
        "audit.inversion: lr noise sharpen_blur",
        "audit.likelihood_ratio: least_variance",
        "audit.probe: C",
        "audit.relearn: lr",
        "audit: trivial_offset",
        "bad_teacher: lr temperature",
        "delete: lr",
        "few_shot.gan: discriminator_width lr",
        "few_shot: lr t_ent",
        "few_shot.model_inversion: lr width",
        "fine_tune: lr",
        "gated_inversion: clip_norm generator_lr generator_width student_lr temperature",
        "gkt: clip_norm generator_lr generator_width student_lr temperature",
        "inversion: lr",
        "ispf: generator_lr generator_width student_lr",
        "last_layer: prior_precision",
        "last_layer.unlearn: lr",
        "min_max: impair_lr noise_lr",
        "model: width",
        "partial_restart: clip_norm student_lr temperature",
        "stand_ins: lr",
        "train: lr",
        "trivial.gaussian: lr scale",
        "trivial: offset",
        "unsir: impair_lr noise_lr repair_lr",
    ),
    "a finite number > 0 and < 1": (
        "fine_tune: warmup_fraction",
        "train: warmup_fraction",
    ),
    "a finite number > 0 and < 1, or 'official_or_half', or None": (
        "data: test_fraction",
    ),
    "a finite number > 0 and <= 1": (
        "audit.relearn: lr_decay",
        "bad_teacher: retain_share",
        "gated_inversion: contrast epsilon",
        "gkt: contrast epsilon",
        "ispf: threshold",
        "partial_restart: most_forget",
        "partial_restart.procedural: largest smallest",
    ),
    "a finite number >= 0": (
        "audit.inversion: blur sharpen",
        "delete: retain_weight",
        "few_shot.model_inversion: augmentation_weight batchnorm_weight diversity_weight entropy_weight",
        "few_shot.model_inversion: total_variation_weight weight_decay",
        "few_shot: weight_decay",
        "fine_tune: weight_decay",
        "fisher: alpha",
        "gate: max_position",
        "gated_inversion: adversarial_weight beta generator_bn_weight generator_gate_weight",
        "gated_inversion: student_weight_decay",
        "gkt: adversarial_weight beta generator_bn_weight generator_gate_weight student_weight_decay",
        "inversion: bn_weight l2_weight tv_weight",
        "ispf: adversarial_weight balance_weight bn_weight final_lr one_hot_weight weight_decay",
        "min_max: penalty_weight",
        "partial_restart.procedural: dead_leaves noise objects strokes textured_leaves",
        "partial_restart: student_weight_decay",
        "stand_ins: weight_decay",
        "train: weight_decay",
        "unsir: penalty_weight",
    ),
    "a finite number >= 0 and < 1": (
        "audit.relearn: alpha momentum",
        "delete: momentum",
        "few_shot: examples_share momentum",
        "fine_tune: momentum",
        "inversion: min_confidence scaling shift",
        "ispf: momentum",
        "train: momentum",
    ),
    "a finite number >= 0 and <= 1": (
        "few_shot: most_of_a_label",
        "gate.calibration: spread",
        "gate: least_power max_forget max_forgotten_share max_loss max_retain_drop",
        "gated_inversion: generated_share stall_pass_rate",
        "gkt: generated_share stall_pass_rate",
        "partial_restart: cut_share least_share",
        "stopping: forget_tolerance leak mass_delta min_delta min_retain",
    ),
    "a finite number >= 0 and <= 6": (
        "partial_restart.procedural: exponent_high exponent_low",
    ),
    "a finite number >= 1": (
        "fine_tune: div_factor final_div_factor",
        "train: div_factor final_div_factor",
    ),
    "a tuple of 2, each a finite number >= 0 and < 1": (
        "few_shot.gan: betas",
        "few_shot.model_inversion: betas",
    ),
    "a whole number > 0, or None": (
        "audit.neighbours: train_per_class",
        "audit.probe: train_per_class",
        "data: granted_per_class test_per_class train_per_class",
        "fisher: max_samples",
        "stopping: patience",
    ),
    "a whole number >= 0": (
        "audit: relearn_workers",
        "few_shot: further_iterations workers",
        "fine_tune: crop",
        "gated_inversion: generator_halving inverted_per_class jitter plateau_patience replayed_batches",
        "gkt: generator_halving inverted_per_class jitter plateau_patience replayed_batches",
        "inversion: jitter",
        "ispf: warmup_epochs",
        "train: crop",
    ),
    "a whole number >= 0, or None": (
        "audit.relearn: forget_per_class",
        "min_max: noise_patience",
        "partial_restart: kept",
        "unsir: noise_patience",
    ),
    "a whole number >= 2": (
        "amnesiac_relabel: batch_size",
        "amnesiac_rollback: batch_size",
        "audit.relearn: batch_size",
        "bad_teacher: batch_size",
        "few_shot: batch_size",
        "few_shot.gan: batch_size",
        "few_shot.model_inversion: batch_size",
        "gated_inversion: batch_size",
        "gkt: batch_size",
        "ispf: batch_size",
        "min_max: batch_size",
        "partial_restart: batch_size pictures",
        "stand_ins: batch_size",
        "unsir: batch_size",
        "validation: per_forget_class",
    ),
    "an even number >= 4: two with, two without": (
        "audit: shadows",
    ),
}
"""Sentence -> section and its fields; every other whole number is above 0."""

COUNT = "a whole number > 0"


def declared(settings: Any) -> Iterator[tuple[str, str]]:
    """Path of each number with a bound that settings and their sections have, and its sentence."""
    if isinstance(settings, Checked):
        for name, kind in _declared(type(settings)):
            said = _allowed(kind, None)
            if "number" in said and ">" in said:
                yield f"{settings.section}.{name}", said
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from declared(value)


def test_bounds_are_those_that_are_written_down() -> None:
    """No more, no fewer and no others."""
    written = {
        f"{section}.{name}": said
        for said, lines in BOUNDS.items()
        for section, _, names in (line.partition(": ") for line in lines)
        for name in names.split()
    }
    found = dict(declared(digits()))
    assert {path: said for path, said in found.items() if said != COUNT} == written
    assert sum(said == COUNT for said in found.values()) == 79


DAYS = {"order": ("gkt",)}


@pytest.mark.parametrize(
    ("kind", "name", "taken", "refused"),
    [
        (AuditSettings, "shadows", (4, 6), (2, 3, 5, 4.0, True)),
        (LastLayerSettings, "log_lambda_per_parameter", (0, -1.0, -math.inf), (1e-9, math.inf, math.nan)),
        (PlanSettings, "longest_wait_days", (0, 36_500, 0.5), (-1e-9, 36_500.5, math.nan, True)),
    ],
)
def test_a_sentence_of_its_own_says_what_is_judged(
    kind: Any, name: str, taken: tuple[Any, ...], refused: tuple[Any, ...]
) -> None:
    """Where a field explains itself, the outermost values are taken and the next are refused."""
    others = DAYS if kind is PlanSettings else {}
    for value in taken:
        assert getattr(kind(**others, **{name: value}), name) == value
    for value in refused:
        with pytest.raises(BadInput, match=name):
            kind(**others, **{name: value})


def test_a_digest_has_64_digits() -> None:
    """One less, one more, a capital and a line's end are refused."""
    check_value("digest", "0" * 63 + "f", Digest)
    for wrong in ("0" * 63, "0" * 65, "0" * 63 + "F", "0" * 64 + "\n", "", None):
        with pytest.raises(BadInput, match="64 hex digits"):
            check_value("digest", wrong, Digest)
