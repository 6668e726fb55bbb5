"""A recipe: every setting of a service, each under the dotted path that `--set` takes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from annotated_types import DocInfo, Ge, MultipleOf
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from rayunlearn.errors import BadInput, nearest
from rayunlearn.evaluation.bench import MeasureSettings
from rayunlearn.evaluation.measures import check_measures
from rayunlearn.evaluation.stand_ins import StandInSettings
from rayunlearn.fields import AtLeastTwo, Checked, Digest
from rayunlearn.held_out import OFFICIAL_OR_HALF, TestFraction, stated_fraction
from rayunlearn.inversion.deep_inversion import InversionSettings
from rayunlearn.methods.amnesiac_relabel import RelabelSettings
from rayunlearn.methods.amnesiac_rollback import RollbackSettings
from rayunlearn.methods.bad_teacher import BadTeacherSettings
from rayunlearn.methods.delete import DeleteSettings
from rayunlearn.methods.few_shot import FewShotSettings
from rayunlearn.methods.fine_tune import FineTuneSettings
from rayunlearn.methods.fisher import FisherSettings
from rayunlearn.methods.gkt.settings import GatedInversionSettings, GKTSettings
from rayunlearn.methods.ispf import ISPFSettings
from rayunlearn.methods.last_layer import LastLayerSettings
from rayunlearn.methods.min_max import MinMaxSettings
from rayunlearn.methods.partial_restart.settings import PartialRestartSettings
from rayunlearn.methods.registry import METHODS, method_named
from rayunlearn.methods.training import TrainSettings
from rayunlearn.methods.trivial import TrivialSettings
from rayunlearn.methods.unsir import UNSIRSettings
from rayunlearn.mislabelling import Mislabelling
from rayunlearn.models.classifiers import CLASSIFIERS, ClassifierSpec, spec_for
from rayunlearn.models.sources import FORMS, canonical_arguments, check_factory, is_factory
from rayunlearn.preprocessing import Preprocessing
from rayunlearn.scheduling.gate import GateSettings
from rayunlearn.scheduling.stopping import StoppingSettings
from rayunlearn.settings import config_hash
from rayunlearn.task import TASKS, Input, Task, check_class_names

Shadows = Annotated[int, Ge(4), MultipleOf(2), DocInfo("an even number >= 4: two with, two without")]


def _stated_fraction(data: DataSettings) -> TestFraction:
    return stated_fraction(data.dataset, data.test_fraction)


@dataclass(frozen=True, kw_only=True)
class DataSettings(Checked, section="data"):
    """Which data the original was trained on; nothing of it reaches a zero-shot run.

    Attributes:
        dataset: name of a dataset.
        test_fraction: share of each class held out for testing, out of all images; None takes the official
            split. By default that counts where there is one, and half of each class elsewhere.
        train_per_class: at most so many training images of a class; None takes all.
        test_per_class: the same of test images.
        mislabelling: wrong labels that training images get on purpose; None where all stay as they are.
        sha256: of the samples and their split, 64 hex digits: other data are refused. None takes any; a
            lineage's own data go by what was recorded when it began.
        preprocessing: of every image, of the data set and of examples; None takes images as they are.
        mean: per channel, that is subtracted from pixels in [0, 1]; None: what is declared of the data set,
            or the mean of its training part. Of a stated model it is the model's.
        std: per channel, by which it is divided; None likewise.
        class_names: of the classes 0, 1, ...; None: the data's own, in their order.
        granted_per_class: at most so many training images of a class are handed to a method that declares
            data; None hands all of them.
    """

    dataset: str = "digits"
    test_fraction: TestFraction = field(default=OFFICIAL_OR_HALF, metadata={"stated": _stated_fraction})
    train_per_class: PositiveInt | None = None
    test_per_class: PositiveInt | None = None
    mislabelling: Mislabelling | None = None
    sha256: Digest | None = field(default=None, metadata={"before": None})
    preprocessing: Preprocessing | None = None
    mean: tuple[float, ...] | None = field(default=None, metadata={"before": None})
    std: tuple[PositiveFloat, ...] | None = field(default=None, metadata={"before": None})
    class_names: tuple[str, ...] | None = field(default=None, metadata={"before": None})
    granted_per_class: PositiveInt | None = field(default=None, metadata={"before": None})

    def __post_init__(self) -> None:
        """Check what can be checked here; whether there is such a dataset shows where the data is opened."""
        super().__post_init__()
        if not self.dataset or not self.dataset.isprintable():
            raise BadInput("data.dataset", self.dataset, "the name of a dataset")
        if (self.mean is None) != (self.std is None):
            given, lacking = ("mean", "std") if self.std is None else ("std", "mean")
            allowed = f"None, or stated together with data.{lacking}"
            raise BadInput(f"data.{given}", getattr(self, given), allowed)
        if self.class_names is not None:
            check_class_names(self.class_names, len(self.class_names), where="data")

    @property
    def declared(self) -> Task | None:
        """What a model of these data is for, as far as it is known without a look at them."""
        task = TASKS.get(self.dataset)
        if task is None or self.preprocessing is not None:
            return None
        if self.mean is not None and self.std is not None:
            task = replace(task, input=replace(task.input, mean=self.mean, std=self.std))
        return replace(task, class_names=self.class_names or task.class_names)


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Checked, section="model"):
    """Architecture of the original, and what it is for where the data do not say it.

    Attributes:
        name: of a classifier that is built in, or a factory: torchvision:NAME, timm:NAME,
            package.module:factory.
        width: multiplier of the channels of one that is built in.
        arguments: of a factory, a JSON object.
        head: of a factory's network, the module whose output are the logits; None looks for it.
        input: the images that it takes; None for those of the dataset.
        classes: how many it tells apart; given with the input.
        class_names: of these, where they are known.
    """

    name: str = "allcnn"
    width: PositiveFloat = 0.25
    arguments: str = field(default="{}", metadata={"before": "{}"})
    head: str | None = field(default=None, metadata={"before": None})
    input: Input | None = None
    classes: int | None = field(default=None, metadata={"before": None})
    class_names: tuple[str, ...] | None = field(default=None, metadata={"before": None})

    def __post_init__(self) -> None:
        """Check each; whether they go with the data is checked where these are opened."""
        super().__post_init__()
        if is_factory(self.name):
            check_factory(self.name)
        elif self.name not in CLASSIFIERS:
            raise BadInput("model.name", self.name, f"{nearest(self.name, CLASSIFIERS)}, or {FORMS}")
        object.__setattr__(self, "arguments", canonical_arguments(self.arguments))
        if not is_factory(self.name) and (self.arguments != "{}" or self.head is not None):
            said = {"arguments": self.arguments, "head": self.head}
            allowed = f"none for {self.name!r}, which is built in"
            raise BadInput("model.arguments and model.head", said, allowed)
        if (self.input is None) != (self.classes is None):
            given, lacking = ("classes", "input") if self.input is None else ("input", "classes")
            allowed = f"None, or stated together with model.{lacking}"
            raise BadInput(f"model.{given}", getattr(self, given), allowed)
        if self.class_names is not None and self.input is None:
            raise BadInput("model.class_names", self.class_names, "None, or stated with model.input")
        self.task  # noqa: B018  # refuses what is stated wrongly

    @property
    def task(self) -> Task | None:
        """What the classifier is for, as it is stated; None where the dataset says it."""
        if self.input is None or self.classes is None:
            return None
        return Task(input=self.input, num_classes=self.classes, class_names=self.class_names)

    def spec(self, task: Task, preprocessing: Preprocessing | None = None) -> ClassifierSpec:
        """Of this classifier for a task, with the preprocessing that is recorded.

        Raises:
            BadInput: it is none for such images or so many classes.
        """
        spec = spec_for(task, self.name, self.width, arguments=self.arguments, head=self.head)
        return replace(spec, preprocessing=preprocessing)


@dataclass(frozen=True, kw_only=True)
class ValidationSettings(Checked, section="validation"):
    """Size of each synthetic validation set, and how often checkpoints are judged.

    Attributes:
        per_retain_class: images of each retain class.
        per_forget_class: images of each class to forget.
        checkpoint_every: cycles between checkpoints.
    """

    per_retain_class: PositiveInt = 20
    per_forget_class: AtLeastTwo = 60
    checkpoint_every: PositiveInt = 2


@dataclass(frozen=True, kw_only=True)
class AuditSettings(MeasureSettings, section="audit"):
    """Measurements on real data, made after publication; those of each measure are inherited.

    Attributes:
        enabled: False where no real data is at hand.
        measures: which ones a job makes; `python -m rayunlearn audit` makes any later.
        golds: models retrained without the forgotten classes, each from a seed of its own.
        gold_workers: workers that retrain them, from two on as a Ray Train run.
        relearn_workers: workers of the runs in which models relearn, one run for each kind of data
            shown, from two workers on a Ray Train run; 0: the audit's own process, with the same counts.
        shadows: models for the likelihood ratio attack, half of them trained with each sample; even.
        fixed_step: the "fixed cycle" rule that the synthetic stop is compared with takes the last
            checkpoint up to this one.
        trivial_offset: how far the trivial baselines lower a forget logit; the widest lead of any class
            on a digit is 14, and a larger offset only makes a baseline look harder to relearn.
    """

    enabled: bool = True
    measures: tuple[str, ...] = ("accuracy", "probe", "anamnesis")
    golds: PositiveInt = 1
    gold_workers: PositiveInt = 1
    relearn_workers: NonNegativeInt = 0
    shadows: Shadows = 16
    fixed_step: PositiveInt = 40
    trivial_offset: PositiveFloat = 20.0

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
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
    partial_restart: PartialRestartSettings = field(default_factory=PartialRestartSettings)
    gkt: GKTSettings = field(default_factory=GKTSettings)
    gated_inversion: GatedInversionSettings = field(default_factory=GatedInversionSettings)
    min_max: MinMaxSettings = field(default_factory=MinMaxSettings)
    ispf: ISPFSettings = field(default_factory=ISPFSettings)
    delete: DeleteSettings = field(default_factory=DeleteSettings)
    unsir: UNSIRSettings = field(default_factory=UNSIRSettings)
    amnesiac_relabel: RelabelSettings = field(default_factory=RelabelSettings)
    amnesiac_rollback: RollbackSettings = field(default_factory=RollbackSettings)
    bad_teacher: BadTeacherSettings = field(default_factory=BadTeacherSettings)
    fisher: FisherSettings = field(default_factory=FisherSettings)
    fine_tune: FineTuneSettings = field(default_factory=FineTuneSettings)
    last_layer: LastLayerSettings = field(default_factory=LastLayerSettings)
    few_shot: FewShotSettings = field(default_factory=FewShotSettings)
    trivial: TrivialSettings = field(default_factory=TrivialSettings)
    stopping: StoppingSettings = field(default_factory=StoppingSettings)
    stand_ins: StandInSettings = field(default_factory=StandInSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    audit: AuditSettings = field(default_factory=AuditSettings)

    def __post_init__(self) -> None:
        """Check the names; each section has checked itself."""
        if not re.fullmatch("[A-Za-z0-9._-]{1,128}", self.name):
            raise BadInput("name", self.name, "1 to 128 characters of A-Z a-z 0-9 . _ -")
        method_named(self.method)

    @property
    def config_hash(self) -> str:
        """SHA-256 of every setting that a run under the recipe's method can depend on.

        Sections of other methods are left out: a method that is added, or set otherwise, makes no other
        run another one.
        """
        idle = {method.section for method in METHODS.values()} - {method_named(self.method).section, "train"}
        return config_hash(self, without=idle)

    @property
    def method_settings(self) -> Any:
        """The section of the recipe's method."""
        return getattr(self, method_named(self.method).section)
