"""Settings as frozen dataclasses: dotted paths, values from text, and one hash of them all.

A command line (`--set gkt.epsilon=0.02`), a recipe and a search space name a setting by the same path.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from rayunlearn.errors import BadInput, nearest

S = TypeVar("S")


@functools.cache
def _hints(settings: type[Any]) -> dict[str, Any]:
    """`get_type_hints`, which evaluates every annotation anew at each call."""
    return get_type_hints(settings)


def paths(settings: Any) -> dict[str, tuple[Any, Any]]:
    """Every leaf of nested settings: dotted path -> (declared type, value)."""
    hints = _hints(settings.__class__)
    leaves: dict[str, tuple[Any, Any]] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            leaves |= {f"{field.name}.{path}": leaf for path, leaf in paths(value).items()}
        else:
            leaves[field.name] = (hints[field.name], value)
    return leaves


def override(settings: S, assignments: Sequence[str]) -> S:
    """Settings with `path=value` assignments applied, every check made again on the result.

    All are applied at once, the last of a path counting, since one may be allowed only with another.

    Raises:
        BadInput: no `=`, an unknown path (with the nearest ones), a value that is not of the setting's
            type, or one that the settings refuse.
    """
    leaves = paths(settings)
    values: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        path = path.strip()
        if not equals:
            raise BadInput("--set", assignment, "key.path=value")
        if path not in leaves:
            raise BadInput("setting", path, nearest(path, leaves), where="--set")
        declared, _ = leaves[path]
        values[path] = parse_value(path, text.strip(), declared)
    return _replaced(settings, values) if values else settings


def parse_value(path: str, text: str, declared: Any) -> Any:
    """A value of the declared type from text; `none` or `null` where the type allows None.

    Several values stand with commas between, or as a JSON list.
    """
    if text.lower() in ("none", "null") and type(None) in get_args(declared):
        return None
    adapter: TypeAdapter[Any] = TypeAdapter(declared)
    try:
        if text.startswith(("[", "{")):
            return adapter.validate_json(text)
        if get_origin(declared) is tuple:
            each: TypeAdapter[Any] = TypeAdapter(get_args(declared)[0])
            return tuple(each.validate_strings(part.strip()) for part in text.split(","))
        return adapter.validate_strings(text)
    except ValidationError as error:
        allowed = "; ".join(item["msg"] for item in error.errors())
        raise BadInput(path, text, allowed, where="--set") from error


def _replaced(settings: Any, values: dict[str, Any]) -> Any:
    """Settings with the values of these dotted paths."""
    groups: dict[str, dict[str, Any]] = {}
    changes: dict[str, Any] = {}
    for path, value in values.items():
        group, dot, rest = path.partition(".")
        if dot:
            groups.setdefault(group, {})[rest] = value
        else:
            changes[group] = value
    changes |= {group: _replaced(getattr(settings, group), inner) for group, inner in groups.items()}
    return dataclasses.replace(settings, **changes)


def to_json(settings: Any) -> str:
    """Canonical JSON of settings: sorted keys, no spaces."""
    return _canonical(dataclasses.asdict(settings))


def config_hash(settings: Any, without: Collection[str] = ()) -> str:
    """SHA-256 of the settings' canonical JSON, some sections left out.

    Placement, storage and address are no settings of a recipe, so they cannot enter it.
    """
    kept = {name: value for name, value in dataclasses.asdict(settings).items() if name not in without}
    return hashlib.sha256(_canonical(kept).encode()).hexdigest()


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))
