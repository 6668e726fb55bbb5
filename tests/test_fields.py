"""Fields that declare what they allow: what is taken, what is refused, and how the error says it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from annotated_types import DocInfo, Ge, Le
from hypothesis import given
from hypothesis import strategies as st
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rayunlearn.errors import BadInput
from rayunlearn.fields import AtLeastTwo, Checked, Degrees, PositiveShare, Share, ShareBelowOne, check_value
from rayunlearn.recipes import RECIPES
from rayunlearn.scheduling.stopping import CheckpointRecord
from rayunlearn.settings import paths

JUST_BELOW_ONE = math.nextafter(1, 0)
TINY = math.nextafter(0, 1)

Pair = tuple[ShareBelowOne, ShareBelowOne]
Mode = Literal["kl", "js"]
Even = Annotated[int, Ge(4), DocInfo("an even number >= 4")]

EDGES: list[tuple[Any, list[object], list[object], str]] = [
    # declaration, the outermost values it takes, the nearest that it refuses, what the error says
    (int, [-1, 0, 10**30], [1.0, True, "1", None, np.int64(1)], "a whole number"),
    (PositiveInt, [1, 2], [0, -1, True, 1.0], "a whole number > 0"),
    (NonNegativeInt, [0, 1], [-1, False, 0.0], "a whole number >= 0"),
    (AtLeastTwo, [2, 3], [1, True, 2.0], "a whole number >= 2"),
    (float, [-1.0, 0, 1e308, np.float64(1)], [math.nan, math.inf, -math.inf, True, "1", None],
     "a finite number"),
    (PositiveFloat, [TINY, 1], [0, 0.0, -1.0, math.inf, math.nan, True], "a finite number > 0"),
    (NonNegativeFloat, [0, 0.0, TINY], [-TINY, math.inf, math.nan, False], "a finite number >= 0"),
    (Share, [0, 0.0, 1, 1.0], [-TINY, math.nextafter(1, 2), math.nan, True], "a finite number >= 0 and <= 1"),
    (PositiveShare, [TINY, 1], [0, math.nextafter(1, 2), math.nan], "a finite number > 0 and <= 1"),
    (ShareBelowOne, [0, JUST_BELOW_ONE], [-TINY, 1, 1.0, math.nan], "a finite number >= 0 and < 1"),
    (Degrees, [0, 180], [-TINY, 180.1, math.nan], "degrees from 0 to 180"),
    (PositiveInt | None, [None, 1], [0, True, "none"], "a whole number > 0, or None"),
    (bool, [True, False], [1, 0, "True", None], "True or False"),
    (str, ["", "x"], [1, None, b"x"], "text"),
    (Mode, ["kl", "js"], ["KL", "", None, 1, ["kl"]], "'js', 'kl'"),
    (Pair, [(0, 0.5)], [(0,), (0, 1), (0, 0, 0), [0, 0], 0.5, (0, math.nan)],
     "a tuple of 2, each a finite number >= 0 and < 1"),
    (tuple[NonNegativeInt, ...], [(), (0, 1, 2)], [(0, -1), [0], (True,), (1.0,)],
     "a tuple, each a whole number >= 0"),
    (Even, [4], [3], "an even number >= 4"),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "taken", "refused", "allowed"), EDGES, ids=lambda case: str(case)[:40])
def test_the_outermost_values_are_taken_and_the_next_refused(
    declared: Any, taken: list[object], refused: list[object], allowed: str
) -> None:
    """At each bound, and of each kind that Python would take for another one."""
    for value in taken:
        check_value("thing", value, declared)
    for value in refused:
        with pytest.raises(BadInput) as told:
            check_value("thing", value, declared, where="here")
        assert (told.value.thing, told.value.value, told.value.where) == ("thing", value, "here") or (
            value != value
        )
        assert told.value.allowed == allowed


def test_of_many_names_the_nearest_is_said() -> None:
    """As for a setting of an unknown path."""
    with pytest.raises(BadInput, match="mode is 'jss'; allowed: 'js' \\(nearest of 2\\)"):
        check_value("mode", "jss", Mode)


@given(value=st.floats() | st.integers(-3, 3) | st.booleans() | st.none())
def test_a_bounded_number_is_judged_as_python_compares(value: object) -> None:
    """Against the comparison itself, which is right where the value is a number."""
    number = type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    fits = number and -2 <= value <= 2  # type: ignore[operator]
    try:
        check_value("x", value, Annotated[float, Ge(-2), Le(2)])
    except BadInput:
        assert not fits
    else:
        assert fits


@dataclass(frozen=True, kw_only=True)
class Inner(Checked, section="outer.inner"):
    """A section of its own."""

    rate: PositiveFloat = 0.1


@dataclass(frozen=True, kw_only=True)
class Outer(Checked, section="outer"):
    """Each kind of field: checked ones, a section and one that is not checked."""

    count: PositiveInt
    mode: Mode = "kl"
    limit: PositiveInt | None = None
    shape: tuple[int, ...] = ()
    inner: Inner = field(default_factory=Inner)
    anything: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Below(Outer, section="below"):
    """Another default, declared as a plain int, and a bound of its own."""

    count: int = 3
    steps: AtLeastTwo = 2


@dataclass(frozen=True)
class Spec(Checked, where="spec"):
    """What no user sets."""

    size: PositiveInt


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Outer(count=0), "outer.count is 0; allowed: a whole number > 0"),
        (lambda: Outer(count=1, mode="kll"), "outer.mode is 'kll'"),  # type: ignore[arg-type]
        (lambda: Outer(count=1, limit=0), "outer.limit is 0; allowed: a whole number > 0, or None"),
        (lambda: Outer(count=1, shape=[1, "2"]), "outer.shape is (1, '2')"),  # type: ignore[arg-type]
        (lambda: Inner(rate=math.nan), "outer.inner.rate is nan; allowed: a finite number > 0"),
        (lambda: dataclasses.replace(Outer(count=1), count=-1), "outer.count is -1"),
        (lambda: Below(count=0), "below.count is 0; allowed: a whole number > 0"),
        (lambda: Below(count=True), "below.count is True"),
        (lambda: Below(steps=1), "below.steps is 1; allowed: a whole number >= 2"),
        (lambda: Spec(0), "spec: size is 0; allowed: a whole number > 0"),
    ],
)
def test_a_dataclass_refuses_by_the_path_of_its_field(make: Any, said: str) -> None:
    """Its section or its place; a subclass says its own, and keeps what the class above it declares."""
    with pytest.raises(BadInput) as told:
        make()
    assert str(told.value).startswith(said)


def test_what_is_not_declared_is_left_alone() -> None:
    """A section checks itself; a list is nobody's business; values stay what they were given as."""
    made = Outer(count=2, anything=["no int"], inner=Inner(rate=1), shape=[3, 4])  # type: ignore
    assert made.shape == (3, 4), "but a list is taken as the tuple that is declared"
    assert made.anything == ["no int"] and type(made.inner.rate) is int
    assert Below().section == "below" and Outer.section == "outer"


