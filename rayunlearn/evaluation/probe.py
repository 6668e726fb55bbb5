"""Linear probe: what a model's features still hold of the forget classes, whatever its head says.

Alain and Bengio 2016 (arXiv 1610.01644). The features are frozen; a multinomial logistic regression
learns from them on training images of all classes, which the auditor has. A gold model's features tell
a class that it never saw from the others too, so only the distance to gold's recall means anything.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.accuracy import check_images
from rayunlearn.fields import Checked
from rayunlearn.models.feature_layer import features_of, head_of
from rayunlearn.seeds import generator
from rayunlearn.streamed import Images, selected


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(Checked, section="audit.probe"):
    """The logistic regression, and how many images it may learn from."""

    C: PositiveFloat = 1.0
    """Inverse strength of the l2 penalty, on standardised features."""
    max_iter: PositiveInt = 1000
    """Cap on L-BFGS iterations; the report says whether it was met."""
    train_per_class: PositiveInt | None = None
    """Few-sample probe: training images per class, drawn by seed; None: all of them."""


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """Test images that the probe recognised, among all classes."""

    correct: int
    count: int

    @property
    def recall(self) -> float:
        """Share recognised (micro average over the classes)."""
        return self.correct / self.count


@dataclass(frozen=True, kw_only=True)
class ProbeReport:
    """The probe on the forget classes' test images and on the others'."""

    forget: ProbeResult
    retain: ProbeResult
    train_count: int
    """Images that the probe learned from."""
    converged: bool
    """False where `max_iter` came first: raise it before the figures are compared."""


def linear_probe(
    model: nn.Module,
    train_images: Images,
    train_labels: Tensor,
    test_images: Images,
    test_labels: Tensor,
    forget: Sequence[int],
    settings: ProbeSettings,
    seed: int,
) -> ProbeReport:
    """Fit the probe on all classes and count what it recognises of the forget and of the other classes.

    Deterministic: a function of the arguments alone. The model is left as it was.

    Args:
        model: what enters its head is probed, standardised by the training images' mean and deviation.
        train_images: [N, C, H, W], retain and forget classes.
        train_labels: int64 [N].
        test_images: [M, C, H, W], retain and forget classes.
        test_labels: int64 [M].
        forget: class ids that the model was made to forget.
        settings: penalty, iterations, few-sample setting.
        seed: of the few-sample draw; unused without `train_per_class`.

    Raises:
        BadInput: a class has too few images, one class only, or features that are not finite.
    """
    (report,) = linear_probes(
        model, train_images, train_labels, test_images, test_labels, forget, settings, [seed]
    )
    return report


def linear_probes(
    model: nn.Module,
    train_images: Images,
    train_labels: Tensor,
    test_images: Images,
    test_labels: Tensor,
    forget: Sequence[int],
    settings: ProbeSettings,
    seeds: Sequence[int],
) -> list[ProbeReport]:
    """`linear_probe` from the draws of several seeds; the model's features are taken once."""
    tasks = probe_tasks(
        model, train_images, train_labels, test_images, test_labels, forget,
        settings.train_per_class, seeds, where="linear_probe",
    )  # fmt: skip
    # here, since every process of a run imports this module and the gate's alone comes by: a second each
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    reports = []
    for task in tasks:
        probe = LogisticRegression(C=settings.C, max_iter=settings.max_iter)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            probe.fit(task.train_x, task.train_y)
        converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
        reports.append(task.report(probe.predict(task.test_x), converged=converged))
    return reports


def recall(reports: Sequence[ProbeReport]) -> tuple[float, float]:
    """Shares of the forget classes' and of the others' test images that are known, over all reports."""
    forget = sum(r.forget.correct for r in reports) / sum(r.forget.count for r in reports)
    retain = sum(r.retain.correct for r in reports) / sum(r.retain.count for r in reports)
    return forget, retain


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeTask:
    """What any probe of frozen features learns from, and what it is asked.

    Attributes:
        train_x: features of the training images, standardised by their mean and deviation, float64 [n, D].
        train_y: their classes, int64 [n].
        test_x: features of the test images, standardised alike, float64 [M, D].
        test_y: their classes, int64 [M].
        forget: class ids that the model was made to forget.
    """

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    forget: tuple[int, ...]

    def report(self, predicted: np.ndarray, *, converged: bool) -> ProbeReport:
        """The test images of the forget and of the other classes that a probe's [M] answers get right."""
        is_forget, right = np.isin(self.test_y, self.forget), predicted == self.test_y

        def result(part: np.ndarray) -> ProbeResult:
            return ProbeResult(correct=int(right[part].sum()), count=int(part.sum()))

        return ProbeReport(
            forget=result(is_forget),
            retain=result(~is_forget),
            train_count=len(self.train_y),
            converged=converged,
        )


