"""A reproduced table as Markdown."""

from __future__ import annotations

from dataclasses import replace

from rayunlearn.recipes import load_recipe
from rayunlearn.reproduction.markdown import render
from rayunlearn.reproduction.zero_shot import Page, row
from rayunlearn.reproduction.zero_shot_figures import Printed
from rayunlearn.settings import override

PAPER = load_recipe("digits")
ROW = row(
    "digits, class 0", override(PAPER, ["gkt.cycles=7"]), PAPER, "gkt", [(0,)],
    printed={"gkt": Printed(95.0, 0.0, 0.8), "gold": Printed(97.0, 0.0)},
)  # fmt: skip
PAGE = Page(title="Table T", rows=(ROW,), note="A note.")


def result(seed: int, retain: float, index: float | None = 0.5, refused: str | None = None) -> dict:
    """What a seed of the row gave."""

    def figure(subject: str, measure: str, value: float | None, classes: tuple[int, ...] = (0,)) -> dict:
        return {"subject": subject, "measure": measure, "classes": classes, "split": "test", "value": value}

    retained = tuple(range(1, 10))
    return {
        "row": ROW.name, "method": "gkt", "seed": seed, "target": [0], "seconds": 10.0 + seed,
        "refused": refused,
        "figures": [
            figure("gold", "retain_accuracy", 0.97, retained), figure("gold", "forget_accuracy", 0.0),
            figure("unlearned", "retain_accuracy", retain, retained),
            figure("unlearned", "forget_accuracy", 0.01), figure("unlearned", "anamnesis_index", index),
        ],
    }  # fmt: skip


def cells(text: str, name: str) -> list[str]:
    """The cells of the line that begins with a name."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_line_has_the_papers_figure_ours_and_the_difference() -> None:
    """Mean and standard deviation over seeds in per cent, the difference in points, n and refusals."""
    text = render(PAGE, [result(0, 0.96), result(1, 0.94, refused="gate: x")], {"cpu": "c"})
    assert cells(text, "GKT") == [
        "GKT", "95.00", "95.00 ± 1.41", "+0.00", "0.00", "1.00 ± 0.00", "+1.00", "0.80", "0.50 ± 0.00", "",
        "2", "10 ± 1", "1 of 2",
    ]  # fmt: skip
    assert cells(text, "Retrain (gold)")[1:4] == ["97.00", "97.00 ± 0.00", "+0.00"]
    assert text.startswith("# Table T\n\nA note.\n") and "cpu c." in text


def test_an_index_without_a_value_is_counted() -> None:
    """A mean over fewer seeds than were run says over how many."""
    text = render(PAGE, [result(0, 0.9, 0.4), result(1, 0.9, None)], {})
    assert cells(text, "GKT")[8] == "0.40 (1 of 2)"


def test_reductions_are_listed_with_the_papers_value() -> None:
    """A changed setting shows both values; none says so; sections of methods not on the page are left out."""
    assert "`gkt.cycles` 7 (960)" in render(PAGE, [], {})
    same = replace(ROW, recipe=ROW.paper)
    assert "Settings: the paper's." in render(replace(PAGE, rows=(same,)), [], {})
    other = replace(ROW, recipe=override(ROW.recipe, ["unsir.batch_size=8"]))
    assert "unsir" not in render(replace(PAGE, rows=(other,)), [], {})


def test_a_row_without_results_is_an_empty_line() -> None:
    """The paper's figures stand there all the same, and ours are left blank."""
    assert cells(render(PAGE, [], {}), "GKT")[1:4] == ["95.00", "", ""]
