"""Every measure of an audit by name, over one bench of models and real images.

A measure turns a bench into rows of sums, counts and values, for every subject on it, the retrained ("gold")
models included: what an unlearned model scores means nothing but beside them. Where a measure compares
with gold, its sums and counts run over all gold models other than the subject itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rayunlearn.errors import BadInput, nearest
from rayunlearn.evaluation.accuracy import check_images
from rayunlearn.evaluation.anamnesis import RelearnCurve, RelearnSettings, anamnesis_index, relearn
from rayunlearn.evaluation.distance import calibration_error, class_membership, divergences
from rayunlearn.evaluation.inversion_attack import (
    InversionAttack,
    InversionAttackSettings,
    class_means,
    inversion_attack,
)
from rayunlearn.evaluation.lira import (
    LikelihoodRatioSettings,
    attack_curve,
    likelihood_ratios,
    membership_scores,
)
from rayunlearn.evaluation.membership import EntropyAttackSettings, entropy_attack
from rayunlearn.evaluation.neighbours import NeighbourSettings, knn_probe
from rayunlearn.evaluation.predictions import Predictions, predict
from rayunlearn.evaluation.probe import ProbeReport, ProbeSettings, linear_probe
from rayunlearn.models.classifiers import Classifier
from rayunlearn.seeds import derive_seed


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
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

    probe_draws: int = 10
    few_per_class: int = 5
    calibration_bins: int = 15
    relearn: RelearnSettings = field(default_factory=lambda: RelearnSettings(batch_size=64))
    probe: ProbeSettings = field(default_factory=lambda: ProbeSettings(train_per_class=1))
    neighbours: NeighbourSettings = field(
        default_factory=lambda: NeighbourSettings(k=1, metric="cosine", train_per_class=1)
    )
    entropy: EntropyAttackSettings = field(default_factory=EntropyAttackSettings)
    likelihood_ratio: LikelihoodRatioSettings = field(default_factory=LikelihoodRatioSettings)
    inversion: InversionAttackSettings = field(default_factory=InversionAttackSettings)

    def __post_init__(self) -> None:
        """Check the fields that have no settings of their own."""
        for name in ("probe_draws", "few_per_class", "calibration_bins"):
            if getattr(self, name) < 1:
                raise BadInput(f"audit.{name}", getattr(self, name), "a whole number >= 1")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One figure of one subject.

    Attributes:
        subject: name of the model on the bench.
        measure: name of the figure.
        classes: that it was measured on.
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


Relearn = Callable[[Mapping[str, Classifier], float, RelearnSettings, int], dict[str, RelearnCurve]]
"""Models by name, the original's accuracy on D_f, settings, seed -> the curves that `relearn` would give."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """The models to measure and the real images to measure them on.

    Attributes:
        train: images [N, C, H, W] and labels [N] that the original was trained on.
        test: the same, held out.
        retain: classes to retain.
        forget: every class forgotten so far.
        subjects: name -> model; `original` is among them.
        golds: names of those that were retrained without the forget classes, the first for the index.
        settings: of the measures.
        seed: of every draw; all subjects meet the same draws.
        shadows: for the likelihood ratio attack; None where it is not asked for.
        relearn: how models relearn what the bench shows them; None: in this process, one after another.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    retain: tuple[int, ...]
    forget: tuple[int, ...]
    subjects: Mapping[str, Classifier]
    golds: tuple[str, ...]
    settings: MeasureSettings
    seed: int
    shadows: Shadows | None = None
    relearn: Relearn | None = None

    def __post_init__(self) -> None:
        """Refuse a bench on which some model or class could not be compared with the others."""
        for name in ("original", *self.golds):
            if name not in self.subjects:
                raise BadInput("subjects of an audit", sorted(self.subjects), f"{name!r} among them")
        for name, classes in (("retain", self.retain), ("forget", self.forget)):
            if not classes:
                raise BadInput(f"{name} classes of an audit", [], "at least one")
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

    @cached_property
    def predictions(self) -> dict[str, dict[str, Predictions]]:
        """Split -> subject -> its answers; each image is shown to each model once."""
        return {
            name: predict(self.subjects, *part) for name, part in (("train", self.train), ("test", self.test))
        }

    def other_golds(self, subject: str) -> list[str]:
        """The gold models to compare a subject with."""
        return [gold for gold in self.golds if gold != subject]


