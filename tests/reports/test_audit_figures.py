"""Figures of an audit: which there are, and that they show what the rows and the images say."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from rayunlearn.errors import BadInput
from rayunlearn.reports.audit_figures import COLOURS, audit_figures
from rayunlearn.reports.inverted_images import InvertedImages
from rayunlearn.reports.plot_style import INK


def row(subject: str, measure: str, **parameters: Any) -> dict[str, Any]:
    """A row of the audits table, as far as figures look."""
    return {"subject": subject, "measure": measure, "parameters": json.dumps(parameters)}


def relearned(subject: str, *curve: int, needed: int = 18, measure: str = "relearn_steps") -> dict[str, Any]:
    """A relearning curve of 20 images."""
    return row(subject, measure, curve=curve, count=20, needed=needed)


def attacked(subject: str, *roc: tuple[int, int]) -> dict[str, Any]:
    """An attack on 50 members and as many others."""
    return row(subject, "lira_auc", roc=roc, members=50, non_members=50)


def one(figures: dict[str, bytes]) -> np.ndarray:
    """The only figure, as pixels [H, W, 3]."""
    (png,) = figures.values()
    pixels: np.ndarray = imread(io.BytesIO(png))[..., :3]
    return pixels


def where(pixels: np.ndarray, colour: str | tuple[float, float, float]) -> np.ndarray:
    """Which pixels have exactly this colour, bool [H, W]."""
    return (np.abs(pixels - np.array(to_rgb(colour))) < 1 / 256).all(axis=2)


GOLDS = [relearned("gold", 0, 0, 5, 18), relearned("gold_2", 0, 0, 0, 2, 19)]
GREY = np.full((1, 4, 4), 0.5)


def test_a_figure_for_all_that_was_measured() -> None:
    """Files are named for their measures; rows without curves give none; one class, one file."""
    nothing = [row("original", "retain_accuracy"), row("checkpoint", "regret")]
    assert audit_figures(nothing) == {}
    images = [InvertedImages(class_id=c, mean=GREY, attacks={"original": GREY[None]}) for c in (3, 5)]
    figures = audit_figures([*nothing, *GOLDS, attacked("original", (0, 3), (1, 50))], images)
    assert set(figures) == {"relearning.png", "likelihood-ratio.png", "inversion-3.png", "inversion-5.png"}
    assert all(png.startswith(b"\x89PNG") for png in figures.values())


def test_equal_rows_give_equal_bytes() -> None:
    """No clock and no draw; negative control: one image more at one step is another file."""
    assert audit_figures(GOLDS) == audit_figures(list(GOLDS))
    assert audit_figures(GOLDS) != audit_figures([relearned("gold", 0, 0, 6, 18), GOLDS[1]])


def test_a_panel_for_each_kind_of_relearning() -> None:
    """Full, few and retain-only relearning stand side by side; without one the figure is narrower."""
    widths = [
        one(audit_figures([relearned("gold", 0, 4, measure=m) for m in measures])).shape[1]
        for measures in (
            ["relearn_steps"],
            ["relearn_steps", "relearn_few_steps"],
            ["relearn_steps", "relearn_few_steps", "relearn_retain_peak"],
        )
    ]
    assert widths[0] < widths[1] < widths[2]


def test_gold_models_share_a_colour_and_subjects_have_their_own() -> None:
    """A second gold model adds to gold's pixels and a masked logit adds pixels of another colour alone."""
    gold, both = one(audit_figures(GOLDS[:1])), one(audit_figures(GOLDS))
    masked = one(audit_figures([*GOLDS, relearned("mask_logit", 0, 20)]))
    count = {
        name: where(pixels, COLOURS["gold"]).sum()
        for name, pixels in (("gold", gold), ("both", both), ("masked", masked))
    }
    assert count["both"] > 1.2 * count["gold"] > 0
    assert where(both, COLOURS["mask_logit"]).sum() == 0 < where(masked, COLOURS["mask_logit"]).sum()
    assert count["masked"] > count["gold"]


