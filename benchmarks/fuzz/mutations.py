"""Malformed inputs, made of valid ones: values, mappings, JSON text, texts and bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

HUGE_DIGITS = 5000
"""More than Python turns into text."""

NASTY = (
    "", " ", "\0", "a\0b", ".", "..", "../x", "../../x", "/", "//", "a//b", "/x", "~", "a" * 129, "a" * 5000,
    "\ud800", "a\udcff", "é", "e\u0301", "\u2028", "\u202e", "\ufeff", "\x1b[31mred", "nan", "NaN", "inf",
    "-inf", "1e999", "none", "null", "true", "False", "[bold]x[/bold]", "[/]", "{", "}", "[", '"', "'", "\\",
    "\n", "a\nb", "\r\n", "\t", "١٢", "²", "1_0", "0x10", " 3 ", "+3", "3.0", "-0", "-1", "1e-400",
    "9" * 30, "9" * HUGE_DIGITS, "%s", "{0}", "${HOME}", "$(id)", "`id`", ";", "--help", "-h", "--", "=",
    "a=b=c", ",", "1,,2", "()", "uniform(", "s3://", "s3://a", "sha256:", "sha256:../x", "COM1", "con",
)  # fmt: skip
TEXTS = st.sampled_from(NASTY) | st.text(max_size=12)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 12)
    | st.sampled_from([2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**30])
    | st.just(HUGE_DIGITS).map(lambda digits: 10**digits)  # hypothesis cannot show the number itself
    | st.sampled_from([0.0, -0.0, 1.0, 3.0, 0.5, 1e308, math.inf, -math.inf, math.nan])
    | TEXTS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=5,
)
OBJECTS = VALUES | st.binary(max_size=4) | st.sampled_from([(), (1,), {1}, 1j, object, range(3), Ellipsis])
"""What somebody may hand over in Python."""

_NO_TEXT = [b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\r", b"\n"]
_DEEP = "[" * 60_000 + "]" * 60_000
_RAW = {"@huge@": "9" * HUGE_DIGITS, "@deep@": _DEEP, "@float@": "1e999", "@minus@": "-", "@hex@": "0x1"}


@st.composite
def mangled_text(draw: st.DrawFn, text: str) -> str:
    """A text with one or two places changed."""
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(text)))
        to = draw(st.integers(at, min(len(text), at + 8)))
        text = text[:at] + draw(TEXTS | st.just("")) + text[to:]
    return text


@st.composite
def mangled(draw: st.DrawFn, data: bytes, most: int = 3) -> bytes:
    """Bytes that were changed in one to some places; now and then in none."""
    for _ in range(draw(st.integers(0, most))):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, min(len(data), at + 40)))
        data = draw(
            st.sampled_from(
                [
                    data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
                    if at < len(data)
                    else data,
                    data[:at],
                    data[:at] + data[to:],
                    data[:to] + data[at:to] + data[to:],
                    data[:at] + draw(st.binary(max_size=6)) + data[at:],
                    data[:at] + draw(st.sampled_from(_NO_TEXT)) + data[to:],
                    b"\xef\xbb\xbf" + data,
                    data.replace(b"\n", b"\r\n"),
                    draw(st.binary(max_size=60)),
                ]
            )
        )
    return data


@st.composite
def mangled_mapping(
    draw: st.DrawFn, valid: Mapping[str, Any], values: st.SearchStrategy[Any] = VALUES, *, keys: bool = True
) -> dict[str, Any]:
    """A mapping with some values replaced or wrapped, keys left out and, where asked, keys added."""
    body = dict(valid)
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(valid)))
        change = draw(st.sampled_from(["replace", "near", "wrap", "drop", "add"]))
        if change == "replace":
            body[name] = draw(values)
        elif change == "near" and name in body:
            body[name] = draw(_near(body[name]))
        elif change == "wrap" and name in body:
            body[name] = draw(st.sampled_from([[body[name]], {"a": body[name]}]))
        elif change == "drop":
            body.pop(name, None)
        elif change == "add" and keys:
            body[draw(TEXTS | mangled_text(name))] = draw(values)
    return body


def _near(value: Any) -> st.SearchStrategy[Any]:
    """Values like one: it itself changed a little, so that some are as good as it."""
    if isinstance(value, bool) or value is None:
        return st.sampled_from([True, False, None, "true", 0, 1])
    if isinstance(value, str):
        return mangled_text(value)
    if isinstance(value, int) and abs(value) < 2**64:
        return st.sampled_from([value + 1, value - 1, -value, float(value), str(value)])
    if isinstance(value, list | tuple) and value:
        return st.sampled_from([[*value, value[0]], value[:1], value[::-1], [], [*value, 5], [*value, None]])
    return VALUES


@st.composite
def json_text(draw: st.DrawFn, body: Mapping[str, Any]) -> str:
    """A mapping as JSON, or as nearly so: fields twice, numbers that are none, brackets without end."""
    body = dict(body)
    if body and draw(st.integers(0, 9)) == 0:
        body[draw(st.sampled_from(sorted(body)))] = draw(st.sampled_from(sorted(_RAW)))
    text = written(body)
    if draw(st.integers(0, 9)) == 0:
        text = text[:-1] + "," + text[1:] if len(text) > 2 else text
    if draw(st.integers(0, 9)) == 0:
        text = draw(mangled_text(text))
    return text


def written(body: Mapping[str, Any]) -> str:
    """A mapping as JSON, and what Python cannot write of it as it would stand in a file."""
    text = json.dumps({key: "@huge@" if _is_huge(value) else value for key, value in body.items()})
    for mark, raw in _RAW.items():
        text = text.replace(f'"{mark}"', raw)
    return text


def _is_huge(value: Any) -> bool:
    """Whether a value holds a whole number that cannot be written."""
    if isinstance(value, Mapping):
        return any(map(_is_huge, value.values()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return any(map(_is_huge, value))
    return isinstance(value, int) and abs(value) >= 10**HUGE_DIGITS
