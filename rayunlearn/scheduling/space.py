"""Search spaces: which settings of a recipe a sweep tries, as text, as plain data, and as points.

A setting is named by its dotted path and given a kind: `gkt.epsilon=loguniform(0.001,0.1)`. Both ends of
a range belong to it.

| kind | values | of a setting that is |
|---|---|---|
| uniform(low,high) | all of a range, evenly | a number |
| loguniform(low,high) | all of a range, evenly in the logarithm | a number |
| quniform(low,high,step) | multiples of the step | a number or a whole number |
| randint(low,high) | whole numbers | a whole number |
| choice(a,b,...) | one of those named; one alone holds a setting fixed | any |
| grid(a,b,...) | likewise, but random search visits them in turn rather than at random | any |
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from rayunlearn.errors import BadInput, nearest

Value = bool | int | float | str | None
Point = dict[str, Value]
"""A value for every key of a space."""

KINDS = {
    "uniform": "uniform(low,high)",
    "loguniform": "loguniform(low,high)",
    "quniform": "quniform(low,high,step)",
    "randint": "randint(low,high)",
    "choice": "choice(a,b,...)",
    "grid": "grid(a,b,...)",
}
"""Kind -> how it is written."""

RANGES: dict[str, tuple[type, ...]] = {
    "uniform": (float,),
    "loguniform": (float,),
    "quniform": (int, float),
    "randint": (int,),
}
"""Kind of a range -> types of the settings that it can be of."""

MOST_POINTS = 10_000
"""A grid of more is a mistake."""

SPACES: dict[tuple[str, str], tuple[str, ...]] = {
    ("digits_gkt", "gkt"): (
        "gkt.epsilon=loguniform(0.001,0.1)",
        "gkt.beta=loguniform(1,1000)",
        "gkt.temperature=loguniform(0.5,4)",
        "gkt.student_lr=loguniform(0.0003,0.01)",
        "gkt.generator_lr=loguniform(0.0003,0.01)",
        "gkt.divergence=choice(kl,js)",
    ),
    ("mnist_lenet", "gkt"): (
        "gkt.epsilon=loguniform(0.001,0.1)",
        "gkt.beta=loguniform(1,1000)",
        "gkt.temperature=loguniform(0.5,4)",
        "gkt.student_lr=loguniform(0.001,0.03)",
        "gkt.generator_lr=loguniform(0.001,0.03)",
        "gkt.divergence=choice(kl,js)",
    ),
    # t_ent in nats: the paper's table 3 spans 0.282 to 0.867
    ("digits_few_shot", "few_shot"): ("few_shot.t_ent=loguniform(0.1,1)",),
}
"""Declared spaces: (recipe, method) -> entries as on the command line."""

_ENTRY = re.compile(r"\s*([\w.]+)\s*=\s*(\w+)\s*\(([^()]*)\)\s*")


@dataclass(frozen=True)
class Dimension:
    """The values that a search tries for one setting.

    Attributes:
        key: dotted path of the setting.
        kind: one of `KINDS`.
        values: what stands in the brackets, of the setting's own type.
    """

    key: str
    kind: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        """Refuse what names no values, or values that the kind cannot have."""
        if self.kind not in KINDS:
            raise BadInput(f"kind of {self.key}", self.kind, ", ".join(KINDS.values()), where="--space")
        if self.kind in RANGES:
            self._check_range()
        elif not self.values or len(set(self.values)) < len(self.values):
            raise self._refused("values that differ, at least one")

    def _check_range(self) -> None:
        if len(self.values) != (3 if self.kind == "quniform" else 2):
            raise self._refused(KINDS[self.kind])
        types = {type(value) for value in self.values}
        if len(types) > 1 or not types <= set(RANGES[self.kind]):
            fitting = [kind for kind in KINDS if types <= set(RANGES.get(kind, types))]
            raise self._refused(f"{', '.join(KINDS[kind] for kind in fitting)} for values of its type")
        low, high, *step = self._numbers
        if not all(map(math.isfinite, self._numbers)) or low >= high:
            raise self._refused("finite ends, the low one below the high one")
        if self.kind == "loguniform" and low <= 0:
            raise self._refused("a low end above 0, for its logarithm")
        if step and (step[0] <= 0 or not all(_is_multiple(_exact(end), step[0]) for end in (low, high))):
            raise self._refused("a step above 0 of which both ends are multiples")

    def _refused(self, allowed: str) -> BadInput:
        return BadInput(self.key, self.text, allowed, where="--space")

    @property
    def _numbers(self) -> tuple[float, ...]:
        return self.values  # type: ignore[return-value]  # checked on construction

    @property
    def text(self) -> str:
        """As on the command line after the `=`: `loguniform(0.001,0.1)`."""
        return f"{self.kind}({','.join(map(as_text, self.values))})"

    @property
    def size(self) -> int | None:
        """How many values there are; None where they lie densely."""
        if self.kind not in RANGES:
            return len(self.values)
        low, high, *rest = self._numbers
        if self.kind in ("uniform", "loguniform"):
            return None
        step = rest[0] if rest else 1
        return int((_exact(high) - _exact(low)) / _exact(step)) + 1

    def holds(self, value: Value) -> bool:
        """Whether a value is one of those that are tried.

        >>> Dimension("gkt.beta", "quniform", (0.0, 1.0, 0.25)).holds(0.3)
        False
        """
        if self.kind not in RANGES:
            return value in self.values
        low, high, *step = self._numbers
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            return False
        return not step or _is_multiple(_exact(value) - _exact(low), step[0])

    def value(self, index: int) -> Value:
        """One of the `size` values; a multiple of the step is the nearest float to the exact one.

        >>> Dimension("gkt.temperature", "quniform", (0.1, 1.0, 0.1)).value(2)
        0.3
        """
        if self.kind not in RANGES:
            return self.values[index]
        low, _, *rest = self._numbers
        step = rest[0] if rest else 1
        return type(low)(_exact(low) + index * _exact(step))

    def at(self, unit: float) -> Value:
        """The value at a share `unit`, in [0, 1), of the distribution; even draws give the kind's own.

        >>> round(Dimension("gkt.beta", "loguniform", (1.0, 100.0)).at(0.5), 9)
        10.0
        """
        size = self.size
        if size is not None:
            return self.value(min(int(unit * size), size - 1))
        low, high = self._numbers
        if self.kind == "loguniform":
            value = math.exp(math.log(low) + unit * (math.log(high) - math.log(low)))
        else:
            value = low + unit * (high - low)
        return min(max(value, low), high)  # rounding leaves the range by an ulp


@dataclass(frozen=True)
class Space:
    """What a sweep searches: at least two points; the order of the dimensions is that of their keys."""

    dimensions: tuple[Dimension, ...]

    def __post_init__(self) -> None:
        """Sort; refuse a key that stands twice, and a space with one point or none."""
        ordered = tuple(sorted(self.dimensions, key=lambda dimension: dimension.key))
        object.__setattr__(self, "dimensions", ordered)
        keys = [dimension.key for dimension in ordered]
        if len(set(keys)) < len(keys):
            raise BadInput("keys of the space", keys, "each key once", where="--space")
        if all(dimension.size == 1 for dimension in ordered):
            allowed = "a space of at least two points: a range or several values for some key"
            raise BadInput("space", " ".join(self.entries), allowed, where="--space")

    @property
    def entries(self) -> tuple[str, ...]:
        """As on the command line; `parse_space` of them gives the space again."""
        return tuple(f"{dimension.key}={dimension.text}" for dimension in self.dimensions)

    @property
    def size(self) -> int | None:
        """How many points there are; None where some dimension is dense."""
        sizes = [dimension.size for dimension in self.dimensions]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def holds(self, point: Mapping[str, Value]) -> bool:
        """Whether a point with a value for each key, and perhaps for others, lies in the space."""
        return all(dimension.holds(point[dimension.key]) for dimension in self.dimensions)

    def at(self, trial: int, unit: Callable[[str], float]) -> Point:
        """The point of a trial: `grid` dimensions in turn, the others at a share drawn for each key.

        Args:
            trial: number of the trial, from 0. The first `grid` key changes with every trial.
            unit: key -> an even draw from [0, 1).
        """
        point: Point = {}
        for dimension in self.dimensions:
            if dimension.kind == "grid":
                trial, index = divmod(trial, len(dimension.values))
                point[dimension.key] = dimension.value(index)
            else:
                point[dimension.key] = dimension.at(unit(dimension.key))
        return point

    def grid(self) -> list[Point]:
        """Every point; the last key changes quickest.

        Raises:
            BadInput: a dimension is dense, or there are more than `MOST_POINTS`.
        """
        for dimension in self.dimensions:
            if dimension.size is None:
                allowed = "randint, quniform, choice or grid, where every point is to be visited"
                raise BadInput(dimension.key, dimension.text, allowed, where="--space")
        points = self.size or 0
        if points > MOST_POINTS:
            raise BadInput("points of the grid", points, f"at most {MOST_POINTS}", where="--space")
        keys = [dimension.key for dimension in self.dimensions]
        values = [[d.value(index) for index in range(d.size or 0)] for d in self.dimensions]
        return [dict(zip(keys, row, strict=True)) for row in itertools.product(*values)]

    def to_json(self) -> str:
        """Canonical JSON, key -> kind and values; for the ledger."""
        texts = {dimension.key: dimension.text for dimension in self.dimensions}
        return json.dumps(texts, sort_keys=True, separators=(",", ":"))

    @property
    def space_hash(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def parse_space(
    entries: Sequence[str], read: Callable[[Sequence[str]], Mapping[str, Value]], declared: Sequence[str] = ()
) -> Space:
    """A space from text, every end of a range and every listed value accepted by the settings.

    Each is tried with the other keys at their first values, since one may be allowed only with another.

    Args:
        entries: `key=kind(...)`; the last of a key counts.
        read: the searchable settings, key -> value, after `key=value` assignments; raises BadInput.
        declared: entries that `entries` override key by key.

    Raises:
        BadInput: not of that form, an unknown key (with the nearest ones), an impossible range, a value
            that the settings refuse, or one point in all.
    """
    keys = read(())
    written: dict[str, tuple[str, list[str]]] = {}
    for entry in (*declared, *entries):
        key, kind, texts = _split(entry)
        if key not in keys:
            raise BadInput("setting", key, nearest(key, keys), where="--space")
        written[key] = (kind, texts)
    if not written:
        allowed = f"key=kind(...) with the key one of {nearest('', keys)}"
        raise BadInput("space", "", allowed, where="--space")
    firsts = [f"{key}={texts[0]}" for key, (_, texts) in written.items()]

    def typed(key: str, text: str) -> Value:
        try:
            return read([*firsts, f"{key}={text}"])[key]
        except BadInput as error:
            raise BadInput(error.thing, error.value, error.allowed, where="--space") from error

    dimensions = []
    for key, (kind, texts) in written.items():
        ends, rest = (texts[:2], texts[2:]) if kind in RANGES else (texts, [])
        values = [typed(key, text) for text in ends]
        values += [_like(values[0], text, key) for text in rest]  # a step is no value of the setting
        dimensions.append(Dimension(key, kind, tuple(values)))
    return Space(tuple(dimensions))


def assignments(point: Mapping[str, Value]) -> list[str]:
    """A point as `key=value`, as `override` takes them; floats survive to the last bit."""
    return [f"{key}={as_text(value)}" for key, value in point.items()]


def as_text(value: Value) -> str:
    """A value as it is written after `--set key=`."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def _split(entry: str) -> tuple[str, str, list[str]]:
    found = _ENTRY.fullmatch(entry)
    values = [text.strip() for text in found[3].split(",")] if found else [""]
    if not found or "" in values:
        allowed = f"key=kind(...), the kind one of {', '.join(KINDS.values())}"
        raise BadInput("--space", entry, allowed)
    if found[2] not in KINDS:
        raise BadInput(f"kind of {found[1]}", found[2], ", ".join(KINDS.values()), where="--space")
    return found[1], found[2], values


def _like(value: Value, text: str, key: str) -> Value:
    """A number of the same type as a value."""
    try:
        return int(text) if isinstance(value, int) else float(text)
    except ValueError as error:
        allowed = "a whole number" if isinstance(value, int) else "a number"
        raise BadInput(f"step of {key}", text, allowed, where="--space") from error


def _is_multiple(number: Decimal, step: float) -> bool:
    """Whether a number is a step taken some times; not where these are more than can be counted exactly."""
    try:
        return not number % _exact(step)
    except InvalidOperation:
        return False


def _exact(number: float) -> Decimal:
    """The number that was written, not the float nearest to it."""
    return Decimal(str(number))
