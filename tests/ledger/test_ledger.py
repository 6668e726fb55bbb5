"""The ledger: rows come back as they were appended, and tampering is found."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from rayunlearn.errors import AccessDenied, BadInput, IntegrityError
from rayunlearn.ledger import chain as chain_module
from rayunlearn.ledger import ledger as ledger_module
from rayunlearn.ledger.chain import HEAD, NO_PREVIOUS, Tail
from rayunlearn.ledger.ledger import Ledger, LedgerReader, verify
from rayunlearn.ledger.lineage import versions
from rayunlearn.ledger.schemas import (
    ALL_TABLES,
    ENUMS,
    JSON_COLUMNS,
    REQUIRED,
    SCHEMA_VERSION,
    SCHEMAS,
    SYNTHETIC_TABLES,
    schema_written_under,
    table_from_rows,
)
from rayunlearn.storage.store import Store
from tests.ledger.ledgers import FIVE, NOON, TABLES, contents, entry, in_memory, link, row_of

# ---- what was appended comes back

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ZONES = st.integers(-14, 14).map(lambda hours: timezone(timedelta(hours=hours)))
VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): TEXT,
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.timestamp("us", tz="UTC"): st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=ZONES),
}


@st.composite
def valid_rows(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A table and a row that fits it, its nullable columns at times left out."""
    table = draw(st.sampled_from(sorted(SCHEMAS)))
    event = draw(st.sampled_from(ENUMS[table].get("event", ("",))))
    row: dict[str, Any] = {}
    for field in SCHEMAS[table]:
        name, kind = field.name, field.type
        if field.nullable and name not in REQUIRED.get((table, event), ()) and draw(st.booleans()):
            continue
        if name == "event":
            row[name] = event
        elif name in ENUMS[table]:
            row[name] = draw(st.sampled_from(ENUMS[table][name]))
        elif name in JSON_COLUMNS[table]:
            row[name] = json.dumps(draw(st.dictionaries(TEXT, st.integers() | TEXT, max_size=2)))
        elif pa.types.is_list(kind):
            row[name] = draw(st.lists(VALUES[kind.value_type], max_size=3))
        else:
            row[name] = draw(VALUES[kind])
    return table, row


@settings(max_examples=60)
@given(entries=st.lists(valid_rows(), max_size=6))
def test_valid_rows_come_back_in_order(entries: list[tuple[str, dict[str, Any]]]) -> None:
    """What was appended to a table is read from it in order; opened again, the chain verifies."""
    store = in_memory()
    ledger = Ledger(store)
    for number, (table, row) in enumerate(entries, start=1):
        assert ledger.append(table, [row, row]) == number
    assert Ledger(store).verify() == len(entries)
    reader = LedgerReader(store, ALL_TABLES)
    for table in SCHEMAS:
        rows = reader.read(table)
        assert rows.schema.equals(SCHEMAS[table], check_metadata=True)
        whole = [dict.fromkeys(SCHEMAS[table].names) | row for name, row in entries if name == table]
        assert rows.to_pylist() == [row for row in whole for _ in range(2)]


def test_a_ledger_goes_on_where_it_was_left(tmp_path: Path) -> None:
    """Opened anew on disk, the ledger appends after its tail; an entry names the hash of the one before."""
    store = Store.open(tmp_path)
    assert Ledger(store).tail == Tail(0, NO_PREVIOUS)
    assert store.list() == []
    first = Ledger(store)
    assert first.append("requests", [row_of("requests")]) == 1
    second = Ledger(Store.open(tmp_path))
    assert second.tail == first.tail
    assert second.append("runs", [row_of("runs")]) == 2
    metadata = pq.read_schema(tmp_path / entry("runs", 2)).metadata
    assert metadata[b"previous"].decode() == first.tail.sha256
    version = str(SCHEMA_VERSION).encode()
    assert (metadata[b"seq"], metadata[b"table"], metadata[b"schema_version"]) == (b"2", b"runs", version)
    assert pq.read_schema(tmp_path / entry("requests", 1)).metadata[b"previous"].decode() == NO_PREVIOUS
    assert json.loads((tmp_path / HEAD).read_bytes()) == {"seq": 2, "sha256": second.tail.sha256}


def test_other_tools_can_read_the_tables(tmp_path: Path) -> None:
    """A table's folder is a plain Parquet data set."""
    ledger = Ledger(Store.open(tmp_path, sync=False))
    for number in range(3):
        ledger.append("runs", [row_of("runs", seed=number)])
        ledger.append("requests", [row_of("requests")])
    data = pyarrow.dataset.dataset(tmp_path / "ledger" / "runs", format="parquet")
    assert data.to_table(columns=["seed"]).to_pydict() == {"seed": [0, 1, 2]}