def probe_tasks(
    model: nn.Module,
    train_images: Images,
    train_labels: Tensor,
    test_images: Images,
    test_labels: Tensor,
    forget: Sequence[int],
    train_per_class: int | None,
    seeds: Sequence[int],
    *,
    where: str,
) -> list[ProbeTask]:
    """Check the sets, draw the training images of each seed and take the features; see `linear_probe`.

    Args:
        model: of the features.
        train_images: [N, C, H, W].
        train_labels: int64 [N].
        test_images: [M, C, H, W].
        test_labels: int64 [M].
        forget: class ids.
        train_per_class: training images of a class that are drawn; None: all.
        seeds: of the draws.
        where: named in errors.
    """
    num_classes = head_of(model, train_images[:2])[1].out_features
    check_images(train_images, train_labels, num_classes, where)
    check_images(test_images, test_labels, num_classes, where)
    train_labels, test_labels = train_labels.cpu(), test_labels.cpu()
    from sklearn.preprocessing import StandardScaler  # as above

    ids = sorted({int(class_id) for class_id in forget})
    trained = torch.bincount(train_labels, minlength=num_classes).tolist()
    tested = torch.bincount(test_labels, minlength=num_classes).tolist()
    _check_samples(ids, trained, tested, train_per_class, where)
    draws = [few_per_class(train_labels, train_per_class, seed) for seed in seeds]
    drawn = torch.cat(draws).unique()
    train, test = (
        features_of(model, images).double().numpy() for images in (selected(train_images, drawn), test_images)
    )
    tasks = []
    for chosen in draws:
        scaler = StandardScaler()
        tasks.append(
            ProbeTask(
                train_x=scaler.fit_transform(train[torch.searchsorted(drawn, chosen).numpy()]),
                train_y=train_labels[chosen].numpy(),
                test_x=scaler.transform(test),
                test_y=test_labels.numpy(),
                forget=tuple(ids),
            )
        )
    return tasks


def _check_samples(
    forget: list[int], trained: list[int], tested: list[int], train_per_class: int | None, where: str
) -> None:
    """Refuse sets in which a class is missing or too small, naming the class and what is needed.

    Args:
        forget: class ids.
        trained: training images of each class.
        tested: test images of each class.
        train_per_class: training images of a class that will be used; None: all, one at least.
        where: named in the error.
    """
    num_classes = len(trained)
    if not forget or not all(0 <= class_id < num_classes for class_id in forget):
        raise BadInput("forget classes", forget, f"at least one of 0..{num_classes - 1}", where=where)
    present = [class_id for class_id in range(num_classes) if trained[class_id]]
    if len(present) < 2:
        raise BadInput("classes among the training images", present, "at least two", where=where)
    needed = train_per_class or 1
    for class_id in range(num_classes):
        if class_id not in forget and not trained[class_id] and not tested[class_id]:
            continue
        if trained[class_id] < needed:
            thing = f"number of training images of class {class_id}"
            raise BadInput(thing, trained[class_id], f"at least {needed}", where=where)
        if class_id in forget and not tested[class_id]:
            raise BadInput(f"number of test images of class {class_id}", 0, "at least 1", where=where)
    if not any(tested[class_id] for class_id in range(num_classes) if class_id not in forget):
        raise BadInput("number of test images of the retain classes", 0, "at least 1", where=where)


def few_per_class(labels: Tensor, per_class: int | None, seed: int) -> Tensor:
    """Sample ids in ascending order: `per_class` of each class by a seeded draw, or all."""
    if per_class is None:
        return torch.arange(len(labels))
    parts = []
    for class_id in sorted(set(labels.tolist())):
        members = (labels == class_id).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator(seed, "probe", class_id))
        parts.append(members[order[:per_class]])
    return torch.cat(parts).sort().values
