"""What methods declare, without the methods: for processes that import no torch.

`methods/declared.json` is what `python -m rayunlearn methods --json` prints. A test holds the two together.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Protocol

from rayunlearn.errors import BadInput, nearest


class Declares(Protocol):
    """What a method is asked for here."""

    @property
    def name(self) -> str:
        """Under which requests name it."""

    @property
    def data_access(self) -> frozenset[str]:
        """What it must be handed."""

    @property
    def granularity(self) -> frozenset[str]:
        """Kinds of requests that it can serve."""


@dataclass(frozen=True)
class Declaration:
    """A method's name and what it declares; attributes as of `Declares`."""

    name: str
    data_access: frozenset[str]
    granularity: frozenset[str]


@cache
def described() -> list[dict[str, Any]]:
    """Every method as plain data, in the registry's order, as `methods.catalogue` has it."""
    text = resources.files("rayunlearn").joinpath("methods/declared.json").read_text()
    found: list[dict[str, Any]] = json.loads(text)
    return found


@cache
def declarations() -> dict[str, Declaration]:
    """Every method by its name."""
    return {
        each["name"]: Declaration(
            each["name"], frozenset(each["data_access"]), frozenset(each["granularity"])
        )
        for each in described()
    }


def require_method(methods: Mapping[str, Declares], name: str) -> None:
    """Refuse a method that there is not.

    Raises:
        BadInput: no method of that name; the nearest are named.
    """
    if name not in methods:
        raise BadInput("method", name, nearest(name, methods))


def require_granularity(methods: Mapping[str, Declares], name: str, kind: str) -> None:
    """Refuse to have a method forget what it cannot: whole classes, or single samples.

    Raises:
        BadInput: what it can forget, and which methods can do what was asked.
    """
    require_method(methods, name)
    method = methods[name]
    if kind not in method.granularity:
        able = ", ".join(other.name for other in methods.values() if kind in other.granularity)
        allowed = f"{', '.join(sorted(method.granularity))}, for {name!r}; {kind} are forgotten by {able}"
        raise BadInput("kind", kind, allowed)


def require_access(methods: Mapping[str, Declares], name: str, granted: Collection[str]) -> None:
    """Refuse to run a method with less data than it declares.

    Raises:
        BadInput: what it needs besides.
    """
    require_method(methods, name)
    missing = sorted(methods[name].data_access - set(granted))
    if missing:
        raise BadInput("data_access", sorted(granted), f"what {name!r} needs besides: {', '.join(missing)}")
