"""The ledger as evidence: rows with the entries that hold them, up to an end that was verified.

For looking back alone: audits are read as well, so nothing that decides may read by this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rayunlearn.results.ledger import Link, read_entry, read_link, verify
from rayunlearn.results.schemas import schema_of
from rayunlearn.results.store import Store

Row = dict[str, Any]

ENTRY = "entry"
"""Key under which a row says the number of the entry that holds it."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry of the ledger.

    Attributes:
        number: in the chain, from 1.
        table: that its rows belong to.
        file: its name in the storage location.
        sha256: of that file's bytes, hex.
    """

    number: int
    table: str
    file: str
    sha256: str


class Evidence:
    """A ledger as it stood when it was opened; what is appended later is not looked at."""

    def __init__(self, store: Store) -> None:
        """Verify the whole chain.

        Raises:
            IntegrityError: names the first entry that was edited, removed, moved or added.
        """
        self._store = store
        self._links = [read_link(store, number) for number in range(1, verify(store) + 1)]

    @property
    def head(self) -> Entry | None:
        """The last entry; its hash stands for all before it. None where there is none."""
        return _entry(self._links[-1]) if self._links else None

    def rows(self, table: str, wanted: Callable[[Row], bool]) -> list[Row]:
        """The wanted rows of a table, oldest first, each with the number of its entry under `ENTRY`."""
        schema_of(table)
        return [
            row | {ENTRY: link.seq}
            for link in self._links
            if link.table == table
            for row in read_entry(self._store, link).to_pylist()
            if wanted(row)
        ]

    def entries(self, rows: Iterable[Row]) -> list[Entry]:
        """The entries that hold these rows, oldest first."""
        return [_entry(self._links[number - 1]) for number in sorted({row[ENTRY] for row in rows})]


def _entry(link: Link) -> Entry:
    return Entry(number=link.seq, table=link.table, file=link.entry, sha256=link.sha256)