def accuracy(bench: Bench) -> Iterator[Measurement]:
    """Images recognised: of the retain and of the forget classes, and of each class, train and test."""
    for split, answers in bench.predictions.items():
        for subject, predictions in answers.items():
            counts = predictions.counts()
            named = [("retain_accuracy", bench.retain), ("forget_accuracy", bench.forget)]
            if len(bench.forget) > 1:
                named += [("forget_accuracy", (c,)) for c in bench.forget]
            named += [("class_accuracy", (c,)) for c in sorted(bench.retain + bench.forget)]
            for measure, classes in named:
                right, count = counts.sums(classes)
                yield Measurement(
                    subject=subject, measure=measure, classes=classes, split=split,
                    sum=float(right), count=count,
                )  # fmt: skip


def distance(bench: Bench) -> Iterator[Measurement]:
    """Mean KL(gold || subject), Jensen-Shannon divergence and agreement with gold, on D_r and D_f."""
    answers = bench.predictions["test"]
    for classes in (bench.retain, bench.forget):
        shown = {subject: predictions.of(classes) for subject, predictions in answers.items()}
        for subject, predictions in shown.items():
            found = [divergences(predictions, shown[gold]) for gold in bench.other_golds(subject)]
            if not found:
                continue
            count = sum(d.count for d in found)
            for measure, total in (
                ("kl_from_gold", sum(d.kl_sum for d in found)),
                ("js_to_gold", sum(d.js_sum for d in found)),
                ("tv_to_gold", sum(d.tv_sum for d in found)),
                ("agreement_with_gold", float(sum(d.agreeing for d in found))),
            ):
                yield Measurement(subject=subject, measure=measure, classes=classes, sum=total, count=count)


def membership_of_classes(bench: Bench) -> Iterator[Measurement]:
    """To which retain classes forget images are given, against gold: by image, and of the means."""
    answers = {s: p.of(bench.forget) for s, p in bench.predictions["test"].items()}
    for subject, predictions in answers.items():
        found = [
            class_membership(predictions, answers[gold], bench.retain) for gold in bench.other_golds(subject)
        ]
        if not found:
            continue
        count = sum(m.count for m in found)
        for measure, total, n in (
            ("class_membership_js", sum(m.js_sum for m in found), count),
            ("class_membership_tv", sum(m.tv_sum for m in found), count),
            ("class_membership_js_of_means", sum(m.js_of_means for m in found), len(found)),
            ("class_membership_tv_of_means", sum(m.tv_of_means for m in found), len(found)),
        ):
            yield Measurement(subject=subject, measure=measure, classes=bench.forget, sum=total, count=n)


def calibration(bench: Bench) -> Iterator[Measurement]:
    """Expected calibration error on D_r."""
    bins = bench.settings.calibration_bins
    for subject, predictions in bench.predictions["test"].items():
        error = calibration_error(predictions.of(bench.retain), bins)
        yield Measurement(
            subject=subject, measure="calibration_error", classes=bench.retain, value=error.value,
            parameters={"bins": bins, "count": int(error.count.sum())},
        )  # fmt: skip


def probe(bench: Bench) -> Iterator[Measurement]:
    """Recall of a linear probe on frozen features, on D_f and on D_r; its draws pooled."""
    settings = bench.settings.probe
    yield from _pooled_probes(bench, "probe", linear_probe, settings, settings.train_per_class)


def neighbours(bench: Bench) -> Iterator[Measurement]:
    """Recall of a nearest-neighbour probe on frozen features, on D_f and on D_r; its draws pooled."""
    settings = bench.settings.neighbours
    yield from _pooled_probes(bench, "knn", knn_probe, settings, settings.train_per_class)


def _pooled_probes(
    bench: Bench, name: str, fit: Callable[..., ProbeReport], settings: Any, per_class: int | None
) -> Iterator[Measurement]:
    draws = bench.settings.probe_draws if per_class else 1  # all images make one draw
    for subject, model in bench.subjects.items():
        reports = [
            fit(model, *bench.train, *bench.test, bench.forget, settings, derive_seed(bench.seed, name, draw))
            for draw in range(draws)
        ]
        for part, classes in (("forget", bench.forget), ("retain", bench.retain)):
            results = [getattr(report, part) for report in reports]
            yield Measurement(
                subject=subject,
                measure=f"{name}_{part}_recall",
                classes=classes,
                sum=float(sum(r.correct for r in results)),
                count=sum(r.count for r in results),
                parameters=asdict(settings) | {"draws": draws},
            )


