"""Entries and links: what a ledger is made of, by name and byte for byte.

An entry is a Parquet file with some rows of one table; its metadata carries table, seq, schema_version,
previous (the SHA-256 of the entry before) and a seal, which tells without parsing whether an entry that no
link vouches for is whole: Parquet readers may crash on bytes that are not. A link is a small JSON file that
commits an entry: its name holds only the number, so of two appenders at one number exactly one gets it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from rayunlearn.errors import BadInput, IntegrityError
from rayunlearn.ledger.schemas import SCHEMA_VERSION, brought_up_to_date, is_table, schema_written_under
from rayunlearn.storage.store import NotStored, Store

NO_PREVIOUS = "0" * 64
"""Stands for the entry before the first one."""

HEAD = "ledger/HEAD"

_SEAL = b"seal:"
_UNSEALED = b"0" * 64
"""A seal is the SHA-256 (hex) of the entry's bytes as they are with this in its place."""

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
        return link_name(self.seq)

    @property
    def entry(self) -> str:
        """The file that it commits."""
        return entry_name(self.table, self.seq)

    @property
    def tail(self) -> Tail:
        """What HEAD says when this is the last one."""
        return Tail(self.seq, self.sha256)


_Record = TypeVar("_Record", Tail, Link)


def entry_name(table: str, seq: int) -> str:
    """The file of an entry."""
    return f"ledger/{table}/{seq:012d}.parquet"


def link_name(seq: int) -> str:
    """The file of a link."""
    return f"ledger/chain/{seq:012d}.json"


def named_entry(name: str) -> tuple[str, int] | None:
    """Table and number of the entry that a file's name stands for; None if it stands for none."""
    match = _ENTRY_NAME.fullmatch(name)
    return (match[1], int(match[2])) if match and is_table(match[1]) else None


def named_link(name: str) -> int | None:
    """The number of the link that a file's name stands for; None if it stands for none."""
    match = _CHAIN_NAME.fullmatch(name)
    return int(match[1]) if match else None


def entry_bytes(table: str, content: pa.Table, tail: Tail) -> bytes:
    """The file of the entry that follows the tail."""
    rows = content.replace_schema_metadata(_metadata(table, tail.seq + 1, tail.sha256))
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, rows.schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(rows)
        writer.add_key_value_metadata({"seal": (_SEAL + _UNSEALED).decode()})
    before, _, after = sink.getvalue().to_pybytes().rpartition(_SEAL + _UNSEALED)
    return before + _SEAL + _sealed(before, after) + after


def is_whole(data: bytes) -> bool:
    """Whether these bytes are all of an entry, and unchanged, by its own seal; nothing is parsed."""
    before, _, rest = data.rpartition(_SEAL)
    seal, after = rest[: len(_UNSEALED)], rest[len(_UNSEALED) :]
    return seal == _sealed(before, after)


def _sealed(before: bytes, after: bytes) -> bytes:
    return hashlib.sha256(before + _SEAL + _UNSEALED + after).hexdigest().encode()


def link_to(table: str, data: bytes, tail: Tail) -> Link:
    """The link that commits an entry's bytes after the tail."""
    return Link(tail.seq + 1, table, hashlib.sha256(data).hexdigest(), tail.sha256)


def read_link(store: Store, seq: int) -> Link:
    """The link of an entry; `IntegrityError` where it was removed or replaced."""
    name = link_name(seq)
    try:
        link = from_json(Link, name, store.get(name))
    except NotStored as error:
        raise IntegrityError(f"{name} was removed") from error
    if link.seq != seq or not is_table(link.table):
        raise IntegrityError(f"{name} was replaced: it speaks of entry {link.seq} in table {link.table!r}")
    return link


def read_entry(store: Store, link: Link) -> pa.Table:
    """The rows of an entry, after checking that it is the one that was linked."""
    return rows_of(link, linked_bytes(store, link))


def linked_bytes(store: Store, link: Link) -> bytes:
    """The bytes of an entry; `IntegrityError` where they are gone or not those that were linked."""
    return bytes_with_hash(store, link.entry, link.sha256, link.name)


def bytes_with_hash(store: Store, name: str, sha256: str, told_by: str) -> bytes:
    """The bytes of a file; `IntegrityError` where it is gone or has another hash than one was told."""
    try:
        data = store.get(name)
    except NotStored as error:
        raise IntegrityError(f"{name} was removed") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise IntegrityError(f"{name} was edited or replaced: its hash is not the one in {told_by}")
    return data


def rows_of(link: Link, data: bytes) -> pa.Table:
    """The rows in an entry's bytes, in the schema of today.

    Raises:
        IntegrityError: they cannot be read, or are of another entry or table than the link says.
        BadInput: a newer rayunlearn wrote them.
    """
    try:
        file = check_entry(link, data)
        return brought_up_to_date(link.table, file.read(use_threads=False))
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{link.entry} cannot be read: {error}") from error


def check_entry(link: Link, data: bytes) -> pq.ParquetFile:
    """An entry's own metadata says what its name and its link say, in a schema that is known here."""
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    schema = file.schema_arrow
    version = schema_version_of(schema, link.entry)
    metadata = {key: value.decode(errors="replace") for key, value in (schema.metadata or {}).items()}
    expected = _metadata(link.table, link.seq, link.previous) | {"schema_version": str(version)}
    for key, value in expected.items():
        found = metadata.get(key.encode())
        if found != value:
            raise IntegrityError(f"{link.entry}: its {key} is {found!r}, expected {value!r} by {link.name}")
    if not schema.equals(schema_written_under(link.table, version)):
        raise IntegrityError(f"{link.entry}: its columns are not those of table {link.table!r}")
    return file


def schema_version_of(schema: pa.Schema, name: str) -> int:
    """The schema version that a file says it was written under.

    Raises:
        IntegrityError: it says none.
        BadInput: a newer rayunlearn wrote it.
    """
    version = (schema.metadata or {}).get(b"schema_version", b"").decode(errors="replace")
    if not re.fullmatch("[1-9][0-9]{0,8}", version):
        raise IntegrityError(f"{name}: its schema_version is {version!r}, no version")
    if int(version) > SCHEMA_VERSION:
        allowed = f"at most {SCHEMA_VERSION}; a newer rayunlearn wrote this"
        raise BadInput("schema version", int(version), allowed, where=name)
    return int(version)


def _metadata(table: str, seq: int, previous: str) -> dict[str, str]:
    return {"table": table, "seq": str(seq), "schema_version": str(SCHEMA_VERSION), "previous": previous}


def to_json(record: Tail | Link) -> bytes:
    """A record as it is stored."""
    return json.dumps(asdict(record), sort_keys=True).encode()


def from_json(kind: type[_Record], name: str, data: bytes) -> _Record:
    """Read a record back; bytes that `to_json` would not have written are refused."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{name} was edited: it cannot be read ({error})") from error
    if isinstance(body, dict) and body.keys() == {field.name for field in fields(kind)}:
        record = kind(**body)
        sound = type(record.seq) is int and record.seq >= 1
        sound = sound and all(isinstance(value, str) for key, value in body.items() if key != "seq")
        if sound and to_json(record) == data:
            return record
    raise IntegrityError(f"{name} was edited: it is not what an append writes")
