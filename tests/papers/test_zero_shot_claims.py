"""The paper's claims, each with results that hold it and results that do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from papers.claims import Claim
from papers.rows import Row
from papers.zero_shot import FIGURES, TABLES, page
from papers.zero_shot_claims import CHECKS, claims

PAGES = [page("table", n, "cpu") for n in TABLES] + [page("figure", n, "cpu") for n in FIGURES]
GKT = "gkt"


def result(row: Row, target: tuple[int, ...], **measured: Any) -> dict[str, Any]:
    """A result; `measured` is subject__measure -> value, or the curve."""
    curve = measured.pop("curve", [])
    figures = [
        {"subject": name.partition("__")[0], "measure": name.partition("__")[2], "classes": (0,),
         "split": "test", "value": value}
        for name, value in measured.items()
    ]  # fmt: skip
    return {"row": row.name, "seed": 0, "target": target, "figures": figures, "curve": curve}


def curve(*points: tuple[float, float], passing: float = 0.5, synthetic: float = 1.0) -> list[dict[str, Any]]:
    """D_r and D_f at each checkpoint; synthetic D_r is real D_r times `synthetic`."""
    return [
        {"step": 10 * i, "retain": r, "forget": f, "synthetic_retain": synthetic * r, "synthetic_forget": f,
         "pass_rate": passing}
        for i, (r, f) in enumerate(points, start=1)
    ]  # fmt: skip


def checked(
    kind: str, number: str, measured: Callable[[Row, tuple[int, ...]], dict[str, Any] | None]
) -> list[Claim]:
    """The claims of a page of which each row and request measured this; None: it was not served."""
    wanted = page(kind, number, "cpu")
    found = [(row, t, measured(row, t)) for row in wanted.rows for t in row.requests]
    return claims(wanted, [result(row, t, **own) for row, t, own in found if own is not None])


def held(found: list[Claim]) -> dict[str, bool]:
    """Name -> whether it holds; names are unique."""
    assert len({claim.name for claim in found}) == len(found)
    return {claim.name: claim.holds for claim in found}


def test_every_claim_is_of_a_page_and_waits_for_results() -> None:
    """Names in the table are pages' names; without results nothing is claimed."""
    assert set(CHECKS) <= {p.name for p in PAGES}
    assert not any(claims(p, []) for p in PAGES)


@pytest.mark.parametrize(("own", "holds"), [(0.1, True), (0.4, False), (-0.4, True)])
def test_inversion(own: float, holds: bool) -> None:
    """GKT's score nearer to Retrain's 0 than to the original's 0.5, or below both."""
    found = checked("figure", "3", lambda row, t: {
        "original__inversion_specific": 0.5, "gold__inversion_specific": 0.0,
        "unlearned__inversion_specific": own if row.recipe.method == GKT else 9.0,
    })  # fmt: skip
    assert held(found) == {"figure-3-draws": holds}


@pytest.mark.parametrize(
    ("points", "synthetic", "rises", "correlated"),
    [([(0.2, 0.0), (0.9, 0.0), (0.8, 0.3)], 1.0, True, True),
     ([(0.2, 0.5), (0.9, 0.0), (0.8, 0.0)], -1.0, False, False)],
)  # fmt: skip
def test_progress(points: list[tuple[float, float]], synthetic: float, rises: bool, correlated: bool) -> None:
    """D_f counts after the best checkpoint with D_f 0 alone; curves that part do not correlate."""
    found = checked("figure", "4", lambda row, t: {"curve": curve(*points, synthetic=synthetic)})
    assert held(found) == {"figure-4-rises": rises, "figure-7-correlation": correlated}


