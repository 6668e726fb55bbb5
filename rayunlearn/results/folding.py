"""Folded entries: many small files of a ledger become few, and the chain stays.

Reading thousands of entries means opening thousands of files. So an appender folds them, a range at a time:

    ledger/<table>/<first>-<last>.<start of sha256>.parquet   the table's rows of these entries, each with
                                                              the number of its entry: what readers read
    ledger/chain/<first>-<last>.<start of sha256>.parquet     the archive: each entry's bytes as they were,
                                                              so that the chain can be followed from 1 on

and says by an entry of the table "segments", which lists all that are in force, that these now stand for the
entries. Only then are the entries and their links deleted. Small ranges are folded again into larger ones, by
eights, twice. What is not in force (a crash, a superseded file) is never read.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayunlearn.errors import IntegrityError
from rayunlearn.results.chain import Link, bytes_with_hash, rows_of, schema_version_of
from rayunlearn.results.schemas import (
    SCHEMA_VERSION,
    SCHEMAS,
    brought_up_to_date,
    schema_of,
    schema_written_under,
)
from rayunlearn.results.store import AlreadyExists, Store

SEGMENTS = "segments"
"""The table that lists the segments in force."""

ARCHIVE = "chain"
"""Stands for a table in the name of a segment that holds entries as they were."""

ENTRY = "entry"
"""The column of a segment that holds the number of each row's entry."""

FOLDED_AT = 128
"""So many single entries are folded."""

_EIGHTS = 8
_ORDERS = 2
"""So many ranges of one size become one of the next, and so often."""

_ROWS = 4_096
_ARCHIVED = 1_024
_BYTES = 4 * 1024**2
"""Rows that are read at once, of tables and of archives; fewer where they are larger than this."""

_NAME = re.compile(r"ledger/([a-z]+)/(\d{12})-(\d{12})\.[0-9a-f]{16}\.parquet")
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
    there = file.schema_arrow.names
    asked = [ENTRY, *(name for name in wanted if name in there)]
    read = None if columns is None else [ENTRY, *(name for name in columns if name in there)]
    for group in range(file.num_row_groups):
        mask = None
        if wanted or segment.first <= after:
            keys = file.read_row_group(group, columns=asked, use_threads=False)
            mask = pc.and_(matching(keys, wanted), pc.greater(keys.column(ENTRY), after))
            if not pc.any(mask).as_py():
                continue
        rows = file.read_row_group(group, columns=read, use_threads=False)
        yield _up_to_date(segment.table, rows if mask is None else rows.filter(mask), columns)


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
        expected = schema_written_under(segment.table, version).append(_ENTRY_FIELD)
    if not file.schema_arrow.equals(expected):
        raise IntegrityError(f"{segment.name}: its columns are not those of {segment.table!r}")
    return file


def _up_to_date(table: str, rows: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    made: pa.Table = brought_up_to_date(table, rows, columns)
    return made.append_column(_ENTRY_FIELD, rows.column(ENTRY))


def numbered(seq: int, rows: pa.Table) -> pa.Table:
    """The rows of an entry with its number, as a segment holds them."""
    return rows.append_column(_ENTRY_FIELD, pa.repeat(pa.scalar(seq, pa.int64()), rows.num_rows))


# ---- writing


def fold(
    store: Store, entries: Sequence[tuple[Link, bytes]], force: Sequence[Segment], folded_at: int = FOLDED_AT
) -> list[Segment]:
    """Write segments for entries that follow those in force, which are folded with them where it is time.

    Args:
        store: of the ledger.
        entries: with their bytes, which were checked; at least one.
        force: the segments in force.
        folded_at: how many entries a range has at least, before it is folded with others.

    Returns:
        Those that are to be in force.
    """
    ranges = sorted({(s.first, s.last) for s in force})
    first, last = entries[0][0].seq, entries[-1][0].seq
    while (order := _order(last + 1 - first, folded_at)) < _ORDERS:
        earlier = [r for r in ranges if r[1] < first]
        alike = [r for r in earlier if _order(r[1] + 1 - r[0], folded_at) == order]
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
        made.append(_write(store, table, first, last, rows(table), _ROWS))
    made.append(_write(store, ARCHIVE, first, last, archive(), _ARCHIVED))
    return made


def _order(size: int, folded_at: int) -> int:
    """How often a range of so many entries was folded again."""
    order = 0
    while size >= folded_at * _EIGHTS ** (order + 1):
        order += 1
    return order


def _write(
    store: Store, table: str, first: int, last: int, content: Iterator[pa.Table], at_once: int
) -> Segment:
    schema = _ARCHIVE_SCHEMA if table == ARCHIVE else schema_of(table).append(_ENTRY_FIELD)
    schema = schema.with_metadata({"table": table, "schema_version": str(SCHEMA_VERSION)})
    sink, rows = io.BytesIO(), 0
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer:
        for part in _rebatched(content, at_once):
            writer.write_table(part.cast(schema))
            rows += part.num_rows
    data = sink.getvalue()
    segment = Segment(table, first, last, rows, hashlib.sha256(data).hexdigest())
    try:
        store.create(segment.name, data)
    except AlreadyExists:
        pass  # by one who was killed: the name holds the hash
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
