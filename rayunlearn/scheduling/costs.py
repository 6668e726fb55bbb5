"""Unlearn or retrain: what a run is expected to take and to leave, from the runs before it.

Chundawat et al. ("Zero-Shot Machine Unlearning") find that unlearning one class after the other wears a
model down until, after six or seven of ten, retraining is the better way. Where that point lies is read
here from what earlier runs took and left, by synthetic measures alone. What is decided:

- *Like runs* are runs of the same method under the same recipe. An estimate is the median over those
  `evidence` of them that are nearest in the number of classes forgotten, with all that are equally near;
  so the same number is the best basis, and the next ones up and down stand in for it. Other recipes are
  no basis: another model takes another time.
- *What is bounded* is the accuracy that a lineage has left since it was last trained, the product of what
  each run left of its parent's. The gate bounds a single run's loss; many small ones pass it. Retraining
  begins from the data, so what was lost before does not count against it.
- *No evidence is no evidence against.* Fewer than `evidence` like runs do not rule a method out: the gate
  judges its result, and the estimate is there next time.
- *The cheaper that is good enough.* The first unlearning method in the configured order that is good
  enough, unless retraining is good enough too and is known to be cheaper. Where none is, the one that is
  expected to do best is tried all the same, since a request is to be served and the gate still decides.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from rayunlearn.fields import Checked, Share


@dataclass(frozen=True, kw_only=True)
class PastRun(Checked):
    """What is known of a run that has ended.

    Attributes:
        method: its name.
        recipe: of its lineage: what makes runs alike, as a hash of architecture, data set and settings.
        forgotten: how many classes its result has forgotten, those of earlier runs included.
        seconds: that it took.
        passed: whether stopping rule and gate let it be published.
        kept: its result's accuracy on the gate's synthetic retain images as a share of its parent's, at
            most 1; None where it did not come to the gate.
    """

    method: str
    recipe: str
    forgotten: NonNegativeInt
    seconds: NonNegativeFloat
    passed: bool
    kept: Share | None


@dataclass(frozen=True, kw_only=True)
class CostSettings(Checked, section="plan.costs"):
    """When a method is good enough, and what stands in for a missing estimate.

    Attributes:
        min_kept: least share of its accuracy that a lineage may be expected to have left, since it was
            last trained.
        min_passed: least share of like runs that were published.
        evidence: so many like runs make an estimate that may rule a method out.
        default_s: seconds that a run is taken for where no like run tells.
    """

    min_kept: Share = 0.8
    min_passed: Share = 0.5
    evidence: PositiveInt = 3
    default_s: NonNegativeFloat = 3600.0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the next run of a method is expected to take and to leave.

    Attributes:
        seconds: median.
        kept: median share of the parent's accuracy; None where no like run came to the gate.
        passed: how many like runs were published ...
        runs: ... of so many, ...
        least: ... which had forgotten at least so many classes ...
        most: ... and at most so many.
    """

    seconds: float
    kept: float | None
    passed: int
    runs: int
    least: int
    most: int


