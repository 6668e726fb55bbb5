"""Spaces: what text they come from, what they refuse, and that a point is where its draw says."""

import hashlib
import json
import math
from dataclasses import FrozenInstanceError, dataclass, field, replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rayunlearn.errors import BadInput
from rayunlearn.scheduling.space import (
    KINDS,
    MOST_POINTS,
    Dimension,
    Space,
    as_text,
    assignments,
    parse_space,
)
from rayunlearn.settings import override, paths


@dataclass(frozen=True, kw_only=True)
class Method:
    """A setting of every type; one value is allowed only with another setting."""

    rate: float = 0.01
    weight: float = 250.0
    steps: int = 10
    copies: int = 0
    gated: bool = False
    limit: float | None = None
    kind: Literal["kl", "js"] = "kl"
    mixing: Literal["none", "cutmix"] = "none"

    def __post_init__(self) -> None:
        """Bounds, and a value that needs another setting."""
        if not 0 < self.rate <= 1:
            raise BadInput("m.rate", self.rate, "a number in (0, 1]")
        if not 0 <= self.weight < math.inf:
            raise BadInput("m.weight", self.weight, "a number >= 0")
        if self.steps < 2:
            raise BadInput("m.steps", self.steps, "a whole number >= 2")
        if self.mixing != "none" and not self.copies:
            raise BadInput("m.mixing", self.mixing, "'none' without copies")


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A recipe with a method's section and something besides."""

    m: Method = field(default_factory=Method)


def read(assigned):
    """The settings after assignments."""
    return {path: value for path, (_, value) in paths(override(Whole(), assigned)).items()}


def space(*entries, declared=()):
    """A space over those settings."""
    return parse_space(entries, read, declared)


RATE = "m.rate=loguniform(0.001,0.1)"

FLOATS = st.floats(1e-6, 1e6, allow_nan=False)


