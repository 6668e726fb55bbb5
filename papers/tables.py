"""The tables of a page, one function for each form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import correlation, mean

from papers.results import (
    Result,
    difference,
    figures_of,
    name_of,
    number,
    of_row,
    percents_of,
    spread,
    values_of,
)
from papers.rows import Printed, Row
from papers.zero_shot_figures import TABLE_SEVEN, TABLE_THREE
from rayunlearn.methods.catalogue import table_three

SUBJECTS = ("original", "gold", "mask_logit", "delete_head_row", "gaussian_head")
"""Measured beside every row's own result, in the order of the page."""

ATTACKED_SETS = ("train", "test", "retain", "forget")
"""Columns of Table VII."""


@dataclass(frozen=True)
class Subject:
    """A model that rows give figures of.

    Attributes:
        title: as `name_of` and the paper's figures have it.
        subject: as audits have it.
        row: whose own it is, or the first where it is measured beside every row.
        results: of its row, or of the row with most where it is measured beside every one.
    """

    title: str
    subject: str
    row: Row
    results: Sequence[Result]

    @property
    def given(self) -> str:
        """The share of D_e that it was given, in words, where that is not all or was not asked."""
        some = self.subject == "unlearned" and self.row.share < 1
        return f" with {self.row.share:.0%} of D_e" if some else ""

    @property
    def printed(self) -> Printed | None:
        """The paper's figures, where it has some."""
        return self.row.printed.get(self.title)


def subjects(rows: Sequence[Row], results: Sequence[Result]) -> Iterator[Subject]:
    """What is measured beside every row once, then each row's own."""
    by_row = {row.name: of_row(results, row.name) for row in rows}
    most = max(by_row.values(), key=len)
    for subject in SUBJECTS:
        yield Subject(subject, subject, rows[0], most)
    for row in rows:
        yield Subject(row.title, "unlearned", row, by_row[row.name])