def test_thresholds() -> None:
    """All four claims hold of what the paper shows, and none of the reverse."""
    ends = {0.5: 0.4, 0.1: 0.1, 0.01: 0.0, 0.001: 0.0}

    def as_printed(row: Row, target: tuple[int, ...]) -> dict[str, Any]:
        epsilon = row.recipe.gkt.epsilon
        clean = 0.9 if epsilon < 0.1 else 0.5
        return {"curve": curve((clean, 0.0), (0.9, ends[epsilon]), passing=0.0 if epsilon == 0.1 else 0.5)}

    def reverse(row: Row, target: tuple[int, ...]) -> dict[str, Any]:
        epsilon = row.recipe.gkt.epsilon
        return {"curve": curve((0.5 + epsilon / 2, 0.0), (0.9, 0.0 if epsilon > 0.01 else 0.2))}

    for measured, holds in ((as_printed, True), (reverse, False)):
        found = held(checked("figure", "5", measured))
        assert found == dict.fromkeys([f"figure-5-{n}" for n in ("lower", "chance", "crash", "best")], holds)


@pytest.mark.parametrize(("attention", "js", "holds"), [(0.2, 0.7, True), (0.7, 0.9, False)])
def test_losses(attention: float, js: float, holds: bool) -> None:
    """Attention in the generator's loss: less than half of the default's 0.9; JS: less than that."""

    def measured(row: Row, target: tuple[int, ...]) -> dict[str, Any]:
        gkt = row.recipe.gkt
        reached = attention if gkt.generator_attention else js if gkt.divergence == "js" else 0.9
        return {"curve": curve((reached, 0.0), (1.0, 0.1))}

    assert list(held(checked("figure", "6", measured)).values()) == [holds, holds]


@pytest.mark.parametrize(("short", "forgets", "holds"), [(4.0, 0.0, True), (20.0, 0.02, False)])
def test_every_class(short: float, forgets: float, holds: bool) -> None:
    """Gaps no wider than 5.22 on average and 10.63 at worst; D_f 0 for each class."""
    found = checked("table", "VI", lambda row, t: {
        "gold__retain_accuracy": 0.9, "unlearned__retain_accuracy": 0.9 - short / 100,
        "unlearned__forget_accuracy": forgets if t == (9,) and row.recipe.method == GKT else 0.0,
    })  # fmt: skip
    assert held(found) == {"table-VI-forgets": holds, "table-VI-gap": holds}
    assert f"{short:.2f} on average" in found[1].found and "5.22 points" in found[1].said


@pytest.mark.parametrize(("test", "gold", "holds"), [(1.0, 0.4, True), (0.6, 1.0, False)])
def test_membership(test: float, gold: float, holds: bool) -> None:
    """One set that is told apart is enough; Retrain's forgotten images against the original's 0.99."""
    shares = {f"unlearned__entropy_attack_{part}": 1.0 for part in ("train", "retain", "forget")}
    found = checked("table", "VII", lambda row, t: {
        **shares, "unlearned__entropy_attack_test": test, "original__entropy_attack_forget": 0.99,
        "gold__entropy_attack_forget": gold,
    })  # fmt: skip
    assert held(found) == {"table-VII-fails": holds, "table-VII-retrain": holds}


@pytest.mark.parametrize(("late", "forgets", "holds"), [(0.7, 0.0, True), (0.95, 0.05, False)])
def test_sequence(late: float, forgets: float, holds: bool) -> None:
    """The first four requests reach 0.9 where Retrain has 1; after them less, or more."""
    early = ((0,), (2,), (3,), (4,))
    found = checked("figure", "9", lambda row, t: {
        "gold__retain_accuracy": 1.0, "unlearned__retain_accuracy": 0.9 if t in early else late,
        "unlearned__forget_accuracy": 0.0 if t in early else forgets,
    })  # fmt: skip
    assert held(found) == {"figure-9-forgets": holds, "figure-9-dwindles": holds}


def test_a_sequence_that_ended_early_has_not_dwindled() -> None:
    """Of what was served D_f is judged; there is nothing after the fourth request to compare."""
    of = {"gold__retain_accuracy": 1.0, "unlearned__retain_accuracy": 0.9, "unlearned__forget_accuracy": 0.0}
    found = checked("figure", "9", lambda row, t: of if t == (0,) else None)
    assert held(found) == {"figure-9-forgets": True, "figure-9-dwindles": False}