@st.composite
def dimensions(draw, key="m.rate"):
    """Any dimension, of any kind."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    if kind in ("choice", "grid"):
        values = st.one_of(
            st.lists(st.integers(), min_size=1, unique=True), st.lists(FLOATS, min_size=1, unique=True)
        )
        return Dimension(key, kind, tuple(draw(values)))
    if kind == "randint":
        low = draw(st.integers(-1000, 1000))
        return Dimension(key, kind, (low, low + draw(st.integers(1, 1000))))
    if kind == "quniform":
        step = draw(st.sampled_from([1, 3, 0.1, 0.05, 2.5]))
        low = draw(st.integers(-50, 50))
        high = low + draw(st.integers(1, 100))
        return Dimension(key, kind, tuple(type(step)(as_exact(step, n)) for n in (low, high, 1)))
    low, high = sorted(draw(st.lists(FLOATS, min_size=2, max_size=2, unique=True)))
    return Dimension(key, kind, (low, high))


def as_exact(step, count):
    """So many steps, without the error of adding floats."""
    return round(step * count, 6)


UNITS = st.floats(0, 1, exclude_max=True)


def test_values_have_the_settings_own_types() -> None:
    """`1` is a float of a float setting, an int of an int one; none and booleans are read as such."""
    given_space = space(
        "m.weight=uniform(1,100)",
        "m.steps=quniform(10,100,10)",
        "m.copies=randint(0,3)",
        "m.gated=choice(true,false)",
        "m.limit=grid(none,2)",
        " m.kind = choice( kl , js ) ",
    )
    values = {dimension.key: dimension.values for dimension in given_space.dimensions}
    assert values == {
        "m.weight": (1.0, 100.0),
        "m.steps": (10, 100, 10),
        "m.copies": (0, 3),
        "m.gated": (True, False),
        "m.limit": (None, 2.0),
        "m.kind": ("kl", "js"),
    }
    assert [type(v) for v in values["m.weight"]] == [float, float]
    assert [type(v) for v in values["m.steps"]] == [int, int, int]
    assert type(values["m.limit"][1]) is float and type(values["m.gated"][0]) is bool


def test_entries_override_the_declared_key_by_key() -> None:
    """A given key replaces the declared one whole, the rest stands, and the last of a key counts."""
    declared = (RATE, "m.weight=loguniform(1,1000)")
    overridden = space(
        "m.weight=choice(1,2)", "m.weight=uniform(5,6)", "m.kind=choice(kl,js)", declared=declared
    )
    assert overridden == space(RATE, "m.weight=uniform(5,6)", "m.kind=choice(kl,js)")
    # a declared entry that is replaced need not be valid
    assert space("m.rate=choice(0.1,0.2)", declared=("m.rate=uniform(5,6)",)).size == 2


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("m.rat=uniform(0.1,0.2)", ["m.rat", "'m.rate'", "nearest of 8"]),
        ("m.rate=normal(0.1,0.2)", ["normal", "loguniform(low,high)", "grid(a,b,...)"]),
        ("m.rate:uniform(0.1,0.2)", ["m.rate:uniform", "key=kind(...)"]),
        ("m.rate=uniform(0.1,0.2", ["key=kind(...)"]),
        ("m.rate=choice()", ["key=kind(...)"]),
        ("m.rate=choice(0.1,,0.2)", ["key=kind(...)"]),
        ("m.rate=uniform(0.2,0.1)", ["uniform(0.2,0.1)", "low one below the high one"]),
        ("m.rate=uniform(0.1,0.1)", ["low one below the high one"]),
        ("m.weight=uniform(1,nan)", ["m.weight is nan", ">= 0"]),
        ("m.weight=uniform(1,inf)", ["m.weight is inf", ">= 0"]),
        ("m.limit=uniform(1,inf)", ["uniform(1.0,inf)", "finite ends"]),
        ("m.limit=uniform(nan,1)", ["uniform(nan,1.0)", "finite ends"]),
        ("m.limit=uniform(none,1)", ["uniform(none,1.0)"]),
        ("m.weight=loguniform(0,10)", ["loguniform(0.0,10.0)", "above 0, for its logarithm"]),
        ("m.limit=loguniform(-1,10)", ["loguniform(-1.0,10.0)", "above 0, for its logarithm"]),
        ("m.rate=loguniform(0.1,2)", ["m.rate is 2.0", "(0, 1]"]),
        ("m.rate=choice(0.1,0.2,7)", ["m.rate is 7.0", "(0, 1]"]),
        ("m.rate=choice(0.1,many)", ["m.rate is 'many'", "valid number"]),
        ("m.kind=choice(kl,hellinger)", ["m.kind is 'hellinger'", "'kl' or 'js'"]),
        ("m.rate=choice(0.1,0.1)", ["choice(0.1,0.1)", "differ"]),
        ("m.rate=uniform(0.1)", ["uniform(0.1)", "uniform(low,high)"]),
        ("m.rate=uniform(0.1,0.2,0.3)", ["uniform(0.1,0.2,0.3)", "uniform(low,high)"]),
        ("m.steps=quniform(10,100)", ["quniform(low,high,step)"]),
        ("m.steps=quniform(10,100,7)", ["quniform(10,100,7)", "multiples"]),
        ("m.steps=quniform(10,100,0)", ["a step above 0"]),
        ("m.steps=quniform(10,100,2.5)", ["step of m.steps is '2.5'", "a whole number"]),
        ("m.rate=quniform(0.1,0.2,x)", ["step of m.rate is 'x'", "a number"]),
        ("m.rate=quniform(0.1,0.5,0.2)", ["multiples"]),
        ("m.weight=quniform(0,1e300,1e-300)", ["quniform(0.0,1e+300,1e-300)", "multiples"]),
        ("m.rate=quniform(0.1,0.5,nan)", ["finite"]),
        ("m.steps=uniform(2,9)", ["quniform(low,high,step), randint(low,high), choice(a,b,...)"]),
        ("m.rate=randint(1,1)", ["uniform(low,high), loguniform(low,high), quniform"]),
        ("m.kind=uniform(kl,js)", ["allowed: choice(a,b,...), grid(a,b,...) for values of its type"]),
        ("m.gated=randint(false,true)", ["allowed: choice(a,b,...), grid(a,b,...) for values of its type"]),
        ("m.steps=randint(1,9)", ["m.steps is 1", ">= 2"]),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused(entry: str, said: list[str]) -> None:
    """The error names the entry or the value, and says what is allowed; nothing of it is a fault of ours."""
    with pytest.raises(BadInput) as refused:
        space(entry)
    assert all(part in str(refused.value) for part in said), str(refused.value)
    assert "--set" not in str(refused.value)


def test_a_space_of_one_point_or_none_is_refused() -> None:
    """One value for every key is no search; beside a key with two it holds a setting fixed."""
    for entries in (["m.rate=choice(0.1)"], ["m.rate=choice(0.1)", "m.steps=grid(5)"]):
        with pytest.raises(BadInput, match="at least two points"):
            space(*entries)
    assert space("m.rate=choice(0.1)", "m.steps=choice(5,6)").size == 2
    with pytest.raises(BadInput, match="'m.copies', 'm.gated', 'm.kind'"):
        space()
    with pytest.raises(BadInput, match="each key once"):
        Space((Dimension("a", "choice", (1, 2)), Dimension("a", "choice", (3, 4))))


def test_a_value_may_need_another_key() -> None:
    """A value is tried with the other keys at their first values, not with the recipe's."""
    assert space("m.mixing=choice(none,cutmix)", "m.copies=randint(1,8)").size == 16
    for entries in (
        ["m.mixing=choice(none,cutmix)"],
        ["m.mixing=choice(none,cutmix)", "m.copies=randint(0,8)"],
    ):
        with pytest.raises(BadInput, match="without copies"):
            space(*entries)


