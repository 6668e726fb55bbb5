from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from rayunlearn.errors import BadInput
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.sweeps import sweep_named
from rayunlearn.reports.sweep_report import write_sweep_report
from tests.reports import demo_sweep as demo
from tests.reports.demo_sweep import DemoTrial, learner
from tests.reports.pages import Page, pictures

SVG = "{http://www.w3.org/2000/svg}"
FACTS = {"hardware": "2 cores <fast>"}
SIXTEEN = demo.made_up(16)
BEST = max(SIXTEEN, key=lambda made: made.result.score)
ADMISSIBLE = [made for made in SIXTEEN if made.result.admissible]
ONE_SETTING = {"space": json.dumps({"gkt.beta": "loguniform(1.0,1000.0)"})}
"""For pages where more panels would show nothing more."""


def report(
    trials: Sequence[DemoTrial],
    own: Mapping[str, Any] = demo.OWN,
    real: Mapping[str, tuple[float, float]] | None = None,
    **columns: Any,
) -> str:
    """The report of a sweep of these trials."""
    reader = LedgerReader(demo.sweep_store(trials, **columns))
    rows = reader.read("checkpoints", run_id=demo.SWEEP).to_pylist()
    return write_sweep_report(sweep_named(reader, demo.SWEEP), rows, own, FACTS, real)


def marks(svg: bytes, group: str) -> list[tuple[float, float]]:
    """Where the marks of a group are in a picture; y grows downwards."""
    found = []
    for part in ElementTree.fromstring(svg).iterfind(f".//{SVG}g[@id='{group}']"):
        found += [(float(use.attrib["x"]), float(use.attrib["y"])) for use in part.iter(f"{SVG}use")]
        if not found:  # so few that each is drawn by itself
            for path in part.iterfind(f"{SVG}path"):
                numbers = np.array(re.findall(r"-?[\d.]+", path.attrib["d"]), dtype=float).reshape(-1, 2)
                found.append(tuple((numbers.min(axis=0) + numbers.max(axis=0)) / 2))
    return found


@pytest.fixture(scope="module")
def html() -> str:
    """Sixteen trials of every kind."""
    return report(SIXTEEN)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    """The same, parsed."""
    return Page(html)


def test_the_head_says_what_was_searched_and_what_became_of_it(page: Page) -> None:
    """How many trials of what ended how, how they were drawn and stopped, and what is admissible."""
    stopped = sum(made.end == "stopped" for made in SIXTEEN)
    assert (
        f"16 trials of gkt on digits_gkt, each to forget class 0: {len(ADMISSIBLE)} admissible, {stopped} "
        "stopped early, 2 failed; 81.5 s in all."
    ) in page.text
    assert "points drawn at random" in page.text and "ASHA" in page.text and "16 trials took" in page.text
    assert "retain accuracy at least 50 %, forget accuracy at most 0 %" in page.text
    assert "2 cores <fast>" in page.text


def test_the_winner_stands_beside_the_recipes_own(page: Page) -> None:
    """Every searched setting has its space, the recipe's own value and the winner's."""
    for key, own in demo.OWN.items():
        said = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in (own, BEST.settings[key])]
        assert f"{key} {demo.SPACE[key]} {said[0]} {said[1]}" in page.text


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (81, "The second is lower by 15.7 points (one image of the second set is worth 0.9)"),
        (98, "here the second is no lower, so nothing points to that"),
        (100, "here the second is no lower, so nothing points to that"),
        (None, "It was not measured on a second set"),
    ],
)
def test_the_gap_is_said_in_words(second: int | None, said: str) -> None:
    """98 of 108 right on the search's set: 81 are 15.7 points fewer; as many or more overfit nothing."""
    text = Page(report([learner("a", 0.908, second=second)], **ONE_SETTING)).text
    assert "The best is a : retain accuracy 90.7 % on the synthetic set that the search went by" in text
    assert said in text
    assert second is None or f"{100 * second / 108:.1f} % ({second} of 108 images) on a second one" in text


