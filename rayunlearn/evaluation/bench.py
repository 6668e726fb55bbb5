"""What an audit measures on: models side by side, the real images to show them, and one figure of one model.

What was forgotten (D_f) are whole classes, single training samples, or both; or it is a behaviour, and nobody
knows which samples taught it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.accuracy import check_images
from rayunlearn.evaluation.anamnesis import RelearnCurve, RelearnSettings
from rayunlearn.evaluation.inversion_attack import InversionAttackSettings
from rayunlearn.evaluation.lira import LikelihoodRatioSettings
from rayunlearn.evaluation.membership import EntropyAttackSettings
from rayunlearn.evaluation.neighbours import NeighbourSettings
from rayunlearn.evaluation.predictions import Predictions, predict
from rayunlearn.evaluation.probe import ProbeSettings
from rayunlearn.fields import Checked
from rayunlearn.models.classifiers import Classifier
from rayunlearn.streamed import Images


@dataclass(frozen=True, kw_only=True)
class MeasureSettings(Checked, section="audit"):
    """Settings of every measure.

    Attributes:
        probe_draws: random draws of the few-sample probes, pooled.
        few_per_class: forget images a class in relearning from a few examples.
        calibration_bins: of equal width.
        relearn: the anamnesis index.
        probe: the linear probe.
        neighbours: the nearest-neighbour probe.
        entropy: the paper's membership inference attack.
        likelihood_ratio: the per-example one.
        inversion: the model inversion attack.
    """

    probe_draws: PositiveInt = 10
    few_per_class: PositiveInt = 5
    calibration_bins: PositiveInt = 15
    relearn: RelearnSettings = field(default_factory=lambda: RelearnSettings(batch_size=64))
    probe: ProbeSettings = field(default_factory=lambda: ProbeSettings(train_per_class=1))
    neighbours: NeighbourSettings = field(
        default_factory=lambda: NeighbourSettings(k=1, metric="cosine", train_per_class=1)
    )
    entropy: EntropyAttackSettings = field(default_factory=EntropyAttackSettings)
    likelihood_ratio: LikelihoodRatioSettings = field(default_factory=LikelihoodRatioSettings)
    inversion: InversionAttackSettings = field(default_factory=InversionAttackSettings)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One figure of one subject.

    Attributes:
        subject: name of the model on the bench.
        measure: name of the figure.
        classes: that it was measured on; none: on the forgotten or the mislabelled samples.
        split: "train" or "test".
        sum, count: numerator and denominator, where the figure is a share or a mean.
        value: the figure; the quotient where it is one, None where the measurement gave none.
        censored: the measurement was cut off.
        parameters: of the measurement, as JSON values.
    """

    subject: str
    measure: str
    classes: tuple[int, ...]
    split: str = "test"
    sum: float | None = None
    count: int | None = None
    value: float | None = None
    censored: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """The quotient, where there is one."""
        if self.sum is not None and self.count:
            object.__setattr__(self, "value", self.sum / self.count)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shadows:
    """Shadow models for the likelihood ratio attack.

    Attributes:
        models: S of them.
        included: bool [S, N], which candidates each was trained on. The candidates are the training
            images of the forget classes and then their test images, each part in the bench's order.
    """

    models: Sequence[Classifier]
    included: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class MislabelledImages:
    """Training images that were given wrong labels on purpose: D_e of the few-shot paper's second task.

    Attributes:
        images: [N, C, H, W].
        right: their right labels, [N].
        taught: the wrong ones that they are trained with, [N].
    """

    images: Tensor
    right: Tensor
    taught: Tensor


