"""The gate: may a result be published, by synthetic measures alone.

Every check is made, also after one has failed, so that a parked result says all that is wrong with it. A
check that has no power on this network says so: the verdict is then that nothing can be told.

Erasing and keeping are judged apart: whether the class is gone, and how much of D_r is left, which is
predicted (`rayunlearn.scheduling.keeping`).

Of single samples there is no synthetic image: what asks whether a class is gone is not asked of a request
that names some. Of a behaviour it is asked whether it is still shown; that it could come back is not, since
what it is made of, the classes, are to stay. What it keeps is judged by held-out samples of D'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from rayunlearn.errors import BadInput
from rayunlearn.fields import Checked, Share, check_value
from rayunlearn.scheduling.bounds import check_correct, check_forget
from rayunlearn.scheduling.erasing import Erasing, Recall, Scale, judge_erasing
from rayunlearn.scheduling.keeping import Calibration, Kept, standard


@dataclass(frozen=True, kw_only=True)
class GateMeasures(Checked):
    """What was measured on a result, with the second synthetic set, which stopping never saw.

    Attributes:
        retain_correct: images of the retain classes that the result gets right ...
        retain_count: ... of so many.
        forget_correct: images of the classes to forget that the result gets right ...
        forget_count: ... of so many.
        parent_retain_correct: the parent version's number right on the same retain images.
        recall: what a linear probe of the result's features knows after one synthetic image of each class;
            None where no class is named.
        scale: the same of the parent version and of stand-ins for Retrain; None with `recall`.
        kept: what the result has kept of the parent version; None for a behaviour.
        forgotten_share: class forgotten by an earlier request -> share of all predictions that go to it.
        kind: of the request. Of "samples" forget counts are 0; of "examples" they are of the examples and,
            where classes go, of samples of D' that are like them; retain counts are of the others.
    """

    retain_correct: NonNegativeInt
    retain_count: PositiveInt
    forget_correct: NonNegativeInt
    forget_count: NonNegativeInt
    parent_retain_correct: NonNegativeInt
    recall: Recall | None
    scale: Scale | None
    kept: Kept | None
    forgotten_share: Mapping[int, float] = field(default_factory=dict, hash=False)
    kind: str = "classes"

    def __post_init__(self) -> None:
        """Refuse figures that no measurement can give."""
        super().__post_init__()
        check_value("kind", self.kind, Literal["classes", "samples", "examples"])
        check_correct("retain", self.retain_correct, self.retain_count)
        check_forget(self.forget_correct, self.forget_count, samples=self.kind == "samples")
        check_correct("retain", self.parent_retain_correct, self.retain_count, prefix="parent_")
        for name in ("recall", "scale"):
            if (self.kind != "classes") != (getattr(self, name) is None):
                allowed = "None for a request of samples or examples, and for no other"
                raise BadInput(name, getattr(self, name), allowed)
        if (self.kind == "examples") != (self.kept is None):
            raise BadInput("kept", self.kept, "None for a request of examples, and for no other")
        for class_id, share in self.forgotten_share.items():
            check_value("class in forgotten_share", class_id, NonNegativeInt)
            check_value(f"forgotten_share[{class_id}]", share, Share)
        object.__setattr__(self, "forgotten_share", dict(sorted(self.forgotten_share.items())))


@dataclass(frozen=True, kw_only=True)
class GateSettings(Checked, section="gate"):
    """The bounds; a figure at its bound passes, one above it fails.

    Attributes:
        max_forget: accuracy on the synthetic forget images.
        max_loss: predicted loss of D_r, as a share of the parent's (docs/log.md, 104).
        max_retain_drop: of a behaviour: loss of accuracy against the parent on the same retain samples of D',
            absolute.
        max_position: place from the stand-ins for Retrain (0) to the parent version (1) up to which the
            features count as those of a model that never saw the classes; well above 1 all are.
        least_power: distance of these two ends from which on a class can be said to be still there.
        undecided: what becomes of a result of which that cannot be told: "park" it, or "publish" it and
            say so in the certificate.
        max_forgotten_share: share of predictions that go to any one class forgotten earlier.
        calibration: by which D_r is predicted.
    """

    max_forget: Share = 0.0
    max_loss: Share = 0.07
    max_retain_drop: Share = 0.10
    max_position: NonNegativeFloat = 0.6
    least_power: Share = 0.25
    undecided: Literal["park", "publish"] = "park"
    max_forgotten_share: Share = 0.02
    calibration: Calibration = field(default_factory=standard)


Outcome = Literal["passed", "refused", "cannot tell"]

UNDECIDED = "the gate cannot tell"
"""What the reasons of a result begin with of which nothing can be told, where they are recorded."""


@dataclass(frozen=True)
class Verdict:
    """Whether a result may be published and, if not, every reason why."""

    outcome: Outcome
    reasons: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse a verdict that its reasons contradict."""
        if (self.outcome == "passed") == bool(self.reasons):
            raise BadInput("outcome", self.outcome, f"another one with {len(self.reasons)} reasons")

    @property
    def passed(self) -> bool:
        """Whether every check was passed."""
        return self.outcome == "passed"

    @property
    def said(self) -> str:
        """The reasons, as they are recorded."""
        return f"{UNDECIDED if self.outcome == 'cannot tell' else 'gate'}: {'; '.join(self.reasons)}"


