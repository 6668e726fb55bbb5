"""Every measure of an audit by name, over one bench of models and real images.

A measure turns a bench into rows of sums, counts and values, for every subject on it, the retrained ("gold")
models included: what an unlearned model scores means nothing but beside them. Where a measure compares
with gold, its sums and counts run over all gold models other than the subject itself.

A figure on single samples is on training data and names no class. Some measures ask what is known of a
forgotten class: they need one. Others need to know which samples were forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from rayunlearn.errors import BadInput, nearest
from rayunlearn.evaluation.anamnesis import RelearnCurve, RelearnSettings, anamnesis_index, relearn
from rayunlearn.evaluation.bench import Bench, Measurement
from rayunlearn.evaluation.distance import calibration_error, class_membership, divergences
from rayunlearn.evaluation.inversion_attack import (
    InversionAttack,
    class_means,
    inversion_attack,
)
from rayunlearn.evaluation.lira import (
    attack_curve,
    likelihood_ratios,
    membership_scores,
)
from rayunlearn.evaluation.membership import entropy_attack
from rayunlearn.evaluation.neighbours import knn_probe
from rayunlearn.evaluation.predictions import Predictions, predict
from rayunlearn.evaluation.probe import ProbeReport, linear_probe
from rayunlearn.seeds import derive_seed
from rayunlearn.streamed import Images


def accuracy(bench: Bench) -> Iterator[Measurement]:
    """Images recognised: of the retain and of the forget classes, and of each class, train and test.

    Of the forgotten samples: with the label that they were trained with.

    Of the mislabelled ones, how many get their right label (the few-shot paper's D_e accuracy of its second
    task, Tables 2b and 4b, where high is right) and how many the wrong one that they were taught. They are
    training images: the paper's originals are right on 17 to 72 % of D_e, the larger the model the fewer, as
    if each had learned it by heart; of test images like them a model is right whatever it was taught.
    """
    for split, answers in bench.predictions.items():
        for subject, predictions in answers.items():
            counts = predictions.counts()
            named = [("retain_accuracy", bench.retain)]
            if bench.forget:
                named.append(("forget_accuracy", bench.forget))
            if len(bench.forget) > 1:
                named += [("forget_accuracy", (c,)) for c in bench.forget]
            named += [("class_accuracy", (c,)) for c in sorted(bench.retain + bench.forget)]
            for measure, classes in named:
                right, count = counts.sums(classes)
                yield Measurement(
                    subject=subject, measure=measure, classes=classes, split=split,
                    sum=float(right), count=count,
                )  # fmt: skip
    for subject, predictions in bench.on_samples.items():
        right = int((predictions.predicted == predictions.labels).sum())
        yield Measurement(
            subject=subject, measure="forget_accuracy", classes=(), split="train",
            sum=float(right), count=len(predictions.labels),
        )  # fmt: skip
    if (mislabelled := bench.mislabelled) is not None:
        for subject, predictions in bench.on_mislabelled.items():
            for name, labels in (("accuracy", mislabelled.right), ("taught", mislabelled.taught)):
                yield Measurement(
                    subject=subject, measure=f"mislabelled_{name}", classes=(), split="train",
                    sum=float((predictions.predicted == labels).sum()), count=len(labels),
                )  # fmt: skip


def distance(bench: Bench) -> Iterator[Measurement]:
    """Mean KL(gold || subject), Jensen-Shannon divergence and agreement with gold, on D_r and D_f."""
    retain = {s: predictions.of(bench.retain) for s, predictions in bench.predictions["test"].items()}
    for classes, shown in ((bench.retain, retain), *bench.forgotten("test")):
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
                yield Measurement(
                    subject=subject, measure=measure, classes=classes, split="test" if classes else "train",
                    sum=total, count=count,
                )  # fmt: skip


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
    """The paper's membership inference attack (Table VII): images of each set called members.

    Forget images are the training images of the forgotten classes together with the forgotten samples.
    """
    settings, forgotten = bench.settings.entropy, bench.forgotten("train")
    for subject in bench.subjects:
        train, test = (bench.predictions[split][subject] for split in ("train", "test"))
        report = entropy_attack(
            {
                "retain": train.of(bench.retain).log_probs,
                "forget": torch.cat([answers[subject].log_probs for _, answers in forgotten]),
                "test": test.log_probs,
            },
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


def _images_of(part: tuple[Images, Tensor], classes: Sequence[int]) -> Tensor:
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


OF_RETAIN = frozenset({"accuracy", "calibration"})
"""Measures of which something is left where nobody knows what was forgotten."""
OF_SAMPLES = OF_RETAIN | {"distance", "entropy"}
"""Measures that need no class to have been forgotten: they look at images, whatever class these are of."""
NEEDS_A_CLASS = "it asks what is known of a forgotten class, and no class was forgotten"
NEEDS_SAMPLES = "it asks for the samples that were forgotten, and nobody knows them"


def left_out(name: str, forget: Sequence[int], *, samples: bool = True) -> str | None:
    """Why a measure cannot be made where these classes and some samples, or none, were forgotten.

    None where it can be.
    """
    if forget or name in OF_RETAIN or (samples and name in OF_SAMPLES):
        return None
    return NEEDS_SAMPLES if name in OF_SAMPLES else NEEDS_A_CLASS


def measurable(names: Sequence[str], forget: Sequence[int], *, samples: bool = True) -> tuple[str, ...]:
    """Those of some measures that can be made where these classes and some samples, or none, were forgotten.

    >>> measurable(["accuracy", "entropy", "probe"], forget=[])
    ('accuracy', 'entropy')
    >>> measurable(["accuracy", "entropy", "probe"], forget=[], samples=False)
    ('accuracy',)
    """
    return tuple(name for name in names if left_out(name, forget, samples=samples) is None)


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
    """The rows of some measures, in the order of `MEASURES`.

    Raises:
        BadInput: a measure that needs a forgotten class or forgotten samples, on a bench without.
    """
    samples = bench.samples is not None
    for name in check_measures(names):
        if reason := left_out(name, bench.forget, samples=samples):
            made = measurable(list(MEASURES), bench.forget, samples=samples)
            raise BadInput("measure", name, f"{', '.join(made)}: {reason}")
    return [row for name in check_measures(names) for row in MEASURES[name](bench)]
