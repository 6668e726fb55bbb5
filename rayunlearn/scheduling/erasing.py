"""Is a class erased? A model's place between models that never saw the class and the version that knows it.

What a linear probe knows of a class after a few images depends on network and data as much as on what the
model learned: LeNet's features tell an unseen digit from the others nearly as well as a known one. So no
figure means anything by itself. The scale has two ends, both of the version that is asked to forget:

- its own features, which a head that was masked, cut or replaced leaves as they are;
- those of stand-ins, models that were trained without data and never saw the class.

Two measures are placed on it: the recall of the classes to forget, and that recall as a share of the other
classes' recall. The second tells what the first cannot where all of a model's features are good, or all bad.
A model is erased by one of them if it lies on the stand-ins' side. A measure whose ends lie close together
has no power to say that a class is still there; if none has, nothing can be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import mean
from typing import Literal

from rayunlearn.errors import BadInput
from rayunlearn.fields import Checked, Share

Erasing = Literal["erased", "still there", "cannot tell"]

MOST_LEAD = 0.4
"""Share of the last layer's lead over stand-ins that a kept layer may have (docs/log.md, 118)."""
LEAST_RECALL = 0.05
"""Of the other classes: a share of less is a share of chance."""
MOST_RELATIVE = 1.5
"""What a recall relative to another is cut off at: 1 is what the version has."""


@dataclass(frozen=True, kw_only=True)
class Recall(Checked, section="recall"):
    """What a linear probe of a model's features knows of held-out images, as shares in [0, 1].

    Attributes:
        forget: of images of the classes to forget.
        retain: of images of the others.
    """

    forget: Share
    retain: Share

    @property
    def relative(self) -> float:
        """Recall of the classes to forget as a share of the others'.

        >>> Recall(forget=0.3, retain=0.9).relative
        0.3333333333333333
        """
        return min(self.forget / max(self.retain, LEAST_RECALL), MOST_RELATIVE)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What a candidate's recall is placed on.

    Attributes:
        version: of the version, whose features hold the classes to forget.
        stand_ins: of models that never saw these classes; at least one.
    """

    version: Recall
    stand_ins: tuple[Recall, ...]

    def __post_init__(self) -> None:
        """Refuse a scale with one end."""
        if not self.stand_ins:
            raise BadInput("stand_ins", (), "at least one recall")


def layers_to_keep(scales: Sequence[Scale], *, most: float = MOST_LEAD) -> int:
    """The most first layers of a version that say no more of the classes than a model's that never saw them.

    A layer's lead is what a probe of it knows of the classes in the version less what it knows in the
    stand-ins. The last layer's is what is to be erased. Layers are kept up to the first one whose lead is
    more than a share of it. Where the last layer has no lead, layers cannot be told apart and none is kept.

    Args:
        scales: the two ends of each layer, from first to last.
        most: that share, below 1.

    >>> ends = [(0.3, 0.3), (0.4, 0.3), (0.9, 0.4), (1.0, 0.2)]
    >>> layers_to_keep([
    ...     Scale(version=Recall(forget=v, retain=1), stand_ins=(Recall(forget=s, retain=1),))
    ...     for v, s in ends
    ... ])
    2
    """
    leads = [scale.version.forget - mean(of.forget for of in scale.stand_ins) for scale in scales]
    if leads[-1] <= 0:
        return 0
    return next((i for i, lead in enumerate(leads[:-1]) if lead > most * leads[-1]), len(leads) - 1)


def judge_erasing(
    candidate: Recall, scale: Scale, *, max_position: float, least_power: float
) -> Erasing:
    """Whether the candidate's features are those of a model that never saw the classes.

    Args:
        candidate: its recall.
        scale: the two ends.
        max_position: place from the stand-ins (0) to the version (1) up to which a class is erased.
        least_power: distance of the ends, as a difference of shares, from which on a measure can say that a
            class is still there. Ends that are closer are taken to be so far apart: a candidate that is
            clearly below the version is erased whatever the stand-ins know.

    >>> scale = Scale(version=Recall(forget=1, retain=1), stand_ins=(Recall(forget=0.2, retain=0.8),))
    >>> bounds = {"max_position": 0.5, "least_power": 0.25}
    >>> judge_erasing(Recall(forget=0.3, retain=0.9), scale, **bounds)
    'erased'
    >>> judge_erasing(Recall(forget=0.9, retain=0.9), scale, **bounds)
    'still there'
    >>> close = Scale(version=Recall(forget=1, retain=1), stand_ins=(Recall(forget=0.9, retain=0.9),))
    >>> judge_erasing(Recall(forget=0.9, retain=0.9), close, **bounds)
    'cannot tell'
    """
    powerful = False
    for place in (attrgetter("forget"), attrgetter("relative")):
        high = place(scale.version)
        distance = high - mean(map(place, scale.stand_ins))
        if place(candidate) <= high - (1 - max_position) * max(distance, least_power):
            return "erased"
        powerful = powerful or distance >= least_power
    return "still there" if powerful else "cannot tell"
