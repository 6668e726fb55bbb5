from __future__ import annotations

import dataclasses
import io
import re

import numpy as np
import pytest
from matplotlib.image import imread

from rayunlearn.errors import BadInput
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.ledger.schemas import ALL_TABLES
from rayunlearn.reports.report import IMAGES_PER_CLASS, write_report
from rayunlearn.reports.summary import Figure, RequestSummary, summarise
from rayunlearn.reports.wording import percent, points
from tests.reports import demo_ledger as demo
from tests.reports.pages import Page, pictures

FACTS = {"hardware": "2 cores <fast>", "seed": "0"}
RECIPE = '{"gkt": {"cycles": 60, "note": "</pre><b>"}}'


@pytest.fixture(scope="module")
def summaries() -> list[RequestSummary]:
    """Those of the demo's ledger, one with a hostile reason."""
    store = demo.demo_store(failed=demo.HOSTILE)
    return summarise(LedgerReader(store, ALL_TABLES), demo.REQUEST_IDS)


@pytest.fixture(scope="module")
def html(summaries: list[RequestSummary]) -> str:
    """The demo's report, with images of every class, also of the forgotten one."""
    images, labels = demo.demo_images(tuple(range(10)))
    return write_report(summaries, {"r2": images}, {"r2": labels}, RECIPE, FACTS, 33)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    """The same, parsed."""
    return Page(html)


def test_the_figures_are_the_ledgers(summaries: list[RequestSummary], page: Page) -> None:
    """Every figure of the audit stands in the page with its sum and count."""
    for summary in summaries[:3]:
        for measures in summary.figures.values():
            for measure, figure in measures.items():
                if figure.count:
                    assert f"{percent(figure)} {figure.counts}" in page.text, (summary.request_id, measure)
                else:
                    wanted = f"{figure.value:.2f}" if measure == "anamnesis_index" else f"{figure.value:.0f}"
                    assert wanted in page.words
        assert f"{summary.chosen_step} {points(summary.regret)}" in page.text
        assert "81.2 s" in page.text and "58.2 s" in page.text
        assert summary.run_id in page.words
        assert summary.parent and summary.parent[:12] in page.words
        assert summary.version and summary.version[:12] in page.words
    assert "33 entries" in page.text and "Unlearning report" in page.text


def test_a_request_that_names_samples(summaries: list[RequestSummary]) -> None:
    """Samples are told by number; no forget curve is drawn, and what the audit left out is said with why."""
    accuracy = {"forget_accuracy": Figure(value=0.5, sum=1.0, count=2)}
    figures = {s: {**summaries[0].figures[s], **accuracy} for s in ("unlearned", "gold", "original")}
    summary = dataclasses.replace(
        summaries[0], kind="samples", target=(17, 254), forgotten=(), forgotten_samples=(17, 254),
        figures=figures, real={}, forget_by_class={}, left_out={"anamnesis": "it needs a class"},
    )  # fmt: skip
    images, labels = demo.demo_images((0, 2))
    html = write_report([summary], {"r1": images}, {"r1": labels}, "{}", {}, 0)
    page = Page(html)
    assert "forget 2 samples" in page.text and "254" not in page.text
    assert "Forgotten: 2 samples . The last version gets 50.0 % of the forgotten samples right" in page.text
    assert "Left out, anamnesis: it needs a class." in page.text
    (svg,) = pictures(page, "Accuracy over cycles").values()
    assert b"<!-- retain, synthetic -->" in svg and b"forget" not in svg
    assert len(pictures(page, "synthetic images of class")) == 2, "no class of the images is to be forgotten"


