"""A reproduced table as Markdown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from papers import zero_shot_claims
from papers.claims import Claim
from papers.incomplete_data import INCOMPLETE, Incomplete
from papers.markdown import render
from papers.plots import draw
from papers.rows import Page, Printed
from papers.zero_shot import page, row
from rayunlearn.recipes import load_recipe
from rayunlearn.reports.inverted_images import InvertedImages
from rayunlearn.settings import override

PAPER = load_recipe("digits")
ROW = row(
    "digits, class 0", override(PAPER, ["gkt.cycles=7"]), PAPER, "gkt", [(0,)],
    printed={"gkt": Printed(95.0, 0.0, 0.8), "gold": Printed(97.0, 0.0)},
)  # fmt: skip
PAGE = Page(name="table-T", title="Table T", rows=(ROW,), note="A note.")
MACHINE = {"cpu": "c", "gpu": "none"}


def result(seed: int, retain: float, index: float | None = 0.5, refused: str | None = None) -> dict:
    """What a seed of the row gave."""

    def figure(
        subject: str, measure: str, value: float | None, classes: tuple[int, ...] = (0,), split: str = "test"
    ) -> dict:
        return {
            "subject": subject, "measure": measure, "classes": classes, "split": split, "value": value,
            "count": 1000 * len(classes),
        }  # fmt: skip

    retained = tuple(range(1, 10))
    return {
        "row": ROW.name, "method": "gkt", "seed": seed, "target": [0], "seconds": 10.0 + seed,
        "refused": refused, "machine": MACHINE, "dataset_hash": "whole",
        "figures": [
            *(figure("original", "class_accuracy", 1.0, (c,), split) for c in (0, 1)
              for split in ("train", "train", "test")),
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
    assert text.startswith("# Table T\n\nA note.\n")


def test_results_of_two_processors_are_never_averaged() -> None:
    """The one with fewer has tables of its own; another instruction set is another processor.

    In the control all three are of one, and the mean is of all three.
    """
    wide = {"cpu": "c", "instruction_set": "AVX512", "gpu": "none"}
    narrow = {**wide, "instruction_set": "AVX2"}
    found = [result(0, 0.96), result(1, 0.94), result(2, 0.80)]
    machines = [wide, wide, narrow]
    apart = render(PAGE, [{**r, "machine": m} for r, m in zip(found, machines, strict=True)], {})
    own, other = apart.split("## On c, AVX2\n")
    assert cells(own, "GKT")[2] == "95.00 ± 1.41" and cells(other, "GKT")[2] == "80.00"
    assert "- 2 on cpu c, instruction set AVX512" in other and "- 1 on cpu c, instruction set AVX2" in other
    same = render(PAGE, [{**r, "machine": wide} for r in found], {})
    assert cells(same, "GKT")[2] == "90.00 ± 8.72" and "## On" not in same


def test_runs_are_named_with_seeds_time_and_machine() -> None:
    """Sum and mean of the wall time; a machine that a run did not record is said to be the page's."""
    elsewhere = {**result(4, 0.9), "machine": {"cpu": "d", "gpu": "g"}}
    unknown = {**result(2, 0.9), "machine": None}
    text = render(PAGE, [result(0, 0.96), elsewhere, unknown], {"cpu": "w"})
    assert "Seeds 0, 2, 4;" in text and "36.0 s in 3 runs, 12.0 s on average" in text
    assert "- 1 on cpu c, gpu none, instruction set not recorded\n" in text
    assert "- 1 on cpu d, gpu g, instruction set not recorded\n" in text
    assert "- 1 on cpu w, instruction set not recorded (not recorded by the run" in text


def test_what_the_data_lacks_is_said_beside_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images counted from the figures; a copy that is known by its hash says what it lacks."""
    monkeypatch.setitem(INCOMPLETE, "part", Incomplete("Half of it.", comparable=True))
    whole, part = (render(PAGE, [{**result(0, 0.9), "dataset_hash": h}], {}) for h in ("whole", "part"))
    assert "Trained on 4,000 images, measured on 2,000 others.\n" in whole
    assert "measured on 2,000 others. Half of it.\n" in part


def test_a_page_ends_with_what_did_not_reproduce(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims with what was found; those that do not hold come again at the end, and so do missing rows."""
    checked = [
        Claim(name="a", said="It holds.", found="1", holds=True),
        Claim(name="b", said="It fails.", found="2", holds=False),
    ]
    monkeypatch.setitem(zero_shot_claims.CHECKS, "table-T", (lambda rows, results: checked,))
    text = render(PAGE, [result(0, 0.96)], {}, missing=["other"], picture="t.png")
    assert "| It holds. | 1 | yes |" in text and "| It fails. | 2 | **no** |" in text
    before, after = text.split("## What did not reproduce, and why\n")
    assert "![Table T](t.png)" in before and "## " not in after
    assert "It fails.** Here: 2. Why: not explained." in after and "It holds" not in after
    assert after.endswith("Not run: `other`.\n")


