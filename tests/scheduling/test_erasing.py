"""A model's place between stand-ins and version: what is erased, what is still there, what cannot be told."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayunlearn.errors import BadInput
from rayunlearn.scheduling.erasing import MOST_RELATIVE, Recall, Scale, judge_erasing, layers_to_keep

BOUNDS = {"max_position": 0.5, "least_power": 0.25}
KNOWN, UNSEEN = Recall(forget=0.96, retain=0.96), Recall(forget=0.2, retain=0.8)
SCALE = Scale(version=KNOWN, stand_ins=(UNSEEN, UNSEEN))

shares = st.floats(0, 1)
recalls = st.builds(Recall, forget=shares, retain=shares)
scales = st.builds(Scale, version=recalls, stand_ins=st.lists(recalls, min_size=1, max_size=3).map(tuple))


def relative(forget: float, retain: float) -> Recall:
    """A recall of the classes to forget as a share of the others'."""
    return Recall(forget=forget * retain, retain=retain)


@pytest.mark.parametrize(
    ("candidate", "found"),
    [
        (KNOWN, "still there"),
        (UNSEEN, "erased"),
        (Recall(forget=0.58, retain=0.8), "erased"),  # halfway by recall
        (Recall(forget=0.59, retain=0.8), "still there"),
        (relative(0.6, 0.99), "erased"),  # by the relative recall: 0.6, where half of the way is 0.625
        (relative(0.66, 0.99), "still there"),
        (Recall(forget=0.9, retain=0.9), "still there"),
        (Recall(forget=0.0, retain=0.0), "erased"),
    ],
)
def test_a_place_on_the_scale(candidate: Recall, found: str) -> None:
    """The side of the stand-ins by one of two measures is erased, else the class is still there."""
    assert judge_erasing(candidate, SCALE, **BOUNDS) == found


def test_damaged_features_hide_nothing() -> None:
    """Noise that takes a quarter of all recall leaves the class as well known as the others."""
    damaged = Recall(forget=0.72, retain=0.72)
    assert judge_erasing(damaged, SCALE, **BOUNDS) == "still there"


def test_features_that_know_every_class_have_no_power() -> None:
    """Stand-ins that know the unseen class as the version does: of a like candidate nothing can be told.

    One that is clearly below them all is erased all the same.
    """
    scale = Scale(version=KNOWN, stand_ins=(replace(KNOWN, forget=0.9), KNOWN))
    assert judge_erasing(replace(KNOWN, forget=0.93), scale, **BOUNDS) == "cannot tell"
    assert judge_erasing(replace(KNOWN, forget=0.5), scale, **BOUNDS) == "erased"


def test_a_stand_in_that_saw_the_class_is_found_out() -> None:
    """It lies where the version lies, so the scale has no power, and nobody is refused or passed by it."""
    scale = Scale(version=KNOWN, stand_ins=(KNOWN, KNOWN))
    assert judge_erasing(KNOWN, scale, **BOUNDS) == "cannot tell"
    assert judge_erasing(KNOWN, SCALE, **BOUNDS) == "still there"


@given(scales, st.floats(0, 0.99), st.floats(0.01, 1))
def test_the_version_itself_is_never_erased(scale: Scale, position: float, power: float) -> None:
    """Whatever the stand-ins are."""
    assert judge_erasing(scale.version, scale, max_position=position, least_power=power) != "erased"


@given(scales, recalls, shares)
def test_who_knows_less_of_the_class_is_not_further_from_erased(
    scale: Scale, candidate: Recall, less: float
) -> None:
    """Lower recall of the class, with the others' as it was, never takes the word back."""
    lower = replace(candidate, forget=candidate.forget * less)
    if judge_erasing(candidate, scale, **BOUNDS) == "erased":
        assert judge_erasing(lower, scale, **BOUNDS) == "erased"


@given(scales, recalls)
def test_without_power_nothing_is_said_to_be_still_there(scale: Scale, candidate: Recall) -> None:
    """And nothing cannot be told where there is power."""
    stand_ins = scale.stand_ins
    forget = scale.version.forget - sum(r.forget for r in stand_ins) / len(stand_ins)
    relative = scale.version.relative - sum(r.relative for r in stand_ins) / len(stand_ins)
    found = judge_erasing(candidate, scale, **BOUNDS)
    if max(forget, relative) < BOUNDS["least_power"] - 1e-9:
        assert found != "still there"
    if max(forget, relative) > BOUNDS["least_power"] + 1e-9:
        assert found != "cannot tell"


@given(scales, recalls)
def test_a_position_beyond_the_scale_refuses_nothing(scale: Scale, candidate: Recall) -> None:
    """Experiments that want to publish everything say so by it."""
    assert judge_erasing(candidate, scale, max_position=9, least_power=0.25) == "erased"


def test_the_share_of_nothing_is_bounded() -> None:
    """Where hardly any class is known a recall cannot become any multiple of the others'."""
    assert Recall(forget=0.5, retain=0.0).relative == MOST_RELATIVE
    assert Recall(forget=0.0, retain=0.0).relative == 0


def test_what_is_no_share_is_refused() -> None:
    """By name; so is a scale with one end."""
    for bad in (-0.1, 1.1, math.nan, True):
        with pytest.raises(BadInput, match="recall.forget"):
            Recall(forget=bad, retain=0.5)
        with pytest.raises(BadInput, match="recall.retain"):
            Recall(forget=0.5, retain=bad)
    with pytest.raises(BadInput, match="stand_ins"):
        Scale(version=KNOWN, stand_ins=())


def layers_of(version: list[float], stand_in: list[float]) -> list[Scale]:
    """Scales of layers by recall of the class alone."""
    return [
        Scale(version=Recall(forget=v, retain=1), stand_ins=(Recall(forget=s, retain=1),))
        for v, s in zip(version, stand_in, strict=True)
    ]


@pytest.mark.parametrize(
    ("version", "stand_in", "kept"),
    [
        ([0.2, 0.3, 0.7, 1.0], [0.2, 0.2, 0.2, 0.2], 2),  # leads 0, 0.1, 0.5, 0.8: the bound is 0.4
        ([0.2, 0.9, 0.2, 1.0], [0.2, 0.2, 0.2, 0.2], 1),  # what comes after a layer that knows is not kept
        ([0.9, 0.9, 0.9, 0.9], [0.2, 0.2, 0.2, 0.2], 0),
        ([0.1, 0.1, 0.1, 0.2], [0.2, 0.2, 0.2, 0.3], 0),  # the version knows no more than stand-ins
        ([0.1, 0.1, 0.1, 0.9], [0.2, 0.2, 0.2, 0.2], 3),  # never the last, whose lead is all there is
    ],
)
def test_layers_are_kept_up_to_the_first_that_knows(
    version: list[float], stand_in: list[float], kept: int
) -> None:
    """By hand, with half of the last layer's lead as the bound."""
    assert layers_to_keep(layers_of(version, stand_in), most=0.5) == kept


@given(st.lists(st.tuples(recalls, recalls), min_size=1, max_size=8), st.floats(0, 0.9), st.floats(0, 0.9))
def test_a_greater_share_keeps_no_fewer_layers(
    ends: list[tuple[Recall, Recall]], one: float, other: float
) -> None:
    """And what is kept is a number of layers."""
    scales = [Scale(version=v, stand_ins=(s,)) for v, s in ends]
    few, many = (layers_to_keep(scales, most=share) for share in sorted((one, other)))
    assert 0 <= few <= many < len(scales)
