"""How much of D_r did a model keep? Predicted without data, by a calibration on models whose truth is known.

A model that answers as the version does has kept what the version knows, and yet agreement alone misleads: a
student of the version's answers repeats them where it has lost the classes, and a retrained model answers
otherwise where it has lost nothing. So two measures of imitation stand beside agreement: how much of the
version's logits the model's features explain, and how much of the direction of its weights is the version's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from rayunlearn.errors import BadInput
from rayunlearn.scheduling.bounds import check_share


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What was measured of a model beside its version, on inverted images of the retain classes.

    Attributes:
        coarse: closeness of the answers on coarse images: mean of 1 - total variation of the probabilities,
            each of the version's answers with the same weight.
        cut: the same on images cut together from two.
        mixed: the same on means of two.
        explained: share of the variance of the version's logits that a ridge regression on the model's
            features explains, cross-validated; negative where it explains less than the mean does.
        direction: mean cosine similarity of the layers' weights with the version's.
    """

    coarse: float
    cut: float
    mixed: float
    explained: float
    direction: float

    @property
    def values(self) -> tuple[float, ...]:
        """In the order of the fields."""
        return tuple(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """D_r as a share of the version's: the guess, and what it lies between in nine of ten cases."""

    share: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What D_r is worth that a model's measures show.

    Attributes:
        offset: share of the version's D_r of a model whose measures are all 0.
        slopes: name of a measure of `Kept` -> how much one more of it adds.
        spread: of nine of ten models of a data set that the calibration had not seen the prediction was at
            most so far off.
    """

    offset: float
    slopes: Mapping[str, float]
    spread: float

    def __post_init__(self) -> None:
        """Refuse slopes of other measures, and a spread that is no share."""
        names = [field.name for field in fields(Kept)]
        if list(self.slopes) != names:
            raise BadInput("slopes", list(self.slopes), f"{', '.join(names)}, in this order")
        check_share("spread", self.spread)

    @classmethod
    def of(cls, offset: float, slopes: Sequence[float], spread: float) -> Calibration:
        """From slopes in the order of `Kept`."""
        names = [field.name for field in fields(Kept)]
        return cls(offset=offset, slopes=dict(zip(names, slopes, strict=True)), spread=spread)

    def predict(self, kept: Kept) -> Prediction:
        """A model's D_r; none has more than the version, as far as can be told without data.

        >>> calibration = Calibration.of(0.5, [0.5, 0, 0, -0.1, 0], 0.06)
        >>> kept = Kept(coarse=0.9, cut=0.6, mixed=0.5, explained=0.5, direction=0.0)
        >>> round(calibration.predict(kept).share, 3)
        0.9
        """
        share = self.offset + sum(
            slope * value for slope, value in zip(self.slopes.values(), kept.values, strict=True)
        )
        share = min(1.0, max(0.0, share))
        return Prediction(
            share=share, low=max(0.0, share - self.spread), high=min(1.0, share + self.spread)
        )