def anamnesis(bench: Bench) -> Iterator[Measurement]:
    """Relearning steps from the full training set and the anamnesis index against the first gold."""
    curves = _relearned(bench, bench.settings.relearn)
    for subject, curve in curves.items():
        yield _steps(bench, "relearn_steps", subject, curve)
        if bench.golds:
            index = anamnesis_index(curve, curves[bench.golds[0]])
            yield Measurement(
                subject=subject, measure="anamnesis_index", classes=bench.forget, value=index.value,
                censored=index.censored,
                parameters=asdict(curve.settings)
                | {"note": index.note, "informative": index.informative, "upper_bound": index.upper_bound},
            )  # fmt: skip


def relearning(bench: Bench) -> Iterator[Measurement]:
    """Relearning from retain data alone (its peak), and with a few forget images beside (its steps)."""
    full = bench.settings.relearn
    for subject, curve in _relearned(bench, replace(full, forget_per_class=0)).items():
        yield Measurement(
            subject=subject, measure="relearn_retain_peak", classes=bench.forget,
            sum=float(max(curve.correct)), count=curve.count,
            parameters=_curve(curve) | {"step": curve.peak_step},
        )  # fmt: skip
    few = replace(full, forget_per_class=bench.settings.few_per_class)
    for subject, curve in _relearned(bench, few).items():
        yield _steps(bench, "relearn_few_steps", subject, curve)


def _relearned(bench: Bench, settings: RelearnSettings) -> dict[str, RelearnCurve]:
    models = {subject: model for subject, model in bench.subjects.items() if subject != "original"}
    target = bench.predictions["test"]["original"].counts().accuracy(bench.forget)
    seed = derive_seed(bench.seed, "relearn")
    if bench.relearn is not None:
        return bench.relearn(models, target, settings, seed)
    images, labels = bench.test
    real = torch.isin(labels, torch.tensor(bench.forget))
    return {
        subject: relearn(model, *bench.train, images[real], labels[real], target, settings, seed)
        for subject, model in models.items()
    }


def _steps(bench: Bench, measure: str, subject: str, curve: RelearnCurve) -> Measurement:
    return Measurement(
        subject=subject, measure=measure, classes=bench.forget, censored=curve.censored,
        value=None if curve.reached is None else float(curve.reached),
        parameters=_curve(curve),
    )  # fmt: skip


def _curve(curve: RelearnCurve) -> dict[str, Any]:
    """Forget images recognised after each mini-batch, of how many, and how many make it relearned."""
    needed = curve.settings.needed(curve.target_accuracy, curve.count)
    return asdict(curve.settings) | {"curve": list(curve.correct), "count": curve.count, "needed": needed}


def entropy(bench: Bench) -> Iterator[Measurement]:
    """The paper's membership inference attack (Table VII): images of each set called members."""
    settings = bench.settings.entropy
    for subject in bench.subjects:
        train, test = (bench.predictions[split][subject] for split in ("train", "test"))
        sets = {"retain": train.of(bench.retain), "forget": train.of(bench.forget), "test": test}
        report = entropy_attack(
            {name: predictions.log_probs for name, predictions in sets.items()},
            settings, derive_seed(bench.seed, "entropy attack"),
        )  # fmt: skip
        for name in ("train", "test", "retain", "forget"):
            called = getattr(report, name)
            yield Measurement(
                subject=subject, measure=f"entropy_attack_{name}",
                classes=bench.forget if name == "forget" else bench.retain,
                split="test" if name == "test" else "train",
                sum=float(called.called_member), count=called.count, parameters=asdict(settings),
            )  # fmt: skip


