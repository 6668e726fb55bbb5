"""How much of D_r did a model keep? Predicted without data, by a calibration on models whose truth is known.

A model that answers as the version does has kept what the version knows, and yet agreement alone misleads: a
retrained model answers otherwise where it has lost nothing. So the method's data access counts as well:
who learned from samples of the retain classes knows them by more than the version's answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from math import log

from rayunlearn.fields import Checked, Share

STANDARD = "calibration.json"
"""Beside this file: what `python -m benchmarks.judge --calibrate` fitted to the whole zoo."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What was measured of a model beside its version, on coarse inverted images of the retain classes.

    Attributes:
        coarse: closeness of the answers: mean of 1 - total variation of the probabilities, each of the
            version's answers with the same weight.
        cut: the same on images cut together from two.
        direction: mean cosine similarity of the layers' weights with the version's.
        plain: accuracy on plain inverted images as a share of the version's, at most 1; 1 where there are
            none of these.
        retain_data: whether the method that made the model has access to samples of the retain classes.
    """

    coarse: float
    cut: float
    direction: float
    plain: float = 1.0
    retain_data: bool = False

    @property
    def broken(self) -> float:
        """Share of the plain images that are lost, as far as the weights are the version's.

        To a model of its own they say nothing. One that began at the version answers them, or something in
        it broke, which coarse images do not always show.
        """
        return max(0.0, self.direction) * (1 - self.plain)

    @property
    def independent(self) -> float:
        """How far samples of the retain classes have led the weights from the version's.

        Such a model has its knowledge from the samples; that it answers otherwise costs it less.
        """
        return 1 - max(0.0, self.direction) if self.retain_data else 0.0

    @property
    def terms(self) -> tuple[float, ...]:
        """What D_r is predicted from, in the order of `TERMS`: of closeness the natural logarithm."""
        coarse, cut = (log(max(closeness, LEAST)) for closeness in (self.coarse, self.cut))
        own = self.independent
        return coarse, cut, self.broken, own, own * cut


def plain_share(correct: int, version_correct: int) -> float:
    """`Kept.plain` from numbers right on the same plain images.

    >>> plain_share(45, 90), plain_share(90, 89)
    (0.5, 1.0)
    """
    return min(1.0, correct / max(1, version_correct))


MEASURED = ("coarse", "cut", "direction")
"""Of `Kept`, what is measured on coarse images and recorded of every checkpoint."""
TERMS = ("coarse", "cut", "broken", "independent", "independent_cut")
LEAST = 0.02
"""Closeness below which a model is not told from one that says nothing."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """D_r as a share of the version's: the guess, and what it lies between in nine of ten cases."""

    share: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Calibration(Checked, section="gate.calibration"):
    """What D_r is worth that a model's measures show.

    Attributes:
        offset: share of the version's D_r of a model that answers as the version does and whose other
            measures are 0.
        coarse, cut: how much one more of the logarithm of the closeness adds that `Kept` calls so.
        broken, independent: how much one more of the measure of that name adds.
        independent_cut: how much `independent` times the logarithm of `Kept.cut` adds.
        spread: of nine of ten models of a data set that the calibration had not seen the prediction was at
            most so far off.
    """

    offset: float
    coarse: float
    cut: float
    broken: float
    independent: float
    independent_cut: float
    spread: Share

    @classmethod
    def of(cls, offset: float, slopes: Sequence[float], spread: float) -> Calibration:
        """From slopes in the order of `TERMS`."""
        return cls(offset=offset, spread=spread, **dict(zip(TERMS, slopes, strict=True)))

    @property
    def digest(self) -> str:
        """SHA-256 of all its numbers."""
        return sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def score(self, kept: Kept) -> float:
        """The regression's answer as it is, also above 1: by it checkpoints of one run are compared."""
        slopes = (getattr(self, name) for name in TERMS)
        return self.offset + sum(a * b for a, b in zip(slopes, kept.terms, strict=True))

    def predict(self, kept: Kept) -> Prediction:
        """A model's D_r; none has more than the version, as far as can be told without data.

        >>> calibration = Calibration.of(1.0, [0.5, 0, -0.5, 0, 0], 0.06)
        >>> kept = Kept(coarse=0.9, cut=0.6, direction=0.5, plain=0.8)
        >>> round(calibration.predict(kept).share, 3)
        0.897
        """
        share = min(1.0, max(0.0, self.score(kept)))
        return Prediction(
            share=share, low=max(0.0, share - self.spread), high=min(1.0, share + self.spread)
        )


@cache
def standard() -> Calibration:
    """The calibration on all of the zoo that comes with the package."""
    return Calibration(**json.loads(files(__package__).joinpath(STANDARD).read_text())["calibration"])
