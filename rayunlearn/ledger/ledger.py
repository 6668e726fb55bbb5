"""The ledger: append-only tables of events, hash-chained by one appender.

Layout below the store's root::

    ledger/<table>/<seq, 12 digits>.parquet   an entry: some rows of one table; its metadata carries table,
                                              seq, schema_version and previous (SHA-256 of the entry before)
    ledger/chain/<seq, 12 digits>.json        the link that commits entry seq: table, sha256 of the entry's
                                              bytes, previous
    ledger/HEAD                               seq and sha256 of the last entry
    ledger/<table>/<first>-<last>.*.parquet   a segment: stands for the entries of a range (see `compaction`)

Sequence numbers run over all tables from 1. An append creates the entry, then creates the link, then replaces
HEAD. The link is what counts: its name holds no table, so of two appenders at the same number exactly one
gets it, and readers take nothing that has no link. Nothing is ever overwritten but HEAD, and nothing deleted
that is not kept in a segment.

What a crash may leave, and what opening the ledger makes of it:

- an entry without its link, just after the last link: it is committed now (its append was not acknowledged,
  but its rows are whole); if it is not whole (power failure), it is deleted;
- an entry whose number was linked to another table (an appender that lost the race and died): deleted;
- entries and links that were compacted, and segments that are no longer in force: deleted;
- HEAD behind the last link, by one entry after a crash, by more if two appenders raced: put right. What HEAD
  says must be what the chain has at that number.

HEAD ahead of the last link, or gone where there is more than one entry, can only mean removal:
`IntegrityError`. The chain cannot find a forger who rewrites everything from some entry on, HEAD included,
nor the removal of the whole ledger; that takes a hash kept elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from rayunlearn.errors import AccessDenied, BadInput, IntegrityError, StorageHeld, nearest
from rayunlearn.ledger.chain import (
    HEAD,
    NO_PREVIOUS,
    Link,
    Tail,
    check_entry,
    entry_bytes,
    entry_name,
    from_json,
    is_whole,
    link_to,
    linked_bytes,
    read_entry,
    read_link,
    rows_of,
    to_json,
)
from rayunlearn.ledger.compaction import (
    ARCHIVE,
    ENTRY,
    FOLDED_AT,
    SEGMENTS,
    Segment,
    archived,
    check,
    compact,
    is_awaited,
    is_dated,
    matching,
    named_segment,
    numbered,
    pieces,
    rows_for,
)
from rayunlearn.ledger.contents import Contents, Names, looked
from rayunlearn.ledger.schemas import SCHEMAS, SYNTHETIC_TABLES, checked_value, schema_of, table_from_rows
from rayunlearn.storage.store import AlreadyExists, NotStored, Store


class Ledger:
    """The one appender of a storage location's ledger."""

    def __init__(self, store: Store, *, compact_at: int = FOLDED_AT) -> None:
        """Find the end of the chain, check the last entry and put right what a crash left (see the module).

        Args:
            store: the storage location.
            compact_at: so many single entries are compacted.

        Raises:
            IntegrityError: the end of the ledger is not what was appended.
        """
        self._store = store
        self._compact_at = compact_at
        self._lock = threading.Lock()
        self._dated = True  # until the first append has looked
        self._tail, self._single = _recover(store)
        self._verified: dict[str, str] = {}

    @property
    def tail(self) -> Tail:
        """The last entry."""
        return self._tail

    def append(self, table: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """Append rows as one entry; they are durable when this returns.

        Where many single entries have come together, they are compacted first, and so is what an earlier
        version wrote with other columns.

        Any error but `BadInput` and `StorageHeld` leaves open whether the rows were stored; opening the
        ledger again finds out.

        Returns:
            The entry's sequence number; that of the last entry if there are no rows, which make no entry.

        Raises:
            BadInput: a row does not fit the table; nothing was stored.
            StorageHeld: another appender is at work in this location; nothing of its was touched.
        """
        schema_of(table)
        content = table_from_rows(table, rows)
        with self._lock:
            if not rows:
                return self._tail.seq
            if self._single >= self._compact_at or self._dated:
                self._fold()
            return self._append(table, content)

    def _append(self, table: str, content: pa.Table) -> int:
        seq = self._tail.seq + 1
        data = entry_bytes(table, content, self._tail)
        link = link_to(table, data, self._tail)
        try:
            self._store.create(link.entry, data)
        except AlreadyExists as error:
            raise _held(self._store, seq) from error
        if _commit(self._store, link) != link:
            raise _held(self._store, seq)
        self._tail = link.tail
        self._single += 1
        self._store.put(HEAD, to_json(self._tail))
        return seq

    def _fold(self) -> None:
        """Fold the single entries where it is time; killed at any point, the ledger holds what it held."""
        store, tail = self._store, self._tail
        try:
            contents = Contents(store, Names.of(store))
            if contents.last != tail.seq:
                raise _held(store, tail.seq + 1)
            if self._single < self._compact_at and not self._is_dated(contents):
                self._dated = False
                return
            links = [read_link(store, seq) for seq in contents.links]
            entries = [(link, linked_bytes(store, link)) for link in links]
        except IntegrityError as error:
            if _folded(store) >= tail.seq:
                raise _held(store, tail.seq + 1) from error
            raise
        segments = compact(store, entries, contents.segments, self._compact_at)
        self._append(SEGMENTS, table_from_rows(SEGMENTS, rows_for(segments)))
        self._single, self._dated = 1, False
        _delete_folded(store, Contents(store, Names.of(store)), known=contents.segments)

    def _is_dated(self, contents: Contents) -> bool:
        first = [read_link(self._store, seq) for seq in contents.links[:1]]
        data = [linked_bytes(self._store, link) for link in first]
        return is_dated(self._store, contents.segments, data[0] if data else None)

    def verify(self) -> int:
        """Check the chain as `verify` does; segments that it has checked before it takes as checked."""
        head = _read_head(self._store)
        return looked(self._store, lambda contents: _verified(self._store, contents, head, self._verified))


class LedgerReader:
    """Reads the tables that it was granted."""

    def __init__(self, store: Store, tables: Iterable[str] = SYNTHETIC_TABLES) -> None:
        """Open for reading; nothing is read yet.

        Args:
            store: the storage location.
            tables: the granted tables; by default all but measurements on real data.
        """
        self._store = store
        self.tables = frozenset(tables)
        for table in self.tables:
            schema_of(table)
        self._read: dict[int, tuple[str, pa.Table]] = {}  # entry -> table and rows, of those not compacted

    def read(self, table: str, *, columns: Sequence[str] | None = None, **equals: Any) -> pa.Table:
        """The rows of a table in the order in which they were appended.

        Args:
            table: the table's name.
            columns: those to read; None for all.
            equals: columns and the value that a row must have there; a set asks for any of its values, None
                for rows without a value.

        Raises:
            AccessDenied: the table was not granted.
            BadInput: unknown table or column, a value that the column cannot hold, or an entry in a schema
                newer than this code.
            IntegrityError: an entry is not what was appended.
        """
        found = [part.drop_columns([ENTRY]) for part in self.scan(table, columns=columns, **equals)]
        empty = schema_of(table).empty_table()
        return pa.concat_tables([empty if columns is None else empty.select(list(columns)), *found])

    def scan(
        self, table: str, *, columns: Sequence[str] | None = None, after: int = 0, **equals: Any
    ) -> Iterator[pa.Table]:
        """The same rows, piece by piece, with the number of each one's entry in the column `ENTRY`.

        Args:
            table: the table's name.
            columns: as for `read`.
            after: only rows of later entries.
            equals: as for `read`.
        """
        schema = schema_of(table)
        if table not in self.tables:
            granted = ", ".join(sorted(self.tables)) or "none"
            raise AccessDenied(f"ledger table {table!r} was not granted to this reader; granted: {granted}")
        for column in columns or ():
            if column not in schema.names:
                where = f"ledger table {table!r}"
                raise BadInput("column", column, nearest(str(column), schema.names), where=where)
        wanted = {column: _wanted_value(table, column, value) for column, value in equals.items()}
        return self._scanned(table, columns, wanted, after)

    def rows(self, table: str, **given: Any) -> Iterator[dict[str, Any]]:
        """The same, row by row, a hundred of them in memory; `given` as for `scan`."""
        for part in self.scan(table, **given):
            for batch in part.to_batches(max_chunksize=100):
                yield from batch.to_pylist()

    @property
    def last_entry(self) -> int:
        """The number of the last entry, of whatever table; 0 where there is none."""
        return looked(self._store, lambda contents: contents.last)

    def _scanned(
        self, table: str, columns: Sequence[str] | None, wanted: Mapping[str, Any], after: int
    ) -> Iterator[pa.Table]:
        given, names = 0, Names.of(self._store)
        while True:
            skipped = 0
            try:
                for part in self._pieces(Contents(self._store, names), table, columns, wanted, after):
                    # rows come in the same order however their entries are compacted
                    start = min(given - skipped, part.num_rows)
                    skipped += start
                    if start < part.num_rows:
                        given += part.num_rows - start
                        skipped = given
                        yield part.slice(start)
                return
            except IntegrityError:
                before, names = names, Names.of(self._store)
                if not names.folded_since(before):
                    raise

    def _pieces(
        self,
        contents: Contents,
        table: str,
        columns: Sequence[str] | None,
        wanted: Mapping[str, Any],
        after: int,
    ) -> Iterator[pa.Table]:
        contents.require_whole()
        for segment in contents.segments:
            if segment.table == table and segment.last > after:
                yield from pieces(self._store, segment, wanted, columns=columns, after=after)
        self._read = {seq: known for seq, known in self._read.items() if seq > contents.compacted}
        for seq in contents.links:
            if seq <= after or table not in contents.tables_at[seq]:
                continue
            if seq not in self._read:
                link = read_link(self._store, seq)
                if link.table not in contents.tables_at[seq]:
                    raise IntegrityError(f"{link.entry} was removed")
                if link.table != table:
                    continue  # left by an appender that lost the race
                self._read[seq] = table, read_entry(self._store, link)
            found, rows = self._read[seq]
            if found == table:
                rows = rows.filter(matching(rows, wanted)) if wanted else rows
                yield numbered(seq, rows if columns is None else rows.select(list(columns)))


def verify(store: Store) -> int:
    """Check every entry of a ledger against the chain; writes nothing.

    Returns:
        The number of entries.

    Raises:
        IntegrityError: names the first entry that was edited, removed, moved or added.
    """
    head = _read_head(store)  # before the chain, which may only have grown meanwhile
    return looked(store, lambda contents: _verified(store, contents, head, {}))


def _verified(store: Store, contents: Contents, head: Tail | None, before: dict[str, str]) -> int:
    """As `verify`; `before` has, by name, the last entry's hash of every segment that was checked."""
    if contents.unknown:
        raise IntegrityError(f"{contents.unknown[0]} does not belong into a ledger")
    contents.require_whole()
    previous, compacted = NO_PREVIOUS, 0
    for segment in contents.segments:
        if segment.table == ARCHIVE and segment.first != compacted + 1:
            raise IntegrityError(f"the archive of entry {compacted + 1} was removed")
        if segment.table == ARCHIVE:
            if segment.name not in before:
                for link, data in archived(store, segment, previous):
                    check_entry(link, data)
                    previous = link.sha256
                before[segment.name] = previous
            previous, compacted = before[segment.name], segment.last
        elif segment.name not in before:
            check(store, segment)
            before[segment.name] = ""
    if compacted != contents.compacted:
        raise IntegrityError(f"the archive of entry {compacted + 1} was removed")
    for seq in contents.links:
        link = read_link(store, seq)
        if link.previous != previous:
            raise IntegrityError(f"{link.name} does not follow from entry {seq - 1}: one was replaced")
        read_entry(store, link)
        for table in contents.tables_at[seq]:
            if table != link.table:
                raise IntegrityError(f"{entry_name(table, seq)} was added: entry {seq} is {link.entry}")
        previous = link.sha256
    pending = sorted(seq for seq in contents.tables_at if seq > contents.last)
    for expected, seq in enumerate(pending, start=contents.last + 1):
        if seq != expected:
            raise IntegrityError(f"entry {seq} was added: the chain ends at {contents.last}")
    _check_head(store, head, contents)
    return contents.last


def _recover(store: Store) -> tuple[Tail, int]:
    """Put right what a crash left; the tail, and the number of single entries."""
    head = _read_head(store)  # before the chain, which may only have grown meanwhile
    contents = Contents(store, Names.of(store))
    tail = Tail()
    if contents.last:
        link = read_link(store, contents.last)
        read_entry(store, link)
        tail = link.tail
    _check_head(store, head, contents)
    for seq, tables in contents.tables_at.items():
        if seq <= contents.last and len(tables) > 1:
            _delete_losers(store, read_link(store, seq), tables)
    _delete_folded(store, contents)
    single = len(contents.links)
    while tables := contents.tables_at.get(tail.seq + 1, []):
        pending = _pending(store, tail, tables)
        if pending is None:
            break
        link = _commit(store, pending)
        _delete_losers(store, link, tables)
        tail, single = link.tail, single + 1
    if head != tail and tail.seq:
        store.put(HEAD, to_json(tail))
    return tail, single


def _pending(store: Store, tail: Tail, tables: list[str]) -> Link | None:
    """The link for an entry that follows the tail and was not committed; None if there is no whole one."""
    for table in tables:
        name = entry_name(table, tail.seq + 1)
        try:
            data = store.get(name)
        except NotStored:
            continue  # its appender lost the race and took it back
        if not is_whole(data):
            store.delete(name)  # torn by a power failure before it was acknowledged
            continue
        link = link_to(table, data, tail)
        rows_of(link, data)
        return link
    return None


def _commit(store: Store, link: Link) -> Link:
    """Create a link; if the number is taken, take back the entry. Returns the link that is there.

    Where the number was compacted since, its name was free again: an archive tells.
    """
    try:
        store.create(link.name, to_json(link))
    except AlreadyExists:
        there = read_link(store, link.seq)
        _delete_losers(store, there, [link.table])
        return there
    if _folded(store) >= link.seq:
        store.delete(link.name)
        store.delete(link.entry)
        raise _held(store, link.seq)
    return link


def _folded(store: Store) -> int:
    """The last entry for which there is an archive; it is there before its entries are deleted."""
    return max((named_segment(name) or 0 for name in store.list(f"ledger/{ARCHIVE}")), default=0)


def _delete_folded(store: Store, contents: Contents, known: Iterable[Segment] = ()) -> None:
    """Delete what segments in force stand for; `known` are those that were in force before."""
    before = {segment.name for segment in known}
    for name in contents.compacted_away:
        is_segment = name not in before and named_segment(name) is not None
        if not (is_segment and is_awaited(store, name, contents.last)):
            store.delete(name)


def _delete_losers(store: Store, link: Link, tables: Iterable[str]) -> None:
    """Delete entries whose number was linked to another table; nobody has read them, nobody ever will."""
    for table in tables:
        if table != link.table:
            store.delete(entry_name(table, link.seq))


def _held(store: Store, seq: int) -> StorageHeld:
    return StorageHeld(
        f"{store.where}: entry {seq} of the ledger was written by another appender (or by an append of "
        "this one that was cut short); only one scheduler may use a storage location. Nothing was overwritten"
    )


def _check_head(store: Store, head: Tail | None, contents: Contents) -> None:
    """HEAD may lag behind the last link, and never lead."""
    last = contents.last
    if head is None and last > 1:
        head = _read_head(store)  # another appender may have begun between the two looks
        if head is None:
            raise IntegrityError(f"{HEAD} was removed: the chain has {last} entries")
    if head is None or head == Tail():
        return
    if head.seq > last:
        raise IntegrityError(f"entry {last + 1} was removed: {HEAD} is at {head.seq}, the chain at {last}")
    (link,) = contents.links_of([head.seq])
    if link.sha256 != head.sha256:
        raise IntegrityError(f"entry {head.seq} was replaced: {HEAD} has another hash for it than the chain")


def _read_head(store: Store) -> Tail | None:
    try:
        return from_json(Tail, HEAD, store.get(HEAD))
    except NotStored:
        return None


def _wanted_value(table: str, column: str, value: Any) -> Any:
    where = f"ledger table {table!r}, filter"
    schema = SCHEMAS[table]
    single = [field.name for field in schema if not pa.types.is_list(field.type)]
    if column not in single:
        allowed = "a column with single values" if column in schema.names else nearest(column, single)
        raise BadInput("column", column, allowed, where=where)
    if isinstance(value, set | frozenset):
        return frozenset(checked_value(table, column, one, where=where) for one in value)
    return None if value is None else checked_value(table, column, value, where=where)
