"""What *Few-Shot Unlearning by Model Inversion* says of its tables and figures, held against what was run."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from papers import moons_page as moons
from papers.claims import Check, Claim
from papers.few_shot_figures import CLASSIFIERS
from papers.few_shot_tables import accuracies, durations
from papers.results import Result, name_of, of_row
from papers.rows import Page, Row

OURS = ("few_shot", "few_shot_pretrained")
OTHERS = ("fisher_1", "fisher_2", "eubo", "rkl")

NEAR = 2.0
"""Points of D_r that are no difference to speak of."""
ERASED = 1.0
"""Per cent of D_e up to which a class counts as erased."""
REMEMBERED = 50.0
"""Per cent of D_e from which it counts as remembered."""
DROPPED = 20.0
"""Points of D_r that are a catastrophic drop."""
CORRECTED = 5.0
"""Points by which mislabelled samples may be answered worse than by Oracle and still count as put right."""
FOUND = 95.0
"""Per cent of the class's samples that are all of them, but for some that nobody would take for it."""
MISSED = 10.0
"""Per cent of a class from which a generator counts as not fit for unlearning it."""


def claims(page: Page, results: Sequence[Result]) -> list[Claim]:
    """Every claim about the page that its results can tell of."""
    rows = [row for row in page.rows if of_row(results, row.name)]
    return [claim for check in CHECKS.get(page.name, ()) for claim in check(rows, results)]


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each setup."""
    return [[r for r in rows if r.group == group] for group in dict.fromkeys(r.group for r in rows)]


def _titled(rows: Sequence[Row], *titles: str) -> list[Row]:
    return [row for row in rows if row.title in titles]


def _said(row: Row, results: Sequence[Result]) -> str:
    """A row's accuracies as a claim shows them."""
    retain, forget = accuracies(row, results)
    given = "" if row.title == "oracle" else f" with {row.share:.0%}"
    return f"{name_of(row.title)}{given} {retain:.2f} / {forget:.2f}"


def _unlearned(row: Row, oracle: Row, results: Sequence[Result]) -> bool:
    """Whether a model has unlearned as Oracle has, and kept the rest."""
    (retain, forget), (kept, right) = accuracies(row, results), accuracies(oracle, results)
    erased = forget >= right - CORRECTED if row.wanted_high else forget <= max(ERASED, right + ERASED)
    return erased and retain >= kept - NEAR


