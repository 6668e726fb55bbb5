"""Compacted entries: the same rows, the same chain, few files; killed, raced and tampered with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from rayunlearn.errors import BadInput, IntegrityError, StorageHeld
from rayunlearn.ledger import chain as chain_module
from rayunlearn.ledger.chain import HEAD, entry_name, link_name
from rayunlearn.ledger.evidence import ENTRY, Evidence
from rayunlearn.ledger.ledger import Ledger, LedgerReader, verify
from rayunlearn.ledger.schemas import SCHEMA_VERSION, schema_written_under, table_from_rows
from rayunlearn.storage.store import Store
from tests.ledger.ledgers import contents, in_memory, row_of
from tests.ledger.test_ledger_crashes import InterruptedStore, Killed, kill

FOLDED_AT = 3
TABLES = ("runs", "requests", "audits")


def append(ledger: Ledger, entries: int, begin: int = 0) -> None:
    """Append entries of one or two rows, to three tables in turn; seeds and lineages count up."""
    for number in range(begin, begin + entries):
        table = TABLES[number % 3]
        named = {"lineage": f"{number}"}
        ledger.append(table, [row_of(table, **named), row_of(table, **named)][: 1 + number % 2])


def compacted(entries: int, store: Store | None = None) -> Store:
    """A store with a ledger of so many entries besides those that list segments."""
    store = store or in_memory()
    append(Ledger(store, compact_at=FOLDED_AT), entries)
    return store


def lineages(store: Store, table: str) -> list[str]:
    """The lineages of a table's rows."""
    found: list[str] = LedgerReader(store, TABLES).read(table).column("lineage").to_pylist()
    return found


def expected(entries: int, table: str) -> list[str]:
    """What `append` appended to a table."""
    mine = [n for n in range(entries) if TABLES[n % 3] == table]
    return [str(n) for n in mine for _ in range(1 + n % 2)]


@settings(max_examples=10)
@given(entries=st.integers(0, 70), compact_at=st.integers(2, 6))
def test_rows_are_the_same_however_entries_are_compacted(entries: int, compact_at: int) -> None:
    """Read, filtered and scanned from any entry on, a compacted ledger gives what was appended."""
    store = in_memory()
    append(Ledger(store, compact_at=compact_at), entries)
    verify(store)
    reader = LedgerReader(store, TABLES)
    for table in TABLES:
        assert lineages(store, table) == expected(entries, table)
        for lineage in sorted(set(expected(entries, table)))[::5]:
            found = reader.read(table, lineage=lineage).column("lineage").to_pylist()
            assert found == [lineage] * expected(entries, table).count(lineage)
        rows = [row for part in reader.scan(table) for row in part.to_pylist()]
        numbers = [row[ENTRY] for row in rows]
        assert numbers == sorted(numbers)
        for after in (0, *numbers[::3]):
            later = [row for part in reader.scan(table, after=after) for row in part.to_pylist()]
            assert later == [row for row in rows if row[ENTRY] > after]


def test_few_files_are_left() -> None:
    """Four hundred entries lie in at most 60 files; negative control: uncompacted they lie in two each."""
    store = compacted(400)
    assert len(store.list("ledger")) <= 60
    single = in_memory()
    append(Ledger(single, compact_at=10**6), 100)
    assert len(single.list("ledger")) == 201


def test_other_tools_still_read_the_tables(tmp_path: Path) -> None:
    """A table's folder is a plain Parquet data set, compacted or not."""
    compacted(50, Store.open(tmp_path, sync=False))
    files = list((tmp_path / "ledger" / "runs").glob("*.parquet"))
    assert any("-" in file.name for file in files)
    data = pyarrow.dataset.dataset(tmp_path / "ledger" / "runs", format="parquet")
    assert data.to_table(columns=["lineage"]).column("lineage").to_pylist() == expected(50, "runs")


def test_evidence_gives_the_hashes_of_before() -> None:
    """Entries have the number and hash that they had before they were compacted."""
    single = in_memory()
    append(Ledger(single, compact_at=10**6), 3)
    before = Evidence(single)
    told = before.entries(before.rows("runs", lambda row: True) + before.rows("audits", lambda row: True))
    ledger = Ledger(single, compact_at=FOLDED_AT)
    append(ledger, 20, begin=3)
    after = Evidence(single)
    rows = after.rows("runs", lambda row: row["lineage"] == "0")
    rows += after.rows("audits", lambda row: row["lineage"] == "2")
    assert after.entries(rows) == told
    assert not single.exists(entry_name("runs", 1))
    assert after.head is not None and after.head.sha256 == ledger.tail.sha256