def test_a_space_is_plain_hashable_and_canonical() -> None:
    """The order and the spelling of the entries make no difference to the space, its JSON or its hash."""
    one = space(RATE, "m.kind=choice(kl,js)")
    other = space("m.kind=choice( kl,js )", "m.rate=loguniform(1e-3,.1)")
    assert one == other and hash(one) == hash(other) and one.space_hash == other.space_hash
    assert one.to_json() == '{"m.kind":"choice(kl,js)","m.rate":"loguniform(0.001,0.1)"}'
    assert one.space_hash == hashlib.sha256(one.to_json().encode()).hexdigest()
    with pytest.raises(FrozenInstanceError):
        one.dimensions = ()


@pytest.mark.parametrize(
    "changed", ["m.rate=loguniform(0.001,0.2)", "m.rate=uniform(0.001,0.1)", "m.rate=choice(0.001,0.1)"]
)
def test_another_space_has_another_hash(changed: str) -> None:
    """An end, a kind or the number of values changes the hash."""
    assert space(changed).space_hash != space(RATE).space_hash


@given(st.lists(st.sampled_from([
    RATE, "m.weight=uniform(0.5,3)", "m.steps=quniform(10,100,10)", "m.copies=randint(1,4)",
    "m.gated=choice(true,false)",
    "m.limit=grid(none,0.1,1e-05)", "m.kind=choice(kl,js)", "m.mixing=choice(none)",
]), min_size=1, unique=True))  # fmt: skip
def test_entries_and_json_give_the_space_again(entries: list[str]) -> None:
    """Text -> space -> text -> space is the identity, by way of the ledger's JSON too."""
    if entries == ["m.mixing=choice(none)"]:
        return
    once = space(*entries)
    assert space(*once.entries) == once
    assert space(*(f"{key}={text}" for key, text in json.loads(once.to_json()).items())) == once


@given(dimensions(), UNITS)
def test_a_drawn_value_lies_in_the_dimension(dimension: Dimension, unit: float) -> None:
    """A draw is one of the listed values, or of the range, and of the setting's type."""
    value = dimension.at(unit)
    if dimension.size is None:
        assert dimension.values[0] <= value <= dimension.values[1] and type(value) is float
    else:
        assert value in [dimension.value(i) for i in (range(dimension.size) if dimension.size < 2000 else ())]
        assert type(value) in {type(v) for v in dimension.values}


@given(dimensions())
def test_both_ends_of_a_range_belong_to_it(dimension: Dimension) -> None:
    """The lowest draw is the low end; the highest of a listed or stepped dimension its last value."""
    assert dimension.at(0.0) == pytest.approx(dimension.values[0], rel=1e-12)
    if dimension.size is not None:
        last = dimension.values[-1] if dimension.kind in ("choice", "grid") else dimension.values[1]
        assert dimension.at(math.nextafter(1, 0)) == dimension.value(dimension.size - 1) == last


@given(dimensions(), UNITS, UNITS)
def test_a_higher_draw_gives_no_lower_value(dimension: Dimension, a: float, b: float) -> None:
    """Ranges are inverse distribution functions: they rise."""
    low, high = sorted((a, b))
    if dimension.kind not in ("choice", "grid"):
        assert dimension.at(low) <= dimension.at(high)