def test_scores_are_drawn_against_settings(page: Page) -> None:
    """Every admissible trial has a dot, straight in the score and in the setting or its logarithm."""
    for key in demo.SPACE:
        (svg,) = pictures(page, f"against {key}$").values()
        dots = np.array(marks(svg, "trials"))
        scores = [made.result.score for made in ADMISSIBLE]
        assert np.corrcoef(dots[:, 1], scores)[0, 1] == pytest.approx(-1, abs=1e-9), key
        values = [made.settings[key] for made in ADMISSIBLE]
        if key == "gkt.divergence":
            left, right = (dots[[value == word for value in values], 0] for word in ("kl", "js"))
            assert max(left) < min(right) and len({*left, *right}) == len(dots)
            continue
        log = demo.SPACE[key].startswith("loguniform")
        straight, other = (np.log(values), values) if log else (values, np.log(values))
        assert np.corrcoef(dots[:, 0], straight)[0, 1] == pytest.approx(1, abs=1e-9), key
        assert np.corrcoef(dots[:, 0], other)[0, 1] < 0.999, key


def test_others_are_apart_and_the_winner_is_ringed(page: Page) -> None:
    """Trials without an admissible checkpoint are circles in a band, those without any are crosses."""
    nowhere = [made for made in SIXTEEN if not made.records]
    apart = [made for made in SIXTEEN if made.records and not made.result.admissible]
    assert nowhere and apart
    for svg in pictures(page, "Score of the trials").values():
        dots = marks(svg, "trials")
        assert len(marks(svg, "apart")) == len(apart) and len(marks(svg, "nowhere")) == len(nowhere)
        lowest = max(y for _, y in dots)
        assert all(y > lowest for _, y in [*marks(svg, "apart"), *marks(svg, "nowhere")])
        (ring,) = marks(svg, "winner")
        assert ring == pytest.approx(dots[ADMISSIBLE.index(BEST)], abs=1e-4)


def test_the_recipes_own_value_is_a_line_where_the_space_has_it() -> None:
    """One outside of the space, or not among its words, is told in the table and not drawn."""
    trials = [learner("a", 0.9)]
    outside = {**demo.OWN, "gkt.beta": 1001.0, "gkt.divergence": "hellinger"}
    for own, drawn in ((demo.OWN, True), (outside, False), ({}, False)):
        page = Page(report(trials, own))
        for key in ("gkt.beta", "gkt.divergence"):
            (svg,) = pictures(page, f"against {key}$").values()
            assert svg.count(b'<g id="own">') == drawn, (key, own)
    assert "hellinger" in Page(report(trials, outside)).words


def test_a_logarithmic_axis_has_ticks() -> None:
    """Powers of ten where there are three, else their doubles and fives, else the ends."""
    for ends, ticks in (
        ((1.0, 1000.0), ["1", "10", "100", "1000"]),
        ((0.5, 4.0), ["0.5", "1", "2"]),
        ((0.3, 0.4), ["0.3", "0.4"]),
        ((1e-12, 1.0), ["1e-12", "1e-09", "1e-06", "0.001", "1"]),
    ):
        trial = replace(learner("a", 0.9), settings={"k.x": ends[0]})
        space = json.dumps({"k.x": f"loguniform({ends[0]},{ends[1]})"})
        (svg,) = pictures(Page(report([trial], space=space)), "against k.x").values()
        assert [t for t in re.findall(r"<!-- (\S+) -->", svg.decode()) if t in ticks] == ticks


def test_the_front_is_the_checkpoints_that_no_other_beats(page: Page) -> None:
    """Every checkpoint has a dot; the front is what comparing all pairs gives; the choice is ringed."""
    (svg,) = pictures(page, "Pareto front").values()
    records = [found for made in SIXTEEN for found in made.records]
    assert f"of {len(records)} checkpoints" in next(iter(pictures(page, "Pareto front")))
    points = {(r.forget_correct, r.retain_correct) for r in records}
    front = {
        (f, r)
        for f, r in points
        if not any((a, b) != (f, r) and a <= f and b >= r for a, b in points)
    }  # fmt: skip
    dots, joined = marks(svg, "checkpoints"), marks(svg, "front")
    assert len(dots) == len(points) and 1 < len(joined) == len(front) < len(points)
    place = dict(zip(sorted(points), dots, strict=True))
    for point, mark in zip(sorted(front), joined, strict=True):
        assert mark == pytest.approx(place[point], abs=1e-4)
    chosen = next(r for r in BEST.records if r.step == BEST.result.step)
    (ring,) = marks(svg, "winner")
    assert ring == pytest.approx(place[chosen.forget_correct, chosen.retain_correct], abs=1e-4)