def test_a_bound_stands_where_gold_did_not_relearn(summaries: list[RequestSummary]) -> None:
    """Each index is "below" its bound, and the best baseline is named by the largest; gold has none."""
    bounds = {"unlearned": 0.9, "mask_logit": 0.0312, "delete_head_row": 0.1, "gaussian_head": 0.02}
    figures = {
        subject: {
            **measures,
            "anamnesis_index": Figure(
                value=None, censored=True, parameters={"upper_bound": bounds.get(subject), "note": "so"}
            ),
        }
        for subject, measures in summaries[0].figures.items()
    }
    page = Page(rendered(dataclasses.replace(summaries[0], figures=figures)))
    for said, times in (("< 0.90", 2), ("< 0.04", 1), ("< 0.10", 2), ("< 0.02", 1), ("< 0.10 deleted", 1)):
        assert page.text.count(said) == times, said


def test_an_edited_figure_changes_the_page(summaries: list[RequestSummary], html: str) -> None:
    """Negative control: the page follows the summaries, whichever figure of them changes."""
    first = summaries[0]
    for subject in first.figures:
        for measure, figure in first.figures[subject].items():
            value = 0.123 if figure.count else 77.0
            changed = dataclasses.replace(figure, value=value, sum=1.0 if figure.count else None)
            figures = {**first.figures, subject: {**first.figures[subject], measure: changed}}
            edited = dataclasses.replace(first, figures=figures, synthetic={})
            plain = dataclasses.replace(first, synthetic={})
            assert rendered(edited) != rendered(plain), (subject, measure)


def rendered(summary: RequestSummary) -> str:
    """A page about one request."""
    return write_report([summary], {}, {}, "{}", {}, 0)


def test_the_page_needs_nothing_else(html: str, page: Page) -> None:
    """No script, no style sheet, no font, no address: pictures are in the page, links stay in it."""
    assert not re.search(r"https?:|@import|url\(", html, re.IGNORECASE)
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert (attributes.get("src") or "data:").startswith("data:image/") or "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    anchors = {attributes.get("id") for _, attributes in page.tags}
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert {f"#{anchor}" for anchor in anchors} >= links


def test_hostile_text_is_escaped(html: str, page: Page) -> None:
    """What a reason, a fact or a recipe holds is shown, not obeyed."""
    assert "<script" not in html
    assert '<script>alert("x")</script> &' in page.text
    assert "&lt;script&gt;" in html
    assert "2 cores <fast>" in page.text and "<fast>" not in html
    assert '"note": "</pre><b>"' in page.text
    assert "\x1b" not in html


def test_a_failed_and_a_rejected_request_are_shown(page: Page) -> None:
    """Both stand there with their status and reason, and the first sentence counts them."""
    assert "3 of 5 requests served (1 failed, 1 rejected)" in page.text
    assert page.text.count(demo.REJECTED) == 2  # in the table, and in its own part


def test_the_curves_are_drawn(page: Page) -> None:
    """Each run has one figure with its curves: two solid, two dashed where it was audited."""
    curves = pictures(page, "Accuracy over cycles")
    assert [alt.split(" of ")[1].split(",")[0] for alt in curves] == ["r1", "r2", "r3", "r4"]
    for alt, svg in curves.items():
        assert svg.count(b"stroke-dasharray") >= (3 if "r4" not in alt else 0)
        for text, audited in (("retain, synthetic", True), ("retain, real test", "r4" not in alt)):
            assert (f"<!-- {text} -->".encode() in svg) == audited
    assert b"<!-- chosen stop: cycle 46 -->" in curves[next(a for a in curves if "r1" in a)]
    assert b"<!-- oracle stop: cycle 52 -->" in curves[next(a for a in curves if "r1" in a)]
    assert b"<!-- chosen stop = oracle stop: cycle 44 -->" in curves[next(a for a in curves if "r2" in a)]