def _comparison(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    """Sections 4.2 and 4.3 of every setup on the page."""
    found = []
    for group in _groups(rows):
        where, stem = group[0].group, group[0].name.rpartition("-")[0]
        oracles, ours = _titled(group, "oracle"), _titled(group, *OURS)
        if oracles and ours:
            bound = f"{CORRECTED:g} points of its D_e" if ours[0].wanted_high else f"{ERASED:g} % of D_e"
            found.append(
                Claim(
                    name=f"{stem}-ours",
                    said=f"{where}: Ours and Ours+ unlearn as Oracle does (D_r at most {NEAR:g} points below "
                    f"its own, within {bound}).",
                    found=f"D_r / D_e {'; '.join(_said(row, results) for row in oracles + ours)}",
                    holds=all(_unlearned(row, oracles[0], results) for row in ours),
                )
            )
        found += _few_as_good_as_all(where, stem, ours, results)
        others = _titled(group, *OTHERS)
        if others and not others[0].wanted_high:
            found += _others(where, stem, others, results)
    return found


def _few_as_good_as_all(where: str, stem: str, ours: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    pairs = [(a, b) for a in ours for b in ours if a.title == b.title and a.share > b.share]
    if not pairs:
        return []
    gaps = [abs(accuracies(a, results)[0] - accuracies(b, results)[0]) for a, b in pairs]
    return [
        Claim(
            name=f"{stem}-few",
            said=f"{where}: a few examples do as well as all of them (D_r within {NEAR:g} points).",
            found=", ".join(
                f"{name_of(a.title)} {gap:.2f} apart" for (a, _), gap in zip(pairs, gaps, strict=True)
            ),
            holds=max(gaps) <= NEAR,
        )
    ]


def _others(where: str, stem: str, others: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    """What the paper says of each system that it compares with, of a whole class."""
    said = {
        "eubo": f"EUBO erases the class (at most {ERASED:g} %) and drops D_r (by {DROPPED:g} points)",
        "rkl": f"RKL keeps D_r (within {2 * NEAR:g} points) and most of the class (over {REMEMBERED:g} %)",
        "fisher_1": f"Fisher_1 keeps D_r (within {2 * NEAR:g} points) and the class (over {REMEMBERED:g} %)",
        "fisher_2": f"Fisher_2 erases the class (at most {ERASED:g} %) and drops D_r (by {DROPPED:g} points)",
    }
    found = []
    for title, sentence in said.items():
        if not (own := _titled(others, title)):
            continue
        before = accuracies(own[0], results, "original")[0]
        keeps = title in ("rkl", "fisher_1")
        holds = all(
            retain >= before - 2 * NEAR and forget > REMEMBERED
            if keeps
            else forget <= ERASED and retain <= before - DROPPED
            for retain, forget in (accuracies(row, results) for row in own)
        )
        there = "; ".join(_said(row, results) for row in own)
        found.append(
            Claim(
                name=f"{stem}-{title}", said=f"{where}: {sentence}.",
                found=f"D_r / D_e {there}; original D_r {before:.2f}", holds=holds,
            )
        )  # fmt: skip
    return found


def _t_ent(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    variants = _titled(rows, *(f"t_ent {value}" for value in ("0.282", "0.5", "0.867")))
    if len(variants) < 2:
        return []
    retain = [accuracies(row, results)[0] for row in variants]
    return [
        Claim(
            name="table-3-insensitive",
            said=f"Unlearning is not sensitive to t_ent (D_r within {NEAR:g} points, the class erased).",
            found=f"D_r / D_e {'; '.join(_said(row, results) for row in variants)}",
            holds=max(retain) - min(retain) <= NEAR
            and all(accuracies(row, results)[1] <= ERASED for row in variants),
        )
    ]


def _transfer(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    found = []
    for generator in CLASSIFIERS:
        own = [row for row in rows if row.donor is not None and _model(row.donor) == generator]
        own = [row for row in own if not row.wanted_high and not row.recipe.few_shot.further_iterations]
        if not own:
            continue
        failed = [row for row in own if accuracies(row, results)[1] > MISSED]
        there = f"D_r / D_e {'; '.join(f'{_model(row)}: {_said(row, results)}' for row in own)}"
        said = f"The generator of {generator} unlearns 9 from other classifiers (at most {MISSED:g} % left)."
        if generator == "resnet50":
            said = f"The generator of {generator} fails at 9 for other classifiers (over {MISSED:g} % left)."
        holds = bool(failed) if generator == "resnet50" else not failed
        found.append(Claim(name=f"table-5-{generator}", said=said, found=there, holds=holds))
    return found


def _model(row: Row) -> str:
    """A row's classifier as Table 5 has it."""
    return row.recipe.model.name + ("_2" if row.second else "")


def _losses(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    whole = {row.share: row for row in _titled(rows, "all losses")}
    found = []
    for title in dict.fromkeys(row.title for row in rows if row.title.startswith("without ")):
        pairs = [(row, whole[row.share]) for row in _titled(rows, title) if row.share in whole]
        if not pairs:
            continue
        bad = title == "without batchnorm loss"
        said = f"{title.capitalize()} unlearning does as well (D_r within {NEAR:g} points, the class erased)."
        if bad:
            said = f"{title.capitalize()} unlearning fails (over {REMEMBERED:g} % of the class remain)."
        numbers = [(accuracies(row, results), accuracies(other, results)) for row, other in pairs]
        holds = all(
            own[1] > REMEMBERED if bad else own[0] >= full[0] - NEAR and own[1] <= ERASED
            for own, full in numbers
        )
        there = "; ".join(f"{_said(row, results)}, {_said(other, results)}" for row, other in pairs)
        name = f"table-6-{title.split()[1]}"
        found.append(Claim(name=name, said=said, found=f"D_r / D_e {there}", holds=holds))
    return found


def _kernels(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    own = [row for row in rows if row.title.startswith("kernel ")]
    best = _titled(own, "kernel rbf")
    others = [row for row in own if row.title != "kernel rbf"]
    if not best or not others:
        return []
    there = f"D_r / D_e {'; '.join(_said(row, results) for row in own)}"
    return [
        Claim(
            name="table-7-rbf",
            said="RBF keeps the highest D_r.",
            found=there,
            holds=all(
                accuracies(a, results)[0] >= accuracies(b, results)[0]
                for a in best
                for b in others
                if a.share == b.share
            ),
        ),
        Claim(
            name="table-7-erase",
            said=f"Every kernel erases the class (at most {ERASED:g} %).",
            found=there,
            holds=all(accuracies(row, results)[1] <= ERASED for row in own),
        ),
    ]


def _by_share(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    ours = [row for row in rows if row.recipe.method == "few_shot"]
    eubo = sorted((row for row in rows if row.recipe.method == "eubo"), key=lambda row: row.share)
    found = []
    if ours:
        left = [accuracies(row, results)[1] for row in ours]
        found.append(
            Claim(
                name="figure-5-ours",
                said=f"Ours erases the class whatever the share (at most {ERASED:g} %).",
                found=f"D_r / D_e {'; '.join(_said(row, results) for row in ours)}",
                holds=max(left) <= ERASED,
            )
        )
    if len(eubo) > 1:
        least, most = (accuracies(row, results)[1] for row in (eubo[0], eubo[-1]))
        found.append(
            Claim(
                name="figure-5-eubo",
                said=f"Tuned EUBO fails when the share is small (over {MISSED:g} % of the class remain, and "
                "more than with all of D_e).",
                found=f"D_r / D_e {'; '.join(_said(row, results) for row in eubo)}",
                holds=least > max(MISSED, most),
            )
        )
    return found


def _filtered(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    own = _titled(rows, "all losses")
    if not own:
        return []
    there, like = (sum(result["answered"][i] for result in of_row(results, own[0].name)) for i in (0, 1))
    return [
        Claim(
            name="figure-4-all",
            said=f"All samples of the class are found to be like the examples (at least {FOUND:g} %).",
            found=f"{like} of {there} that the original answers with the class",
            holds=100 * like >= FOUND * there,
        )
    ]


def _time(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    if not rows:
        return []
    of = of_row(results, rows[0].name)
    generator, unlearning = (mean(durations(of, s) or [0.0]) for s in ("generator_seconds", "seconds"))
    return [
        Claim(
            name="figure-7-generator",
            said="Training the generator takes longer than unlearning with it.",
            found=f"{generator:.0f} s and {unlearning:.0f} s",
            holds=generator > unlearning,
        )
    ]


def _fisher(rows: Sequence[Row], results: Sequence[Result]) -> list[Claim]:
    swept, oracles = [row for row in rows if row.recipe.method == "fisher"], _titled(rows, "oracle")
    if not swept or not oracles:
        return []
    (kept, right), points = accuracies(oracles[0], results), [accuracies(row, results) for row in swept]
    return [
        Claim(
            name="figure-8-fisher",
            said=f"No λ brings Fisher to Oracle (D_r within {2 * NEAR:g} points with D_e within {MISSED:g}).",
            found=f"Oracle {kept:.2f} / {right:.2f}; Fisher "
            + "; ".join(f"{retain:.2f} / {forget:.2f}" for retain, forget in points),
            holds=not any(r >= kept - 2 * NEAR and f <= right + MISSED for r, f in points),
        )
    ]


CHECKS: dict[str, tuple[Check, ...]] = {
    **moons.CHECKS,
    "table-2": (_comparison,),
    "table-3": (_t_ent,),
    "table-4": (_comparison,),
    "table-5": (_transfer,),
    "table-6": (_losses,),
    "table-7": (_kernels,),
    "figure-4": (_filtered,),
    "figure-5": (_by_share,),
    "figure-6": (_comparison,),
    "figure-7": (_time,),
    "figure-8": (_fisher,),
}
"""Page -> its claims."""
