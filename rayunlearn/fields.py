"""Fields that declare what they allow, and the one check of them all.

    @dataclass(frozen=True, kw_only=True)
    class FisherSettings(Checked, section="fisher"):
        alpha: NonNegativeFloat = 1e-6
        chunk_size: PositiveInt = 32

The declarations are `annotated_types`, or pydantic's names for them. Pydantic judges a value, strictly: a
bool is no number, nor is text, NaN or infinity. What depends on two fields is checked by hand, in a
`__post_init__` that calls this one first.
"""

from __future__ import annotations

import dataclasses
import functools
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import DocInfo, Ge, Gt, Le, Lt
from pydantic import ConfigDict, StringConstraints, TypeAdapter, ValidationError

from rayunlearn.errors import BadInput, nearest

Share = Annotated[float, Ge(0), Le(1)]
PositiveShare = Annotated[float, Gt(0), Le(1)]
ShareBelowOne = Annotated[float, Ge(0), Lt(1)]
Degrees = Annotated[float, Ge(0), Le(180), DocInfo("degrees from 0 to 180")]
Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$"), DocInfo("64 hex digits")]
AtLeastTwo = Annotated[int, Ge(2)]
"""Of a batch, for instance: BatchNorm in training mode takes no single image."""

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_KINDS = {
    int: "a whole number", float: "a finite number", bool: "True or False", str: "text", NoneType: "None"
}  # fmt: skip
_BOUNDS = {Ge: ("ge", ">="), Gt: ("gt", ">"), Le: ("le", "<="), Lt: ("lt", "<")}


class Checked:
    """A dataclass whose fields are checked as they are declared.

    Checked are numbers, text, Literals, None and tuples of these; a field of any other kind is not.
    `section` is where a user sets the fields: `fisher` of `fisher.alpha`. `where` is what an error begins
    with instead, for what no user sets. A subclass loosens no declaration of the class above it. A list is
    taken as a tuple.

    Raises:
        BadInput: a field is not what its declaration allows.
    """

    section: ClassVar[str] = ""
    where: ClassVar[str] = ""

    def __init_subclass__(cls, *, section: str | None = None, where: str | None = None) -> None:
        if section is not None:
            cls.section = section
        if where is not None:
            cls.where = where

    def __post_init__(self) -> None:
        """Check every field."""
        own: Any = type(self)
        for name, declared in _declared(own):
            value = getattr(self, name)
            if isinstance(value, list):  # as JSON has it
                object.__setattr__(self, name, value := tuple(value))
            check_value(f"{self.section}.{name}" if self.section else name, value, declared, where=self.where)


def check_value(thing: str, value: object, declared: Any, *, where: str = "") -> None:
    """Refuse a value that its declaration does not allow.

    >>> check_value("workers", 0, Annotated[int, Ge(1)])
    Traceback (most recent call last):
    rayunlearn.errors.BadInput: workers is 0; allowed: a whole number >= 1
    """
    try:
        _adapter(declared).validate_python(value)
    except ValidationError:
        raise BadInput(thing, value, _allowed(declared, value), where=where) from None


@functools.cache
def _declared(checked: Any) -> list[tuple[str, Any]]:
    """The fields that are checked, each as its class declares it and as those above that class do.

    So a subclass that gives a field another default need not say again what the field allows.
    """
    found: dict[tuple[str, Any], None] = {}
    for kind in reversed(checked.__mro__):
        if dataclasses.is_dataclass(kind):
            hints = get_type_hints(kind, include_extras=True)
            found |= {(field.name, hints[field.name]): None for field in dataclasses.fields(kind)}
    return [(name, declared) for name, declared in found if _is_plain(declared)]


@functools.cache
def _adapter(declared: Any) -> TypeAdapter[Any]:
    return TypeAdapter(declared, config=_STRICT)


def _is_plain(declared: Any) -> bool:
    origin, parts = get_origin(declared), get_args(declared)
    if origin is Annotated:
        return _is_plain(parts[0])
    if origin in (UnionType, Union, tuple):
        return all(part is Ellipsis or _is_plain(part) for part in parts)
    return origin is Literal or declared in _KINDS


def _allowed(declared: Any, value: object) -> str:
    """What a declaration allows, as an error says it; of names the nearest to the value.

    >>> _allowed(Annotated[float, Gt(0), Le(1)] | None, 2)
    'a finite number > 0 and <= 1, or None'
    >>> _allowed(tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]], ())
    'a tuple of 2, each a finite number >= 0 and < 1'
    """
    origin, parts = get_origin(declared), get_args(declared)
    if origin is Annotated:
        for said in parts[1:]:
            if isinstance(said, DocInfo):
                return said.documentation
        bounds = [f"{sign} {getattr(bound, name)}" for bound in parts[1:] for name, sign in _bound(bound)]
        return f"{_allowed(parts[0], value)} {' and '.join(bounds)}"
    if origin is Literal:
        return nearest(str(value), map(str, parts))
    if origin is tuple:
        number = "" if Ellipsis in parts else f" of {len(parts)}"
        return f"a tuple{number}, each {_allowed(parts[0], value)}"
    if origin in (UnionType, Union):
        return ", or ".join(_allowed(part, value) for part in parts)
    return _KINDS[declared]


def _bound(bound: object) -> list[tuple[str, str]]:
    return [named for kind, named in _BOUNDS.items() if isinstance(bound, kind)]