def test_the_winners_curves_are_drawn(page: Page) -> None:
    """Three curves of the winner, with the chosen checkpoint marked."""
    (svg,) = pictures(page, f"Curves of trial {BEST.trial} ").values()
    for name in ("retain accuracy", "forget accuracy", "forget mass", f"chosen: cycle {BEST.result.step}"):
        assert f"<!-- {name} -->".encode() in svg
    assert f"The winner, {BEST.trial}, on the search's set." in page.text


def test_every_trial_has_its_row(page: Page) -> None:
    """Settings, score, second set, stop, cycles, seconds and status, the best first."""
    shown = page.text.split("All trials")[1].split("How to read this")[0]
    for made in SIXTEEN:
        result, won = made.result, made.result.admissible
        words = [made.trial]
        words += [f"{v:.3g}" if isinstance(v, float) else str(v) for _, v in sorted(made.settings.items())]
        words += [f"{100 * result.score:.1f} %" if won else "–"]
        words += ["–" if made.second is None else f"{100 * made.second / demo.RETAIN:.1f} %"]
        words += [str(result.step) if won else "–", str(result.cycles), f"{0.25 * result.cycles:.1f} s"]
        assert " ".join([*words, str(made.end)]) in shown
        assert won or made.end == "failed" or result.reason in shown
    order = re.findall(r"\b000\d\d\b", shown)
    scores = {made.trial: made.result.score for made in SIXTEEN}
    assert len(order) == 16 and order[0] == BEST.trial
    assert [scores[trial] for trial in order] == sorted(scores.values(), reverse=True)


def test_a_failed_trial_has_the_last_line_of_its_traceback(html: str, page: Page) -> None:
    """It is shown, not obeyed, and nothing else of the traceback is."""
    assert page.text.count('ValueError: <script>alert("x")</script> is \\x1b[31mno loss') == 2
    assert "<script" not in html and "\x1b" not in html and "Traceback" not in html


def test_the_page_needs_nothing_else(html: str, page: Page) -> None:
    """No script, no style sheet, no font, no address: every picture is in the page."""
    assert not re.search(r"https?:|@import|url\(", html, re.IGNORECASE)
    assert not {"script", "link", "iframe", "object", "embed", "a"} & {tag for tag, _ in page.tags}
    sources = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == len(demo.SPACE) + 2
    for source in sources:
        assert source.startswith("data:image/svg+xml;base64,")
        assert base64.b64decode(source.split(",")[1]).endswith(b"</svg>\n")


def test_the_same_input_gives_the_same_bytes() -> None:
    """Neither clock nor chance gets into the page; another score does."""
    first, again, other = (report([learner("a", peak)], **ONE_SETTING) for peak in (0.9, 0.9, 0.8))
    assert first == again != other


def test_real_figures_are_set_against_the_scores() -> None:
    """Ranks 1 2 3 4 5 against 1 2 3 5 4: rho is 1 - 6 * 2 / (5 * 24) = 0.9; the winner misses 2 points."""
    trials = [learner(name, 0.7 + 0.05 * number) for number, name in enumerate("abcde")]
    real = {"a": (0.6, 0.0), "b": (0.7, 0.0), "c": (0.8, 0.1), "d": (0.92, 0.0), "e": (0.9, 0.0)}
    page = Page(report(trials, real=real, **ONE_SETTING))
    half = 1.959964 * math.sqrt((1 + 0.9**2 / 2) / (5 - 3))
    low, high = (math.tanh(math.atanh(0.9) + side * half) for side in (-1, 1))
    assert (
        "Measured afterwards; the search never saw this. Over 5 admissible trials with real figures "
        "Spearman's rank correlation of the search's score with real retain accuracy is 0.90, with a 95 % "
        f"interval from {low:.2f} to {high:.2f}. On real test data the winner gets 90.0 % of the classes to "
        "keep right and 0.0 % of those to forget. The most is 92.0 %, by d: a regret of 2.0 points. 1 of "
        "the 5 still get something right of what was to be forgotten."
    ) in page.text
    (svg,) = pictures(page, "Real against synthetic retain accuracy of 5").values()
    assert len(marks(svg, "winner")) == 1
    assert "92.0 % 0.0 % 10.0 s finished" in page.text  # d's row