@dataclass(frozen=True, kw_only=True)
class Option:
    """A method that could be used.

    Attributes:
        method: its name.
        estimate: None where there is no like run.
        kept: share of its accuracy that the lineage is expected to have left after it; None if unknown.
        good_enough: whether nothing known speaks against it.
    """

    method: str
    estimate: Estimate | None
    kept: float | None
    good_enough: bool

    def __str__(self) -> str:
        """What is known of it, as a clause."""
        if self.estimate is None:
            return f"{self.method} has no like run to go by"
        e = self.estimate
        left = "an unknown share" if self.kept is None else f"{100 * self.kept:.1f} %"
        classes = f"{e.least}" if e.least == e.most else f"{e.least} to {e.most}"
        basis = f"median of {e.runs} like runs with {classes} classes forgotten, {e.passed} published"
        return f"{self.method} takes {duration(e.seconds)} and leaves {left} of the accuracy ({basis})"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The method of a run.

    Attributes:
        method: its name.
        seconds: that it is expected to take.
        kept: share of its accuracy that the lineage is expected to have left after it; as before it where
            nothing is known.
        rule: why this one, in a clause.
        options: what it was chosen from, in order.
    """

    method: str
    seconds: float
    kept: float
    rule: str
    options: tuple[Option, ...]

    @property
    def why(self) -> str:
        """The reason with its figures, as a sentence for the ledger."""
        return f"{self.method}: {self.rule} ({'; '.join(map(str, self.options))})."


class Costs:
    """Estimates from past runs, whatever the order they come in.

    Args:
        history: runs that have ended.
        settings: bounds and fallbacks.
        retrain: the name of retraining, which no wear of the lineage counts against; None if there is none.
    """

    def __init__(self, history: Iterable[PastRun], settings: CostSettings, retrain: str | None) -> None:
        self.settings = settings
        self.retrain = retrain
        runs: dict[tuple[str, str], dict[int, list[PastRun]]] = {}
        for run in history:
            runs.setdefault((run.method, run.recipe), {}).setdefault(run.forgotten, []).append(run)
        self._runs = {key: dict(sorted(by_number.items())) for key, by_number in runs.items()}
        self._numbers = {key: list(by_number) for key, by_number in self._runs.items()}
        self._estimates: dict[tuple[str, str, int], Estimate | None] = {}
        self._choices: dict[tuple[tuple[str, ...], str, int, float], Choice] = {}

    def estimate(self, method: str, recipe: str, forgotten: int) -> Estimate | None:
        """What a run is expected to take and leave whose result has forgotten so many classes.

        >>> runs = [
        ...     PastRun(method="gkt", recipe="r", forgotten=n, seconds=s, passed=True, kept=0.9)
        ...     for n, s in ((1, 10.0), (2, 20.0), (3, 90.0), (5, 50.0))
        ... ]
        >>> estimate = Costs(runs, CostSettings(evidence=3), None).estimate("gkt", "r", 2)
        >>> estimate.seconds, estimate.least, estimate.most
        (20.0, 1, 3)
        """
        key = method, recipe, forgotten
        if key not in self._estimates:
            self._estimates[key] = _pooled(self._nearest(method, recipe, forgotten))
        return self._estimates[key]

    def choose(self, methods: tuple[str, ...], recipe: str, forgotten: int, kept: float) -> Choice:
        """The method of a run.

        Args:
            methods: that it may use, at least one, in the order of preference; retraining anywhere.
            recipe: of the lineage.
            forgotten: how many classes are forgotten once the run is done.
            kept: share of its accuracy that the lineage has left now.
        """
        key = methods, recipe, forgotten, kept
        if key not in self._choices:
            self._choices[key] = self._choose(*key)
        return self._choices[key]

    def _choose(self, methods: tuple[str, ...], recipe: str, forgotten: int, kept: float) -> Choice:
        options = tuple(self._option(method, recipe, forgotten, kept) for method in methods)
        good = [option for option in options if option.good_enough]
        unlearning = next((option for option in good if option.method != self.retrain), None)
        retraining = next((option for option in good if option.method == self.retrain), None)
        if unlearning and retraining and _cheaper(retraining, unlearning):
            chosen, rule = retraining, "it is good enough and cheaper than unlearning"
        elif unlearning:
            chosen, rule = unlearning, self._rule(unlearning, options)
        elif retraining:
            chosen, rule = retraining, self._rule(retraining, options)
        else:
            chosen = max(options, key=_promise)  # the first of equals
            rule = "no method that may be used is expected to be good enough; it does best, the gate decides"
        seconds = chosen.estimate.seconds if chosen.estimate else self.settings.default_s
        left = chosen.kept if chosen.kept is not None else self._before(chosen.method, kept)
        return Choice(method=chosen.method, seconds=seconds, kept=left, rule=rule, options=options)

    def _nearest(self, method: str, recipe: str, forgotten: int) -> list[PastRun]:
        by_number = self._runs.get((method, recipe), {})
        numbers = self._numbers.get((method, recipe), [])
        above = bisect_left(numbers, forgotten)
        below = above - 1
        pooled: list[PastRun] = []
        while len(pooled) < self.settings.evidence and (below >= 0 or above < len(numbers)):
            down = forgotten - numbers[below] if below >= 0 else math.inf
            up = numbers[above] - forgotten if above < len(numbers) else math.inf
            if down <= up:
                pooled += by_number[numbers[below]]
                below -= 1
            if up <= down:
                pooled += by_number[numbers[above]]
                above += 1
        return pooled

    def _option(self, method: str, recipe: str, forgotten: int, kept: float) -> Option:
        estimate = self.estimate(method, recipe, forgotten)
        if estimate is None:
            return Option(method=method, estimate=None, kept=None, good_enough=True)
        after = None if estimate.kept is None else self._before(method, kept) * estimate.kept
        bad = estimate.passed < self.settings.min_passed * estimate.runs
        bad = bad or after is not None and after < self.settings.min_kept
        good_enough = estimate.runs < self.settings.evidence or not bad
        return Option(method=method, estimate=estimate, kept=after, good_enough=good_enough)

    def _before(self, method: str, kept: float) -> float:
        """The share of its accuracy that a lineage brings to a run: retraining begins from the data."""
        return 1.0 if method == self.retrain else kept

    def _rule(self, chosen: Option, options: Sequence[Option]) -> str:
        before = options[: options.index(chosen)]
        if len(options) == 1:
            return "the only one that may be used"
        if before:
            left, published = 100 * self.settings.min_kept, 100 * self.settings.min_passed
            return f"the first not known to fall short of {left:g} % left or {published:g} % published"
        if options[-1].method == self.retrain and options[-1].good_enough:
            return "the first in order, and retraining is not known to be cheaper"
        return "the first in order"


def duration(seconds: float) -> str:
    """Seconds as a reader takes them in.

    >>> duration(42), duration(600), duration(9000), duration(400_000)
    ('42 s', '10.0 min', '2.5 h', '4.6 days')
    """
    for unit, size in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _pooled(runs: Sequence[PastRun]) -> Estimate | None:
    if not runs:
        return None
    kept = [run.kept for run in runs if run.kept is not None]
    return Estimate(
        seconds=median(run.seconds for run in runs),
        kept=median(kept) if kept else None,
        passed=sum(run.passed for run in runs),
        runs=len(runs),
        least=min(run.forgotten for run in runs),
        most=max(run.forgotten for run in runs),
    )


def _cheaper(a: Option, b: Option) -> bool:
    """Whether one is known to take less time than the other."""
    return bool(a.estimate and b.estimate and a.estimate.seconds < b.estimate.seconds)


def _promise(option: Option) -> tuple[float, float]:
    """What an option that falls short is ranked by: share published, then accuracy left."""
    assert option.estimate is not None, "what is not known does not fall short"
    return option.estimate.passed / option.estimate.runs, option.kept or 0.0