def test_table_three_has_the_papers_word_where_it_differs() -> None:
    """One cell: Fisher is zero-glance here; it is explained at the end, and no run is spoken of."""
    text = render(page("table", "III", "cpu"), [], {})
    assert cells(text, "zero-glance") == ["zero-glance", "yes", "no", "no", "yes (paper: no)", "yes"]
    assert text.count("(paper:") == 1 and "## Runs" not in text
    assert "**Fisher, zero-glance.** Here: yes, the paper's no. Why: the Fisher information is taken" in text


def test_every_class_by_itself_ends_in_mean_and_worst_gap() -> None:
    """Gaps to Retrain of 1 and 3 points: mean 2, worst 3; the paper's beside them, from its own figures."""
    printed = ({"gkt": Printed(90.0, 0.0), "gold": Printed(91.0, 0.0)},
               {"gkt": Printed(80.0, 0.0), "gold": Printed(85.0, 0.0)})  # fmt: skip
    rows = [replace(ROW, name=f"row-{c}", requests=((c,),), printed=printed[c]) for c in (0, 1)]
    results = [{**result(0, kept), "row": f"row-{c}"} for c, kept in enumerate((0.96, 0.94))]
    text = render(replace(PAGE, form="classes", rows=tuple(rows)), results, {})
    assert cells(text, "1")[:8] == ["1", "GKT", "85.00", "97.00", "80.00", "94.00", "5.00", "3.00"]
    assert cells(text, "**mean**")[6:8] == ["3.00", "2.00"]
    assert cells(text, "**worst**")[6:8] == ["5.00", "3.00"]


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
    found = cells(with_form("progress", [{**result(0, 0.9), "curve": curve}], called="epsilon"), "epsilon")
    assert found == ["epsilon", "30.00", "30.00", "0.00", "0.00", "0.500", "1.000", "", "1"]


def test_a_sequence_has_a_line_for_each_request() -> None:
    """Each request's own results, in order, beside the model retrained for it."""
    results = [{**result(0, 0.9), "target": [0]}, {**result(0, 0.8), "target": [2]}]
    text = with_form("sequence", results, requests=((0,), (2,)))
    lines = [line for line in text.splitlines() if line.startswith("| GKT |")]
    assert [[c.strip() for c in line.split("|")][2:7] for line in lines] == [
        ["1", "0", "97.00", "90.00", "7.00"], ["2", "2", "97.00", "80.00", "17.00"],
    ]  # fmt: skip


def test_a_sequence_that_ended_early_says_why() -> None:
    """The request that failed and those after it have no figures, and the plot no points; the claims hold."""
    ended = {**result(0, 0.9), "target": [0], "cut_short": "nothing of class 5"}
    requests = ((0,), (2,), (3,))
    text = with_form("sequence", [ended], requests=requests)
    assert "- GKT, seed 0: ended after 0, since the next request failed: nothing of class 5\n" in text
    lines = [line for line in text.splitlines() if line.startswith("| GKT |")]
    assert [[c.strip() for c in line.split("|")][4:7] for line in lines] == [
        ["97.00", "90.00", "7.00"], ["", "", ""], ["", "", ""],
    ]  # fmt: skip
    page = replace(PAGE, form="sequence", rows=(replace(ROW, requests=requests),))
    assert (draw(page, [ended]) or b"").startswith(b"\x89PNG")


def test_a_row_that_failed_says_why() -> None:
    """It stands among what did not reproduce, and not among what was not run."""
    text = render(PAGE, [result(0, 0.9)], MACHINE, failed={"another, seed 1": "no sample of class 0"})
    end = text.partition("## What did not reproduce")[2]
    assert "- **`another, seed 1` failed.** no sample of class 0.\n" in end and "Not run" not in end


def test_plots_are_drawn_of_progress_sequence_and_inversion_alone() -> None:
    """A PNG, the same bytes each time; nothing for tables, or where nothing was run or no image is given."""
    curve = [
        {"step": s, "retain": 0.3 * s, "synthetic_retain": 0.2 * s, "forget": 0.1, "synthetic_forget": 0.0,
         "pass_rate": 0.5}
        for s in (1, 2, 3)
    ]  # fmt: skip
    one = {**result(0, 0.9), "curve": curve}
    for form in ("progress", "sequence"):
        drawn = replace(PAGE, form=form)
        picture = draw(drawn, [one])
        assert picture is not None and picture.startswith(b"\x89PNG") and picture == draw(drawn, [one])
        assert draw(drawn, []) is None
    assert draw(PAGE, [one]) is None
    grey = np.full((1, 4, 4), 0.5)
    images = InvertedImages(class_id=0, mean=grey, attacks={"original": grey[None], "GKT": grey[None]})
    attacked = replace(PAGE, form="inversion")
    picture = draw(attacked, [one], images)
    assert picture is not None and picture.startswith(b"\x89PNG") and draw(attacked, [one]) is None
