"""Recipes: every setting of a request's service, by name.

A recipe is plain data. `digits` is the default: the project's own recipe for gated knowledge transfer.
`digits_paper` is the paper's recipe for GKT on the same data and model, at a size for two CPU cores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rayunlearn.errors import BadInput, nearest
from rayunlearn.evaluation.measures import MeasureSettings, check_measures
from rayunlearn.evaluation.synthetic import RelapseSettings
from rayunlearn.inversion.deep_inversion import InversionSettings
from rayunlearn.methods.gkt.settings import GatedInversionSettings, GKTSettings
from rayunlearn.methods.registry import method_named
from rayunlearn.methods.training import TrainSettings
from rayunlearn.scheduling.gate import GateSettings
from rayunlearn.scheduling.stopping import StoppingSettings


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which data the original was trained on; nothing of it reaches a zero-shot run.

    Attributes:
        dataset: name of a dataset.
        test_fraction: share of each class held out for testing; None takes the official split.
    """

    dataset: str = "digits"
    test_fraction: float | None = 0.5


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Architecture of the original; image shape and classes come with the data.

    Attributes:
        name: of the classifier.
        width: multiplier of its channels.
    """

    name: str = "allcnn"
    width: float = 0.25


@dataclass(frozen=True, kw_only=True)
class ValidationSettings:
    """Size of each synthetic validation set, and how often checkpoints are judged.

    Attributes:
        per_retain_class: images of each retain class.
        per_forget_class: images of each class to forget.
        checkpoint_every: cycles between checkpoints.
    """

    per_retain_class: int = 20
    per_forget_class: int = 60
    checkpoint_every: int = 2

    def __post_init__(self) -> None:
        """Check every field."""
        for name, least in (("per_retain_class", 1), ("per_forget_class", 2), ("checkpoint_every", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"validation.{name}", getattr(self, name), f"a whole number >= {least}")


@dataclass(frozen=True, kw_only=True)
class AuditSettings(MeasureSettings):
    """Measurements on real data, made after publication; those of each measure are inherited.

    Attributes:
        enabled: False where no real data is at hand.
        measures: which ones a job makes; `python -m rayunlearn audit` makes any later.
        golds: models retrained without the forgotten classes, each from a seed of its own.
        gold_workers: workers of the Ray Train run that retrains them.
        shadows: models for the likelihood ratio attack, half of them trained with each sample; even.
        fixed_step: the "fixed cycle" rule that the synthetic stop is compared with takes the last
            checkpoint up to this one.
        trivial_offset: how far the trivial baselines lower a forget logit; the widest lead of any class
            on a digit is 14, and a larger offset only makes a baseline look harder to relearn.
    """

    enabled: bool = True
    measures: tuple[str, ...] = ("accuracy", "probe", "anamnesis")
    golds: int = 1
    gold_workers: int = 1
    shadows: int = 16
    fixed_step: int = 40
    trivial_offset: float = 20.0

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        for name in ("golds", "gold_workers", "fixed_step"):
            if getattr(self, name) < 1:
                raise BadInput(f"audit.{name}", getattr(self, name), "a whole number >= 1")
        if self.shadows < 4 or self.shadows % 2:
            raise BadInput("audit.shadows", self.shadows, "an even number >= 4: two with, two without")
        object.__setattr__(self, "measures", check_measures(self.measures))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a service, each under the dotted path that `--set` takes.

    Attributes:
        name: of the recipe.
        method: a key of `METHODS`; the section of its name holds its settings.
        publish_refused: for experiments: publish also what the stopping rule (then the last checkpoint) or
            the gate refuses, with the reason recorded, so that it can be measured.
    """

    name: str
    method: str = "gkt"
    publish_refused: bool = False
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    inversion: InversionSettings = field(default_factory=InversionSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    gkt: GKTSettings = field(default_factory=GKTSettings)
    gated_inversion: GatedInversionSettings = field(default_factory=GatedInversionSettings)
    stopping: StoppingSettings = field(default_factory=StoppingSettings)
    relapse: RelapseSettings = field(default_factory=RelapseSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    audit: AuditSettings = field(default_factory=AuditSettings)

    @property
    def method_settings(self) -> Any:
        """The section of the recipe's method."""
        return getattr(self, method_named(self.method).section)


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


def digits_paper() -> Recipe:
    """The paper's recipe for GKT (section V.A) on the digits: its losses, targets and filter.

    Reduced to two CPU cores: width 0.25 of AllCNN and of the generator, batch 128, 960 cycles of the
    paper's 4000. Both learning rates start at the published code's 1e-3. The generator's is halved every
    150 cycles, which is what that code does. It lowers the student's by the loss on real test data; here
    a schedule that looks at nothing does, because the loss on synthetic images is too noisy a guide at
    this size (docs/log.md, 21).
    """
    return Recipe(
        name="digits_paper",
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


RECIPES: dict[str, Callable[[], Recipe]] = {"digits": digits, "digits_paper": digits_paper}


def load_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        BadInput: no recipe of that name; the nearest are named.
    """
    if name not in RECIPES:
        raise BadInput("--recipe", name, nearest(name, RECIPES))
    return RECIPES[name]()
