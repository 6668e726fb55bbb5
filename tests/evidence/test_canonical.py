"""The canonical form: bytes that are worked out by hand, and what has no form."""

from __future__ import annotations

import hashlib
import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayunlearn.errors import BadInput
from rayunlearn.evidence.canonical import canonical_json, entry_bytes, row_digest, written, written_row

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(1 - 2**53, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(max_codepoint=127)), inner),
    max_leaves=10,
)


def test_the_form_is_that_of_rfc_8785() -> None:
    """Sorted keys, no space, and of the text only what must be escaped (section 3.2.2.2, its example)."""
    text = '\u20ac$\u000f\u000aA\'\u0042\u0022\u005c\\"/'
    assert canonical_json({"b": 1, "a": text}) == '{"a":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/","b":1}'.encode()
    assert canonical_json([True, False, None, -5, []]) == b"[true,false,null,-5,[]]"
    assert canonical_json("\b\t\f\r\x7f\u2028") == b'"\\b\\t\\f\\r\x7f\xe2\x80\xa8"'


@given(PLAIN)
def test_whatever_has_a_form_is_read_back(value: Any) -> None:
    """The form is JSON of the same value, and has no other spelling."""
    data = canonical_json(value)
    assert json.loads(data) == value
    assert canonical_json(json.loads(data)) == data


@pytest.mark.parametrize("value", [0.5, 2**53, -(2**53), "\ud800", {1: 2}, {"é": 1}, {"a": {1}}, math.nan])
def test_what_has_no_single_form_is_refused(value: Any) -> None:
    """Fractions, large numbers, lone surrogates, other types; negative control: the largest whole."""
    with pytest.raises(BadInput):
        canonical_json(value)
    assert canonical_json(2**53 - 1) == b"9007199254740991"


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (2**53 - 1, 2**53 - 1),
        (2**53, "9007199254740992"),
        (-(2**63), "-9223372036854775808"),
        (1.0, "3ff0000000000000"),
        (-0.0, "8000000000000000"),
        (5e-324, "0000000000000001"),
        (math.inf, "7ff0000000000000"),
        (-math.nan, "7ff8000000000000"),
        (True, True),
        (datetime(2025, 6, 1, 14, 0, 0, 5, timezone(timedelta(hours=2))), "2025-06-01T12:00:00.000005Z"),
        ([0.5, 2], ["3fe0000000000000", 2]),
    ],
)
def test_values_are_written_as_documented(value: Any, form: Any) -> None:
    """Worked out by hand from IEEE 754 and the rules of the module."""
    assert written(value) == form and type(written(value)) is type(form)


def test_an_entry_is_the_digests_of_its_rows() -> None:
    """The leaf's data, by hand; a column without a value is not there, and one row can be shown alone."""
    row = written_row({"b": None, "a": "x", "at": datetime(2025, 6, 1, tzinfo=UTC)})
    form = b'{"a":"x","at":"2025-06-01T00:00:00.000000Z"}'
    assert row_digest(row) == hashlib.sha256(form).hexdigest()
    assert entry_bytes(3, "runs", ["aa", "bb"]) == b'{"rows":["aa","bb"],"seq":3,"table":"runs"}'
    assert row_digest(row) != row_digest(row | {"a": "y"})
    with pytest.raises(BadInput):
        written(b"bytes")
