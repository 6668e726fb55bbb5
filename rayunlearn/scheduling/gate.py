"""The gate: may a result be published, by synthetic measures alone.

Every check is made, also after one has failed, so that a parked result says all that is wrong with it. Of
single samples there is no synthetic image: what asks whether a class is gone is not asked of a request that
names some. Of a behaviour it is asked whether it is still shown; that it could come back is not, since what
it is made of, the classes, are to stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rayunlearn.errors import BadInput
from rayunlearn.scheduling.bounds import check_correct, check_count, check_forget, check_share


@dataclass(frozen=True, kw_only=True)
class GateMeasures:
    """What was measured on a result, with the second synthetic set, which stopping never saw.

    Attributes:
        retain_correct: images of the retain classes that the result gets right ...
        retain_count: ... of so many.
        forget_correct: images of the classes to forget that the result gets right ...
        forget_count: ... of so many.
        parent_retain_correct: the parent version's number right on the same retain images.
        relearn_accuracy: accuracy on held-out synthetic forget images after 0, 1, 2, ... steps of
            relearning, from a head whose constant bias offsets were removed first.
        probe_recall: share of held-out synthetic forget images that a linear probe of the result's features
            knows after one image of each class; None where no class is named.
        forgotten_share: class forgotten by an earlier request -> share of all predictions that go to it.
        kind: of the request. Of "samples" forget counts are 0; of "examples" they are of the examples and,
            where classes go, of samples of D' that are like them; retain counts are of the others. Neither
            has a relearning curve.
    """

    retain_correct: int
    retain_count: int
    forget_correct: int
    forget_count: int
    parent_retain_correct: int
    relearn_accuracy: tuple[float, ...]
    probe_recall: float | None
    forgotten_share: Mapping[int, float] = field(default_factory=dict, hash=False)
    kind: str = "classes"

    def __post_init__(self) -> None:
        """Refuse figures that no measurement can give."""
        if self.kind not in _CHECKS:
            raise BadInput("kind", self.kind, ", ".join(_CHECKS))
        check_correct("retain", self.retain_correct, self.retain_count)
        check_forget(self.forget_correct, self.forget_count, samples=self.kind == "samples")
        check_correct("retain", self.parent_retain_correct, self.retain_count, prefix="parent_")
        no_class = self.kind != "classes"
        if no_class and self.relearn_accuracy:
            raise BadInput("relearn_accuracy", self.relearn_accuracy, f"() for a request of {self.kind}")
        if no_class != (self.probe_recall is None):
            allowed = "None for a request of samples or examples, and for no other"
            raise BadInput("probe_recall", self.probe_recall, allowed)
        if self.probe_recall is not None:
            check_share("probe_recall", self.probe_recall)
        for step, accuracy in enumerate(self.relearn_accuracy):
            check_share(f"relearn_accuracy[{step}]", accuracy)
        for class_id, share in self.forgotten_share.items():
            check_count("class in forgotten_share", class_id)
            check_share(f"forgotten_share[{class_id}]", share)
        object.__setattr__(self, "relearn_accuracy", tuple(self.relearn_accuracy))
        object.__setattr__(self, "forgotten_share", dict(sorted(self.forgotten_share.items())))


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """The bounds; a figure at its bound passes, one above it fails.

    Attributes:
        max_forget: accuracy on the synthetic forget images.
        max_retain_drop: loss of accuracy against the parent on the same retain images, absolute.
        relearn_steps: how many steps of relearning are looked at, step 0 besides.
        max_relearn: a class that is back above this accuracy within `relearn_steps` was merely hidden.
        max_probe: a class of which a probe knows more than this from the features is still in them.
        max_forgotten_share: share of predictions that go to any one class forgotten earlier.
    """

    max_forget: float = 0.0
    max_retain_drop: float = 0.10
    relearn_steps: int = 3
    max_relearn: float = 0.5
    max_probe: float = 0.8
    max_forgotten_share: float = 0.02

    def __post_init__(self) -> None:
        """Refuse bounds outside 0 to 1."""
        check_count("gate.relearn_steps", self.relearn_steps)
        for name in ("max_forget", "max_retain_drop", "max_relearn", "max_probe", "max_forgotten_share"):
            check_share(f"gate.{name}", getattr(self, name))


@dataclass(frozen=True)
class Verdict:
    """Whether a result may be published and, if not, every reason why."""

    passed: bool
    reasons: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse a verdict that its reasons contradict."""
        if self.passed == bool(self.reasons):
            raise BadInput("passed", self.passed, f"{not self.reasons} with {len(self.reasons)} reasons")


