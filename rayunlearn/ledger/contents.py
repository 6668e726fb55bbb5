"""What a ledger holds by the names of its files: one look, taken again where it was overtaken."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from rayunlearn.errors import IntegrityError
from rayunlearn.ledger.chain import HEAD, Link, link_name, named_entry, named_link, read_entry, read_link
from rayunlearn.ledger.compaction import (
    ARCHIVE,
    SEGMENTS,
    Segment,
    archived_links,
    named_segment,
    segments_in,
)
from rayunlearn.storage.store import Store

_T = TypeVar("_T")


@dataclass(frozen=True)
class Names:
    """The names in a ledger's folders, as listed once.

    Attributes:
        linked: numbers of the links, in order; listed first, so that `files` has the entries they commit.
        files: all names.
        listings: numbers of the entries that may list segments, in order; an appender that lost the race for
            a number may have left one.
    """

    linked: tuple[int, ...]
    files: tuple[str, ...]
    listings: tuple[int, ...]

    @classmethod
    def of(cls, store: Store) -> Names:
        """List them."""
        linked = [seq for name in store.list("ledger/chain") if (seq := named_link(name)) is not None]
        files, known = store.list("ledger"), set(linked)
        entries = [entry for name in files if (entry := named_entry(name))]
        listings = sorted(seq for table, seq in entries if table == SEGMENTS and seq in known)
        return cls(tuple(sorted(linked)), tuple(files), tuple(listings))

    def folded_since(self, before: Names) -> bool:
        """Whether entries were compacted since another look."""
        return self.listings[-1:] > before.listings[-1:]


class Contents:
    """What a ledger holds by its names: the segments in force, and the entries since.

    Attributes:
        compacted: number of the last entry that segments stand for; 0 if there are none.
        segments: in force, by range.
        links: numbers of the links since, in order.
        tables_at: number since -> the tables in whose folder an entry of it lies; one, but for races.
        compacted_away: files that a segment in force stands for, and superseded segments.
        unknown: names that no ledger has.
    """

    def __init__(self, store: Store, names: Names) -> None:
        """Read which segments are in force.

        Raises:
            IntegrityError: the entry that lists them was edited or removed.
        """
        self._store = store
        self.segments: tuple[Segment, ...] = ()
        for seq in reversed(names.listings):
            link = read_link(store, seq)
            if link.table == SEGMENTS:
                self.segments = segments_in(read_entry(store, link))
                break
        self.compacted = max((segment.last for segment in self.segments), default=0)
        self.links = [seq for seq in names.linked if seq > self.compacted]
        self.tables_at: dict[int, list[str]] = {}
        self.compacted_away = [link_name(seq) for seq in names.linked if seq <= self.compacted]
        self.unknown: list[str] = []
        in_force = {segment.name for segment in self.segments}
        for name in names.files:
            if entry := named_entry(name):
                table, seq = entry
                if seq > self.compacted:
                    self.tables_at.setdefault(seq, []).append(table)
                else:
                    self.compacted_away.append(name)
            elif (last := named_segment(name)) is not None:
                if last <= self.compacted and name not in in_force:
                    self.compacted_away.append(name)
            elif name != HEAD and named_link(name) is None:
                self.unknown.append(name)

    @property
    def last(self) -> int:
        """The number of the last entry."""
        return self.links[-1] if self.links else self.compacted

    def require_whole(self) -> None:
        """`IntegrityError` where a number up to the last link lacks its link or its entry."""
        linked = set(self.links)
        for seq in range(self.compacted + 1, self.last + 1):
            if seq not in linked:
                raise IntegrityError(f"{link_name(seq)} was removed: the chain goes on to {self.last}")
            if seq not in self.tables_at:
                raise IntegrityError(f"{read_link(self._store, seq).entry} was removed")

    def links_of(self, numbers: Collection[int]) -> list[Link]:
        """The links of entries, compacted or not, in order."""
        found: list[Link] = []
        for segment in self.segments:
            inside = [seq for seq in numbers if segment.first <= seq <= segment.last]
            if segment.table == ARCHIVE and inside:
                found += archived_links(self._store, segment, inside)
        return found + [read_link(self._store, seq) for seq in sorted(numbers) if seq > self.compacted]


def looked(store: Store, look: Callable[[Contents], _T]) -> _T:
    """What a look at the ledger gives; taken again where entries were compacted under its eyes."""
    names = Names.of(store)
    while True:
        try:
            return look(Contents(store, names))
        except IntegrityError:
            before, names = names, Names.of(store)
            if not names.folded_since(before):
                raise
