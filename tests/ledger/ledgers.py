"""Ledgers to test with: plain rows, names of files, stores in memory, and one with five entries."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from obstore.store import MemoryStore

from rayunlearn.ledger.ledger import Ledger, verify
from rayunlearn.ledger.schemas import ENUMS, JSON_COLUMNS, SCHEMAS
from rayunlearn.storage.store import Store

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
PLAIN: dict[pa.DataType, Any] = {
    pa.string(): "x",
    pa.int64(): 1,
    pa.float64(): 0.5,
    pa.bool_(): True,
    pa.timestamp("us", tz="UTC"): NOON,
    pa.list_(pa.string()): ["x"],
    pa.list_(pa.int64()): [1, 2],
    pa.list_(pa.float64()): [0.5],
}
TABLES = ["requests", "runs", "runs", "checkpoints", "audits"]
"""The tables of the five entries of the ledgers that are tampered with."""


def row_of(table: str, **changes: Any) -> dict[str, Any]:
    """A plain full row of a table."""
    row = {field.name: PLAIN[field.type] for field in SCHEMAS[table]}
    row |= {column: words[0] for column, words in ENUMS[table].items()}
    return row | dict.fromkeys(JSON_COLUMNS[table], "{}") | changes


def entry(table: str, seq: int) -> str:
    """The name of an entry."""
    return f"ledger/{table}/{seq:012d}.parquet"


def link(seq: int) -> str:
    """The name of a link."""
    return f"ledger/chain/{seq:012d}.json"


def in_memory(files: dict[str, bytes] | None = None) -> Store:
    """A store in memory that holds these files."""
    store = Store(MemoryStore(), "memory")
    for name, data in (files or {}).items():
        store.put(name, data)
    return store


def contents(store: Store) -> dict[str, bytes]:
    """Everything that a store holds."""
    return {name: store.get(name) for name in store.list()}


def five_entries() -> dict[str, bytes]:
    """The files of a ledger with five entries in four tables."""
    store = in_memory()
    ledger = Ledger(store)
    for number, table in enumerate(TABLES, start=1):
        assert ledger.append(table, [row_of(table, lineage=f"entry {number}")]) == number
    assert verify(store) == 5
    return contents(store)


FIVE = five_entries()