def likelihood_ratio(bench: Bench) -> Iterator[Measurement]:
    """The per-example attack on forget images: its AUC, and its true positives at 1 % false ones."""
    if bench.shadows is None:
        raise BadInput("shadow models", None, "some", where="measure 'likelihood_ratio'")
    parts = [part.of(bench.forget) for part in _both(bench.predictions, "original")]
    members, labels = len(parts[0].labels), torch.cat([p.labels for p in parts])
    images = torch.cat([_images_of(part, bench.forget) for part in (bench.train, bench.test)])
    names = {str(i): model for i, model in enumerate(bench.shadows.models)}
    scored = predict(names, images, labels)
    shadow_scores = torch.stack([membership_scores(p.log_probs, labels) for p in scored.values()])
    areas: dict[str, float] = {}
    for subject in bench.subjects:
        own = torch.cat([p.of(bench.forget).log_probs for p in _both(bench.predictions, subject)])
        ratios = likelihood_ratios(
            membership_scores(own, labels), shadow_scores, bench.shadows.included,
            bench.settings.likelihood_ratio,
        )  # fmt: skip
        curve = attack_curve(ratios[:members], ratios[members:])
        areas[subject] = curve.auc
        told = asdict(bench.settings.likelihood_ratio) | {"shadows": len(names), "note": curve.note}
        yield Measurement(
            subject=subject, measure="lira_auc", classes=bench.forget, split="train", value=curve.auc,
            parameters=told
            | {"members": curve.members, "non_members": curve.non_members, "roc": curve.points()},
        )  # fmt: skip
        yield Measurement(
            subject=subject, measure="lira_tpr_at_1_percent_fpr", classes=bench.forget, split="train",
            sum=float(curve.caught()), count=curve.members, parameters=told,
        )  # fmt: skip
    for subject, area in areas.items():
        gaps = [abs(area - areas[gold]) for gold in bench.other_golds(subject)]
        if gaps:  # an AUC far from gold's tells something in either direction
            yield Measurement(
                subject=subject, measure="lira_auc_gap", classes=bench.forget, split="train",
                sum=sum(gaps), count=len(gaps),
            )  # fmt: skip


def _both(predictions: Mapping[str, Mapping[str, Predictions]], subject: str) -> list[Predictions]:
    return [predictions[split][subject] for split in ("train", "test")]


def _images_of(part: tuple[Tensor, Tensor], classes: Sequence[int]) -> Tensor:
    images, labels = part
    return images[torch.isin(labels, torch.tensor(classes))]


def inversion(bench: Bench) -> Iterator[Measurement]:
    """The model inversion attack on each forget class (section V.D): confidence and what it drew."""
    means = mean_images(bench)
    for subject in bench.subjects:
        attacks = inversion_attacks(bench, subject, means)
        count = sum(attack.count for attack in attacks)
        specific = [a.specific_sum for a in attacks if a.specific_sum is not None]
        for measure, total in (
            ("inversion_confidence", sum(float(a.confidence.sum()) for a in attacks)),
            ("inversion_correlation", sum(a.own_sum for a in attacks)),
            ("inversion_specific", sum(specific) if len(specific) == len(attacks) else None),
        ):
            yield Measurement(
                subject=subject, measure=measure, classes=bench.forget, sum=total, count=count,
                parameters=asdict(bench.settings.inversion),
            )  # fmt: skip


def mean_images(bench: Bench) -> Tensor:
    """The mean training image of each class, [K, C, H, W], that the attacks are scored by."""
    return class_means(*bench.train, bench.subjects["original"].spec.num_classes)


def inversion_attacks(bench: Bench, subject: str, means: Tensor) -> list[InversionAttack]:
    """The attacks on each forget class of a subject; the same that `inversion` measures."""
    model, settings = bench.subjects[subject], bench.settings.inversion
    return [
        inversion_attack(model, c, means, settings, derive_seed(bench.seed, "inversion", c))
        for c in bench.forget
    ]


Measure = Callable[[Bench], Iterator[Measurement]]

MEASURES: dict[str, Measure] = {
    "accuracy": accuracy,
    "distance": distance,
    "class_membership": membership_of_classes,
    "calibration": calibration,
    "probe": probe,
    "neighbours": neighbours,
    "anamnesis": anamnesis,
    "relearning": relearning,
    "entropy": entropy,
    "likelihood_ratio": likelihood_ratio,
    "inversion": inversion,
}


def check_measures(names: Sequence[str]) -> tuple[str, ...]:
    """Names of measures, in the order of `MEASURES` and each once.

    Raises:
        BadInput: no name, or one that is no measure; the nearest are named.
    """
    for name in names:
        if name not in MEASURES:
            raise BadInput("measure", name, nearest(name, MEASURES))
    if not names:
        raise BadInput("measures", list(names), f"at least one of {', '.join(MEASURES)}")
    return tuple(name for name in MEASURES if name in names)


def measured(bench: Bench, names: Sequence[str]) -> list[Measurement]:
    """The rows of some measures, in the order of `MEASURES`."""
    return [row for name in check_measures(names) for row in MEASURES[name](bench)]
