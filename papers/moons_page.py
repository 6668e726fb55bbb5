"""The few-shot paper's moons example: Table 1, Fig. 2 and Fig. 3, what is claimed and what falls short.

A result is a seed's file, as `papers.moons_run` keeps it: `rows` of `papers.moons.run_moons`
beside seed, settings, seconds and machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from statistics import mean

from papers.claims import Check, Claim
from papers.few_shot_figures import MOONS, MOONS_LAMBDA, MOONS_RHO
from papers.results import Result, difference, name_of, number, spread
from papers.rows import Page, Row
from papers.tables import table

MEASURES = {"": "all data points", "_erased": "points of D_e"}
"""End of a measure's name -> what it is the mean over."""

DRAWN = (("ours", None), ("eubo", MOONS_LAMBDA), ("rkl", MOONS_LAMBDA))
"""Systems of Fig. 3, with their lambda."""

ALMOST = 0.1
"""Share of the original's divergence from the oracle up to which a divergence counts as almost zero."""
APART = 0.05
"""Nats by which a divergence from the oracle may be off the paper's figure."""


def shown(page: Page, results: Sequence[Result]) -> str:
    """The page's table with the settings that the paper leaves out; nothing where nothing was run."""
    if not results:
        return ""
    settings = ", ".join(f"`{name}` {value}" for name, value in results[0]["settings"].items())
    drawn = _by_share(results) if page.name == "figure-3" else _at_a_quarter(results)
    return f"{drawn}\nSettings that the paper leaves out: {settings}.\n"


def values(
    results: Sequence[Result], method: str, measure: str, rho: float | None, value: float | None
) -> list[float]:
    """A measure of one system, a figure a seed."""
    wanted = (method, rho, value)
    return [
        row[measure]
        for result in results
        for row in result["rows"]
        if (row["method"], row["rho"], row["lambda"]) == wanted
    ]


def _at_a_quarter(results: Sequence[Result]) -> str:
    """Table 1: divergences from original and oracle, over all points and over D_e, beside the paper's."""
    head = ["system", "λ"]
    for reference in ("original", "oracle"):
        head += [f"{reference}: paper", "all points", "diff.", "D_e", "diff."]
    lines = [_line(results, "original", None, None)]
    lines += [_line(results, method, MOONS_RHO, value) for method, value in MOONS]
    return table([*head, "seeds"], lines, left=2)


def _line(results: Sequence[Result], method: str, rho: float | None, value: float | None) -> list[str]:
    cells = [name_of(method), "" if value is None else _power(value)]
    for reference, paper in zip(
        ("original", "oracle"), MOONS.get((method, value), (None, None)), strict=True
    ):
        cells.append(number(paper, 3))
        for end in MEASURES:
            found = values(results, method, f"vs_{reference}{end}", rho, value)
            cells += [spread(found, 3), difference(found, paper, 3)]
    return [*cells, str(len(found))]


def _by_share(results: Sequence[Result]) -> str:
    """Fig. 3 in figures: divergence from the oracle by the share of D_e that is given."""
    rhos = shares(results)
    lines = []
    for end, over in MEASURES.items():
        for method, value in DRAWN:
            found = [values(results, method, f"vs_oracle{end}", rho, value) for rho in rhos]
            lines.append([name_of(method), over, *(spread(of, 3) for of in found)])
    return table(["system", "mean over", *(f"ρ = {rho:g}" for rho in rhos)], lines, left=2)


def shares(results: Sequence[Result]) -> list[float]:
    """Shares of D_e that were given, ascending."""
    return sorted({row["rho"] for result in results for row in result["rows"] if row["rho"] is not None})


def _power(value: float) -> str:
    """A lambda: 0 or a power of ten.

    >>> _power(1e-5), _power(0.0)
    ('1e-5', '0')
    """
    return "0" if value == 0 else f"{value:.0e}".replace("e-0", "e-")


