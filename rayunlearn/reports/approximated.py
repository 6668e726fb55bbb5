"""What the ledger says of D', which a run by examples learns from: its threshold, and what classes gave."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Which samples of D' count as like the examples (few-shot paper, eq. 9 and Fig. 4a).

    Attributes:
        value: t_f, in units of the similarity.
        selected, samples: samples of D' that count as like the examples, of so many.
        by: "knee" of the curve; "midrange" or "none" where that has no knee.
        reason: why it has none; empty for a knee.
        curve: quantiles of the similarity at even shares of the samples, descending.
        raised: labels of which only the most similar samples count.
        most_of_a_label: share of the samples with such a label that count, one at least; None where that
            was not recorded, as in older entries.
        whole_by: what counts where whole classes go (`few_shot.whole_by`); None likewise.
    """

    value: float
    selected: int
    samples: int
    by: str
    reason: str
    curve: tuple[float, ...]
    raised: tuple[int, ...] = ()
    most_of_a_label: float | None = None
    whole_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class ClassYield:
    """What a class gave to D'.

    Attributes:
        label: the class that candidates were made for.
        wanted, found: samples wanted, and accepted.
        judged, budget: candidates judged, and the most that could be.
        entropy_failed, consistency_failed: of those judged; one that fails both counts in both.
        predicted: label -> samples found that the version gives it to.
    """

    label: int
    wanted: int
    found: int
    judged: int
    budget: int
    entropy_failed: int
    consistency_failed: int
    predicted: Mapping[int, int]

    @property
    def short(self) -> bool:
        """Whether it gave fewer than wanted."""
        return self.found < self.wanted


def threshold_of(row: Mapping[str, Any]) -> Threshold:
    """The threshold from its row of the evaluations."""
    told = json.loads(row["parameters"])
    raised = sorted(map(int, told.get("raised", ())))  # none in entries that are older than the rule
    return Threshold(
        value=row["value"],
        selected=round(row["sum"]),
        samples=row["count"],
        by=told["by"],
        reason=told["reason"],
        curve=tuple(told["curve"]),
        raised=tuple(raised),
        most_of_a_label=told.get("most_of_a_label"),
        whole_by=told.get("whole_by"),
    )


def yield_of(row: Mapping[str, Any]) -> ClassYield:
    """What a class gave, from its row of the evaluations."""
    told = json.loads(row["parameters"])
    predicted = {int(label): count for label, count in told["predicted"].items()}  # keys of JSON are text
    return ClassYield(**{**told, "predicted": predicted})