def table(head: Sequence[str], lines: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table; all but the first `left` columns are aligned to the right."""
    rule = [":--"] * left + ["--:"] * (len(head) - left)
    return "".join("| " + " | ".join(cells) + " |\n" for cells in (head, rule, *lines))


def comparison(rows: Sequence[Row], results: Sequence[Result]) -> str:
    """Tables I, II and IV: the paper's figure, ours and the difference, of every subject and method."""
    head = ["model"]
    head += [
        f"{part} {cell}" if cell else "diff." for part in ("D_r", "D_f") for cell in ("paper", "here", "")
    ]
    head += ["AIN paper", "AIN here", "probe D_f", "seeds", "seconds", "refused"]
    return table(head, [_comparison_line(each) for each in subjects(rows, results)])


def _comparison_line(each: Subject) -> list[str]:
    subject, results, printed = each.subject, each.results, each.printed
    cells = [name_of(each.title)]
    for measure, there in (("retain_accuracy", "retain"), ("forget_accuracy", "forget")):
        values = percents_of(results, subject, measure)
        paper = None if printed is None else float(getattr(printed, there))
        cells += [number(paper), spread(values), difference(values, paper)]
    indices = values_of(results, subject, "anamnesis_index")
    known = [v for v in indices if v is not None]
    cells.append(number(None if printed is None else printed.index))
    cells.append(spread(known) + (f" ({len(known)} of {len(indices)})" if len(known) < len(indices) else ""))
    cells.append(spread(percents_of(results, subject, "probe_forget_recall")))
    cells.append(str(len(results)))
    own = subject == "unlearned"
    refused = sum(r["refused"] is not None for r in results)
    cells.append(spread([r["seconds"] for r in results], digits=0) if own else "")
    cells.append(f"{refused} of {len(results)}" if own and refused else "")
    return cells


def classes(rows: Sequence[Row], results: Sequence[Result]) -> str:
    """Table VI: each class by each method, and the mean and the worst of its gap to Retrain."""
    head = [
        "class",
        "method",
        "Retrain paper",
        "Retrain here",
        "D_r paper",
        "D_r here",
        "gap paper",
        "gap here",
    ]
    head += ["D_f here", "probe D_f Retrain", "probe D_f here", "seeds"]
    lines = []
    for method in dict.fromkeys(row.recipe.method for row in rows):
        own = [row for row in rows if row.recipe.method == method]
        printed, found = printed_gaps(own), gaps(own, results)
        for row in own:
            of = of_row(results, row.name)
            paper = row.printed.get(method)
            lines.append(
                [
                    ", ".join(map(str, row.requests[0])),
                    name_of(method),
                    number(row.printed["gold"].retain),
                    spread(percents_of(of, "gold", "retain_accuracy")),
                    number(paper.retain if paper else None),
                    spread(percents_of(of, "unlearned", "retain_accuracy")),
                    number(printed.get(row.name)),
                    spread(gap_to_gold(of)),
                    spread(percents_of(of, "unlearned", "forget_accuracy")),
                    spread(percents_of(of, "gold", "probe_forget_recall")),
                    spread(percents_of(of, "unlearned", "probe_forget_recall")),
                    str(len(of)),
                ]
            )
        for name, pick in (("mean", mean), ("worst", max)):
            cells = [number(pick(by_row.values())) if by_row else "" for by_row in (printed, found)]
            lines.append([f"**{name}**", name_of(method), "", "", "", "", *cells, "", "", "", ""])
    return table(head, lines, left=2)


def gap_to_gold(results: Sequence[Result]) -> list[float]:
    """Points of D_r accuracy that each result lacks of Retrain's."""
    pairs = zip(
        percents_of(results, "gold", "retain_accuracy"),
        percents_of(results, "unlearned", "retain_accuracy"),
        strict=True,
    )
    return [gold - own for gold, own in pairs]


def gaps(rows: Sequence[Row], results: Sequence[Result]) -> dict[str, float]:
    """Row -> its mean gap to Retrain, of rows that were run."""
    by_row = {row.name: of_row(results, row.name) for row in rows}
    return {name: mean(gap_to_gold(of)) for name, of in by_row.items() if of}


def printed_gaps(rows: Sequence[Row]) -> dict[str, float]:
    """Row -> the gap that the paper prints, of rows whose method it has."""
    return {
        row.name: row.printed["gold"].retain - row.printed[row.recipe.method].retain
        for row in rows
        if row.recipe.method in row.printed
    }


def declared() -> str:
    """Table III: what the registry says; where the paper says otherwise, its word is in brackets."""
    word = {True: "yes", False: "no"}
    here = table_three()
    lines = [
        [attribute]
        + [
            word[here[method][attribute]]
            + ("" if here[method][attribute] == there else f" (paper: {word[there]})")
            for method, there in printed.items()
        ]
        for attribute, printed in TABLE_THREE.items()
    ]
    return table(["", *here], lines)


def attack(rows: Sequence[Row], results: Sequence[Result]) -> str:
    """Table VII: the share of each set that the entropy attack calls members."""
    head = ["model", *(f"{part} {where}" for part in ATTACKED_SETS for where in ("paper", "here")), "seeds"]
    lines = []
    for each in subjects(rows, results):
        cells = [name_of(each.title)]
        for part in ATTACKED_SETS:
            printed = TABLE_SEVEN.get(each.title, {}).get(part)
            cells.append("" if printed is None else f"{printed:.3f}")
            cells.append(spread(figures_of(each.results, each.subject, f"entropy_attack_{part}"), digits=3))
        lines.append([*cells, str(len(each.results))])
    return table(head, lines)


def inversion(rows: Sequence[Row], results: Sequence[Result]) -> str:
    """Fig. 3 in figures: what twelve attacks on the forget class reach."""
    measures = ("confidence", "correlation", "specific")
    lines = [
        [
            name_of(each.title),
            *(spread(figures_of(each.results, each.subject, f"inversion_{m}"), digits=3) for m in measures),
            str(len(each.results)),
        ]
        for each in subjects(rows, results)
    ]
    return table(["model", *measures, "seeds"], lines)


def progress(rows: Sequence[Row], results: Sequence[Result]) -> str:
    """Figs. 4 to 8 in figures: where each run ended, and how synthetic progress goes with real."""
    head = ["run", "best D_r with D_f 0", "D_r at the end", "D_f at the end", "highest D_f"]
    head += ["least pass rate", "correlation of D_r, synthetic and real", "of D_f", "seeds"]
    lines = []
    for row in rows:
        curves = curves_of(row, results)
        lines.append(
            [
                row.title,
                spread(best_clean(curves)),
                *(spread([100 * curve[-1][part] for curve in curves]) for part in ("retain", "forget")),
                spread([100 * max(point["forget"] for point in curve) for curve in curves]),
                spread([min(point["pass_rate"] for point in curve) for curve in curves], digits=3),
                *(spread(correlations(curves, part), digits=3) for part in ("retain", "forget")),
                str(len(curves)),
            ]
        )
    return table(head, lines)


Curve = Sequence[Result]
"""Points of one run, a checkpoint each."""


def curves_of(row: Row, results: Sequence[Result]) -> list[Curve]:
    """The curve of each seed of a row."""
    return [result["curve"] for result in of_row(results, row.name)]


def best_clean(curves: Sequence[Curve]) -> list[float]:
    """Highest D_r accuracy with D_f 0 on each curve that has such a point, in per cent."""
    clean = [[p["retain"] for p in curve if p["forget"] == 0] for curve in curves]
    return [100 * max(points) for points in clean if points]


def correlations(curves: Sequence[Curve], part: str) -> list[float]:
    """Pearson's correlation of synthetic and real accuracy over each curve; none where one is constant."""
    pairs = [([p[f"synthetic_{part}"] for p in c], [p[part] for p in c]) for c in curves]
    return [correlation(a, b) for a, b in pairs if len(set(a)) > 1 and len(set(b)) > 1]


def sequence(rows: Sequence[Row], results: Sequence[Result]) -> str:
    """Fig. 9 in figures: after each request, beside a model retrained for it; and what ended one early."""
    head = ["method", "request", "forget", "D_r Retrain", "D_r here", "gap", "D_f here"]
    head += ["probe D_f Retrain", "probe D_f here", "seeds"]
    lines, ended = [], []
    for row in rows:
        of_seeds = of_row(results, row.name)
        for place, target in enumerate(row.requests, start=1):
            of = of_request(of_seeds, target)
            lines.append(
                [
                    name_of(row.recipe.method),
                    str(place),
                    ", ".join(map(str, target)),
                    spread(percents_of(of, "gold", "retain_accuracy")),
                    spread(percents_of(of, "unlearned", "retain_accuracy")),
                    spread(gap_to_gold(of)),
                    spread(percents_of(of, "unlearned", "forget_accuracy")),
                    spread(percents_of(of, "gold", "probe_forget_recall")),
                    spread(percents_of(of, "unlearned", "probe_forget_recall")),
                    str(len(of)),
                ]
            )
        for last in (of for of in of_seeds if of.get("cut_short")):
            after = ", ".join(map(str, last["target"]))
            ended.append(
                f"- {name_of(row.recipe.method)}, seed {last['seed']}: ended after {after}, since the next "
                f"request failed: {last['cut_short']}\n"
            )
    return table(head, lines) + "".join(["\n", *ended] if ended else [])


def of_request(results: Sequence[Result], target: Sequence[int]) -> list[Result]:
    """The results of the request to forget these classes."""
    return [result for result in results if tuple(result["target"]) == tuple(target)]


FORMS: dict[str, Callable[[Sequence[Row], Sequence[Result]], str]] = {
    "comparison": comparison,
    "classes": classes,
    "attack": attack,
    "inversion": inversion,
    "progress": progress,
    "sequence": sequence,
}
"""Form of a page -> its table of a group of rows."""
