"""What a trial of a sweep is worth, by synthetic measures alone, and how far that can be trusted.

Every checkpoint of every trial is a candidate: a trial's result is the checkpoint that the stopping rule
chooses of it, so the stopping checkpoint is searched together with the settings. The score to maximise:

- an admissible trial: the chosen checkpoint's score by the set for stopping, at least 0: its predicted D_r,
  or its retain accuracy where that is what the stopping rule goes by;
- any other: -1 less its distance from what is admissible, -3 to -1. The distance of a checkpoint is the
  retain accuracy that it lacks to `min_retain`, which is 0 of a student that has learned, plus the forget
  accuracy that it has above `forget_tolerance`; the least of the trial's checkpoints counts.

So every admissible trial beats every other, and those that are not yet admissible, as all are at the
first rung of a scheduler that stops trials early, still have an order to go by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, StatisticsError, correlation
from typing import Annotated

from annotated_types import Gt, Lt

from rayunlearn.errors import BadInput, nearest
from rayunlearn.fields import check_value
from rayunlearn.scheduling.stopping import CheckpointRecord, StoppingSettings, choose, first_stop


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What became of a trial, by what was recorded of it so far.

    Attributes:
        trial: its id.
        score: to be maximised; below 0 where no checkpoint is admissible.
        step: cycle of the chosen checkpoint; None where none is admissible.
        cycles: of the last checkpoint recorded.
        reason: the stopping rule's, for the choice or for none.
        second: the chosen checkpoint on the second synthetic set, which no decision of the search saw.
    """

    trial: str
    score: float
    step: int | None
    cycles: int
    reason: str
    second: CheckpointRecord | None = None

    def __post_init__(self) -> None:
        """Refuse the second set's record of another checkpoint."""
        if self.second is not None and self.second.step != self.step:
            allowed = f"{self.step}, the chosen one"
            raise BadInput("step of the second set's record", self.second.step, allowed)

    @property
    def admissible(self) -> bool:
        """Whether there is a checkpoint to publish."""
        return self.step is not None

    @property
    def second_score(self) -> float | None:
        """Score of the chosen checkpoint by the second set: the one to report."""
        return None if self.second is None else max(0.0, self.second.score)

    @property
    def gap(self) -> float | None:
        """By how much the search has overfitted its own set: score less the second set's."""
        return None if self.second_score is None else self.score - self.second_score


def trial_result(trial: str, records: Sequence[CheckpointRecord], settings: StoppingSettings) -> TrialResult:
    """The result of a trial's records so far; those after its first stop change only `cycles`.

    Raises:
        BadInput: records out of order, or on sets of different sizes.
    """
    choice = choose(records, settings)
    if choice.step is None:
        stop = first_stop(records, settings)
        judged = records[: stop.records] if stop else records
        score = -1 - min((_distance(record, settings) for record in judged), default=2.0)
    else:
        score = max(0.0, next(record.score for record in records if record.step == choice.step))
    cycles = records[-1].step if records else 0
    return TrialResult(trial=trial, score=score, step=choice.step, cycles=cycles, reason=choice.reason)


def best(results: Sequence[TrialResult]) -> TrialResult | None:
    """The winner: highest score, then the earlier checkpoint, then the first id; None if none is admissible.

    The order of the results does not matter.

    Raises:
        BadInput: an id stands twice.
    """
    ids = [result.trial for result in results]
    if len(set(ids)) < len(ids):
        raise BadInput("ids of the trials", sorted(ids), "each id once")
    admissible = [result for result in results if result.step is not None]
    return min(admissible, key=lambda result: (-result.score, result.step, result.trial), default=None)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points (retain accuracy, forget accuracy) no other beats by keeping more and forgetting more.

    Indices in order of rising forget accuracy; of equal points the first.

    >>> pareto_front([(0.9, 0.0), (0.95, 0.1), (0.9, 0.1), (0.8, 0.0)])
    [0, 1]
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][0], i)):
        if not front or points[index][0] > points[front[-1]][0]:
            front.append(index)
    return front


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """A rank correlation and its interval.

    Attributes:
        rho: None where it is undefined: fewer than two pairs, or a side that is all the same.
        low, high: ends of the interval; None below four pairs, and where |rho| is 1, of which Fisher's
            transform is infinite.
        n: number of pairs.
    """

    rho: float | None
    low: float | None
    high: float | None
    n: int


def spearman(
    synthetic: Mapping[str, float], real: Mapping[str, float], *, confidence: float = 0.95
) -> Correlation:
    """Spearman's rank correlation over the trials that have both scores; ties share their mean rank.

    The interval is Fisher's, with the variance (1 + rho^2 / 2) / (n - 3) of Bonett and Wright (2000,
    "Sample size requirements for estimating Pearson, Kendall and Spearman correlations").

    Args:
        synthetic: trial id -> score.
        real: trial id -> score on real data.
        confidence: that the interval holds the true value, in (0, 1).

    Raises:
        BadInput: a confidence outside (0, 1), or a score that is no finite number.
    """
    check_value("confidence", confidence, Annotated[float, Gt(0), Lt(1)])
    trials = sorted(synthetic.keys() & real.keys())
    for trial in trials:
        for score in (synthetic[trial], real[trial]):
            check_value(f"score of trial {trial}", score, float)
    n = len(trials)
    try:
        rho = correlation(*(_ranks([side[trial] for trial in trials]) for side in (synthetic, real)))
    except StatisticsError:
        return Correlation(rho=None, low=None, high=None, n=n)
    if n < 4 or math.isclose(abs(rho), 1, abs_tol=1e-12):
        return Correlation(rho=rho, low=None, high=None, n=n)
    half = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    centre = math.atanh(rho)
    return Correlation(rho=rho, low=math.tanh(centre - half), high=math.tanh(centre + half), n=n)


def regret(winner: str, real: Mapping[str, float]) -> float:
    """Real score that the search missed: the best trial's less the winner's, 0 at least.

    Raises:
        BadInput: the winner has no real score.
    """
    if winner not in real:
        raise BadInput("winner", winner, nearest(winner, real))
    return max(real.values()) - real[winner]


def _distance(record: CheckpointRecord, settings: StoppingSettings) -> float:
    """How far a checkpoint is from learned and clean, 0 to 2."""
    unlearned = max(0.0, settings.min_retain - record.retain_accuracy)
    return unlearned + max(0.0, record.forget_accuracy - settings.forget_tolerance)


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values have the mean of theirs."""
    return [sum(v < value for v in values) + (1 + sum(v == value for v in values)) / 2 for value in values]