def test_a_field_that_is_not_called_first_is_not_checked() -> None:
    """Control: what checks is `Checked.__post_init__`, and nothing else."""

    @dataclass(frozen=True, kw_only=True)
    class Silent(Outer):
        def __post_init__(self) -> None:
            """Without the class above."""

    assert Silent(count=0).count == 0


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_section_stands_where_its_errors_say(name: str) -> None:
    """An error of `gkt.epsilon` names the path by which `--set` sets it."""

    def found(settings: Any, path: str) -> dict[str, str]:
        sections = {path: settings.section} if isinstance(settings, Checked) else {}
        for leaf in dataclasses.fields(settings):
            value = getattr(settings, leaf.name)
            if dataclasses.is_dataclass(value):
                sections |= found(value, f"{path}.{leaf.name}".lstrip("."))
        return sections

    said = found(RECIPES[name](), "")
    assert len(said) > 20
    assert {path: section for path, section in said.items() if path != section} == {}


def test_a_record_is_made_fast_enough_for_simulations() -> None:
    """The declarations are looked up once a class: of a hundred records none is looked up anew."""
    from rayunlearn import fields

    record = {"step": 1, "retain_correct": 1, "retain_count": 2, "forget_correct": 0, "forget_count": 2}
    CheckpointRecord(**record, forget_mass=0.1, pass_rate=0.5)
    before = fields._declared.cache_info().misses, fields._adapter.cache_info().misses
    for step in range(100):
        CheckpointRecord(**{**record, "step": step}, forget_mass=0.1, pass_rate=0.5)
    assert (fields._declared.cache_info().misses, fields._adapter.cache_info().misses) == before
    assert fields._adapter.cache_info().maxsize is None
    assert paths(RECIPES["digits"]())["train.lr"][0] is float