def test_draws_have_the_distribution_of_their_kind() -> None:
    """Closed forms at 10^4 even shares: the logarithm of `loguniform` is even, its value is not."""
    units = [(i + 0.5) / 10_000 for i in range(10_000)]
    log = [math.log10(Dimension("k", "loguniform", (1e-3, 1e-1)).at(u)) for u in units]
    assert stats.kstest(log, stats.uniform(-3, 2).cdf).statistic < 1e-3
    even = [math.log10(Dimension("k", "uniform", (1e-3, 1e-1)).at(u)) for u in units]
    assert stats.kstest(even, stats.uniform(-3, 2).cdf).statistic > 0.3  # negative control
    counts = [[Dimension("k", "randint", (1, 4)).at(u) for u in units].count(v) for v in (1, 2, 3, 4, 5)]
    assert counts == [2500, 2500, 2500, 2500, 0]


def test_steps_are_exact() -> None:
    """A multiple of 0.1 is the float that one writes, where adding floats gives 0.30000000000000004."""
    dimension = Dimension("k", "quniform", (0.1, 0.7, 0.1))
    assert [dimension.value(i) for i in range(dimension.size)] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert dimension.value(2) != 0.1 + 2 * 0.1  # negative control


def test_grid_keys_are_visited_in_turn_and_the_others_drawn() -> None:
    """Each combination of `grid` values comes equally often; `choice` is left to chance."""
    searched = space("m.kind=grid(kl,js)", "m.steps=grid(5,6,7)", "m.copies=choice(1,2)", RATE)
    points = [searched.at(trial, lambda key: 0.99 if key == "m.copies" else 0.5) for trial in range(12)]
    cells = [(point["m.kind"], point["m.steps"]) for point in points]
    assert sorted(cells) == sorted(2 * [(kind, steps) for kind in ("kl", "js") for steps in (5, 6, 7)])
    assert len(set(cells[:6])) == 6
    assert {point["m.copies"] for point in points} == {2}
    assert [point["m.rate"] for point in points] == pytest.approx([0.01] * 12)


def test_a_draw_is_asked_for_by_key() -> None:
    """So a key that is added or left out does not change another's draw."""
    units = {"m.rate": 0.25, "m.weight": 0.5}
    small = space("m.rate=uniform(0.1,0.5)").at(3, units.__getitem__)
    large = space("m.rate=uniform(0.1,0.5)", "m.weight=uniform(0,1)").at(3, units.__getitem__)
    assert small == {"m.rate": pytest.approx(0.2)} and large == small | {"m.weight": 0.5}


def test_the_grid_is_every_point_once() -> None:
    """Its length is the space's size, its order that of the sorted keys, the last quickest."""
    searched = space("m.kind=choice(kl,js)", "m.copies=randint(0,1)", "m.rate=quniform(0.1,0.3,0.1)")
    points = searched.grid()
    assert len(points) == searched.size == 12
    assert [tuple(p.values()) for p in points[:4]] == [
        (0, "kl", 0.1),
        (0, "kl", 0.2),
        (0, "kl", 0.3),
        (0, "js", 0.1),
    ]
    assert len({tuple(point.values()) for point in points}) == 12
    with pytest.raises(BadInput, match=r"m.rate is 'loguniform\(0.001,0.1\)'; allowed: randint"):
        space(RATE, "m.kind=choice(kl,js)").grid()
    with pytest.raises(BadInput, match=f"at most {MOST_POINTS}"):
        space("m.copies=randint(0,1000000000)").grid()


@given(FLOATS, st.integers(2, 10**9), st.booleans(), st.none() | FLOATS, st.sampled_from(["kl", "js"]))
def test_a_point_reaches_the_settings_to_the_last_bit(rate, steps, gated, limit, kind) -> None:
    """`override` of a point's assignments gives exactly its values."""
    point = {"m.weight": rate, "m.steps": steps, "m.gated": gated, "m.limit": limit, "m.kind": kind}
    expected = replace(Method(), weight=rate, steps=steps, gated=gated, limit=limit, kind=kind)
    assert override(Whole(), assignments(point)).m == expected
    assert as_text(None) == "none" and as_text(True) == "true" and as_text(1e-5) == "1e-05"
