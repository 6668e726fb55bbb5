"""Sentences whose numbers a setting decides say what the setting is, and not what it mostly is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.schemas import ALL_TABLES
from rayunlearn.reports.approximated import Threshold, threshold_of
from rayunlearn.reports.audit_figures import _shown_data
from rayunlearn.reports.summary import Figure, RequestSummary, summarise
from rayunlearn.reports.wording import baselines, glossary, like_examples
from tests.reports import demo_ledger as demo

FOUND = Threshold(value=2.0, selected=4, samples=90, by="knee", reason="", curve=(3.0, 1.0), raised=(2, 3))


@pytest.fixture(scope="module")
def by_examples() -> list[RequestSummary]:
    """Two requests by examples: a whole class, and labels of what is like them."""
    return summarise(LedgerReader(demo.examples_store(), ALL_TABLES), ["whole", "labels"])


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.02, "the most similar 2 %, or one, alone"),
        (0.1, "the most similar 10 %, or one, alone"),
        (0.005, "the most similar 0.5 %, or one, alone"),
        (0.0, "the most similar one alone"),
        (None, "the most similar alone"),
    ],
)
def test_the_share_of_a_label_is_the_setting(share: float | None, said: str) -> None:
    """`few_shot.most_of_a_label`; of an older entry, which did not record it, no share is told."""
    text = like_examples(replace(FOUND, most_of_a_label=share))
    assert text.endswith(f"(of those answered 2, 3 {said}: the class stays)") and "tenth" not in text
    assert "of those answered" not in like_examples(replace(FOUND, most_of_a_label=share, raised=()))


def test_the_share_is_read_off_the_record() -> None:
    """As a run records it; and of an older entry, without it."""
    told: dict[str, Any] = {"by": "knee", "reason": "", "curve": [3.0, 1.0], "raised": {"2": 2.5}}
    row = {"value": 2.0, "sum": 4.0, "count": 90}
    assert threshold_of(row | {"parameters": json.dumps(told)}).most_of_a_label is None
    told |= {"most_of_a_label": 0.3, "whole_by": "label"}
    found = threshold_of(row | {"parameters": json.dumps(told)})
    assert (found.most_of_a_label, found.whole_by, found.raised) == (0.3, "label", (2,))


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("every", "without the labels to erase, where whole classes go all of them are; the rest"),
        ("label", "labels to erase, where whole classes go also what gets one of these labels; the rest"),
        ("similarity", "like the examples is relearned without the labels to erase; the rest"),
        (None, "like the examples is relearned without the labels to erase; the rest"),
    ],
)
def test_what_else_is_relearned_is_the_setting(
    by_examples: list[RequestSummary], rule: str | None, said: str
) -> None:
    """`few_shot.whole_by`, of requests for whole classes; that of labels alone never says it."""
    changed = []
    for summary in by_examples:
        assert summary.threshold is not None
        own = rule if summary.whole_classes else "similarity"
        changed.append(replace(summary, threshold=replace(summary.threshold, whole_by=own)))
    assert said in dict(glossary(changed))["D'"]
    labels = [summary for summary in changed if not summary.whole_classes]
    assert "whole classes" not in dict(glossary(labels))["D'"]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((1,), "fitted on 1 real training image of each class, reads"),
        ((20, 20), "fitted on 20 real training images of each class, reads"),
        ((None,), "fitted on all real training images, reads"),
        ((1, 20), "fitted on real training images, reads"),
        ((), "fitted on real training images, reads"),
    ],
)
def test_what_the_probe_is_fitted_on_is_the_setting(
    by_examples: list[RequestSummary], numbers: tuple[int | None, ...], said: str
) -> None:
    """`audit.probe.train_per_class`, where one value holds of all that is shown."""
    summaries = []
    for number in numbers:
        figure = Figure(value=0.5, parameters={"train_per_class": number})
        summaries.append(replace(by_examples[0], figures={"unlearned": {"probe_forget_recall": figure}}))
    assert said in dict(glossary(summaries))["probe"]


def test_nothing_is_left_to_be_filled_in(by_examples: list[RequestSummary]) -> None:
    """No brace of a template is shown, whatever is explained."""
    for shown in ([], by_examples, by_examples[1:]):
        assert not any("{" in meaning or "}" in meaning for _, meaning in glossary(shown))


def test_what_the_baselines_reach_is_measured() -> None:
    """`audit.trivial_offset` decides whether a masked class is never answered: then D_f is not 0 %."""
    assert baselines([Figure(value=0.0)] * 3).startswith("The baselines bring D_f to 0 % without forgetting")
    said = baselines([Figure(value=0.0), Figure(value=0.25), Figure(value=None)])
    assert said.startswith("The baselines bring D_f to 25.0 % at most without forgetting")
    assert baselines([]).startswith("D_f can be brought to 0 % without forgetting")


@pytest.mark.parametrize(
    ("number", "retain", "said"),
    [
        (None, True, "from the full training set"),
        (None, False, "from the forget images alone"),
        (0, True, "from the retain data alone"),
        (1, True, "from the retain data and 1 forget image of each class"),
        (20, True, "from the retain data and 20 forget images of each class"),
        (5, False, "from 5 forget images of each class alone"),
    ],
)
def test_what_is_relearned_from_is_the_setting(number: int | None, retain: bool, said: str) -> None:
    """`audit.relearn` and `audit.few_per_class`, whatever the measure is called."""
    assert _shown_data({"forget_per_class": number, "retain_data": retain}) == said
