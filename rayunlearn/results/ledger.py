"""The ledger: append-only tables of events, hash-chained by one appender.

Layout below the store's root::

    ledger/<table>/<seq, 12 digits>.parquet   an entry: some rows of one table; its metadata carries table,
                                              seq, schema_version and previous (SHA-256 of the entry before)
    ledger/chain/<seq, 12 digits>.json        the link that commits entry seq: table, sha256 of the entry's
                                              bytes, previous
    ledger/HEAD                               seq and sha256 of the last entry

Sequence numbers run over all tables from 1. An append creates the entry, then creates the link, then replaces
HEAD. The link is what counts: its name holds no table, so of two appenders at the same number exactly one
gets it, and readers take nothing that has no link. Nothing is ever overwritten but HEAD.

What a crash may leave, and what opening the ledger makes of it:

- an entry without its link, just after the last link: it is committed now (its append was not acknowledged,
  but its rows are whole); if it cannot be read (power failure), it is deleted;
- an entry whose number was linked to another table (an appender that lost the race and died): deleted;
- HEAD behind the last link, by one entry after a crash, by more if two appenders raced: put right. What HEAD
  says must be what the chain has at that number.

HEAD ahead of the last link, or gone where there is more than one entry, can only mean removal:
`IntegrityError`. The chain cannot find a forger who rewrites everything from some entry on, HEAD included,
nor the removal of the whole ledger; that takes a hash kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayunlearn.errors import AccessDenied, BadInput, IntegrityError, StorageHeld, nearest
from rayunlearn.results.schemas import (
    SCHEMA_VERSION,
    SCHEMAS,
    SYNTHETIC_TABLES,
    brought_up_to_date,
    checked_value,
    schema_of,
    schema_written_under,
    table_from_rows,
)
from rayunlearn.results.store import AlreadyExists, NotStored, Store

NO_PREVIOUS = "0" * 64
"""Stands for the entry before the first one."""

HEAD = "ledger/HEAD"

_CHAIN_NAME = re.compile(r"ledger/chain/(\d{12})\.json")
_ENTRY_NAME = re.compile(r"ledger/([a-z]+)/(\d{12})\.parquet")


@dataclass(frozen=True)
class Tail:
    """The last entry of a ledger: its number and the SHA-256 (hex) of its bytes; what HEAD holds."""

    seq: int = 0
    sha256: str = NO_PREVIOUS


@dataclass(frozen=True)
class Link:
    """What commits an entry to the chain."""

    seq: int
    table: str
    sha256: str
    previous: str

    @property
    def name(self) -> str:
        """The link's own file."""
        return _link_name(self.seq)

    @property
    def entry(self) -> str:
        """The file that it commits."""
        return _entry_name(self.table, self.seq)

    @property
    def tail(self) -> Tail:
        """What HEAD says when this is the last one."""
        return Tail(self.seq, self.sha256)


_Record = TypeVar("_Record", Tail, Link)


@dataclass(frozen=True)
class _Listing:
    """The names of a ledger; the chain is listed first, so each entry that it commits is listed too."""

    links: list[int]
    tables_at: dict[int, list[str]]
    unknown: list[str]

    @property
    def last(self) -> int:
        return self.links[-1] if self.links else 0

    @classmethod
    def of(cls, store: Store) -> _Listing:
        matches = map(_CHAIN_NAME.fullmatch, store.list("ledger/chain"))
        links = [int(match[1]) for match in matches if match]
        tables_at: dict[int, list[str]] = {}
        unknown = []
        for name in store.list("ledger"):
            match = _ENTRY_NAME.fullmatch(name)
            if match and match[1] in SCHEMAS:
                tables_at.setdefault(int(match[2]), []).append(match[1])
            elif name != HEAD and not _CHAIN_NAME.fullmatch(name):
                unknown.append(name)
        return cls(links, tables_at, unknown)

    def require_whole(self, store: Store) -> None:
        """No number up to the last link lacks its link or its entry."""
        linked = set(self.links)
        for seq in range(1, self.last + 1):
            if seq not in linked:
                raise IntegrityError(f"{_link_name(seq)} was removed: the chain goes on to {self.last}")
            if seq not in self.tables_at:
                raise IntegrityError(f"{read_link(store, seq).entry} was removed")


