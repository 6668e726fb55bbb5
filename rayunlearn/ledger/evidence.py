"""The ledger as evidence: rows with the entries that hold them, up to an end that was verified.

For looking back alone: audits are read as well, so nothing that decides may read by this.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from rayunlearn.ledger.compaction import ENTRY
from rayunlearn.ledger.contents import looked
from rayunlearn.ledger.ledger import LedgerReader, verify
from rayunlearn.ledger.schemas import ALL_TABLES, Row
from rayunlearn.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry of the ledger.

    Attributes:
        number: in the chain, from 1.
        table: that its rows belong to.
        file: its name in the storage location, until it is compacted; then an archive holds these bytes.
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
        self._reader = LedgerReader(store, ALL_TABLES)
        self._end = verify(store)

    @property
    def head(self) -> Entry | None:
        """The last entry; its hash stands for all before it. None where there is none."""
        return next(iter(self._numbered([self._end])), None) if self._end else None

    def rows(self, table: str, wanted: Callable[[Row], bool]) -> list[Row]:
        """The wanted rows of a table, oldest first, each with the number of its entry under `ENTRY`."""
        return [row for row in self._reader.rows(table) if row[ENTRY] <= self._end and wanted(row)]

    def entries(self, rows: Iterable[Row]) -> list[Entry]:
        """The entries that hold these rows, oldest first."""
        return self._numbered({row[ENTRY] for row in rows})

    def _numbered(self, numbers: Collection[int]) -> list[Entry]:
        links = looked(self._store, lambda contents: contents.links_of(numbers))
        return [
            Entry(number=link.seq, table=link.table, file=link.entry, sha256=link.sha256) for link in links
        ]
