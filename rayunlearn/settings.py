"""Settings as frozen dataclasses: dotted paths, values from text, and one hash of them all.

A command line (`--set gkt.epsilon=0.02`), a recipe and a search space name a setting by the same path.

A section may be optional: a field that is declared `D | None` for settings D. `--set data.mislabelling=none`
takes it away; where there is none, setting its fields makes it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Collection, Sequence
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from rayunlearn.errors import BadInput, nearest

S = TypeVar("S")

_MOST = 2**63 - 1
"""The largest whole number that a tensor can hold."""

_BEFORE = "before"
"""In the metadata of a field that came later (`stated`)."""

_STATED = "stated"
"""In the metadata of a field that is stated as something else (`stated`)."""


@functools.cache
def _hints(settings: Any) -> dict[str, Any]:
    """`get_type_hints`, which evaluates every annotation anew at each call."""
    return get_type_hints(settings)


def _optional_section(declared: Any) -> Any:
    """D of a field that is declared `D | None` for settings D, else None."""
    kinds = get_args(declared)
    if len(kinds) != 2 or NoneType not in kinds:
        return None
    other = kinds[kinds[0] is NoneType]
    return other if dataclasses.is_dataclass(other) else None


def paths(settings: Any) -> dict[str, tuple[Any, Any]]:
    """Every leaf of nested settings: dotted path -> (declared type, value).

    An optional section that is not there is a leaf, None.
    """
    hints = _hints(settings.__class__)
    leaves: dict[str, tuple[Any, Any]] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            leaves |= {f"{field.name}.{path}": leaf for path, leaf in paths(value).items()}
        else:
            leaves[field.name] = (hints[field.name], value)
    return leaves


def _settable(settings: Any) -> dict[str, Any]:
    """Every path that can be set -> its declared type: leaves, and optional sections with their own."""
    found: dict[str, Any] = {}
    hints = _hints(settings)
    for field in dataclasses.fields(settings):
        declared = hints[field.name]
        section = declared if dataclasses.is_dataclass(declared) else _optional_section(declared)
        if section is not declared:
            found[field.name] = declared
        if section is not None:
            found |= {f"{field.name}.{path}": kind for path, kind in _settable(section).items()}
    return found


def override(settings: S, assignments: Sequence[str]) -> S:
    """Settings with `path=value` assignments applied, every check made again on the result.

    All are applied at once, the last of a path counting, since one may be allowed only with another.

    Raises:
        BadInput: no `=`, an unknown path (with the nearest ones), a value that is not of the setting's
            type, one that the settings refuse, or part of an optional section that is not there.
    """
    settable = _settable(type(settings))
    values: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        path = path.strip()
        if not equals:
            raise BadInput("--set", assignment, "key.path=value")
        if path not in settable:
            raise BadInput("setting", path, nearest(path, settable), where="--set")
        # a section that is taken away takes along what was assigned in it
        values = {name: value for name, value in values.items() if not name.startswith(f"{path}.")}
        values[path] = parse_value(path, text.strip(), settable[path])
    return _replaced(settings, values) if values else settings


def parse_value(path: str, text: str, declared: Any) -> Any:
    """A value of the declared type from text; `none` or `null` where the type allows None.

    Several values stand with commas between, or as a JSON list.
    """
    if text.lower() in ("none", "null") and NoneType in get_args(declared):
        return None
    if (section := _optional_section(declared)) is not None:
        fields = ", ".join(f"{path}.{name}" for name in _settable(section))
        raise BadInput(path, text, f"none, or what is in it: {fields}", where="--set")
    value = _typed(path, text, declared)
    numbers = value if isinstance(value, tuple) else (value,)
    if any(isinstance(number, int) and not -_MOST <= number <= _MOST for number in numbers):
        raise BadInput(path, text, "a whole number of 64 bits", where="--set")
    return value


def _typed(path: str, text: str, declared: Any) -> Any:
    adapter: TypeAdapter[Any] = TypeAdapter(declared)
    try:
        if declared is not str and text.startswith(("[", "{")):
            return adapter.validate_json(text)
        others = [kind for kind in get_args(declared) if kind is not NoneType]
        if len(others) == 1 and get_origin(others[0]) is tuple:  # or None
            declared = others[0]
        if get_origin(declared) is tuple:
            each: TypeAdapter[Any] = TypeAdapter(get_args(declared)[0])
            if not text:
                return ()
            return tuple(each.validate_strings(part.strip()) for part in text.split(","))
        return adapter.validate_strings(text)
    except ValidationError as error:
        allowed = "; ".join(item["msg"] for item in error.errors())
        raise BadInput(path, text, allowed, where="--set") from error


def _replaced(settings: Any, values: dict[str, Any], within: str = "") -> Any:
    """Settings with the values of these dotted paths; `within` is the settings' own, with a dot."""
    groups: dict[str, dict[str, Any]] = {}
    changes: dict[str, Any] = {}
    for path, value in values.items():
        group, dot, rest = path.partition(".")
        if dot:
            groups.setdefault(group, {})[rest] = value
        else:
            changes[group] = value
    for group, inner in groups.items():
        path, before = f"{within}{group}", changes.get(group, getattr(settings, group))
        if before is None:
            changes[group] = _made(_optional_section(_hints(settings.__class__)[group]), inner, path)
        else:
            changes[group] = _replaced(before, inner, f"{path}.")
    return dataclasses.replace(settings, **changes)


def _made(section: Any, values: dict[str, Any], path: str) -> Any:
    """A section that was not there before, of the values of these dotted paths."""
    required = [
        field.name
        for field in dataclasses.fields(section)
        if field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing := [f"{path}.{name}" for name in required if name not in values]:
        raise BadInput(path, None, f"a whole section: set {', '.join(missing)} as well", where="--set")
    own = {name: value for name, value in values.items() if "." not in name}
    inner = {name: value for name, value in values.items() if "." in name}
    return _replaced(section(**own), inner, f"{path}.")


def to_json(settings: Any) -> str:
    """Canonical JSON of settings: sorted keys, no spaces."""
    return _canonical(dataclasses.asdict(settings))


def stated(settings: Any) -> dict[str, Any]:
    """Settings as nested dicts, without what says no more than its absence did.

    What hashes and keys are made of: what is added to the settings changes none of those that were made
    before. Left out are optional sections that are not there, since nothing made before had one; and fields
    whose value is what was done before they came, which their metadata say: `field(default=0.02,
    metadata={"before": 0.1})`. A field whose value means what another one meant before is stated as that one,
    which a function of the settings says: `field(default="auto", metadata={"stated": function})`.
    """
    hints = _hints(settings.__class__)
    told: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if _STATED in field.metadata:
            value = field.metadata[_STATED](settings)
        if _BEFORE in field.metadata and value == field.metadata[_BEFORE]:
            continue
        if dataclasses.is_dataclass(value):
            told[field.name] = stated(value)
        elif value is not None or _optional_section(hints[field.name]) is None:
            told[field.name] = value
    return told


def config_hash(settings: Any, without: Collection[str] = ()) -> str:
    """SHA-256 of the settings' canonical JSON, some sections left out, and optional ones that are not there.

    Placement, storage and address are no settings of a recipe, so they cannot enter it.
    """
    kept = {name: value for name, value in stated(settings).items() if name not in without}
    return hashlib.sha256(_canonical(kept).encode()).hexdigest()


def _canonical(content: Any) -> str:
    return json.dumps(_plain(content), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(content: Any) -> Any:
    """The same with infinity as "inf" and "-inf", as `--set` reads it: JSON has no number for it."""
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return str(content) if isinstance(content, float) and math.isinf(content) else content
