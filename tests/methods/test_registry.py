"""What methods declare, and what they are refused."""

from __future__ import annotations

import pytest

from rayunlearn.errors import BadInput
from rayunlearn.methods.registry import METHODS, method_named, require_access
from rayunlearn.scheduling.requests import DATA_ACCESS


def test_methods_declare_what_requests_can_grant() -> None:
    """Every declared access is a word that a request may use, and gated knowledge transfer is zero-shot."""
    for name, method in METHODS.items():
        assert method.name == name
        assert method.data_access <= set(DATA_ACCESS)
    assert METHODS["gkt"].data_access == {"weights"}


def test_a_method_is_refused_less_than_it_declares() -> None:
    """The sentence says what it needs besides; more than it declares is granted and not handed over."""
    with pytest.raises(BadInput, match="'gkt' needs besides: weights"):
        require_access("gkt", ["retain"])
    require_access("gkt", ["weights", "retain"])


def test_an_unknown_method_is_named() -> None:
    """The nearest name is offered."""
    with pytest.raises(BadInput, match="'gkt'"):
        method_named("gtk")
