"""The tables of the few-shot paper's pages, one function for each form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean

from papers.results import (
    Result,
    difference,
    name_of,
    number,
    of_row,
    percents_of,
    setting,
    spread,
)
from papers.rows import Printed, Row
from papers.tables import Subject, of_request, subjects, table
from rayunlearn.methods.registry import METHODS
from rayunlearn.settings import paths

LEFT_OUT = (
    "train.epochs", "train.batch_size", "fine_tune.epochs", "fine_tune.batch_size", "train.transformations",
    "fisher.alpha",
    "few_shot.model_inversion.iterations", "few_shot.model_inversion.batch_size",
    "few_shot.model_inversion.width", "few_shot.model_inversion.z_dim",
    "few_shot.model_inversion.transformations", "few_shot.gan.epochs", "few_shot.per_class",
    "few_shot.budget", "few_shot.unit_features", "few_shot.epochs", "few_shot.batch_size",
    "few_shot.update_statistics", "few_shot.most_of_a_label",
)  # fmt: skip
"""Settings that the paper leaves out, shown with what the rows have."""


def shots(rows: Sequence[Row], results: Sequence[Result]) -> str:
    """Tables 2 to 7: the paper's figure, ours and the difference, on D_r and on D_e."""
    wanted = "↑" if rows[0].wanted_high else "↓"
    head = ["model", "given", "D_r ↑ paper", "here", "diff.", f"D_e {wanted} paper", "here", "diff.", "seeds"]
    head += ["generator, s", "unlearning, s", "refused"]
    lines = [_line(each) for each in subjects(rows, results) if _shown(each)]
    return table(head, lines, left=2) + "\n" + left_out(rows)


def left_out(rows: Sequence[Row]) -> str:
    """What rows have for the settings that the paper leaves out, of the original and of their methods."""
    of_rows = [(METHODS[row.recipe.method].section, paths(row.recipe)) for row in rows]
    said = []
    for name in LEFT_OUT:
        own = [found[name][1] for section, found in of_rows if name.split(".")[0] in (section, "train")]
        if own:
            said.append(f"`{name}` {', '.join(dict.fromkeys(map(setting, own)))}")
    return f"Settings that the paper leaves out: {'; '.join(said)}.\n"


def _shown(each: Subject) -> bool:
    """A row's own always; what is beside every row where it was measured, or the paper has it."""
    own, measured = each.subject == "unlearned", percents_of(each.results, each.subject, "retain_accuracy")
    return bool(own or each.printed or measured)


def _line(each: Subject) -> list[str]:
    own, printed = each.subject == "unlearned", each.printed
    share = f"{each.row.share:.0%}" if own and each.title != "oracle" else ""
    cells = [name_of(each.title), share]
    for place, measure in enumerate(("retain_accuracy", each.row.erased)):
        values = percents_of(each.results, each.subject, measure)
        cells += [_paper(printed, place), spread(values), difference(values, _mean(printed, place))]
    cells.append(str(len(each.results)))
    if not own:
        return [*cells, "", "", ""]
    refused = sum(result["refused"] is not None for result in each.results)
    return [
        *cells,
        spread(durations(each.results, "generator_seconds"), digits=0),
        spread(durations(each.results, "seconds"), digits=0),
        f"{refused} of {len(each.results)}" if refused else "",
    ]


def _mean(printed: Printed | None, place: int) -> float | None:
    """D_r (0) or D_e (1) in the paper."""
    return None if printed is None else (printed.retain, printed.forget)[place]


def _paper(printed: Printed | None, place: int) -> str:
    """The same with its standard deviation, where it has one."""
    deviation = None if printed is None or printed.spread is None else printed.spread[place]
    return number(_mean(printed, place)) + ("" if deviation is None else f" ± {deviation:.2f}")


def seconds(rows: Sequence[Row], results: Sequence[Result]) -> str:
    """Fig. 7: what each step takes, request by request."""
    head = ["row", "request", "original", "generator", "D' and relearning", "unlearning in all", "seeds"]
    lines = []
    for row in rows:
        for place, target in enumerate(row.requests, start=1):
            of = of_request(of_row(results, row.name), target)
            steps = [durations(of, step) for step in ("training_seconds", "generator_seconds", "seconds")]
            training, generator, unlearning = steps
            whole = [a + b for a, b in zip(generator, unlearning, strict=False)]
            found = (training, generator, unlearning, whole)
            lines.append([f"`{row.name}`", str(place), *(spread(each, 0) for each in found), str(len(of))])
    return table(head, lines, left=2) + "\n" + left_out(rows)


def durations(results: Sequence[Result], step: str) -> list[float]:
    """Seconds of a step in each result that has it and knows them."""
    found = [result.get(step) for result in results]
    return [seconds for seconds in found if seconds is not None]


def accuracies(row: Row, results: Sequence[Result], subject: str = "unlearned") -> tuple[float, float]:
    """Mean D_r and D_e, per cent, of a row that was run or of what was measured beside it."""
    of = of_row(results, row.name)
    retain, forget = (percents_of(of, subject, measure) for measure in ("retain_accuracy", row.erased))
    return mean(retain), mean(forget)


FORMS: dict[str, Callable[[Sequence[Row], Sequence[Result]], str]] = {
    "shots": shots,
    "shares": shots,
    "scatter": shots,
    "samples": shots,
    "time": seconds,
}
"""Form of a page -> its table of a group of rows."""
