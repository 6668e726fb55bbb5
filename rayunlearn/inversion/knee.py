"""Where similarity to the examples ends: the knee of the sorted scores (few-shot paper, appendix C.3).

Scores are sorted in descending order, most like the examples first: a cliff, then a long flat rest. The
threshold is the foot of the cliff, a convex and decreasing knee. Kneedle (Satopaa et al. 2011) depends on
the number of points and stops at the first bump; so the curve is always `POINTS` quantiles of the scores,
at even shares of the samples, and of all knees the one farthest from the straight line is taken. A curve
without a knee has a stated fallback, and the reason is recorded.

Scores that tie at the foot are the rest, not the cliff: the threshold is then above them. Features after a
ReLU give many such ties: of a sample that shares no feature with the examples the cosine is exactly 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from rayunlearn.errors import BadInput

POINTS = 200
"""Points of the curve."""
LEAST_SCORES = 10
"""With fewer scores there is no curve to speak of."""
LEAST_HEIGHT = 0.1
"""By which a knee lies below the straight line from the first to the last point, as a share of the range."""


@dataclass(frozen=True, kw_only=True)
class Knee:
    """A threshold on scores that are high for what is like the examples.

    Attributes:
        threshold: t_f of eq. 9, in the scores' units; above their minimum.
        curve: `POINTS` quantiles of the scores, descending, the first their maximum and the last their
            minimum, at even shares of the samples (Fig. 4a).
        method: "knee"; "midrange", halfway between the maximum and the minimum; or "none": above all
            scores, nothing stands out.
        reason: why it is no knee; empty for one.
    """

    threshold: float
    curve: tuple[float, ...]
    method: str
    reason: str

    def selects(self, scores: Tensor) -> Tensor:
        """Which samples are D'_e, mask `[N]`: similarity at or above the threshold (eq. 9 by its meaning).

        Eq. 9 writes "smaller than the threshold", which holds for distances.
        """
        return scores.double() >= self.threshold  # a float32 would round the threshold


def knee_threshold(scores: Tensor) -> Knee:
    """The threshold between the samples that are like the examples and the rest.

    Args:
        scores: `[N]`, as of `rayunlearn.inversion.similarity`.

    Raises:
        BadInput: no score, or one that is NaN or infinite.
    """
    where = "knee"
    if scores.dim() != 1 or not len(scores):
        raise BadInput("shape of the scores", list(scores.shape), "[N], at least one", where=where)
    broken = int((~scores.isfinite()).sum())
    if broken:
        raise BadInput("number of NaN or infinite scores", broken, "0", where=where)

    shares = np.linspace(0.0, 1.0, POINTS)
    values = np.sort(scores.detach().cpu().double().numpy())
    curve = np.quantile(values, 1 - shares)
    curve[[0, -1]] = values[[-1, 0]]
    top, bottom = float(curve[0]), float(curve[-1])

    def found(threshold: float, method: str, reason: str) -> Knee:
        return Knee(threshold=threshold, curve=tuple(curve.tolist()), method=method, reason=reason)

    if top == bottom:
        return found(math.nextafter(top, math.inf), "none", f"all {len(scores)} scores are equal")
    midrange = _between(bottom, top)
    if len(scores) < LEAST_SCORES:
        return found(midrange, "midrange", f"{len(scores)} scores; a knee needs at least {LEAST_SCORES}")
    from kneed import KneeLocator  # takes 1.7 s, with matplotlib, which every actor would else pay

    _, power = math.frexp(max(abs(top), abs(bottom)))
    falling = np.ldexp(curve, -power)  # whose range is a number, however large or small the scores are
    falling = (falling - falling[-1]) / (falling[0] - falling[-1])
    # online: all knees, not the first alone
    located = KneeLocator(shares, falling, curve="convex", direction="decreasing", online=True)
    knees = np.isin(shares, located.all_knees).nonzero()[0]
    heights = (1 - falling - shares)[knees]
    if not len(knees) or heights.max() < LEAST_HEIGHT:
        reason = f"no knee is {LEAST_HEIGHT:.0%} of the range or more below the straight line"
        return found(midrange, "midrange", reason)
    at = int(knees[heights.argmax()])
    return found(_above_ties(values, float(curve[at]), float(shares[at])), "knee", "")


def _above_ties(values: np.ndarray, threshold: float, share: float) -> float:
    """A knee's threshold, or one above the scores that tie with it where these go on beyond the knee.

    Args:
        values: all scores, ascending.
        threshold: the score at the knee.
        share: of the samples that lie above the knee.
    """
    n = len(values)
    first = int(np.searchsorted(values, threshold))  # of those at or above the threshold
    above = int(np.searchsorted(values, threshold, side="right"))
    # a knee is known to one spacing of the curve, and to one sample
    if n - first - share * (n - 1) <= max(1.0, n / POINTS) or above == n:
        return threshold
    return _between(float(values[above - 1]), float(values[above]))


def _between(low: float, high: float) -> float:
    """Halfway between two scores; the higher one where no number is between them.

    >>> _between(0.0, 1.0), _between(1.0, math.nextafter(1.0, 2.0)) > 1.0
    (0.5, True)
    """
    middle = low / 2 + high / 2
    return middle if low < middle <= high else high
