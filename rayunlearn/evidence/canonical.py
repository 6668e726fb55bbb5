"""One form in bytes for an entry of the ledger, which no storage format changes.

The form is JSON by RFC 8785 (JSON Canonicalization Scheme): keys sorted, no white space, UTF-8, and only
what has to be escaped is. Numbers of JSON are whole and at most 2^53 - 1 in size (RFC 7493, section 2.2), so
that every reader has the same. The values of a row are written so:

- text, true, false: as they are; a list: item by item;
- a whole number beyond that size: its decimal digits as text;
- a number of 64 bits with a fraction: the 16 hex digits of its IEEE 754 bytes, big end first, as text; every
  NaN is 7ff8000000000000;
- a time: `2025-06-01T12:00:00.000000Z`, UTC with six digits of a second;
- a column without a value is left out, so that columns which came later change no earlier entry.

An entry is `{"rows":[...],"seq":N,"table":"..."}`. `rows` has the SHA-256 (hex) of each row in this form, so
that one row can be shown and the others of its entry need not be.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rayunlearn.errors import BadInput

LARGEST_WHOLE = 2**53 - 1
"""The largest whole number that is written as a number (RFC 7493, section 2.2)."""

_NAN = "7ff8000000000000"


def canonical_json(value: Any) -> bytes:
    """JSON by RFC 8785, of text, true, false, null, whole numbers, lists and mappings from text.

    >>> canonical_json({"b": [1, True], "a": "é"}).decode()
    '{"a":"é","b":[1,true]}'

    Raises:
        BadInput: a number with a fraction or beyond `LARGEST_WHOLE`, text that is not Unicode, a key that is
            no text, or another type.
    """
    _require_plain(value)
    # sorted by code points, as keys of ASCII alone also are by RFC 8785, section 3.2.3
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadInput("text in JSON", text[error.start : error.end], "Unicode text") from error


def _require_plain(value: Any) -> None:
    if value is None or isinstance(value, str | bool):
        return
    if isinstance(value, int) and abs(value) <= LARGEST_WHOLE:
        return
    if isinstance(value, list | tuple):
        for item in value:
            _require_plain(item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise BadInput("key in JSON", key, "ASCII text")
            _require_plain(item)
    else:
        allowed = "text, true, false, null, a whole number up to 2^53 - 1, a list, a mapping"
        raise BadInput("value in JSON", value, allowed)


def written(value: Any) -> Any:
    """A value of the ledger as canonical JSON has it.

    >>> written(2**60), written(0.5), written(datetime(2025, 6, 1, 12, tzinfo=UTC))
    ('1152921504606846976', '3fe0000000000000', '2025-06-01T12:00:00.000000Z')
    """
    if isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= LARGEST_WHOLE else str(value)
    if isinstance(value, float):
        return _NAN if math.isnan(value) else struct.pack(">d", value).hex()
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
    if isinstance(value, list | tuple):
        return [written(item) for item in value]
    raise BadInput("value of a row", value, "text, a number, true, false, a time, or a list of these")


def written_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table as canonical JSON has it; columns without a value are left out."""
    return {column: written(value) for column, value in row.items() if value is not None}


def row_digest(row: Mapping[str, Any]) -> str:
    """SHA-256, hex, of a row that is `written_row`."""
    return hashlib.sha256(canonical_json(row)).hexdigest()


def entry_bytes(seq: int, table: str, rows: Sequence[str]) -> bytes:
    """The canonical form of an entry: what is hashed as a leaf.

    >>> entry_bytes(1, "segments", [])
    b'{"rows":[],"seq":1,"table":"segments"}'

    Args:
        seq: number of the entry, from 1; it is leaf `seq - 1`.
        table: that its rows belong to. Of the ledger's own, `segments`, the rows are left out: they say how
            entries are kept in files, which this form must not depend on.
        rows: the `row_digest` of each.
    """
    return canonical_json({"seq": seq, "table": table, "rows": list(rows)})