def test_no_rows_make_no_entry() -> None:
    """An empty append writes nothing and gives the last number; negative control: a row makes one."""
    store = in_memory()
    ledger = Ledger(store)
    assert ledger.append("runs", []) == 0
    assert store.list() == []
    assert ledger.append("runs", [row_of("runs")]) == 1
    assert ledger.append("runs", []) == 1


def test_a_bad_row_stores_nothing() -> None:
    """One bad row among good ones is refused with table and row number, and none is stored."""
    store = in_memory(FIVE)
    ledger = Ledger(store)
    with pytest.raises(BadInput, match=r"'runs', row 1 \(from 0\): column 'seed' is 'x'"):
        ledger.append("runs", [row_of("runs"), row_of("runs", seed="x")])
    with pytest.raises(BadInput, match="table of the ledger is 'run'; allowed: 'runs'"):
        ledger.append("run", [])
    assert contents(store) == FIVE


def test_threads_may_share_an_appender() -> None:
    """Appends of several threads through one ledger all arrive."""
    store = in_memory()
    ledger = Ledger(store)

    def work(number: int) -> None:
        for step in range(5):
            ledger.append("checkpoints", [row_of("checkpoints", run_id=str(number), step=step)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify(store) == 20
    reader = LedgerReader(store)
    for number in range(4):
        assert reader.read("checkpoints", run_id=str(number)).column("step").to_pylist() == [0, 1, 2, 3, 4]


# ---- reading


def test_filters_keep_equal_rows() -> None:
    """Columns given by value select rows; None selects null; several must all hold; times are instants."""
    store = in_memory()
    rows = [row_of("runs", seed=seed, version=version) for seed in (1, 2) for version in ("v", None)]
    ledger = Ledger(store)
    ledger.append("runs", rows[:3])
    ledger.append("runs", rows[3:])
    reader = LedgerReader(store)
    assert reader.read("runs", seed=2).column("version").to_pylist() == ["v", None]
    assert reader.read("runs", version=None).column("seed").to_pylist() == [1, 2]
    assert reader.read("runs", version="v", seed=2).num_rows == 1
    assert reader.read("runs", version="w").num_rows == 0
    assert reader.read("runs", at=NOON.astimezone(timezone(timedelta(hours=3)))).num_rows == 4


@pytest.mark.parametrize(
    ("equals", "message"),
    [
        ({"sed": 1}, "'sed'.*'seed'"),
        ({"seed": "1"}, "'seed' is '1'.*whole number"),
        ({"event": "done"}, "'done'.*'planned'"),
        ({"request_ids": ["x"]}, "single values"),
    ],
)
def test_bad_filters_are_refused(equals: dict[str, Any], message: str) -> None:
    """A filter that could never hold, misspelt or of the wrong type, is an error rather than no rows."""
    with pytest.raises(BadInput, match=message):
        LedgerReader(in_memory(FIVE)).read("runs", **equals)


def test_audits_are_not_for_every_reader() -> None:
    """By default a reader is not granted audits, and no name gets it there; granted, it is."""
    reader = LedgerReader(in_memory(FIVE))
    assert reader.tables == SYNTHETIC_TABLES
    with pytest.raises(AccessDenied, match="'audits' was not granted.*granted: checkpoints, evaluations"):
        reader.read("audits")
    with pytest.raises(AccessDenied, match="'runs'.*granted: audits"):
        LedgerReader(in_memory(FIVE), {"audits"}).read("runs")
    with pytest.raises(BadInput, match="'audit'.*'audits'"):
        reader.read("audit")
    for table in ("../audits", "chain", "requests/../audits"):
        with pytest.raises(BadInput):
            reader.read(table)
    with pytest.raises(BadInput):
        LedgerReader(in_memory(FIVE), {"audit"})
    assert LedgerReader(in_memory(FIVE), ALL_TABLES).read("audits").num_rows == 1


class CountingStore(Store):
    """Counts what is asked of it."""

    gets = 0
    lists = 0

    def get(self, name: str) -> bytes:
        """Count and get."""
        self.gets += 1
        return super().get(name)

    def list(self, prefix: str = "") -> list[str]:
        """Count and list."""
        self.lists += 1
        return super().list(prefix)


@pytest.mark.parametrize("entries", [5, 40])
def test_reading_costs_as_much_as_there_is_to_read(entries: int) -> None:
    """A table of n entries takes two listings and 2 n reads, whatever else the ledger holds."""
    store = CountingStore(MemoryStore(), "memory")
    ledger = Ledger(store)
    for _ in range(entries):
        ledger.append("runs", [row_of("runs")])
        ledger.append("requests", [row_of("requests")])
    store.gets = store.lists = 0
    assert LedgerReader(store).read("runs").num_rows == entries
    assert (store.gets, store.lists) == (2 * entries, 2)


def test_entries_from_the_future_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of a newer schema version stops reading, opening and verifying, and is named."""
    store = in_memory()
    ledger = Ledger(store)
    ledger.append("runs", [row_of("runs")])
    with monkeypatch.context() as patch:
        patch.setattr(chain_module, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
        ledger.append("requests", [row_of("requests")])
    reader = LedgerReader(store)
    assert reader.read("runs").num_rows == 1
    said = f"{entry('requests', 2)}: schema version is {SCHEMA_VERSION + 1}; .*newer rayunlearn"
    for action in (lambda: reader.read("requests"), lambda: Ledger(store), lambda: verify(store)):
        with pytest.raises(BadInput, match=said):
            action()


def test_entries_of_an_earlier_schema_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger begun under schema 1 verifies and goes on; its versions have forgotten no single sample.

    Negative control: an entry that says schema 1 and has a later column is refused.
    """
    store = in_memory()

    def written_then(table: str, rows: Any) -> pa.Table:
        made = table_from_rows(table, rows)
        return made.select(schema_written_under(table, 1).names)

    with monkeypatch.context() as patch:
        patch.setattr(chain_module, "SCHEMA_VERSION", 1)
        patch.setattr(ledger_module, "table_from_rows", written_then)
        ledger = Ledger(store)
        ledger.append("versions", [row_of("versions", version="a", lineage="x", event="published")])
    old = contents(store)
    Ledger(store).append("versions", [row_of("versions", version="b", lineage="x", event="published")])
    assert verify(store) == 3  # and the one that lists the segment of the first
    assert LedgerReader(store).read("versions").column("samples_forgotten").to_pylist() == [None, [1, 2]]
    first, second = versions(LedgerReader(store), "x")
    assert (first.classes_forgotten, first.samples_forgotten) == ((1, 2), ())
    assert second.samples_forgotten == (1, 2)
    store = in_memory(old)
    with monkeypatch.context() as patch:
        patch.setattr(chain_module, "SCHEMA_VERSION", 1)
        Ledger(store).append("versions", [row_of("versions")])
    with pytest.raises(IntegrityError, match="its columns are not those of table 'versions'"):
        verify(store)


def test_other_columns_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry whose columns are not the table's is an error, even if its hash is right."""
    store = in_memory()
    ledger = Ledger(store)
    monkeypatch.setattr(ledger_module, "table_from_rows", lambda table, rows: pa.table({"x": [1]}))
    ledger.append("runs", [{}])
    for action in (lambda: LedgerReader(store).read("runs"), lambda: Ledger(store)):
        with pytest.raises(IntegrityError, match="its columns are not those of table 'runs'"):
            action()


# ---- tampering


@settings(max_examples=200)
@given(data=st.data())
def test_any_changed_byte_is_found(data: st.DataObject) -> None:
    """Any byte changed in any file of the ledger is found by verify, which names that file."""
    name = data.draw(st.sampled_from(sorted(FIVE)))
    place = data.draw(st.integers(0, len(FIVE[name]) - 1))
    changed = bytearray(FIVE[name])
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(IntegrityError, match=name):
        verify(in_memory({**FIVE, name: bytes(changed)}))


@pytest.mark.parametrize("name", sorted(FIVE))
@pytest.mark.parametrize("cut", ["half", "all", "added"])
def test_cut_and_grown_files_are_found(name: str, cut: str) -> None:
    """A file cut in the middle, emptied or grown by a byte is found and named."""
    whole = FIVE[name]
    changed = {"half": whole[: len(whole) // 2], "all": b"", "added": whole + b" "}[cut]
    with pytest.raises(IntegrityError, match=name):
        verify(in_memory({**FIVE, name: changed}))


@pytest.mark.parametrize("name", sorted(FIVE))
def test_any_removed_file_is_found(name: str) -> None:
    """An entry, a link or HEAD that was removed is found and named; a removed last link shows in HEAD."""
    store = in_memory({other: data for other, data in FIVE.items() if other != name})
    said = (
        "entry 5 was removed: ledger/HEAD is at 5, the chain at 4"
        if name == link(5)
        else f"{name} was removed"
    )
    with pytest.raises(IntegrityError, match=said):
        verify(store)


@pytest.mark.parametrize("kept", range(5))
def test_removed_last_entries_are_found(kept: int) -> None:
    """The last entries removed together with their links are found by HEAD, at opening too."""
    gone = {name for seq in range(kept + 1, 6) for name in (link(seq), entry(TABLES[seq - 1], seq))}
    store = in_memory({name: data for name, data in FIVE.items() if name not in gone})
    before = contents(store)
    for action in (lambda: verify(store), lambda: Ledger(store)):
        with pytest.raises(IntegrityError, match=f"entry {kept + 1} was removed"):
            action()
    assert contents(store) == before


def test_swapped_entries_are_found() -> None:
    """Two entries of one table in each other's place are found, with and without their links swapped too."""
    swapped = {**FIVE, entry("runs", 2): FIVE[entry("runs", 3)], entry("runs", 3): FIVE[entry("runs", 2)]}
    with pytest.raises(IntegrityError, match=f"{entry('runs', 2)} was edited or replaced"):
        verify(in_memory(swapped))
    with pytest.raises(IntegrityError, match=f"{link(2)} was replaced"):
        verify(in_memory({**swapped, link(2): FIVE[link(3)], link(3): FIVE[link(2)]}))
    renumbered = {
        name: json.dumps({**json.loads(FIVE[name]), **changes}, sort_keys=True).encode()
        for name, changes in (
            (link(2), {"sha256": json.loads(FIVE[link(3)])["sha256"]}),
            (link(3), {"sha256": json.loads(FIVE[link(2)])["sha256"]}),
        )
    }
    with pytest.raises(IntegrityError, match=f"{entry('runs', 2)}: its seq is '3', expected '2'"):
        verify(in_memory({**swapped, **renumbered}))


@pytest.mark.parametrize("seq", range(1, 6))
def test_a_rewritten_entry_with_its_link_is_found(seq: int) -> None:
    """An entry rewritten in form, with its link, is found by the next link, or for the last one by HEAD."""
    table = TABLES[seq - 1]
    older = {
        name: data
        for name, data in FIVE.items()
        if name.endswith((".parquet", ".json")) and int(Path(name).stem) < seq
    }
    other = in_memory(
        {
            **older,
            HEAD: json.dumps(
                {"seq": seq - 1, "sha256": json.loads(FIVE[link(seq)])["previous"]}, sort_keys=True
            ).encode(),
        }
        if seq > 1
        else {}
    )
    Ledger(other).append(table, [row_of(table, lineage="forged")])
    forged = {**FIVE, entry(table, seq): other.get(entry(table, seq)), link(seq): other.get(link(seq))}
    said = f"{link(seq + 1)} does not follow" if seq < 5 else "entry 5 was replaced: ledger/HEAD"
    with pytest.raises(IntegrityError, match=said):
        verify(in_memory(forged))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (entry("versions", 2), "was added"),
        (entry("runs", 9), "entry 9 was added"),
        ("ledger/runs/notes.txt", "does not belong"),
        ("ledger/secrets/000000000002.parquet", "does not belong"),
        ("ledger/chain/6.json", "does not belong"),
    ],
)
def test_added_files_are_found_and_never_read(name: str, said: str) -> None:
    """A file that no append made is found by verify, and readers take no rows from it."""
    store = in_memory({**FIVE, name: FIVE[entry("runs", 3)]})
    with pytest.raises(IntegrityError, match=said):
        verify(store)
    reader = LedgerReader(store)
    assert reader.read("runs").column("lineage").to_pylist() == ["entry 2", "entry 3"]
    assert reader.read("versions").num_rows == 0


@pytest.mark.parametrize("seq", [2, 3])
def test_readers_notice_too(seq: int) -> None:
    """A reader of the table gets an error, not rows, from an entry that was edited, removed or unlinked."""
    edited = FIVE[entry("runs", seq)].replace(b"PAR1", b"PAR2")
    removed = {name: data for name, data in FIVE.items() if name != entry("runs", seq)}
    unlinked = {name: data for name, data in FIVE.items() if name != link(seq)}
    for files in ({**FIVE, entry("runs", seq): edited}, removed, unlinked):
        with pytest.raises(IntegrityError):
            LedgerReader(in_memory(files)).read("runs")
