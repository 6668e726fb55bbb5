"""Recipes for the bundled digits on two CPU cores: `digits` is the default of everything."""

from __future__ import annotations

from rayunlearn.methods.gkt.settings import GatedInversionSettings, GKTSettings
from rayunlearn.recipes.recipe import AuditSettings, Recipe, ValidationSettings
from rayunlearn.scheduling.gate import GateSettings
from rayunlearn.scheduling.stopping import StoppingSettings


def digits() -> Recipe:
    """The project's own recipe, for the bundled digits on two CPU cores."""
    return Recipe(
        name="digits",
        method="gated_inversion",
        gated_inversion=GatedInversionSettings(generator_width=0.25),
        # the last tenth of a one-cycle schedule is where it pays, so patience never ends it early
        stopping=StoppingSettings(patience=None, min_delta=0.006),
        gate=GateSettings(max_retain_drop=0.25),
    )


def digits_gkt() -> Recipe:
    """The paper's recipe for GKT (section V.A) on the digits: its losses, targets and filter.

    Reduced to two CPU cores: width 0.25 of AllCNN and of the generator, batch 128, 960 cycles of the
    paper's 4000. Both learning rates start at the published code's 1e-3. The generator's is halved every
    150 cycles, which is what that code does. It lowers the student's by the loss on real test data; here
    a schedule that looks at nothing does, because the loss on synthetic images is too noisy a guide at
    this size (docs/log.md, 21).
    """
    return Recipe(
        name="digits_gkt",
        gkt=GKTSettings(
            cycles=960,
            schedule_cycles=960,
            batch_size=128,
            generator_width=0.25,
            generator_halving=150,
            student_schedule="one_cycle",
        ),
        validation=ValidationSettings(checkpoint_every=10),
        stopping=StoppingSettings(patience=None, min_delta=0.006),
        gate=GateSettings(max_retain_drop=0.25),
        audit=AuditSettings(fixed_step=640),
    )