def test_real_figures_that_say_little() -> None:
    """One trial has no correlation; a trial that is not admissible does not count; the best has no regret."""
    trials = [learner("a", 0.9), learner("b", 0.3), learner("c", 0.8)]
    text = Page(report(trials, real={"a": (0.9, 0.0), "b": (0.95, 0.0)}, **ONE_SETTING)).text
    assert "no rank correlation over 1 admissible trial with real figures: too few, or all alike" in text
    assert "No other of these trials keeps more: the regret is 0 points" in text
    text = Page(report(trials, real={"b": (0.95, 0.0)}, **ONE_SETTING)).text
    assert "over 0 admissible trials" in text and "On real test data" not in text


def test_without_real_figures_nothing_is_said_of_them(page: Page) -> None:
    """No section, no column, no figure; of trials that are not there it is an error."""
    assert "real" not in {word.lower().strip(".,;:") for word in page.words}
    assert Page(report([learner("a", 0.9)], real={}, **ONE_SETTING)).text.count("Measured afterwards") == 0
    with pytest.raises(BadInput, match="trial with real figures is 'z'; allowed: 'a'"):
        report([learner("a", 0.9)], real={"z": (0.9, 0.0)}, **ONE_SETTING)


def test_a_sweep_without_an_admissible_trial_shows_how_far_each_is() -> None:
    """The scale is the distance, the nearer the higher; the curves are the nearest trial's; none has won."""
    lost = DemoTrial(trial="c", settings=demo.OWN, end="failed", lost=True)
    trials = [learner("a", 0.2), learner("b", 0.4), lost]
    page = Page(report(trials, **ONE_SETTING))
    assert "none of 3 trials has an admissible checkpoint" in page.text
    assert "0 admissible, 0 stopped early, 1 failed" in page.text and "The best is" not in page.text
    assert "The nearest to admissible, b, on the search's set." in page.text
    (svg,) = pictures(page, "Score of the trials").values()
    (_, a), (_, b) = marks(svg, "trials")
    assert b < a and b"<!-- short of admissible by, points -->" in svg
    assert not marks(svg, "apart") and len(marks(svg, "nowhere")) == 1 and not marks(svg, "winner")
    (svg,) = pictures(page, "Pareto front").values()
    assert not marks(svg, "winner")


@pytest.mark.parametrize("trials", [[], [DemoTrial(trial="a", settings=demo.OWN, end="failed")]])
def test_a_sweep_without_a_checkpoint_has_no_pictures(trials: list[DemoTrial]) -> None:
    """With a failed trial alone, or none, the page says so and draws nothing."""
    page = Page(report(trials))
    assert not pictures(page, "") and "has an admissible checkpoint" in page.text
    assert ("No trial was begun." in page.text) == (not trials)
    assert ("ValueError:" in page.text) == bool(trials)


def test_two_hundred_trials() -> None:
    """Every one has its dot and its row."""
    trials = [learner(f"t{n}", 0.6 + 0.001 * n, cycles=20) for n in range(200)]
    trials = [replace(trial, settings={"gkt.beta": 1.0 + n}) for n, trial in enumerate(trials)]
    page = Page(report(trials, **ONE_SETTING))
    (svg,) = pictures(page, "Score of the trials").values()
    assert len(marks(svg, "trials")) == 200
    assert {f"t{n}" for n in range(200)} <= set(page.words)
    assert "200 trials of gkt" in page.text


def test_a_sweep_that_is_not_over() -> None:
    """What has ended is shown; nobody has won yet."""
    trials = [learner("a", 0.9), replace(learner("b", 0.95), end=None)]
    page = Page(report(trials, over=False, **ONE_SETTING))
    assert "1 admissible, 0 stopped early, 0 failed, 1 not ended." in page.text
    assert "The best so far, a," in page.text and "The best is" not in page.text
    (svg,) = pictures(page, "Score of the trials").values()
    assert len(marks(svg, "trials")) == 1 and not marks(svg, "winner") and not marks(svg, "nowhere")


def test_a_request_by_examples_has_its_own_words() -> None:
    """What is judged on D' is agreement and labels to erase, not accuracy."""
    request = {"request_id": "x", "kind": "examples", "target": [9], "whole_classes": False}
    page = Page(report([learner("a", 0.9, second=90)], request=json.dumps(request), **ONE_SETTING))
    assert "each to forget label 9 of what is like the examples: 1 admissible" in page.text
    assert "agreement 89.8 % on the held-out part of D' that the search" in page.text
    assert "retain accuracy" not in page.text and "synthetic" not in page.text
    (svg,) = pictures(page, "Curves of trial a").values()
    assert b"<!-- given an erased label -->" in svg and b"accuracy" not in svg