Relearn = Callable[[Mapping[str, Classifier], float, RelearnSettings, int], dict[str, RelearnCurve]]
"""Models by name, the original's accuracy on D_f, settings, seed -> the curves that `relearn` would give."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """The models to measure and the real images to measure them on.

    Attributes:
        train: images [N, C, H, W] and labels [N] that the original was trained on, less the samples.
        test: the same, held out.
        retain: classes to retain.
        forget: every class forgotten so far; none where single samples or a behaviour alone were.
        subjects: name -> model; `original` is among them.
        golds: names of those that were retrained without the forget classes, the first for the index.
        settings: of the measures.
        seed: of every draw; all subjects meet the same draws.
        shadows: for the likelihood ratio attack; None where it is not asked for.
        relearn: how models relearn what the bench shows them; None: in this process, one after another.
        samples: the single samples of retain classes that were forgotten, like `train`.
        mislabelled: all that was mislabelled on purpose, forgotten or not.
    """

    train: tuple[Images, Tensor]
    test: tuple[Images, Tensor]
    retain: tuple[int, ...]
    forget: tuple[int, ...]
    subjects: Mapping[str, Classifier]
    golds: tuple[str, ...]
    settings: MeasureSettings
    seed: int
    shadows: Shadows | None = None
    relearn: Relearn | None = None
    samples: tuple[Tensor, Tensor] | None = None
    mislabelled: MislabelledImages | None = None

    def __post_init__(self) -> None:
        """Refuse a bench on which some model or class could not be compared with the others."""
        for name in ("original", *self.golds):
            if name not in self.subjects:
                raise BadInput("subjects of an audit", sorted(self.subjects), f"{name!r} among them")
        if not self.retain:
            raise BadInput("retain classes of an audit", [], "at least one")
        wanted = self.subjects["original"].spec.num_classes
        shadows = self.shadows.models if self.shadows else ()
        models = {**self.subjects, **{f"shadow {i}": model for i, model in enumerate(shadows)}}
        for name, model in models.items():
            found = model.spec.num_classes
            if found != wanted:
                raise BadInput(f"number of classes of {name!r}", found, f"{wanted}, as of 'original'")
        for name, (images, labels) in (("training", self.train), ("test", self.test)):
            check_images(images, labels, wanted, f"{name} images of an audit")
            counts = torch.bincount(labels, minlength=wanted).tolist()
            for c in (*self.retain, *self.forget):
                if not counts[c]:
                    raise BadInput(f"number of {name} images of class {c}", 0, "at least 1, for any measure")
        if self.samples is not None:
            check_images(*self.samples, wanted, "forgotten samples of an audit")
        if self.mislabelled is not None:
            for labels in (self.mislabelled.right, self.mislabelled.taught):
                check_images(self.mislabelled.images, labels, wanted, "mislabelled images of an audit")

    @cached_property
    def predictions(self) -> dict[str, dict[str, Predictions]]:
        """Split -> subject -> its answers; each image is shown to each model once."""
        return {
            name: predict(self.subjects, *part) for name, part in (("train", self.train), ("test", self.test))
        }

    @cached_property
    def on_samples(self) -> dict[str, Predictions]:
        """Subject -> its answers for the forgotten samples; empty where there are none."""
        return {} if self.samples is None else predict(self.subjects, *self.samples)

    @cached_property
    def on_mislabelled(self) -> dict[str, Predictions]:
        """Subject -> its answers for the mislabelled images; empty where there are none."""
        mislabelled = self.mislabelled
        return {} if mislabelled is None else predict(self.subjects, mislabelled.images, mislabelled.right)

    def forgotten(self, split: str) -> list[tuple[tuple[int, ...], dict[str, Predictions]]]:
        """D_f part by part: classes and subject -> answers, of a split's images; then of the samples.

        No part where neither is known.
        The samples are training data in either split: nothing else shows what is known of them.
        """
        parts = []
        if self.forget:
            of = {s: answers.of(self.forget) for s, answers in self.predictions[split].items()}
            parts.append((self.forget, of))
        return [*parts, ((), self.on_samples)] if self.on_samples else parts

    def other_golds(self, subject: str) -> list[str]:
        """The gold models to compare a subject with."""
        return [gold for gold in self.golds if gold != subject]
