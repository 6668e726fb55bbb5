"""Flags of `rayunlearn methods`: the list of methods."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MethodsOptions:
    """List every method with what it is handed and what it can forget."""

    json: bool = False
    """As JSON, for programs."""

    table_three: bool = False
    """The zero-shot paper's Table III instead, read off the registry."""