def test_the_line_stands_at_what_is_needed() -> None:
    """Of 20 images 18 or 10: the line across the panel is higher for more, and at the curve's end there."""

    def rows(needed: int) -> tuple[int, int]:
        """The row of the line, and the highest row of the curve that ends on it."""
        pixels = one(audit_figures([relearned("unlearned", 0, 0, needed, needed=needed)]))
        panel = pixels[120:]
        line = int(where(panel, INK).sum(axis=1).argmax())
        return line, int(where(panel, COLOURS["unlearned"]).any(axis=1).argmax())

    (high, high_end), (low, low_end) = rows(18), rows(10)
    assert high < low
    assert abs(high - high_end) < 8 and abs(low - low_end) < 8  # a dot is 11 pixels wide


def test_the_roc_is_logarithmic_and_reaches_to_no_false_positive() -> None:
    """Half of the members at no false positive and all at the first: the line leaves the left edge at a half.

    On axes from 1 % to 100 % that is 0.15 of the height below the top; linear ones would have 0.5 there.
    """
    rows = [attacked("gold", (0, 25), (1, 50)), attacked("unlearned", (0, 0), (49, 50))]
    pixels = one(audit_figures(rows))
    drawn = where(pixels, COLOURS["gold"])[50:]  # the legend stands above
    height, left = drawn.shape[0], int(np.flatnonzero(drawn.any(axis=0))[0])
    top = int(drawn.any(axis=1).argmax())
    at_left = float(np.flatnonzero(drawn[:, left + 3]).mean())
    assert 0.1 < (at_left - top) / height < 0.25
    assert where(pixels, COLOURS["unlearned"])[50:].any()


def test_inverted_images_are_shown_as_they_are() -> None:
    """Pixels keep their colours: of twelve images one is red, one green; what is out of range is cut."""
    images = np.zeros((12, 3, 4, 4))
    images[4, 0], images[11, 1], images[5], images[6] = 1.0, 7.0, np.nan, -3.0
    mean = np.zeros((3, 4, 4))
    mean[2] = 1.0
    pixels = one(audit_figures([], [InvertedImages(class_id=3, mean=mean, attacks={"original": images})]))
    red, green, blue = (where(pixels, colour) for colour in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    assert 0.9 < red.sum() / green.sum() < 1.1 and blue.sum() > 4 * red.sum()
    # the fifth of rows of four stands below the first row and left of the last
    assert np.argwhere(red).mean(axis=0)[0] < np.argwhere(green).mean(axis=0)[0]
    assert np.argwhere(blue)[:, 1].max() < np.argwhere(red)[:, 1].min() < np.argwhere(green)[:, 1].min()


@pytest.mark.parametrize(
    ("mean", "images", "message"),
    [
        (np.zeros((2, 4, 4)), np.zeros((1, 2, 4, 4)), "shape of the mean image is .*C of 1 or 3"),
        (np.zeros((4, 4)), np.zeros((1, 4, 4)), "shape of the mean image"),
        (np.zeros((1, 4, 4)), np.zeros((1, 1, 4, 5)), r"images of gold is .*allowed: \[A, 1, 4, 4\]"),
        (np.zeros((1, 4, 4)), np.zeros((0, 1, 4, 4)), "inverted images of gold is .*A of at least 1"),
    ],
)
def test_images_that_fit_no_grid_are_refused(mean: np.ndarray, images: np.ndarray, message: str) -> None:
    """Two channels, no image, another size than the mean's: named."""
    with pytest.raises(BadInput, match=message):
        InvertedImages(class_id=3, mean=mean, attacks={"gold": images})
    with pytest.raises(BadInput, match="subjects of the inversion attack"):
        InvertedImages(class_id=3, mean=np.zeros((1, 4, 4)), attacks={})
