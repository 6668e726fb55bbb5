"""The benchmark's arithmetic: spreads, pooled counts and the claims it prints."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.digits import (
    BASELINES,
    ORDERS,
    RECIPES,
    REQUESTS,
    SEEDS,
    Digest,
    Spread,
    figures,
    order_of,
    verdicts,
)


def measured(subject: str, measure: str, right: float, count: int, classes: list[int]) -> dict[str, Any]:
    """An audit row."""
    return {
        "subject": subject, "measure": measure, "classes": classes, "sum": right, "count": count,
        "value": right / count, "parameters": "{}",
    }  # fmt: skip


def row(recipe: str, seed: int, position: int, *, unlearned: int = 97, forget: int = 0) -> dict[str, Any]:
    """A request's row as `sequence` gives it: gold at 98 of 100, baselines with a full probe."""
    gone = list(order_of(seed)[:position])
    audit = []
    for subject in ("original", "unlearned", "gold", *BASELINES):
        retain = unlearned if subject == "unlearned" else 98
        known = forget if subject == "unlearned" else 0
        probe = {"unlearned": 62, "gold": 60}.get(subject, 100)
        audit.append(measured(subject, "retain_accuracy", retain, 100, [8]))
        audit.append(measured(subject, "forget_accuracy", known, 50, gone))
        audit.append(measured(subject, "forget_accuracy", known, 20, gone[:1]))
        audit.append(measured(subject, "probe_forget_recall", probe, 100, gone))
        ain = {"unlearned": 0.8, "gold": 1.0}.get(subject, 0.2)
        audit.append({"subject": subject, "measure": "anamnesis_index", "classes": gone, "value": ain})
    for rule, regret in (("synthetic", 0.005), ("last", 0.02), ("fixed", 0.01)):
        parameters = json.dumps({"rule": rule, "oracle_step": 10, "forget_correct": 0})
        audit.append(
            {"subject": "checkpoint", "measure": "regret", "classes": [], "value": regret,
             "parameters": parameters}
        )  # fmt: skip
    return {
        "recipe": recipe, "seed": seed, "request": position, "target": gone[-1], "seconds": 1.0,
        "reason": None, "stop": 8, "audit": audit, "trajectory_end": 32,
    }  # fmt: skip


def all_rows(**changes: Any) -> list[dict[str, Any]]:
    """Every row of a benchmark in which all is well but for the changes."""
    return [row(r, s, p, **changes) for r in RECIPES for s in SEEDS for p in range(1, REQUESTS[r] + 1)]


def test_spread_is_students_interval() -> None:
    """Mean, sample standard deviation and t interval of 1, 2, 3: 2 ± 4.3027 * 1 / sqrt(3)."""
    spread = Spread.of([1.0, 2.0, 3.0])
    assert (spread.mean, spread.std, spread.n) == (2.0, 1.0, 3)
    assert spread.high - spread.mean == pytest.approx(4.302652729911275 / 3**0.5)


def test_both_forget_orders_are_used() -> None:
    """Five seeds cover both orders, which share no class."""
    assert {order_of(s) for s in SEEDS} == set(ORDERS)
    assert not set(ORDERS[0]) & set(ORDERS[1])


def test_pooled_counts_take_the_row_over_all_forgotten_classes() -> None:
    """A class's own row is not pooled beside the one over every class forgotten so far."""
    digest = Digest([row("digits", s, 3, forget=1) for s in SEEDS])
    assert digest.pooled("unlearned", "forget_accuracy") == (5.0, 250)


def test_every_claim_holds_where_all_is_well_and_fails_where_it_is_not() -> None:
    """Each verdict can fail: by a forget image recognised, by a gap, by a request that was refused."""
    assert all(verdicts(figures(all_rows())).values())
    leaked = verdicts(figures(all_rows(forget=1)))
    assert not leaked["forget accuracy 0 after each request"]
    low = verdicts(figures(all_rows(unlearned=93)))
    assert not low["retain within 2 points of gold after the first"]
    assert not low["retain within 4 points of gold after the third"]
    refused = all_rows()
    refused[0] |= {"reason": "gate: no", "audit": []}
    assert not all(verdicts(figures(refused)).values())