def test_only_the_ledger_lists_segments() -> None:
    """The table of segments is neither appended to nor granted."""
    with pytest.raises(BadInput, match="segments"):
        Ledger(in_memory()).append("segments", [])
    with pytest.raises(BadInput, match="segments"):
        LedgerReader(in_memory(), {"segments"})


def test_earlier_schemas_are_compacted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of schema 1 are compacted under today's; what came later holds no value there."""
    store = in_memory()
    with monkeypatch.context() as patch:
        patch.setattr(chain_module, "SCHEMA_VERSION", 1)
        old = table_from_rows("versions", [row_of("versions")]).select(
            schema_written_under("versions", 1).names
        )
        patch.setattr("rayunlearn.ledger.ledger.table_from_rows", lambda table, rows: old)
        Ledger(store).append("versions", [{}])
    ledger = Ledger(store, compact_at=1)
    ledger.append("versions", [row_of("versions")])
    verify(store)
    assert LedgerReader(store).read("versions").column("samples_forgotten").to_pylist() == [None, [1, 2]]


def test_a_segment_from_the_future_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment of a newer schema stops reading and names itself."""
    store = in_memory()
    with monkeypatch.context() as patch:
        patch.setattr("rayunlearn.ledger.compaction.SCHEMA_VERSION", SCHEMA_VERSION + 1)
        patch.setattr("rayunlearn.ledger.chain.SCHEMA_VERSION", SCHEMA_VERSION + 1)
        ledger = Ledger(store, compact_at=1)
        append(ledger, 1)
        append(ledger, 1, begin=1)
    with pytest.raises(BadInput, match="newer rayunlearn"):
        LedgerReader(store).read("runs")


# ---- tampering

FOLDED = contents(compacted(40))


@settings(max_examples=150)
@given(data=st.data())
def test_any_changed_byte_is_found(data: st.DataObject) -> None:
    """Any byte changed in any file of a compacted ledger is found by verify, which names that file."""
    name = data.draw(st.sampled_from(sorted(FOLDED)))
    place = data.draw(st.integers(0, len(FOLDED[name]) - 1))
    changed = bytearray(FOLDED[name])
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(IntegrityError, match=name):
        verify(in_memory({**FOLDED, name: bytes(changed)}))


@pytest.mark.parametrize("name", sorted(FOLDED))
def test_any_removed_file_is_found(name: str) -> None:
    """Any removed file of a compacted ledger is found."""
    store = in_memory({other: data for other, data in FOLDED.items() if other != name})
    with pytest.raises(IntegrityError, match="removed"):
        verify(store)


def test_a_rewritten_archive_is_found() -> None:
    """An archive whose entry was rewritten is found, even where its own name and listing were not checked."""
    name = next(n for n in sorted(FOLDED) if n.startswith("ledger/chain/") and n.endswith(".parquet"))
    table = pq.read_table(pyarrow.BufferReader(FOLDED[name]))
    rows = table.to_pylist()
    rows[0]["data"], rows[3]["data"] = rows[3]["data"], rows[0]["data"]
    sink = pyarrow.BufferOutputStream()
    pq.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema), sink)
    with pytest.raises(IntegrityError, match=name):
        verify(in_memory({**FOLDED, name: sink.getvalue().to_pybytes()}))


# ---- crashes and races


class CuttingStore(InterruptedStore):
    """Interrupts deletions as well."""

    def delete(self, name: str) -> None:
        """Delete, interrupted."""
        self._write(lambda: super(InterruptedStore, self).delete(name))


@pytest.mark.parametrize("entries", [FOLDED_AT, 8 * FOLDED_AT + 7])
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_write_of_a_compaction_loses_nothing(entries: int, after: bool) -> None:
    """Killed before or after each write and deletion of it, all is there; opened again it goes on."""
    write, killed, before = 0, True, contents(compacted(entries))
    while killed:
        write += 1
        store = in_memory(before)
        dying = Ledger(CuttingStore(store, write, after=after, act=kill), compact_at=1)
        try:
            append(dying, 1, begin=entries)
            killed = False
        except Killed:
            pass
        present = lineages(store, TABLES[entries % 3])
        for table in TABLES:
            whole = [expected(entries, table), expected(entries + 1, table)]
            assert lineages(store, table) in whole
        verify(store)
        again = Ledger(store, compact_at=FOLDED_AT)
        done = lineages(store, TABLES[entries % 3]) == expected(entries + 1, TABLES[entries % 3])
        assert done or present == expected(entries, TABLES[entries % 3])
        append(again, 10, begin=entries + done)
        assert again.verify() == again.tail.seq
        assert lineages(store, "runs") == expected(entries + done + 10, "runs")
    assert write > 10


@pytest.mark.parametrize("ahead", [1, FOLDED_AT + 2, 40])
def test_an_overtaken_appender_stops_though_its_number_is_free_again(ahead: int) -> None:
    """Where its next number was used and compacted away since, an appender is stopped and leaves nothing."""
    store = compacted(2)
    slow = Ledger(store, compact_at=FOLDED_AT)
    append(Ledger(store, compact_at=FOLDED_AT), ahead, begin=2)
    before = contents(store)
    for _ in range(2):
        with pytest.raises(StorageHeld, match="another appender"):
            slow.append("runs", [row_of("runs", lineage="slow")])
        assert contents(store) == before
    verify(store)


def test_overtaken_while_it_compacts() -> None:
    """Two appenders meet at any write of it: one stops, and every acknowledged row is there once."""
    stopped = {"slow": 0, "quick": 0}
    for write in range(1, 20):
        store = compacted(FOLDED_AT)
        appenders = {"quick": Ledger(store, compact_at=FOLDED_AT)}
        acknowledged: list[str] = []

        def work(who: str, entries: int, appenders: Any = appenders, told: list[str] = acknowledged) -> None:
            for number in range(entries):
                try:
                    appenders[who].append("runs", [row_of("runs", lineage=f"{who} {number}")])
                except StorageHeld:
                    stopped[who] += 1
                    return
                told.append(f"{who} {number}")

        between = InterruptedStore(store, write, after=False, act=lambda work=work: work("quick", 20))
        appenders["slow"] = Ledger(between, compact_at=FOLDED_AT)
        work("slow", 6)
        assert sorted(lineages(store, "runs")) == sorted([*expected(FOLDED_AT, "runs"), *acknowledged])
        after = Ledger(store, compact_at=FOLDED_AT)
        assert after.verify() == after.tail.seq
    assert min(stopped.values()) > 0


class WatchedStore(Store):
    """Does something at the n-th file that is read."""

    def __init__(self, store: Store, at: int, act: Callable[[], Any]) -> None:
        super().__init__(store._backend, store.where)
        self.at, self.act = at, act

    def get(self, name: str) -> bytes:
        """Count, act and get."""
        self.at -= 1
        if self.at == 0:
            self.act()
        return super().get(name)


@pytest.mark.parametrize("at", range(1, 12))
def test_a_reader_that_is_overtaken_looks_again(at: int) -> None:
    """Compacted under a reader's eyes, a table is still read whole, once; verification and evidence hold."""
    entries = 8 * FOLDED_AT + 6

    def overtaken() -> WatchedStore:
        store = compacted(entries)
        quick = Ledger(store, compact_at=FOLDED_AT)
        return WatchedStore(store, at, lambda: append(quick, 12, begin=entries))

    for table in TABLES:
        found = lineages(overtaken(), table)
        assert found[: len(expected(entries, table))] == expected(entries, table)
        assert found == expected(entries + 12, table)[: len(found)]
    assert verify(overtaken()) >= entries
    told = Evidence(overtaken()).rows("runs", lambda row: True)
    assert [row["lineage"] for row in told][: len(expected(entries, "runs"))] == expected(entries, "runs")


def test_what_is_not_in_force_is_never_read() -> None:
    """A segment that no entry lists is not read, and is deleted when the ledger is opened."""
    name = next(n for n in sorted(FOLDED) if n.startswith("ledger/runs/") and "-" in n)
    stale = name.replace("000000000001-", "000000000002-")
    store = in_memory({**FOLDED, stale: FOLDED[name]})
    assert lineages(store, "runs") == expected(40, "runs")
    Ledger(store)
    assert not store.exists(stale)
    assert contents(store) == FOLDED


def test_memory_store_is_the_same_as_a_folder(tmp_path: Path) -> None:
    """The same appends leave the same files in a folder as in memory, HEAD and links included."""
    on_disk = contents(compacted(40, Store.open(tmp_path, sync=False)))
    assert sorted(on_disk) == sorted(FOLDED)
    assert json.loads(on_disk[HEAD]) == json.loads(FOLDED[HEAD])
    assert any(link_name(n) in on_disk for n in range(1, 80))
    assert isinstance(in_memory()._backend, MemoryStore)
