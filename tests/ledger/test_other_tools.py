"""DuckDB, Polars and pandas read a table of the ledger by the commands of docs/reference/storage.md."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayunlearn.errors import StorageHeld
from rayunlearn.ledger import chain, ledger
from rayunlearn.ledger import compaction as compaction
from rayunlearn.ledger.compaction import ENTRY
from rayunlearn.ledger.ledger import Ledger, LedgerReader, verify
from rayunlearn.ledger.schemas import SCHEMA_VERSION, schema_written_under, table_from_rows
from rayunlearn.storage.store import Store
from tests.ledger.ledgers import contents, in_memory, row_of
from tests.ledger.test_compaction import CuttingStore
from tests.ledger.test_ledger_crashes import Killed, kill

TOOLS = ("duckdb", "polars", "pandas")
DOCUMENTED = Path(__file__).resolve().parents[2] / "docs" / "reference" / "storage.md"
FOLDED_AT = 3


def commands() -> dict[str, list[str]]:
    """Of each tool, the documented commands: for a ledger of today, and for an old one."""
    section = DOCUMENTED.read_text().split("## With other tools")[1].split("\n## ")[0]
    lines = [
        line for block in re.findall(r"```python\n(.*?)```", section, re.S) for line in block.splitlines()
    ]
    return {tool: [line for line in lines if line.startswith(f"{tool}.")] for tool in TOOLS}


def read(tool: str, root: Path, *, old: bool = False, table: str = "runs") -> dict[str, list[Any]]:
    """The columns of a table as a documented command gives them."""
    names = {tool: pytest.importorskip(tool), "glob": importlib.import_module("glob")}
    command = commands()[tool][old].replace("storage/", f"{root}/").replace("runs", table)
    found = eval(command, names)  # of our own page
    if tool == "duckdb":
        return dict(zip(found.columns, map(list, zip(*found.fetchall(), strict=True)), strict=True))
    if tool == "polars":
        return found.to_dict(as_series=False)  # type: ignore[no-any-return]
    return {name: found[name].tolist() for name in found.columns}


def seeds(root: Path, table: str = "runs") -> list[int]:
    """What the project's own reader gives, after checking the chain."""
    store = Store.open(root, create=False)
    verify(store)
    found: list[int] = LedgerReader(store).read(table).column("seed").to_pylist()
    return found


def append(root: Path, numbers: Sequence[int], compact_at: int = FOLDED_AT) -> None:
    """One entry of runs for each number, its seed."""
    own = Ledger(Store.open(root, sync=False), compact_at=compact_at)
    for number in numbers:
        own.append("runs", [row_of("runs", seed=number, reason=f"r{number}")])


def files(root: Path) -> Counter[str]:
    """How many files a table has of each kind."""
    return Counter("compacted" if "-" in file.name else "single" for file in (root / "ledger/runs").iterdir())


def schemas(root: Path) -> set[str]:
    """The different columns of a table's files."""
    return {str(pq.read_schema(file).remove_metadata()) for file in (root / "ledger/runs").iterdir()}


