"""What a sweep may spend: trials, CPU-hours, GPU-hours or time on the clock.

The clock is the caller's; here is the arithmetic.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from pydantic import NonNegativeFloat, NonNegativeInt

from rayunlearn.errors import BadInput
from rayunlearn.fields import Checked

UNITS = {
    "trial": ("trials", 1.0),
    "cpu-hour": ("cpu_s", 3600.0),
    "gpu-hour": ("gpu_s", 3600.0),
    "second": ("wall_s", 1.0),
    "minute": ("wall_s", 60.0),
    "hour": ("wall_s", 3600.0),
}
"""Unit as written, in the singular -> what of `Spent` it bounds, and how much of it."""

_BUDGET = re.compile(r"\s*([\d.]+(?:e[+-]?\d+)?)\s*([a-z-]+)\s*")
_ALLOWED = "a number above 0 and a unit: '16 trials', '2 cpu-hours', '1 gpu-hour', '30 minutes', '2 hours'"


@dataclass(frozen=True, kw_only=True)
class Spent(Checked, section="spent"):
    """What a sweep has spent.

    Attributes:
        trials: begun so far.
        cpu_s: seconds times the CPUs reserved meanwhile, over all trials.
        gpu_s: the same of GPUs.
        wall_s: seconds since the first trial began; trials that run side by side share them.
    """

    trials: NonNegativeInt = 0
    cpu_s: NonNegativeFloat = 0.0
    gpu_s: NonNegativeFloat = 0.0
    wall_s: NonNegativeFloat = 0.0

    def and_trial(self, seconds: float, *, cpus: float, gpus: float) -> Spent:
        """With one more trial, which held so many CPUs and GPUs for so many seconds."""
        return replace(
            self,
            trials=self.trials + 1,
            cpu_s=self.cpu_s + cpus * seconds,
            gpu_s=self.gpu_s + gpus * seconds,
        )


@dataclass(frozen=True)
class Budget:
    """The most that a sweep may spend of one thing.

    Attributes:
        of: "trials", "cpu_s", "gpu_s" or "wall_s", the fields of `Spent`.
        amount: of it.
    """

    of: str
    amount: float

    def __post_init__(self) -> None:
        """Refuse a budget of nothing, of no end, or of half a trial."""
        bounded = {of for of, _ in UNITS.values()}
        if self.of not in bounded:
            raise BadInput("budget", self.of, ", ".join(sorted(bounded)))
        if not 0 < self.amount < math.inf or self.of == "trials" and self.amount % 1:
            raise BadInput("--budget", self.amount, "a number above 0, a whole one of trials")

    def left(self, spent: Spent) -> float:
        """What is left, 0 at least: trials still to begin, or seconds.

        >>> parse_budget("2 cpu-hours").left(Spent().and_trial(600, cpus=3, gpus=0))
        5400.0
        """
        return max(0.0, self.amount - getattr(spent, self.of))

    def is_spent(self, spent: Spent) -> bool:
        """Whether no further trial may begin."""
        return self.left(spent) == 0


def parse_budget(text: str) -> Budget:
    """A budget from text: "16 trials", "2 cpu-hours", "0.5 gpu-hours", "30 minutes".

    Raises:
        BadInput: no number, an unknown unit, nothing, or a part of a trial.

    >>> parse_budget("30 minutes")
    Budget(of='wall_s', amount=1800.0)
    """
    found = _BUDGET.fullmatch(text.lower())
    unit = found[2].removesuffix("s") if found else ""
    if not found or unit not in UNITS:
        raise BadInput("--budget", text, _ALLOWED)
    of, each = UNITS[unit]
    try:
        return Budget(of, float(found[1]) * each)
    except ValueError as error:  # of the number, or of the budget itself: BadInput is one too
        raise BadInput("--budget", text, _ALLOWED + "; whole trials") from error