def _near_the_oracle(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    """Table 1's two claims of ours, and the one of the others."""
    if not results:
        return []
    own = values(results, "ours", "vs_oracle", MOONS_RHO, None)
    others, stay = (
        {
            (method, value): mean(values(results, method, f"vs_{reference}", MOONS_RHO, value))
            for method, value in MOONS
            if value is not None
        }
        for reference in ("oracle", "original")
    )
    bound = MOONS["ours", None][1]
    return [
        Claim(
            name="moons-ours",
            said=f"Ours from a quarter of D_e is all but the oracle (KL divergence at most {bound}, over all "
            "data points).",
            found=f"{spread(own, 3)} nats, on each seed {', '.join(number(value, 3) for value in own)}",
            holds=mean(own) <= bound,
        ),
        Claim(
            name="moons-others",
            said="EUBO and RKL from a quarter of D_e are farther from the oracle than ours, whatever λ.",
            found=f"ours {mean(own):.3f} nats, EUBO and RKL {_range(others.values())}",
            holds=mean(own) < min(others.values()),
        ),
        Claim(
            name="moons-stay",
            said="EUBO and RKL from a quarter of D_e stay nearer to the original than to the oracle.",
            found=f"{_range(stay.values())} from the original, {_range(others.values())} from the oracle",
            holds=all(stay[key] < others[key] for key in others),
        ),
    ]


def _succeeds_with_all(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    """What Fig. 2 is said to show."""
    if not results:
        return []
    start = mean(values(results, "original", "vs_oracle", None, None))
    whole, part = (mean(values(results, "eubo", "vs_oracle", rho, MOONS_LAMBDA)) for rho in (1.0, MOONS_RHO))
    return [
        Claim(
            name="moons-eubo",
            said=f"EUBO is as successful as the oracle with all of D_e (at most {ALMOST:g} of the original's "
            "divergence from it) and fails with a quarter (more than half of it).",
            found=f"original {start:.3f} nats, EUBO {whole:.3f} with all, {part:.3f} with a quarter",
            holds=whole <= ALMOST * start and part > start / 2,
        )
    ]


def _by_share_claims(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    """What Fig. 3 is said to show."""
    if not results:
        return []
    start = mean(values(results, "original", "vs_oracle", None, None))
    rhos = shares(results)
    curves = {
        method: [mean(values(results, method, "vs_oracle", rho, value)) for rho in rhos]
        for method, value in DRAWN
    }
    said = {method: ", ".join(f"{value:.3f}" for value in curve) for method, curve in curves.items()}
    given = ", ".join(f"{rho:g}" for rho in rhos)
    return [
        Claim(
            name="moons-whatever-share",
            said=f"Ours is almost at the oracle whatever the share (at most {ALMOST:g} of the original's "
            "divergence).",
            found=f"original {start:.3f} nats; ours {said['ours']} with {given}",
            holds=max(curves["ours"]) <= ALMOST * start,
        ),
        *(
            Claim(
                name=f"moons-{method}-share",
                said=f"{name_of(method)}'s gap to the oracle grows as the share falls, from almost zero with "
                f"all of D_e (at most {ALMOST:g} of the original's divergence).",
                found=f"{said[method]} nats with {given}",
                holds=all(fewer >= more for fewer, more in pairwise(curves[method]))
                and curves[method][-1] <= ALMOST * start,
            )
            for method in ("eubo", "rkl")
        ),
    ]


CHECKS: dict[str, tuple[Check, ...]] = {
    "table-1": (_near_the_oracle,),
    "figure-2": (_succeeds_with_all,),
    "figure-3": (_by_share_claims,),
}
"""Page -> its claims."""


def off_the_paper(results: Sequence[Result]) -> Iterator[tuple[str, str]]:
    """Table 1's systems that are more than `APART` off the paper at any lambda, and ours and theirs."""
    for method in dict.fromkeys(method for method, _ in MOONS):
        pairs = [
            (value, mean(values(results, method, "vs_oracle", MOONS_RHO, value)), paper)
            for (of, value), (_, paper) in MOONS.items()
            if of == method
        ]
        if any(abs(here - paper) > APART for _, here, paper in pairs):
            cells = (
                f"{here:.3f}, the paper's {paper:.3f}" + ("" if value is None else f" (λ {_power(value)})")
                for value, here, paper in pairs
            )
            yield method, "; ".join(cells)


def _range(found: Iterable[float]) -> str:
    """The least and the most of some divergences."""
    ordered = sorted(found)
    return f"{ordered[0]:.3f} to {ordered[-1]:.3f}"
