"""What counts as not reproduced."""

from __future__ import annotations

from dataclasses import replace

import pytest

from papers import remarks
from papers.claims import Claim
from papers.incomplete_data import INCOMPLETE, Incomplete
from papers.remarks import remark_on
from papers.rows import Page, Printed
from papers.shortfalls import section, shortfalls
from papers.zero_shot import row
from rayunlearn.recipes import Recipe, load_recipe
from rayunlearn.settings import override

PAPER = load_recipe("mnist_lenet")
OURS = override(PAPER, ["gkt.cycles=7", "train.epochs=3", "audit.probe_draws=2", "min_max.impair_epochs=4"])
PRINTED = {"original": Printed(98.0, 99.0), "gkt": Printed(95.0, 0.0)}
ROW = row("MNIST, class 0", OURS, PAPER, "gkt", [(0,)], printed=PRINTED)
PAGE = Page(name="table-T", title="Table T", rows=(ROW,))


def results(*own: tuple[float, float], original: tuple[float, float] = (98.0, 99.0)) -> list[dict]:
    """A result a seed: D_r and D_f of the row's method in per cent, and of the original."""

    def figures(subject: str, values: tuple[float, float]) -> list[dict]:
        named = zip(("retain_accuracy", "forget_accuracy"), values, strict=True)
        return [
            {"subject": subject, "measure": m, "classes": (0,), "split": "test", "value": v / 100}
            for m, v in named
        ]

    return [
        {"row": ROW.name, "seed": seed, "dataset_hash": "whole",
         "figures": figures("unlearned", values) + figures("original", original)}
        for seed, values in enumerate(own)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("own", "listed"),
    [((92.9, 0.0), True), ((93.1, 0.0), False), ((99.0, 0.9), False), ((99.0, 1.1), True)],
)
def test_a_figure_beyond_the_bounds_is_listed(own: tuple[float, float], listed: bool) -> None:
    """More than 2 points of D_r below or 1 of D_f above the paper's, as a mean over seeds; no less."""
    spread = [(own[0] - 3, own[1]), (own[0] + 3, own[1])]
    assert bool(shortfalls(PAGE, results(*spread), [])) == listed


def test_an_original_may_know_what_is_to_be_forgotten() -> None:
    """Its D_f has no bound, its D_r has one; its settings are those that it was trained by."""
    assert not shortfalls(PAGE, results((95.0, 0.0), original=(98.0, 100.0)), [])
    (found,) = shortfalls(PAGE, results((95.0, 0.0), original=(90.0, 100.0)), [])
    assert found.name == "mnist-lenet-0-original" and list(found.settings) == ["train.epochs"]


def test_a_shortfall_has_the_settings_that_its_own_row_differs_in() -> None:
    """The method's own and those of all, but neither the audit's nor another method's."""
    (found,) = shortfalls(PAGE, results((50.0, 0.0)), [])
    assert found.settings == {"gkt.cycles": (7, 4000), "train.epochs": (3, 10)}
    assert found.found == "D_r 50.00, the paper's 95.00; D_f 0.00, the paper's 0.00"


def test_figures_of_other_data_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a stand-in's nor those of a part that is no fair sample; a copy with gaps is compared."""
    bad = results((50.0, 0.0))
    digits = load_recipe("digits")
    stand_in = replace(ROW, recipe=digits)
    assert not shortfalls(replace(PAGE, rows=(stand_in,)), bad, [])
    for comparable in (True, False):
        monkeypatch.setitem(INCOMPLETE, "whole", Incomplete("Part.", comparable=comparable))
        assert bool(shortfalls(PAGE, bad, [])) == comparable


def test_what_is_far_above_the_paper_is_named_too() -> None:
    """D_r 99 where the paper has 95 is no shortfall, nor is it the paper's result."""
    text = section(PAGE, results((99.0, 0.0)), [], [], {})
    assert "Nothing of what was run." in text
    assert "above the paper's: GKT on MNIST, class 0 (+4.00)." in text
    assert "above" not in section(PAGE, results((96.9, 0.0)), [], [], {}).partition("Nothing")[2]


def test_a_remark_on_a_reduction_is_not_made_of_the_papers_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes first where the settings differ from the paper's, and not at all where they do not."""
    monkeypatch.setattr(remarks, "REMARKS", {"mnist-*": "whichever."})
    monkeypatch.setattr(remarks, "OF_REDUCTIONS", {"mnist-*": "too few cycles."})
    assert remark_on("mnist-lenet-0-gkt", reduced=True) == "too few cycles."
    assert remark_on("mnist-lenet-0-gkt") == "whichever."


@pytest.mark.parametrize(("ours", "reason"), [(OURS, "too short."), (PAPER, "not explained.")])
def test_a_claim_is_of_a_reduction_where_the_page_is(
    ours: Recipe, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reason that lies in the reduction is given of no page with the paper's settings."""
    monkeypatch.setattr(remarks, "REMARKS", {})
    monkeypatch.setattr(remarks, "OF_REDUCTIONS", {"table-T-falls": "too short."})
    claim = Claim(name="table-T-falls", said="It falls.", found="it rises", holds=False)
    rows = (row("MNIST, class 0", ours, PAPER, "gkt", [(0,)], printed=PRINTED),)
    text = section(replace(PAGE, rows=rows), [], [claim], [], {})
    assert f"**It falls.** Here: it rises. Why: {reason}" in text


def test_a_remark_is_found_by_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that fits; that none does is said."""
    monkeypatch.setattr(remarks, "REMARKS", {"mnist-*-gkt": "one.", "mnist-*": "two."})
    assert [remark_on(f"mnist-lenet-0-{m}") for m in ("gkt", "fisher")] == ["one.", "two."]
    assert remark_on("svhn") == "not explained."
    assert "Why: one." in section(PAGE, results((50.0, 0.0)), [], [], {})