def judge(measures: GateMeasures, settings: GateSettings) -> Verdict:
    """Judge a result: one check that refuses it decides, and one that can tell nothing leaves it undecided.

    >>> judge(
    ...     GateMeasures(
    ...         retain_correct=95, retain_count=100, forget_correct=3, forget_count=50,
    ...         parent_retain_correct=98, recall=Recall(forget=0.3, retain=0.9),
    ...         scale=Scale(
    ...             version=Recall(forget=1, retain=1), stand_ins=(Recall(forget=0.2, retain=0.9),)
    ...         ),
    ...         kept=Kept(coarse=0.97, cut=0.89, direction=0.02),
    ...     ),
    ...     GateSettings(),
    ... ).reasons
    ('forget accuracy is 6.00 % (3 of 50); at most 0.00 % is allowed',)
    """
    refused = tuple(reason for judge in _CHECKS[measures.kind] for reason in judge(measures, settings))
    undecided = _undecided(measures, settings)
    outcome: Outcome = "refused" if refused else "cannot tell" if undecided else "passed"
    return Verdict(outcome, refused + undecided)


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


def _kept(measures: GateMeasures, settings: GateSettings) -> list[str]:
    assert measures.kept is not None, "not asked of a behaviour"
    said = settings.calibration.predict(measures.kept)
    if 1 - said.share <= settings.max_loss:
        return []
    return [
        f"predicted D_r is {_percent(said.share)} of the parent's (nine of ten lie between "
        f"{_percent(said.low)} and {_percent(said.high)}): a loss of {_percent(1 - said.share)}; at most "
        f"{_percent(settings.max_loss)} is allowed"
    ]


def _erasing(measures: GateMeasures, settings: GateSettings) -> Erasing:
    assert measures.recall is not None and measures.scale is not None, "asked of classes only"
    return judge_erasing(
        measures.recall,
        measures.scale,
        max_position=settings.max_position,
        least_power=settings.least_power,
    )


def _erased(measures: GateMeasures, settings: GateSettings) -> list[str]:
    if _erasing(measures, settings) != "still there":
        return []
    return [f"the class is still in the features: {_recalls(measures)}"]


def _undecided(measures: GateMeasures, settings: GateSettings) -> tuple[str, ...]:
    if measures.kind != "classes" or _erasing(measures, settings) != "cannot tell":
        return ()
    return (f"it cannot be told whether the class is still in the features: {_recalls(measures)}",)


def _recalls(measures: GateMeasures) -> str:
    assert measures.recall is not None and measures.scale is not None
    known = [measures.recall, measures.scale.version, *measures.scale.stand_ins]
    result, version, *stand_ins = (f"{_percent(r.forget)} (others {_percent(r.retain)})" for r in known)
    return (
        f"after one image of each class a probe knows {result} of it, of the parent's features {version}, "
        f"of models that never saw the class {', '.join(stand_ins)}"
    )


def _forgotten(measures: GateMeasures, settings: GateSettings) -> list[str]:
    bound = f"at most {_percent(settings.max_forgotten_share)} is allowed"
    return [
        f"{_percent(share)} of predictions go to class {class_id}, forgotten earlier; {bound}"
        for class_id, share in measures.forgotten_share.items()
        if share > settings.max_forgotten_share
    ]


_CHECKS = {
    "classes": (_forget, _kept, _erased, _forgotten),
    "samples": (_kept, _forgotten),
    "examples": (_forget, _retain, _forgotten),
}
"""What is asked of the result of a request of each kind."""


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
