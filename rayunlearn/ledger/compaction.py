"""Compacted entries: many small files of a ledger become few, and the chain stays.

Reading thousands of entries means opening thousands of files. So an appender compacts a range at a time:

    ledger/<table>/<first>-<last>.<start of sha256>.parquet   the table's rows of these entries: what readers
                                                              read
    ledger/chain/<first>-<last>.<start of sha256>.parquet     the archive: each entry's bytes as they were,
                                                              so that the chain can be followed from 1 on

and says by an entry of the table "segments", which lists all that are in force, that these stand for the
entries. Only then the entries and their links are deleted. Small ranges are compacted again,
by eights, twice. What is not in force (a crash, a superseded file) is never read.

A segment has the columns of an entry, so that other tools can read a table's files as one. Which rows are of
which entry is told by the file's metadata, under `ENTRIES`: JSON, [[number of the entry, its rows], ...] in
the order of the rows. Segments of schema versions before 6 have a column `ENTRY` instead. Segments and
entries whose columns are not today's are rewritten by the next compaction.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayunlearn.errors import IntegrityError
from rayunlearn.ledger.chain import Link, bytes_with_hash, rows_of, schema_version_of
from rayunlearn.ledger.schemas import (
    SCHEMA_VERSION,
    SCHEMAS,
    brought_up_to_date,
    has_columns_of_today,
    schema_of,
    schema_written_under,
)
from rayunlearn.storage.store import AlreadyExists, NotStored, Store

SEGMENTS = "segments"
"""The table that lists the segments in force."""

ARCHIVE = "chain"
"""Stands for a table in the name of a segment that holds entries as they were."""

ENTRY = "entry"
"""The column that holds the number of each row's entry, in what is read of a ledger and in archives."""

ENTRIES = "entries"
"""The key of a table's segment under which its metadata tells how many rows each entry has."""

LISTED_BY = "listed_by"
"""The key of a segment under which its metadata tells the number of the entry that is to put it in force."""

FOLDED_AT = 128
"""So many single entries are compacted."""

_TOLD_APART = 6
"""The schema version since which a table's segment has no column of entry numbers."""

_EIGHTS = 8
_ORDERS = 2
"""So many ranges of one size become one of the next, and so often."""

_ROWS = 4_096
_ARCHIVED = 1_024
_BYTES = 4 * 1024**2
"""Rows that are read at once, of tables and of archives; fewer where they are larger than this."""