def test_images_of_retain_classes_alone_are_shown(page: Page) -> None:
    """The pixels are those handed over, repeated; no image of a forgotten class gets into the page."""
    strips = pictures(page, "synthetic images of class")
    assert [int(alt.split()[-1]) for alt in strips] == [1, 3, 4, 5, 6, 7, 8, 9]  # r2: 0 and 2 are forgotten
    images, labels = demo.demo_images(tuple(range(10)))
    for alt, png in strips.items():
        pixels = imread(io.BytesIO(png))
        wanted = images[labels == int(alt.split()[-1])]
        scale = pixels.shape[0] // 8
        assert pixels.shape[0] == 8 * scale and alt.startswith(f"{IMAGES_PER_CLASS} of 20 ")
        step = (pixels.shape[1] - 8 * scale) // (IMAGES_PER_CLASS - 1)
        for number in range(IMAGES_PER_CLASS):
            shown = pixels[:, number * step : number * step + 8 * scale, :3]
            exact = np.kron(np.rint(255 * wanted[number, 0]), np.ones((scale, scale)))
            np.testing.assert_array_equal(np.rint(255 * shown), exact[..., None].repeat(3, axis=2))


def test_colour_images_keep_their_channels(summaries: list[RequestSummary]) -> None:
    """Three channels are red, green and blue; what is out of range or no number is clipped."""
    image = np.zeros((1, 3, 4, 4), dtype=np.float32)
    image[0, 0], image[0, 1], image[0, 2] = 2.0, -1.0, np.nan
    labels = np.array([5])
    page = Page(write_report(summaries[:1], {"r1": image}, {"r1": labels}, "{}", {}, 1))
    (png,) = pictures(page, "synthetic images of class 5").values()
    pixels = imread(io.BytesIO(png))[..., :3]
    assert (pixels == np.array([1.0, 0.0, 0.0])).all()


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 2, 4, 4)), np.zeros(2)),
        (np.zeros((2, 8, 8)), np.zeros(2)),
        (np.zeros((2, 1, 8, 8)), np.ones(3)),
    ],
)
def test_images_of_another_shape_are_refused(
    summaries: list[RequestSummary], images: np.ndarray, labels: np.ndarray
) -> None:
    """Two channels, no channels or labels that do not match are bad input."""
    with pytest.raises(BadInput, match="of the report's"):
        write_report(summaries[:1], {"r1": images}, {"r1": labels}, "{}", {}, 1)


def test_the_same_input_gives_the_same_bytes(summaries: list[RequestSummary], html: str) -> None:
    """Neither clock nor chance gets into the page."""
    images, labels = demo.demo_images(tuple(range(10)))
    assert write_report(summaries, {"r2": images}, {"r2": labels}, RECIPE, FACTS, 33) == html


def test_a_report_without_an_audit_says_so() -> None:
    """Without real figures the page has no comparison, and no real figure is made up."""
    summaries = summarise(LedgerReader(demo.demo_store()), ["r1", "r5"])
    page = Page(write_report(summaries, {}, {}, "no json", {}, 1))
    assert "No real data was audited" in page.text and "Models compared" not in page.text
    assert "no json" in page.text and "95.0 % 171/180" in page.text
    assert Page(write_report([], {}, {}, "{}", {}, 0)).text.count("0 of 0 requests served") == 1


def test_a_rejected_line_has_no_images() -> None:
    """Images belong to the request that ran, not to a rejected line of the same id."""
    store = demo.demo_store()
    Ledger(store).append("requests", [demo.request_row("r1", "rejected", reason="duplicate id")])
    summaries = summarise(LedgerReader(store, ALL_TABLES), ["r1", "r1"])
    images, labels = demo.demo_images((1, 2))
    page = Page(write_report(summaries, {"r1": images}, {"r1": labels}, "{}", {}, 1))
    shown = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert sum("class 1" in (alt or "") for alt in shown) == 1
    assert "1 of 2 requests served (1 rejected)" in page.text and "duplicate id" in page.text


