"""What *Zero-Shot Machine Unlearning* says of its tables and figures in words, held against what was run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import mean

from papers.claims import Check, Claim
from papers.results import Result, figures_of, of_row, percents_of, spread
from papers.rows import Page, Row
from papers.tables import (
    ATTACKED_SETS,
    best_clean,
    correlations,
    curves_of,
    gap_to_gold,
    gaps,
    of_request,
    printed_gaps,
)

FORGOTTEN = 1.0
"""Per cent of D_f up to which a class counts as forgotten."""
CORRELATED = 0.9
"""Correlation from which synthetic and real progress count as highly correlated."""
NEARLY_ALL = 0.95
"""Share of a set from which an attack calls nearly all of it members."""
NONE_PASSES = 0.01
"""Share of the generator's images that pass the filter, below which it counts as crashed."""


def claims(page: Page, results: Sequence[Result]) -> list[Claim]:
    """Every claim about the page that its results can tell of; the paper speaks of GKT."""
    rows = [row for row in page.rows if row.recipe.method == "gkt" and of_row(results, row.name)]
    return [claim for check in CHECKS.get(page.name, ()) for claim in check(rows, results)]


def _attack_draws_the_class(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    found = []
    for row in rows:
        of = of_row(results, row.name)
        original, gold, own = (
            mean(figures_of(of, subject, "inversion_specific"))
            for subject in ("original", "gold", "unlearned")
        )
        found.append(
            Claim(
                name="figure-3-draws",
                said="Model inversion draws the class from the original, and from GKT's model no more of it "
                "than from Retrain's (`specific` is nearer to Retrain's than to the original's).",
                found=f"original {original:.3f}, Retrain {gold:.3f}, GKT {own:.3f}",
                holds=gold < original and own < (gold + original) / 2,
            )
        )
    return found


def _rises_in_the_end(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    curves = curves_of(rows[0], results) if rows else []
    after = []
    for curve in curves:
        clean = [place for place, point in enumerate(curve) if point["forget"] == 0]
        best = max(clean, key=lambda place: curve[place]["retain"], default=0)
        after.append(100 * max(point["forget"] for point in curve[best:]))
    if not after:
        return []
    return [
        Claim(
            name="figure-4-rises",
            said=f"Once D_r stagnates, D_f begins to rise (above {FORGOTTEN:g} % after the best checkpoint "
            "that has D_f 0).",
            found=f"D_f at most {spread(after)} % from there to cycle {curves[0][-1]['step']}",
            holds=mean(after) > FORGOTTEN,
        )
    ]


def _correlated(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    found = correlations(curves_of(rows[0], results), "retain") if rows else []
    if not found:
        return []
    return [
        Claim(
            name="figure-7-correlation",
            said="Progress on synthetic images is highly correlated with that on real ones (D_r, at least "
            f"{CORRELATED:g} with every seed).",
            found="correlation " + ", ".join(f"{value:.3f}" for value in found),
            holds=min(found) >= CORRELATED,
        )
    ]


def _thresholds(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    rows = sorted(rows, key=lambda row: -row.recipe.gkt.epsilon)
    curves = {row.recipe.gkt.epsilon: curves_of(row, results) for row in rows}
    ends = {e: mean(100 * curve[-1]["forget"] for curve in of) for e, of in curves.items()}
    peaks = {e: mean(100 * max(p["forget"] for p in curve) for curve in of) for e, of in curves.items()}
    passing = {e: mean(curve[-1]["pass_rate"] for curve in of) for e, of in curves.items()}
    best = {e: mean(best_clean(of) or [0.0]) for e, of in curves.items()}
    found = []
    if len(ends) > 1:
        found.append(
            Claim(
                name="figure-5-lower",
                said="The lower the threshold, the less of D_f is learned (at the end, no more than with the "
                "next higher one).",
                found="D_f " + _by_threshold(ends, "%"),
                holds=all(higher >= lower for higher, lower in pairwise(ends.values())),
            )
        )
    if above := {e: peak for e, peak in peaks.items() if e > 0.1}:
        found.append(
            Claim(
                name="figure-5-chance",
                said="A threshold above chance, 0.1, does not stop D_f from being learned (above "
                f"{FORGOTTEN:g} % at some checkpoint).",
                found="highest D_f " + _by_threshold(above, "%"),
                holds=all(peak > FORGOTTEN for peak in above.values()),
            )
        )
    if 0.1 in passing:
        found.append(
            Claim(
                name="figure-5-crash",
                said="With a threshold of 0.1 the generator ends where nothing passes the filter (at most "
                f"{NONE_PASSES:g} of its images).",
                found=f"pass rate at the end {passing[0.1]:.3f}",
                holds=passing[0.1] <= NONE_PASSES,
            )
        )
    low = [value for e, value in best.items() if e <= 0.01]
    high = [value for e, value in best.items() if e > 0.01]
    if low and high:
        found.append(
            Claim(
                name="figure-5-best",
                said="0.001 and 0.01 work best (a higher D_r with D_f 0 than with any higher threshold).",
                found="best D_r with D_f 0 " + _by_threshold(best, "%"),
                holds=min(low) > max(high),
            )
        )
    return found


def _by_threshold(values: dict[float, float], unit: str) -> str:
    return ", ".join(f"{value:.2f} {unit} at {epsilon:g}" for epsilon, value in values.items())


def _losses(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    reached = {row.name: mean(best_clean(curves_of(row, results)) or [0.0]) for row in rows}
    plain = [r for r in rows if not r.recipe.gkt.generator_attention and r.recipe.gkt.divergence == "kl"]
    found = []
    for row in rows if plain else ():
        default = reached[plain[0].name]
        if row is plain[0]:
            continue
        if row.recipe.gkt.generator_attention:
            said = (
                "With the attention difference in the generator's loss the student does not learn (less than "
            )
            said += "half the default's best D_r)."
            holds = reached[row.name] < default / 2
        else:
            said = "Jensen-Shannon in place of Kullback-Leibler makes GKT worse (a lower best D_r)."
            holds = reached[row.name] < default
        there = f"best D_r with D_f 0: {reached[row.name]:.2f} %, with the default {default:.2f} %"
        found.append(Claim(name=row.name, said=said, found=there, holds=holds))
    return found


def _every_class(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    if not rows:
        return []
    here, printed = gaps(rows, results).values(), printed_gaps(rows).values()
    of = [result for row in rows for result in of_row(results, row.name)]
    worst = max(percents_of(of, "unlearned", "forget_accuracy"))
    return [
        Claim(
            name="table-VI-forgets",
            said="GKT's D_f is 0 whichever class is forgotten.",
            found=f"at most {worst:.2f} % over {len(rows)} classes",
            holds=worst == 0,
        ),
        Claim(
            name="table-VI-gap",
            said=f"GKT lacks {mean(printed):.2f} points of Retrain's D_r on average and {max(printed):.2f} "
            "at worst (here no more than that).",
            found=f"{mean(here):.2f} on average, {max(here):.2f} at worst",
            holds=mean(here) <= mean(printed) and max(here) <= max(printed),
        ),
    ]


def _membership(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    found = []
    for row in rows:
        of = of_row(results, row.name)
        shares = {p: mean(figures_of(of, "unlearned", f"entropy_attack_{p}")) for p in ATTACKED_SETS}
        found.append(
            Claim(
                name="table-VII-fails",
                said="The attack fails on GKT's model: it calls every set members "
                f"(at least {NEARLY_ALL:g} of each).",
                found=", ".join(f"{part} {share:.3f}" for part, share in shares.items()),
                holds=min(shares.values()) >= NEARLY_ALL,
            )
        )
        before, after = (mean(figures_of(of, s, "entropy_attack_forget")) for s in ("original", "gold"))
        found.append(
            Claim(
                name="table-VII-retrain",
                said="It calls fewer of the forgotten images members of Retrain's model than of the "
                "original.",
                found=f"{after:.3f} and {before:.3f}",
                holds=after < before,
            )
        )
    return found


def _in_sequence(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    found = []
    for row in rows:
        served = [of_request(of_row(results, row.name), target) for target in row.requests]
        served = [of for of in served if of]  # it may end early
        lacking = [mean(gap_to_gold(of)) for of in served]
        forgets = [mean(percents_of(of, "unlearned", "forget_accuracy")) for of in served]
        found += [
            Claim(
                name="figure-9-forgets",
                said=f"GKT's D_f stays near 0 from request to request (at most {FORGOTTEN:g} %).",
                found="D_f " + ", ".join(f"{value:.2f}" for value in forgets),
                holds=max(forgets) <= FORGOTTEN,
            ),
            Claim(
                name="figure-9-dwindles",
                said="GKT's D_r dwindles after the fourth request (more points short of Retrain than until "
                "then).",
                found="short of Retrain by " + ", ".join(f"{gap:.2f}" for gap in lacking),
                holds=len(lacking) > 4 and mean(lacking[4:]) > mean(lacking[:4]),
            ),
        ]
    return found


CHECKS: dict[str, tuple[Check, ...]] = {
    "figure-3": (_attack_draws_the_class,),
    "figure-4": (_rises_in_the_end, _correlated),
    "figure-5": (_thresholds,),
    "figure-6": (_losses,),
    "figure-9": (_in_sequence,),
    "table-VI": (_every_class,),
    "table-VII": (_membership,),
}
"""Page -> its claims."""
