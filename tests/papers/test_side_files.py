"""Side files of a reproduction that were damaged are named; nobody sees a parser's error."""

from __future__ import annotations

import pytest

from papers.side_files import read_json
from rayunlearn.errors import IntegrityError
from tests.serving.tiny import memory_store


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 9_000, b"\xff", b"[1]", b'"12"', b"null"])
def test_a_damaged_file_is_named(data: bytes) -> None:
    """With its name and what to do, whatever lies there."""
    store = memory_store({"seconds/a.json": data})
    with pytest.raises(IntegrityError, match=r"seconds/a\.json .*delete it to go on"):
        read_json(store, "seconds/a.json", (int, float))


def test_what_was_written_is_read() -> None:
    """A number, and a mapping."""
    store = memory_store({"a.json": b"1.5", "b.json": b'{"rows": []}'})
    assert read_json(store, "a.json", (int, float)) == 1.5
    assert read_json(store, "b.json", dict) == {"rows": []}