@pytest.fixture
def earlier(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Appends as an earlier schema version did, segments with a column of entry numbers among it."""

    def write(
        store: Store, table: str, first: int, last: int, content: Iterator[pa.Table], *_: int
    ) -> compaction.Segment:
        version = chain.SCHEMA_VERSION
        parts = pa.concat_tables(content)
        if table != compaction.ARCHIVE:
            parts = parts.select([*schema_written_under(table, version).names, ENTRY])
        sink = pa.BufferOutputStream()
        about = {"table": table, "schema_version": str(version)}
        pq.write_table(parts.replace_schema_metadata(about), sink, compression="zstd")
        data = sink.getvalue().to_pybytes()
        segment = compaction.Segment(table, first, last, parts.num_rows, hashlib.sha256(data).hexdigest())
        store.create(segment.name, data)
        return segment

    def appended(root: Path, numbers: Sequence[int], version: int, compact_at: int = 10**6) -> None:
        def of_then(table: str, rows: Any) -> pa.Table:
            made = table_from_rows(table, rows)
            return made if table == "segments" else made.select(schema_written_under(table, version).names)

        with monkeypatch.context() as patch:
            patch.setattr(chain, "SCHEMA_VERSION", version)
            patch.setattr(ledger, "table_from_rows", of_then)
            patch.setattr(compaction, "_write", write)
            patch.setattr(compaction, "is_dated", lambda *given: False)
            patch.setattr(ledger, "is_dated", lambda *given: False)
            append(root, numbers, compact_at)

    return appended


def test_the_page_has_two_commands_for_each_tool() -> None:
    """One for a ledger of today, one for an old one."""
    assert {tool: len(found) for tool, found in commands().items()} == dict.fromkeys(TOOLS, 2)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(("entries", "kinds"), [(2, {"single"}), (8, {"compacted", "single"}), (40, None)])
def test_a_glob_reads_a_table_compacted_or_not(tool: str, entries: int, kinds: Any, tmp_path: Path) -> None:
    """Every row once, in order, with the table's columns and no other."""
    append(tmp_path, range(entries))
    assert kinds is None or set(files(tmp_path)) == kinds
    for old in (False, True):
        found = read(tool, tmp_path, old=old)
        assert list(found) == schema_written_under("runs", SCHEMA_VERSION).names
        assert found["seed"] == list(range(entries))
        assert found["reason"] == [f"r{number}" for number in range(entries)]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_table_that_was_compacted_whole(tool: str, tmp_path: Path) -> None:
    """No single entry of the table is left."""
    append(tmp_path, range(FOLDED_AT))
    Ledger(Store.open(tmp_path), compact_at=FOLDED_AT).append("requests", [row_of("requests")])
    assert set(files(tmp_path)) == {"compacted"}
    assert read(tool, tmp_path)["seed"] == [0, 1, 2]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("version", [1, 4, 5])
@pytest.mark.parametrize("compact_at", [FOLDED_AT, 10**6])
def test_an_old_ledger(tool: str, version: int, compact_at: int, tmp_path: Path, earlier: Any) -> None:
    """By names its columns are all there; one append later the plain glob reads it, and the chain holds."""
    earlier(tmp_path, range(5), 1, compact_at)
    earlier(tmp_path, range(5, 9), version, compact_at)
    assert set(files(tmp_path)) == ({"compacted", "single"} if compact_at == FOLDED_AT else {"single"})
    assert seeds(tmp_path) == list(range(9))
    found = read(tool, tmp_path, old=True)
    assert sorted(found["seed"]) == list(range(9))
    assert set(found) - {ENTRY} == set(schema_written_under("runs", version).names)
    append(tmp_path, [9])
    assert len(schemas(tmp_path)) == 1
    found = read(tool, tmp_path)
    assert list(found) == schema_written_under("runs", SCHEMA_VERSION).names
    assert found["seed"] == seeds(tmp_path) == list(range(10))


@pytest.mark.parametrize("tool", ["duckdb", "polars"])
def test_what_was_wrong(tool: str, tmp_path: Path, earlier: Any) -> None:
    """Negative control: a ledger that was compacted with a column of entry numbers, as it was, is refused."""
    earlier(tmp_path, range(8), 5, FOLDED_AT)
    assert len(schemas(tmp_path)) == 2
    with pytest.raises(Exception, match=ENTRY):
        read(tool, tmp_path)


def test_entries_of_the_version_before_are_left_alone(tmp_path: Path, earlier: Any) -> None:
    """They have today's columns: nothing is compacted before it is time, and a glob reads both."""
    earlier(tmp_path, range(4), 5)
    append(tmp_path, [4], compact_at=10**6)
    assert files(tmp_path) == {"single": 5}
    assert read("pandas", tmp_path)["seed"] == [0, 1, 2, 3, 4]


def test_old_segments_are_rewritten_once(tmp_path: Path, earlier: Any) -> None:
    """All of them by the first append, and none by the next compactions; the rows keep their entries."""
    earlier(tmp_path, range(12), 5, FOLDED_AT)
    rows = list(LedgerReader(Store.open(tmp_path)).rows("runs"))
    before = {file.name for file in (tmp_path / "ledger/runs").glob("*-*")}
    append(tmp_path, [12])
    then = {file.name for file in (tmp_path / "ledger/runs").glob("*-*")}
    assert len(before) > 2
    assert not before & then
    append(tmp_path, range(13, 13 + FOLDED_AT))
    assert then < {file.name for file in (tmp_path / "ledger/runs").glob("*-*")}
    after = list(LedgerReader(Store.open(tmp_path)).rows("runs"))
    assert after[: len(rows)] == rows
    assert [row["seed"] for row in after] == list(range(13 + FOLDED_AT))


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_while_an_old_ledger_is_rewritten_loses_nothing(
    after: bool, tmp_path: Path, earlier: Any
) -> None:
    """Killed before or after any write or deletion, all is there; opened again it goes on."""
    earlier(tmp_path, range(8), 4, FOLDED_AT)
    before = contents(Store.open(tmp_path))
    write, killed = 0, True
    while killed:
        write += 1
        store = in_memory(before)
        try:
            dying = Ledger(CuttingStore(store, write, after=after, act=kill), compact_at=FOLDED_AT)
            dying.append("runs", [row_of("runs", seed=8)])
            killed = False
        except Killed:
            pass
        verify(store)
        kept = LedgerReader(store).read("runs").column("seed").to_pylist()
        assert kept in (list(range(8)), list(range(9)))
        again = Ledger(store, compact_at=FOLDED_AT)
        again.append("runs", [row_of("runs", seed=9)])
        verify(store)
        done = LedgerReader(store).read("runs").column("seed").to_pylist()
        # an entry that was written and not linked is committed when the ledger is opened again
        assert done in ([*kept, 9], list(range(10)))
        assert not any(ENTRY in pq.read_schema(pa.BufferReader(data)).names for data in segments(store))
    assert write > 10


def test_opened_by_another_while_an_old_ledger_is_rewritten(
    tmp_path: Path, earlier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is about to be listed looks superseded and stays; negative control: not for longer."""
    earlier(tmp_path, range(8), 4, FOLDED_AT)
    before, held = contents(Store.open(tmp_path)), 0
    for write in range(1, 12):
        store = in_memory(before)
        between = CuttingStore(store, write, after=True, act=lambda: Ledger(store))  # noqa: B023
        own = Ledger(between, compact_at=FOLDED_AT)
        try:
            own.append("runs", [row_of("runs", seed=8)])
        except StorageHeld:
            held += 1  # the other one has linked what was not linked yet
        verify(store)
        assert LedgerReader(store).read("runs").column("seed").to_pylist() in (
            list(range(8)),
            list(range(9)),
        )
    assert held < write - 1
    store = in_memory(before)
    dying = Ledger(CuttingStore(store, 2, after=True, act=kill), compact_at=FOLDED_AT)
    with pytest.raises(Killed):
        dying.append("runs", [row_of("runs")])
    left = set(contents(store)) - set(before)
    Ledger(store)
    assert left
    assert left <= set(contents(store))
    monkeypatch.setattr(ledger, "is_dated", lambda *given: False)
    Ledger(store).append("runs", [row_of("runs", seed=8)])
    Ledger(store)
    assert not left & set(contents(store))
    verify(store)


def segments(store: Store) -> list[bytes]:
    """The files that stand for entries of runs."""
    return [store.get(name) for name in store.list("ledger/runs") if "-" in name]