_NAME = re.compile(r"ledger/([a-z]+)/(\d{12})-(\d{12})\.([0-9a-f]{16})\.parquet")
_ENTRY_FIELD = pa.field(ENTRY, pa.int64(), nullable=False)
_ARCHIVE_SCHEMA = pa.schema(
    [
        _ENTRY_FIELD,
        pa.field("table", pa.string(), nullable=False),
        pa.field("data", pa.binary(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Segment:
    """A file that stands for the entries of a range: for the rows of one table, or the archive of all."""

    table: str
    first: int
    last: int
    rows: int
    sha256: str

    @property
    def name(self) -> str:
        """Its file."""
        return f"ledger/{self.table}/{self.first:012d}-{self.last:012d}.{self.sha256[:16]}.parquet"


def named_segment(name: str) -> int | None:
    """The last entry that a file's name says it stands for; None if it is no segment's name."""
    match = _NAME.fullmatch(name)
    return int(match[3]) if match and (match[1] == ARCHIVE or match[1] in SCHEMAS) else None


def segments_in(rows: pa.Table) -> tuple[Segment, ...]:
    """The segments in force by the rows of the last entry that lists them, by range."""
    found = (Segment(**{k: row[k] for k in Segment.__dataclass_fields__}) for row in rows.to_pylist())
    return tuple(sorted(found, key=lambda s: (s.first, s.table)))


def rows_for(segments: Iterable[Segment]) -> list[dict[str, Any]]:
    """Segments as rows of their table."""
    return [asdict(segment) for segment in segments]


# ---- reading


def pieces(
    store: Store,
    segment: Segment,
    wanted: Mapping[str, Any],
    *,
    columns: Sequence[str] | None = None,
    after: int = 0,
) -> Iterator[pa.Table]:
    """The matching rows of a table's segment, piece by piece, with the number of each one's entry.

    Args:
        store: of the ledger.
        segment: of a table.
        wanted: as for `matching`.
        columns: those to read besides `ENTRY`; None for all.
        after: rows of later entries only.

    Raises:
        IntegrityError: the segment was edited or removed.
        BadInput: a newer rayunlearn wrote it.
    """
    file = _opened(store, segment)
    there, numbers = file.schema_arrow.names, _numbers(file, segment)
    asked = [name for name in wanted if name in there]
    read = [name for name in (there if columns is None else columns) if name in there and name != ENTRY]
    start = 0
    for group in range(file.num_row_groups):
        own = numbers.slice(start, file.metadata.row_group(group).num_rows)
        start += len(own)
        mask = None
        if wanted or segment.first <= after:
            keys = file.read_row_group(group, columns=asked, use_threads=False)
            mask = pc.and_(matching(keys, wanted), pc.greater(own, after))
            if not pc.any(mask).as_py():
                continue
        rows = brought_up_to_date(
            segment.table, file.read_row_group(group, columns=read, use_threads=False), columns
        ).append_column(_ENTRY_FIELD, own)
        yield rows if mask is None else rows.filter(mask)


def _numbers(file: pq.ParquetFile, segment: Segment) -> pa.Array:
    """The number of each row's entry: int64, one for each row of a table's segment.

    Raises:
        IntegrityError: the segment does not tell.
    """
    if ENTRY in file.schema_arrow.names:
        return file.read(columns=[ENTRY], use_threads=False).column(ENTRY).combine_chunks()
    try:
        told = np.array(json.loads((file.metadata.metadata or {})[ENTRIES.encode()]), dtype=np.int64)
        numbers = np.repeat(*told.reshape(-1, 2).T)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise IntegrityError(f"{segment.name} does not tell the entries of its rows") from error
    if len(numbers) != file.metadata.num_rows:
        raise IntegrityError(f"{segment.name} tells the entries of {len(numbers)} rows, and has others")
    return pa.array(numbers)


def matching(rows: pa.Table, wanted: Mapping[str, Any]) -> Any:
    """Which rows have the wanted values.

    Args:
        rows: a column that is not there holds no value.
        wanted: column -> the value that a row must have there; a set for any of several, None for none.
    """
    mask = pa.chunked_array([pa.repeat(True, rows.num_rows)])
    for column, value in wanted.items():
        if column not in rows.column_names:
            mask = pc.and_(mask, value is None)
        elif value is None:
            mask = pc.and_(mask, pc.is_null(rows.column(column)))
        elif isinstance(value, frozenset):
            cells = rows.column(column)
            mask = pc.and_(mask, pc.is_in(cells, value_set=pa.array(list(value), cells.type)))
        else:
            cells = rows.column(column)
            mask = pc.and_(mask, pc.fill_null(pc.equal(cells, pa.scalar(value, cells.type)), False))
    return mask


def archived(store: Store, segment: Segment, previous: str) -> Iterator[tuple[Link, bytes]]:
    """The entries of an archive, in order, with the links that they had.

    Args:
        store: of the ledger.
        segment: an archive.
        previous: hash of the entry before its first one.

    Raises:
        IntegrityError: the archive was edited or removed, or does not hold these entries.
    """
    file = _opened(store, segment)
    expected = segment.first
    for batch in file.iter_batches(batch_size=_ARCHIVED, use_threads=False):
        for seq, table, data in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if seq != expected:
                raise IntegrityError(f"{segment.name}: entry {seq} stands where {expected} should")
            link = Link(seq, table, hashlib.sha256(data).hexdigest(), previous)
            yield link, data
            previous, expected = link.sha256, expected + 1
    if expected != segment.last + 1:
        raise IntegrityError(f"{segment.name} ends at entry {expected - 1}, not at {segment.last}")


def archived_links(store: Store, segment: Segment, numbers: Collection[int]) -> Iterator[Link]:
    """The links of some of an archive's entries; `previous` is the hash that the entry itself names."""
    for batch in _opened(store, segment).iter_batches(batch_size=_ARCHIVED, use_threads=False):
        wanted = pc.is_in(batch.column(ENTRY), value_set=pa.array(sorted(numbers), pa.int64()))
        for row in batch.filter(wanted).to_pylist():
            metadata = pq.read_schema(pa.BufferReader(row["data"])).metadata or {}
            previous = metadata.get(b"previous", b"").decode(errors="replace")
            yield Link(row[ENTRY], row["table"], hashlib.sha256(row["data"]).hexdigest(), previous)


def check(store: Store, segment: Segment) -> None:
    """`IntegrityError` where a table's segment was edited or removed."""
    _opened(store, segment)


def _opened(store: Store, segment: Segment) -> pq.ParquetFile:
    data = bytes_with_hash(store, segment.name, segment.sha256, "the ledger")
    file = pq.ParquetFile(pa.BufferReader(data))
    version = schema_version_of(file.schema_arrow, segment.name)
    if segment.table == ARCHIVE:
        expected = _ARCHIVE_SCHEMA
    else:
        expected = schema_written_under(segment.table, version)
        expected = expected if version >= _TOLD_APART else expected.append(_ENTRY_FIELD)
    if not file.schema_arrow.equals(expected):
        raise IntegrityError(f"{segment.name}: its columns are not those of {segment.table!r}")
    return file


def is_awaited(store: Store, name: str, last: int) -> bool:
    """Whether a segment that is not in force may still come into force.

    One that was written anew for a range already compacted looks like a superseded one. Another appender may
    be about to list it, or was killed before it linked the list.

    Args:
        store: of the ledger.
        name: of the segment.
        last: number of the last entry that is linked.
    """
    match = _NAME.fullmatch(name)
    try:
        data = store.get(name)
    except NotStored:
        return False
    if not match or hashlib.sha256(data).hexdigest()[:16] != match[4]:
        return False  # torn by a power failure; readers of Parquet may crash on it
    metadata = pq.read_metadata(pa.BufferReader(data)).metadata or {}
    return int(metadata.get(LISTED_BY.encode(), 0)) > last


def is_dated(store: Store, segments: Sequence[Segment], first: bytes | None) -> bool:
    """Whether files that other tools read as one table have other columns than today's.

    No file was written under an earlier schema than one of earlier entries, so the first ones tell.

    Args:
        store: of the ledger.
        segments: in force.
        first: bytes of the first entry that is not compacted; None if there is none.
    """
    if first is not None:
        schema = pq.read_schema(pa.BufferReader(first))
        if not has_columns_of_today(schema_version_of(schema, "the first entry that is not compacted")):
            return True
    tables = [segment for segment in segments if segment.table != ARCHIVE]
    if not tables:
        return False
    oldest = min(tables, key=lambda segment: (segment.first, segment.rows))
    version = schema_version_of(_opened(store, oldest).schema_arrow, oldest.name)
    return version < _TOLD_APART or not has_columns_of_today(version)


def numbered(seq: int, rows: pa.Table) -> pa.Table:
    """The rows of an entry with its number, as `pieces` gives those of a segment."""
    return rows.append_column(_ENTRY_FIELD, pa.repeat(pa.scalar(seq, pa.int64()), rows.num_rows))


# ---- writing


def compact(
    store: Store, entries: Sequence[tuple[Link, bytes]], force: Sequence[Segment], compact_at: int = FOLDED_AT
) -> list[Segment]:
    """Write segments for entries that follow those in force, which are compacted with them where it is time.

    Segments whose columns are not today's are written anew, each for its own range.

    Args:
        store: of the ledger.
        entries: with their bytes, which were checked; at least one.
        force: the segments in force.
        compact_at: how many entries a range has at least, before it is compacted with others.

    Returns:
        Those that are to be in force.
    """
    first, last = entries[0][0].seq, entries[-1][0].seq
    if is_dated(store, force, None):
        force = [s if s.table == ARCHIVE else _renewed(store, s, last + 1) for s in force]
    ranges = sorted({(s.first, s.last) for s in force})
    while (order := _order(last + 1 - first, compact_at)) < _ORDERS:
        earlier = [r for r in ranges if r[1] < first]
        alike = [r for r in earlier if _order(r[1] + 1 - r[0], compact_at) == order]
        if len(alike) < _EIGHTS - 1:
            break
        first = alike[0][0]
    taken = [s for s in force if s.first >= first]
    made = [segment for segment in force if segment.first < first]

    def rows(table: str) -> Iterator[pa.Table]:
        for segment in taken:
            if segment.table == table:
                yield from pieces(store, segment, {})
        for link, data in entries:
            if link.table == table:
                yield numbered(link.seq, rows_of(link, data))

    def archive() -> Iterator[pa.Table]:
        for segment in taken:
            if segment.table == ARCHIVE:
                for batch in _opened(store, segment).iter_batches(batch_size=_ARCHIVED, use_threads=False):
                    yield pa.Table.from_batches([batch])
        columns = zip(*((link.seq, link.table, data) for link, data in entries), strict=True)
        yield pa.table([list(column) for column in columns], schema=_ARCHIVE_SCHEMA)

    tables = {s.table for s in taken} | {link.table for link, _ in entries}
    for table in sorted(tables & set(SCHEMAS)):
        made.append(_write(store, table, first, last, rows(table), _ROWS, last + 1))
    made.append(_write(store, ARCHIVE, first, last, archive(), _ARCHIVED, last + 1))
    return made


def _renewed(store: Store, old: Segment, listed_by: int) -> Segment:
    return _write(store, old.table, old.first, old.last, pieces(store, old, {}), _ROWS, listed_by)


def _order(size: int, compact_at: int) -> int:
    """How often a range of so many entries was compacted again."""
    order = 0
    while size >= compact_at * _EIGHTS ** (order + 1):
        order += 1
    return order


def _write(
    store: Store,
    table: str,
    first: int,
    last: int,
    content: Iterator[pa.Table],
    at_once: int,
    listed_by: int,
) -> Segment:
    schema = _ARCHIVE_SCHEMA if table == ARCHIVE else schema_of(table)
    schema = schema.with_metadata({"table": table, "schema_version": str(SCHEMA_VERSION)})
    sink, rows, told = io.BytesIO(), 0, []
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer:
        for part in _rebatched(content, at_once):
            writer.write_table(part.select(schema.names).cast(schema))
            rows += part.num_rows
            told.append(part.column(ENTRY).combine_chunks())
        writer.add_key_value_metadata({LISTED_BY: str(listed_by)})
        if table != ARCHIVE:
            seqs, counts = np.unique(pa.chunked_array(told, pa.int64()).to_numpy(), return_counts=True)
            pairs = np.stack([seqs, counts], axis=1).tolist()
            writer.add_key_value_metadata({ENTRIES: json.dumps(pairs, separators=(",", ":"))})
    data = sink.getvalue()
    segment = Segment(table, first, last, rows, hashlib.sha256(data).hexdigest())
    try:
        store.create(segment.name, data)
    except AlreadyExists:
        store.put(segment.name, data)  # by one who was killed; a power failure may have torn it
    return segment


def _rebatched(content: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of at least this many, or of `_BYTES`, but for the last."""
    waiting: list[pa.Table] = []
    for part in content:
        waiting.append(part)
        size = sum(table.nbytes for table in waiting)
        if size >= _BYTES or sum(table.num_rows for table in waiting) >= rows:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)