@pytest.fixture(scope="module")
def by_examples() -> Page:
    """A page about two requests by examples; images of every class are handed over for both."""
    found = summarise(LedgerReader(demo.examples_store(), ALL_TABLES), ["whole", "labels"])
    images, labels = demo.demo_images(tuple(range(10)))
    shown, of = (dict.fromkeys(["whole", "labels"], part) for part in (images, labels))
    return Page(write_report(found, shown, of, "{}", FACTS, 1))


def test_what_is_like_the_examples_is_told(by_examples: Page) -> None:
    """How many samples, the curve with its threshold, and why there was no knee."""
    assert "whole: forget 9, by examples" in by_examples.text
    assert "labels: forget labels 2, 3 of what is like the examples" in by_examples.text
    assert "74 of 390 samples of D' are like the examples. Class" in by_examples.text
    assert f"greatest and the least similarity ({demo.NO_KNEE})." in by_examples.text
    whole, labels = pictures(by_examples, "Similarity to the examples").values()
    assert b"<!-- threshold 1.4, 74 count as like the examples -->" in whole
    assert b"<!-- threshold 5.5, 17 count as like the examples -->" in labels


def test_what_each_class_gave_is_told(by_examples: Page) -> None:
    """Found of wanted, made, what failed, and other predictions; the class that fell short is marked."""
    told = "6 40/40 56 16 3 none 7 40/40 57 17 3 9 as 2, 4 as 3 8 short 30/40 400 370 3 none"
    assert by_examples.text.count(told) == 2 and "the budget of 400 was spent" in by_examples.text
    assert sum(attributes.get("class") == "pill failed" for _, attributes in by_examples.tags) == 2


def test_figures_of_a_behaviour_have_their_names(by_examples: Page) -> None:
    """Agreement is not called accuracy, the curves are of D', and no phase has its name in the ledger."""
    assert "not like the examples: answered as by the version before 97.2 % 35/36" in by_examples.text
    assert "like the examples: still a label to erase 25.0 % 1/4" in by_examples.text
    assert "The gate's check (held-out D')" in by_examples.text and "retain accuracy" not in by_examples.text
    assert "generator training 61.0 s samples of D' 8.2 s likeness to examples 3.1 s" in by_examples.text
    for svg in pictures(by_examples, "held-out samples").values():
        assert b"<!-- answered as before -->" in svg and b"<!-- like the examples: label to erase -->" in svg
        assert b"synthetic" not in svg
    shown = [int(alt.split()[-1]) for alt in pictures(by_examples, "synthetic images of class")]
    assert shown == list(range(10)) and shown.count(9) == 1  # labels: 2 and 3 stay; whole: no 9


def test_mislabelled_samples_stand_beside_gold(by_examples: Page) -> None:
    """Both figures have their column and gold's mark, where there are any; the probe has none where there
    are not."""
    whole, labels = by_examples.text.split("labels: forget labels")
    assert "Mislabelled" not in whole and "Probe on D_f (line: gold)" in whole and "Relearn steps" in whole
    assert "Mislabelled: right label (line: gold) Mislabelled: wrong label, as taught (line: gold)" in labels
    assert "84.0 % 84/100 9.0 % 9/100" in labels
    assert "Probe on D_f (line: gold)" not in labels and "Relearn steps" not in labels
    marks = [attributes["style"] for tag, attributes in by_examples.tags if tag == "em"]
    assert marks.count("left: 95.00%") == marks.count("left: 2.00%") == 3
    assert (
        "Forgotten: labels 2, 3 of what is like the examples . The last version gets 97.2 % of the test "
        "images of the classes to keep right, and 84.0 % of the mislabelled samples; a model retrained "
        "without these samples gets 98.7 % and 95.0 %."
    ) in by_examples.text


def test_a_request_by_class_says_nothing_of_examples(page: Page) -> None:
    """Negative control: neither D', nor a similarity, nor mislabelled samples."""
    assert not {"D'", "D')", "Mislabelled:"} & set(page.words)
    assert "like the examples" not in page.text and not pictures(page, "Similarity")
