"""The moons example's pages, from made-up results."""

from __future__ import annotations

from typing import Any

import pytest

from papers.few_shot import FIGURES, TABLES, page
from papers.few_shot_claims import claims
from papers.few_shot_figures import MOONS
from papers.markdown import render
from papers.rows import Page

MACHINE = {"cpu": "c", "gpytorch": "1"}
RHOS = (0.25, 1.0)


def row(method: str, rho: float | None, value: float | None, oracle: float, original: float = 0.01) -> dict:
    """A row of `run_moons`; over D_e everything is five times as much."""
    measured = {"vs_oracle": oracle, "vs_original": original}
    erased = {f"{name}_erased": 5 * found for name, found in measured.items()}
    return {"method": method, "rho": rho, "lambda": value, **measured, **erased}


def result(seed: int, ours: float, others: tuple[float, float], original: float = 0.1) -> dict[str, Any]:
    """A seed: our divergence at both shares, and the others' at a quarter and at all of D_e."""
    rows = [row("original", None, None, original, 0.0)]
    for rho, other in zip(RHOS, others, strict=True):
        rows.append(row("ours", rho, None, ours, 0.3))
        rows += [row(m, rho, value, other) for m, value in MOONS if value is not None]
    return {
        "seed": seed, "seconds": 60.0, "machine": MACHINE, "settings": {"moons.samples": 7}, "rows": rows
    }  # fmt: skip


GOOD = [result(0, 0.008, (0.09, 0.009)), result(1, 0.010, (0.09, 0.009))]
BAD = [result(0, 0.2, (0.005, 0.05))]


def shown(number: str) -> Page:
    """Table 1, or a figure."""
    return page("table" if number == "1" else "figure", number, "cpu")


def cells(text: str, *begins: str) -> list[str]:
    """The cells of the line that begins with these."""
    start = "| " + " | ".join(begins) + " |"
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table_one_has_both_averages_beside_the_papers_figure() -> None:
    """Paper, mean over all points with its difference, the same over D_e; of the original no figure."""
    text = render(shown("1"), GOOD, {})
    assert cells(text, "Ours", "") == [
        "Ours", "", "0.306", "0.300 ± 0.000", "-0.006", "1.500 ± 0.000", "+1.194",
        "0.015", "0.009 ± 0.001", "-0.006", "0.045 ± 0.007", "+0.030", "2",
    ]  # fmt: skip
    assert cells(text, "EUBO", "1e-5")[7:10] == ["0.394", "0.090 ± 0.000", "-0.304"]
    assert cells(text, "RKL", "0")[7] == "0.304"
    assert cells(text, "original", "")[2:5] == ["", "0.000 ± 0.000", ""]
    assert "Settings that the paper leaves out: `moons.samples` 7.\n" in text


def test_runs_are_named() -> None:
    """Seeds, wall time with training, machine and versions."""
    text = render(shown("1"), GOOD, {})
    assert "Seeds 0, 1;" in text and "training included: 2.0 min in 2 runs" in text
    assert "- 2 on cpu c, gpytorch 1, instruction set not recorded\n" in text


def test_figure_three_goes_by_share() -> None:
    """A line a system and average, a column a share."""
    text = render(shown("3"), GOOD, {}, picture="p.png")
    assert "| system | mean over | ρ = 0.25 | ρ = 1 |" in text and "](p.png)" in text
    assert cells(text, "EUBO", "all data points")[2:] == ["0.090 ± 0.000", "0.009 ± 0.000"]
    assert cells(text, "Ours", "points of D_e")[2:] == ["0.045 ± 0.007", "0.045 ± 0.007"]


@pytest.mark.parametrize("number", ["1", "2", "3"])
def test_claims_hold_of_what_the_paper_shows_and_of_nothing_else(number: str) -> None:
    """All of them with the paper's kind of result, none with the reverse, and none without a result."""
    assert {claim.holds for claim in claims(shown(number), GOOD)} == {True}
    assert {claim.holds for claim in claims(shown(number), BAD)} == {False}
    assert claims(shown(number), []) == []


def test_what_falls_short_is_listed() -> None:
    """Systems off the paper's figures, each with every lambda; claims that fail; a reason for each."""
    text = render(shown("1"), GOOD, {})
    after = text.partition("## What did not reproduce, and why\n")[2]
    assert "**EUBO, divergence" in after and "**RKL, divergence" in after and "**Ours, div" not in after
    assert "0.090, the paper's 0.394 (λ 1e-5); 0.090, the paper's 0.313 (λ 1e-9)" in after
    assert "not explained" not in after
    assert (
        "Ours from a quarter of D_e is all but the oracle"
        in render(shown("1"), BAD, {}).partition("## What did not reproduce")[2]
    )


def test_without_a_result_the_page_says_so() -> None:
    """No table, no settings, no claims."""
    text = render(shown("1"), [], {})
    assert "Nothing was run yet." in text and "|" not in text


def test_table_one_is_a_number_of_the_few_shot_paper() -> None:
    """Tables and figures by the paper's numbers; the moons need no rows."""
    assert "1" in TABLES and {"2", "3"} <= set(FIGURES)
    assert all(shown(number).rows == () and shown(number).form == "moons" for number in "123")