class Ledger:
    """The one appender of a storage location's ledger."""

    def __init__(self, store: Store) -> None:
        """Find the end of the chain, check the last entry and put right what a crash left (see the module).

        Raises:
            IntegrityError: the end of the ledger is not what was appended.
        """
        self._store = store
        self._lock = threading.Lock()
        self._tail = _recover(store)

    @property
    def tail(self) -> Tail:
        """The last entry."""
        return self._tail

    def append(self, table: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """Append rows as one entry; they are durable when this returns.

        Any error but `BadInput` and `StorageHeld` leaves open whether the rows were stored; opening the
        ledger again finds out.

        Returns:
            The entry's sequence number; that of the last entry if there are no rows, which make no entry.

        Raises:
            BadInput: a row does not fit the table; nothing was stored.
            StorageHeld: another appender is at work in this location; nothing of its was touched.
        """
        content = table_from_rows(table, rows)
        with self._lock:
            if not rows:
                return self._tail.seq
            seq, previous = self._tail.seq + 1, self._tail.sha256
            data = _entry_bytes(table, content, seq, previous)
            link = Link(seq, table, hashlib.sha256(data).hexdigest(), previous)
            try:
                self._store.create(link.entry, data)
            except AlreadyExists as error:
                raise _held(self._store, seq) from error
            if _commit(self._store, link) != link:
                raise _held(self._store, seq)
            self._tail = link.tail
            self._store.put(HEAD, _to_json(self._tail))
            return seq

    def verify(self) -> int:
        """Check the whole chain; see `verify`."""
        return verify(self._store)


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

    def read(self, table: str, **equals: Any) -> pa.Table:
        """The rows of a table in the order in which they were appended.

        Args:
            table: the table's name.
            equals: columns and the value that a row must have there; None asks for rows without a value.

        Raises:
            AccessDenied: the table was not granted.
            BadInput: unknown table or column, a value that the column cannot hold, or an entry in a schema
                newer than this code.
            IntegrityError: an entry is not what was appended.
        """
        schema = schema_of(table)
        if table not in self.tables:
            granted = ", ".join(sorted(self.tables)) or "none"
            raise AccessDenied(f"ledger table {table!r} was not granted to this reader; granted: {granted}")
        wanted = {column: _wanted_value(table, column, value) for column, value in equals.items()}
        listing = _Listing.of(self._store)
        listing.require_whole(self._store)
        parts = [schema.empty_table()]
        for seq in range(1, listing.last + 1):
            if table in listing.tables_at[seq]:
                link = read_link(self._store, seq)
                if link.table == table:
                    parts.append(_matching(read_entry(self._store, link), wanted))
        return pa.concat_tables(parts)


def verify(store: Store) -> int:
    """Check every entry of a ledger against the chain; writes nothing.

    Returns:
        The number of entries.

    Raises:
        IntegrityError: names the first entry that was edited, removed, moved or added.
    """
    head = _read_head(store)
    listing = _Listing.of(store)
    if listing.unknown:
        raise IntegrityError(f"{listing.unknown[0]} does not belong into a ledger")
    listing.require_whole(store)
    previous = NO_PREVIOUS
    for seq in range(1, listing.last + 1):
        link = read_link(store, seq)
        if link.previous != previous:
            raise IntegrityError(f"{link.name} does not follow from entry {seq - 1}: one was replaced")
        read_entry(store, link)
        for table in listing.tables_at[seq]:
            if table != link.table:
                raise IntegrityError(f"{_entry_name(table, seq)} was added: entry {seq} is {link.entry}")
        previous = link.sha256
    pending = sorted(seq for seq in listing.tables_at if seq > listing.last)
    for expected, seq in enumerate(pending, start=listing.last + 1):
        if seq != expected:
            raise IntegrityError(f"entry {seq} was added: the chain ends at {listing.last}")
    _check_head(store, head, listing.last)
    return listing.last


def _recover(store: Store) -> Tail:
    """Find the end of the chain and put right what a crash left."""
    head = _read_head(store)  # before the chain, which may only have grown meanwhile
    listing = _Listing.of(store)
    tail = Tail()
    if listing.last:
        link = read_link(store, listing.last)
        read_entry(store, link)
        tail = link.tail
    _check_head(store, head, listing.last)
    for seq, tables in listing.tables_at.items():
        if seq <= listing.last and len(tables) > 1:
            _delete_losers(store, read_link(store, seq), tables)
    while tables := listing.tables_at.get(tail.seq + 1, []):
        pending = _pending(store, tail, tables)
        if pending is None:
            break
        link = _commit(store, pending)
        _delete_losers(store, link, tables)
        tail = link.tail
    if head != tail and tail.seq:
        store.put(HEAD, _to_json(tail))
    return tail


def _pending(store: Store, tail: Tail, tables: list[str]) -> Link | None:
    """The link for an entry that follows the tail and was not committed; None if there is no whole one."""
    for table in tables:
        name = _entry_name(table, tail.seq + 1)
        try:
            data = store.get(name)
        except NotStored:
            continue  # its appender lost the race and took it back
        link = Link(tail.seq + 1, table, hashlib.sha256(data).hexdigest(), tail.sha256)
        try:
            _rows(link, data)
        except (pa.ArrowException, OSError):
            store.delete(name)  # torn by a power failure before it was acknowledged
            continue
        return link
    return None


def _commit(store: Store, link: Link) -> Link:
    """Create a link; if the number is taken, take back the entry. Returns the link that is there."""
    try:
        store.create(link.name, _to_json(link))
    except AlreadyExists:
        there = read_link(store, link.seq)
        _delete_losers(store, there, [link.table])
        return there
    return link


def _delete_losers(store: Store, link: Link, tables: Iterable[str]) -> None:
    """Delete entries whose number was linked to another table; nobody has read them, nobody ever will."""
    for table in tables:
        if table != link.table:
            store.delete(_entry_name(table, link.seq))


def _held(store: Store, seq: int) -> StorageHeld:
    return StorageHeld(
        f"{store.where}: entry {seq} of the ledger was written by another appender (or by an append of "
        "this one that was cut short); only one scheduler may use a storage location. Nothing was overwritten"
    )


def _check_head(store: Store, head: Tail | None, last: int) -> None:
    """HEAD may lag behind the last link, and never lead."""
    if head is None and last > 1:
        head = _read_head(store)  # another appender may have begun between the two looks
        if head is None:
            raise IntegrityError(f"{HEAD} was removed: the chain has {last} entries")
    if head is None or head == Tail():
        return
    if head.seq > last:
        raise IntegrityError(f"entry {last + 1} was removed: {HEAD} is at {head.seq}, the chain at {last}")
    if read_link(store, head.seq).sha256 != head.sha256:
        raise IntegrityError(f"entry {head.seq} was replaced: {HEAD} has another hash for it than the chain")


def _read_head(store: Store) -> Tail | None:
    try:
        return _from_json(Tail, HEAD, store.get(HEAD))
    except NotStored:
        return None


def read_link(store: Store, seq: int) -> Link:
    """The link of an entry; `IntegrityError` where it was removed or replaced."""
    name = _link_name(seq)
    try:
        link = _from_json(Link, name, store.get(name))
    except NotStored as error:
        raise IntegrityError(f"{name} was removed") from error
    if link.seq != seq or link.table not in SCHEMAS:
        raise IntegrityError(f"{name} was replaced: it speaks of entry {link.seq} in table {link.table!r}")
    return link


def read_entry(store: Store, link: Link) -> pa.Table:
    """The rows of an entry, after checking that it is the one that was linked."""
    try:
        data = store.get(link.entry)
    except NotStored as error:
        raise IntegrityError(f"{link.entry} was removed") from error
    if hashlib.sha256(data).hexdigest() != link.sha256:
        raise IntegrityError(f"{link.entry} was edited or replaced: its hash is not the one in {link.name}")
    try:
        return _rows(link, data)
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{link.entry} cannot be read: {error}") from error


def _rows(link: Link, data: bytes) -> pa.Table:
    """The rows in an entry's bytes; pyarrow's errors come through."""
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    _check_entry(link, file.schema_arrow)
    return brought_up_to_date(link.table, file.read(use_threads=False))


def _check_entry(link: Link, schema: pa.Schema) -> None:
    """An entry's own metadata says what its name and its link say, in a schema that is known here."""
    metadata = {key: value.decode(errors="replace") for key, value in (schema.metadata or {}).items()}
    version = metadata.get(b"schema_version", "")
    if not re.fullmatch("[1-9][0-9]{0,8}", version):
        raise IntegrityError(f"{link.entry}: its schema_version is {version!r}, no version")
    if int(version) > SCHEMA_VERSION:
        allowed = f"at most {SCHEMA_VERSION}; a newer rayunlearn wrote this"
        raise BadInput("schema version", int(version), allowed, where=link.entry)
    expected = _metadata(link.table, link.seq, link.previous) | {"schema_version": version}
    for key, value in expected.items():
        found = metadata.get(key.encode())
        if found != value:
            raise IntegrityError(f"{link.entry}: its {key} is {found!r}, expected {value!r}")
    if not schema.equals(schema_written_under(link.table, int(version))):
        raise IntegrityError(f"{link.entry}: its columns are not those of table {link.table!r}")


def _metadata(table: str, seq: int, previous: str) -> dict[str, str]:
    return {"table": table, "seq": str(seq), "schema_version": str(SCHEMA_VERSION), "previous": previous}


def _entry_bytes(table: str, content: pa.Table, seq: int, previous: str) -> bytes:
    sink = pa.BufferOutputStream()
    content = content.replace_schema_metadata(_metadata(table, seq, previous))
    pq.write_table(content, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def _wanted_value(table: str, column: str, value: Any) -> Any:
    where = f"ledger table {table!r}, filter"
    schema = SCHEMAS[table]
    single = [field.name for field in schema if not pa.types.is_list(field.type)]
    if column not in single:
        allowed = "a column with single values" if column in schema.names else nearest(column, single)
        raise BadInput("column", column, allowed, where=where)
    return None if value is None else checked_value(table, column, value, where=where)


def _matching(rows: pa.Table, wanted: Mapping[str, Any]) -> pa.Table:
    for column, value in wanted.items():
        cells = rows.column(column)
        mask = pc.is_null(cells) if value is None else pc.equal(cells, pa.scalar(value, cells.type))
        rows = rows.filter(mask)
    return rows


def _entry_name(table: str, seq: int) -> str:
    return f"ledger/{table}/{seq:012d}.parquet"


def _link_name(seq: int) -> str:
    return f"ledger/chain/{seq:012d}.json"


def _to_json(record: Tail | Link) -> bytes:
    return json.dumps(asdict(record), sort_keys=True).encode()


def _from_json(kind: type[_Record], name: str, data: bytes) -> _Record:
    """Read a record back; bytes that `_to_json` would not have written are refused."""
    try:
        record = kind(**json.loads(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{name} was edited: it cannot be read ({error})") from error
    numbers_are_sound = type(record.seq) is int and record.seq >= 1
    texts_are_sound = all(isinstance(value, str) for key, value in asdict(record).items() if key != "seq")
    if not (numbers_are_sound and texts_are_sound) or _to_json(record) != data:
        raise IntegrityError(f"{name} was edited: it is not what an append writes")
    return record
