"""A predicted D_r is the line that it says, within bounds, and a calibration is whole."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayunlearn.errors import BadInput
from rayunlearn.scheduling.keeping import Calibration, Kept, standard

LINE = Calibration.of(0.8, [0.4, 0.2, -0.5, 0.1, -0.15], 0.05)
shares = st.floats(0, 1)
measured = st.builds(
    Kept, coarse=shares, cut=shares, direction=st.floats(-1, 1), plain=shares, retain_data=st.booleans(),
)


def test_a_prediction_is_a_line_with_an_interval() -> None:
    """0.8 + 0.4 * log 0.5 + 0.2 * log 1 - 0.5 * 0.2 * 0.5 = 0.75 - 0.4 log 2."""
    said = LINE.predict(Kept(coarse=0.5, cut=1.0, direction=0.2, plain=0.5))
    assert said.share == pytest.approx(0.75 - 0.4 * math.log(2))
    assert (said.low, said.high) == (pytest.approx(said.share - 0.05), pytest.approx(said.share + 0.05))


def test_who_answers_nothing_as_the_version_does_has_a_prediction_too() -> None:
    """The same as one that hardly does."""
    nothing, hardly = (Kept(coarse=c, cut=0.5, direction=0) for c in (0.0, 0.02))
    assert LINE.score(nothing) == LINE.score(hardly) > -2


def test_plain_images_tell_of_who_began_at_the_version() -> None:
    """A model of its own may answer none of them; of half the version's direction half counts."""
    own, half = (Kept(coarse=0.9, cut=0.6, direction=d, plain=0.6) for d in (-0.1, 0.5))
    assert own.broken == 0 and half.broken == pytest.approx(0.2)
    whole = replace(half, plain=1.0)
    assert LINE.score(whole) - LINE.score(half) == pytest.approx(0.5 * 0.2)


def test_who_learned_from_the_retain_classes_owes_the_version_less() -> None:
    """0.1 for weights of its own, and of what it lost on cut images three quarters are forgiven.

    The same measures of a method without retain data count as they are; so do those of an edit that
    left the version's weights where they were.
    """
    student = Kept(coarse=0.6, cut=0.4, direction=0.0)
    retrained, edited = replace(student, retain_data=True), replace(student, direction=1.0)
    assert (retrained.independent, student.independent) == (1, 0)
    assert LINE.score(retrained) - LINE.score(student) == pytest.approx(0.1 - 0.15 * math.log(0.4))
    assert replace(retrained, direction=-0.5).independent == 1
    assert LINE.score(replace(edited, retain_data=True)) == LINE.score(edited)


@given(measured)
def test_a_prediction_is_a_share(kept: Kept) -> None:
    """Whatever was measured; its interval is around it."""
    said = LINE.predict(kept)
    assert 0 <= said.low <= said.share <= said.high <= 1


@given(measured, shares)
def test_a_positive_slope_never_lowers_a_prediction(kept: Kept, more: float) -> None:
    """And a negative one never raises it."""
    closer = Kept(**{**vars(kept), "coarse": min(1.0, kept.coarse + more)})
    assert LINE.predict(closer).share >= LINE.predict(kept).share
    emptier = Kept(**{**vars(kept), "plain": max(0.0, kept.plain - more)})
    assert LINE.predict(emptier).share <= LINE.predict(kept).share


def test_checkpoints_are_told_apart_where_both_have_all_of_d_r() -> None:
    """A prediction ends at 1; the score of what is closer is higher still."""
    near, nearer = (Kept(coarse=c, cut=1.0, direction=1.0) for c in (0.9, 1.0))
    generous = replace(LINE, offset=1.2)
    assert generous.predict(near).share == generous.predict(nearer).share == 1
    assert generous.score(nearer) > generous.score(near) > 1


def test_a_calibration_has_all_slopes_and_a_spread() -> None:
    """Others are refused by name."""
    for spread in (-0.1, 1.1, math.nan):
        with pytest.raises(BadInput, match="spread"):
            Calibration.of(0, [0] * 5, spread)
    with pytest.raises(BadInput, match="coarse"):
        Calibration.of(0, [math.inf, *[0] * 4], 0.1)
    with pytest.raises(ValueError, match="zip"):
        Calibration.of(0, [0] * 4, 0.1)


def test_a_digest_is_of_every_number() -> None:
    """The standard calibration's, too, which is what the package has stored."""
    made = [LINE, *(replace(LINE, **{f.name: getattr(LINE, f.name) + 0.01}) for f in fields(LINE))]
    assert len({each.digest for each in made}) == len(fields(LINE)) + 1
    assert standard().digest == standard().digest != LINE.digest
