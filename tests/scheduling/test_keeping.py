"""A predicted D_r is the line that it says, within bounds, and a calibration is whole."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayunlearn.errors import BadInput
from rayunlearn.scheduling.keeping import Calibration, Kept

LINE = Calibration.of(0.3, [0.4, 0.1, 0.1, -0.2, 0.1], 0.05)
shares = st.floats(0, 1)
measured = st.builds(
    Kept, coarse=shares, cut=shares, mixed=shares, explained=st.floats(-1, 1), direction=st.floats(-1, 1)
)


def test_a_prediction_is_a_line_with_an_interval() -> None:
    """0.3 + 0.4 * 0.9 + 0.1 * 0.6 + 0.1 * 0.5 - 0.2 * 0.5 + 0.1 * 0.2 = 0.69."""
    said = LINE.predict(Kept(coarse=0.9, cut=0.6, mixed=0.5, explained=0.5, direction=0.2))
    assert said.share == pytest.approx(0.69)
    assert (said.low, said.high) == (pytest.approx(0.64), pytest.approx(0.74))


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
    imitating = Kept(**{**vars(kept), "explained": kept.explained + more})
    assert LINE.predict(imitating).share <= LINE.predict(kept).share


def test_a_calibration_has_all_slopes_in_order_and_a_spread() -> None:
    """Others are refused by name."""
    with pytest.raises(BadInput, match="slopes"):
        Calibration(offset=0, slopes={"coarse": 1.0}, spread=0.1)
    with pytest.raises(BadInput, match="slopes"):
        Calibration(offset=0, slopes=dict(reversed(LINE.slopes.items())), spread=0.1)
    for spread in (-0.1, 1.1, math.nan):
        with pytest.raises(BadInput, match="spread"):
            Calibration.of(0, [0] * 5, spread)
    with pytest.raises(ValueError, match="zip"):
        Calibration.of(0, [0] * 4, 0.1)
