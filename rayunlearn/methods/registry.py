"""Methods by name, each with the data access and granularity that it declares."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rayunlearn.errors import BadInput, nearest


@dataclass(frozen=True, kw_only=True)
class Method:
    """What a method declares; the scheduler hands it this and nothing else.

    Attributes:
        name: as recipes and the ledger call it.
        data_access: all that it is handed.
        granularity: what it can forget.
        source: paper and section.
    """

    name: str
    data_access: frozenset[str]
    granularity: frozenset[str]
    source: str


METHODS: dict[str, Method] = {
    "gkt": Method(
        name="gkt",
        data_access=frozenset({"weights"}),
        granularity=frozenset({"classes"}),
        source="Zero-Shot Machine Unlearning, section IV.C, algorithm 2",
    ),
}


def method_named(name: str) -> Method:
    """A method by its name.

    Raises:
        BadInput: no method of that name; the nearest are named.
    """
    if name not in METHODS:
        raise BadInput("method", name, nearest(name, METHODS))
    return METHODS[name]


def require_access(name: str, granted: Collection[str]) -> None:
    """Refuse to run a method with less data than it declares.

    Raises:
        BadInput: what it needs besides.
    """
    method = method_named(name)
    missing = sorted(method.data_access - set(granted))
    if missing:
        raise BadInput("data_access", sorted(granted), f"what {name!r} needs besides: {', '.join(missing)}")
