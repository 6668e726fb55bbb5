"""The ledger as a log that cannot be rewritten unseen: a Merkle tree over its entries, and its checkpoints.

Leaf `seq - 1` is entry `seq` in its canonical form (`evidence.canonical`), which is made of the entry's rows
and not of its file: compaction changes no leaf. Layout below the store's root, beside the ledger:

    log/checkpoints/<size, 12 digits>.note     a signed checkpoint of the tree at this size
    log/rotations/<number, 4 digits>.json      the hand-over from the key before to the next one

Nothing there is ever overwritten.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rayunlearn.errors import IntegrityError
from rayunlearn.evidence.canonical import entry_bytes, row_digest, written_row
from rayunlearn.evidence.notes import Checkpoint, Note
from rayunlearn.evidence.tree import Tree, leaf_hash
from rayunlearn.ledger.compaction import ENTRY, SEGMENTS
from rayunlearn.ledger.ledger import LedgerReader, verify
from rayunlearn.ledger.schemas import ALL_TABLES
from rayunlearn.storage.store import AlreadyExists, Store

CHECKPOINTS = "log/checkpoints"
ROTATIONS = "log/rotations"


@dataclass(frozen=True, kw_only=True)
class LoggedEntry:
    """An entry as it is in the log.

    Attributes:
        seq: its number, from 1.
        table: that its rows belong to.
        digests: the `row_digest` of each row.
        rows: each row, as canonical JSON has it.
    """

    seq: int
    table: str
    digests: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Log:
    """A ledger's entries up to one, as a log.

    Attributes:
        tree: over all of them.
        kept: those that were asked for, by number.
    """

    tree: Tree
    kept: dict[int, LoggedEntry]


def log_of(store: Store, *, last: int | None = None, keep: Collection[int] = ()) -> Log:
    """The log of a ledger, read whole; every row is read once.

    Args:
        store: the storage location.
        last: number of the last entry that counts; where it is not given the chain is verified first, to
            its end.
        keep: numbers of entries whose rows are wanted.

    Raises:
        IntegrityError: the ledger's chain is broken.
    """
    last = verify(store) if last is None else last
    reader, leaves, kept = LedgerReader(store, ALL_TABLES), {}, {}
    for table in sorted(ALL_TABLES):
        for seq, rows in _entries(reader, table):
            if seq > last:
                break
            digests = tuple(row_digest(row) for row in rows)
            leaves[seq] = leaf_hash(entry_bytes(seq, table, digests))
            if seq in keep:
                kept[seq] = LoggedEntry(seq=seq, table=table, digests=digests, rows=tuple(rows))
    for seq in range(1, last + 1):  # the ledger's own, which say how the others are kept in files
        if seq not in leaves:
            leaves[seq] = leaf_hash(entry_bytes(seq, SEGMENTS, ()))
            if seq in keep:
                kept[seq] = LoggedEntry(seq=seq, table=SEGMENTS, digests=(), rows=())
    return Log(tree=Tree(leaves[seq] for seq in range(1, last + 1)), kept=kept)


def _entries(reader: LedgerReader, table: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    for seq, rows in groupby(reader.rows(table), key=lambda row: int(row[ENTRY])):
        yield seq, [written_row({name: row[name] for name in row if name != ENTRY}) for row in rows]


def checkpoints(store: Store) -> list[Note]:
    """The checkpoints on record, the smallest tree first.

    Raises:
        BadInput: one is no note.
    """
    return [Note.parse(store.get(name).decode(errors="replace")) for name in store.list(CHECKPOINTS)]


def last_checkpoint(store: Store) -> int:
    """How many entries the last checkpoint on record counts, by its name; 0 where there is none."""
    sizes = [name.removeprefix(f"{CHECKPOINTS}/").removesuffix(".note") for name in store.list(CHECKPOINTS)]
    return max((int(size) for size in sizes if size.isascii() and size.isdigit()), default=0)


def require_grown(tree: Tree, earlier: Note) -> None:
    """Refuse a ledger that is not what an earlier checkpoint says, and more.

    Raises:
        IntegrityError: entries that the checkpoint counts were removed, or rewritten.
    """
    before = Checkpoint.of(earlier)
    if before.size > tree.size:
        told = f"the checkpoint of {before.origin} counts {before.size}"
        raise IntegrityError(f"entry {tree.size + 1} was removed: {told}, the ledger has {tree.size}")
    if tree.root(before.size) != before.root:
        told = f"the checkpoint of {before.origin} at {before.size} entries has another root"
        raise IntegrityError(f"the ledger was rewritten: {told}")


def keep_checkpoint(store: Store, note: Note) -> str:
    """Put a checkpoint on record; returns its name. One of the same size is left as it is.

    Raises:
        IntegrityError: that one says otherwise.
    """
    checkpoint = Checkpoint.of(note)
    name = f"{CHECKPOINTS}/{checkpoint.size:012d}.note"
    try:
        store.create(name, str(note).encode())
    except AlreadyExists:
        there = Checkpoint.of(Note.parse(store.get(name).decode(errors="replace")))
        if there != checkpoint:
            raise IntegrityError(f"{name} says otherwise than the ledger: root or origin differ") from None
    return name
