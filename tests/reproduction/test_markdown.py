"""A reproduced table as Markdown."""

from __future__ import annotations

from dataclasses import replace

from rayunlearn.recipes import load_recipe
from rayunlearn.reproduction.markdown import render
from rayunlearn.reproduction.plots import draw
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


def with_form(form: str, results: list[dict], **fields) -> str:
    """The page in another form."""
    return render(replace(PAGE, form=form, rows=(replace(ROW, **fields),)), results, {})


def test_the_attack_beside_table_seven() -> None:
    """The paper's 1.0 for GKT and ours; the test set's share is of test images, others of training ones."""
    one = result(0, 0.9)
    for name, value in (("train", 0.9), ("test", 0.8), ("retain", 0.7), ("forget", 0.6)):
        split = "test" if name == "test" else "train"
        measure = f"entropy_attack_{name}"
        figure = {"subject": "unlearned", "measure": measure, "classes": (0,), "split": split, "value": value}
        one["figures"].append(figure)
    found = cells(with_form("attack", [one]), "GKT")
    assert found == ["GKT", "1.000", "0.900", "1.000", "0.800", "1.000", "0.700", "1.000", "0.600", "1"]


def test_progress_gives_the_correlation_of_synthetic_and_real() -> None:
    """Curves that rise together correlate by 1; a constant one has no correlation and is left blank."""
    curve = [
        {"step": s, "retain": 0.1 * s, "synthetic_retain": 0.2 * s, "forget": 0.0, "synthetic_forget": 0.0,
         "pass_rate": 0.5}
        for s in (1, 2, 3)
    ]  # fmt: skip
    found = cells(with_form("progress", [{**result(0, 0.9), "curve": curve}]), ROW.name)
    assert found == [ROW.name, "30.00", "30.00", "0.00", "0.500", "1.000", "", "1"]


def test_a_sequence_has_a_line_for_each_request() -> None:
    """Each request's own results, in order, beside the model retrained for it."""
    results = [{**result(0, 0.9), "target": [0]}, {**result(0, 0.8), "target": [2]}]
    text = with_form("sequence", results, requests=((0,), (2,)))
    lines = [line for line in text.splitlines() if line.startswith("| GKT |")]
    assert [[c.strip() for c in line.split("|")][2:6] for line in lines] == [
        ["1", "0", "97.00", "90.00"], ["2", "2", "97.00", "80.00"],
    ]  # fmt: skip


def test_plots_are_drawn_of_progress_and_sequence_alone() -> None:
    """A PNG for these two, the same bytes each time; nothing for tables or where nothing was run."""
    curve = [
        {"step": s, "retain": 0.3 * s, "synthetic_retain": 0.2 * s, "forget": 0.1, "synthetic_forget": 0.0,
         "pass_rate": 0.5}
        for s in (1, 2, 3)
    ]  # fmt: skip
    one = {**result(0, 0.9), "curve": curve}
    for form in ("progress", "sequence"):
        page = replace(PAGE, form=form)
        picture = draw(page, [one])
        assert picture is not None and picture.startswith(b"\x89PNG") and picture == draw(page, [one])
        assert draw(page, []) is None
    assert draw(PAGE, [one]) is None
