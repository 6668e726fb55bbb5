"""Where similarity to the examples ends: the knee of the sorted scores (few-shot paper, appendix C.3).

Scores are sorted in descending order, most like the examples first: a cliff, then a long flat rest. The
threshold is the foot of the cliff, a convex and decreasing knee. Kneedle (Satopaa et al. 2011) depends on
the number of points and stops at the first bump; so the curve is always `POINTS` quantiles of the scores,
at even shares of the samples, and of all knees the one farthest from the straight line is taken. A curve
without a knee has a stated fallback, and the reason is recorded.
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
        threshold: t_f of eq. 9, in the scores' units.
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
        return scores >= self.threshold


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
    curve = np.quantile(scores.detach().cpu().double().numpy(), 1 - shares)
    top, bottom = float(curve[0]), float(curve[-1])

    def found(threshold: float, method: str, reason: str) -> Knee:
        return Knee(threshold=threshold, curve=tuple(curve.tolist()), method=method, reason=reason)

    if top == bottom:
        return found(math.nextafter(top, math.inf), "none", f"all {len(scores)} scores are equal")
    midrange = (top + bottom) / 2
    if len(scores) < LEAST_SCORES:
        return found(midrange, "midrange", f"{len(scores)} scores; a knee needs at least {LEAST_SCORES}")
    from kneed import KneeLocator  # takes 1.7 s, with matplotlib, which every actor would else pay

    # online: all knees, not the first alone.
    located = KneeLocator(shares, curve, curve="convex", direction="decreasing", online=True)
    knees = zip(located.all_knees, located.all_knees_y, strict=True)
    heights = {float(y): (top - float(y)) / (top - bottom) - float(share) for share, y in knees}
    threshold = max(heights, key=lambda y: heights[y], default=midrange)
    if heights.get(threshold, 0.0) < LEAST_HEIGHT:
        reason = f"no knee is {LEAST_HEIGHT:.0%} of the range or more below the straight line"
        return found(midrange, "midrange", reason)
    return found(threshold, "knee", "")