def judge(measures: GateMeasures, settings: GateSettings) -> Verdict:
    """Judge a result; a relearning curve shorter than `relearn_steps` fails for want of evidence.

    >>> judge(
    ...     GateMeasures(
    ...         retain_correct=95, retain_count=100, forget_correct=3, forget_count=50,
    ...         parent_retain_correct=98, relearn_accuracy=(0.0, 0.0, 0.1, 0.2), probe_recall=0.3,
    ...     ),
    ...     GateSettings(),
    ... ).reasons
    ('forget accuracy is 6.00 % (3 of 50); at most 0.00 % is allowed',)
    """
    reasons = tuple(reason for check in _CHECKS[measures.kind] for reason in check(measures, settings))
    return Verdict(passed=not reasons, reasons=reasons)


def _forget(measures: GateMeasures, settings: GateSettings) -> list[str]:
    correct, count = measures.forget_correct, measures.forget_count
    if correct / count <= settings.max_forget:
        return []
    figure = f"forget accuracy is {_percent(correct / count)} ({correct} of {count})"
    return [f"{figure}; at most {_percent(settings.max_forget)} is allowed"]


def _retain(measures: GateMeasures, settings: GateSettings) -> list[str]:
    parent, result, count = measures.parent_retain_correct, measures.retain_correct, measures.retain_count
    drop = (parent - result) / count  # one division of whole numbers: exact at the bound
    if drop <= settings.max_retain_drop:
        return []
    figure = f"retain accuracy is {_percent(result / count)}, the parent's {_percent(parent / count)}"
    return [f"{figure}: a drop of {_percent(drop)}; at most {_percent(settings.max_retain_drop)} is allowed"]


def _relearn(measures: GateMeasures, settings: GateSettings) -> list[str]:
    curve = measures.relearn_accuracy[: settings.relearn_steps + 1]
    for step, accuracy in enumerate(curve):
        if accuracy > settings.max_relearn:
            figure = f"the class was merely hidden: forget accuracy is {_percent(accuracy)}"
            bound = f"at most {_percent(settings.max_relearn)} within {settings.relearn_steps} is allowed"
            return [f"{figure} after {step} steps of relearning; {bound}"]
    if len(curve) <= settings.relearn_steps:
        measured = f"relearning was measured at {len(curve)} of {settings.relearn_steps + 1} steps"
        return [f"{measured} (0 to {settings.relearn_steps}); all are needed"]
    return []


def _probe(measures: GateMeasures, settings: GateSettings) -> list[str]:
    assert measures.probe_recall is not None, "asked of classes only"
    if measures.probe_recall <= settings.max_probe:
        return []
    figure = f"the class is still in the features: a probe knows {_percent(measures.probe_recall)} of it"
    return [f"{figure} after one image of each class; at most {_percent(settings.max_probe)} is allowed"]


def _forgotten(measures: GateMeasures, settings: GateSettings) -> list[str]:
    bound = f"at most {_percent(settings.max_forgotten_share)} is allowed"
    return [
        f"{_percent(share)} of predictions go to class {class_id}, forgotten earlier; {bound}"
        for class_id, share in measures.forgotten_share.items()
        if share > settings.max_forgotten_share
    ]


_CHECKS = {
    "classes": (_forget, _retain, _relearn, _probe, _forgotten),
    "samples": (_retain, _forgotten),
    "examples": (_forget, _retain, _forgotten),
}
"""What is asked of the result of a request of each kind."""


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
