"""The ledger under crashes and races: nothing acknowledged is lost, and of two appenders one stops."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rayunlearn.errors import ExitCode, IntegrityError, StorageHeld
from rayunlearn.ledger import ledger as ledger_module
from rayunlearn.ledger.chain import HEAD, Link, from_json, is_whole, to_json
from rayunlearn.ledger.contents import Contents, Names
from rayunlearn.ledger.ledger import Ledger, LedgerReader, verify
from rayunlearn.storage.store import Store
from tests.ledger.ledgers import FIVE, contents, entry, in_memory, link, row_of


class Killed(BaseException):
    """Stands for the end of the process."""


class InterruptedStore(Store):
    """Does something, once, before or after the n-th write to what another store holds."""

    def __init__(self, store: Store, at: int, *, after: bool, act: Callable[[], None]) -> None:
        super().__init__(store._backend, store.where)
        self._at, self._after, self._act, self._writes = at, after, act, 0

    def _write(self, write: Callable[[], None]) -> None:
        self._writes += 1
        now = self._writes == self._at
        if now and not self._after:
            self._act()
        write()
        if now and self._after:
            self._act()

    def create(self, name: str, data: bytes) -> None:
        """Create, interrupted."""
        self._write(lambda: super(InterruptedStore, self).create(name, data))

    def put(self, name: str, data: bytes) -> None:
        """Put, interrupted."""
        self._write(lambda: super(InterruptedStore, self).put(name, data))


def kill() -> None:
    """End the process."""
    raise Killed


@pytest.mark.parametrize("earlier", [0, 1, 5])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("write", [1, 2, 3])
def test_a_kill_at_any_write_leaves_a_sound_ledger(earlier: int, write: int, after: bool) -> None:
    """Killed at any write of an append, the ledger keeps all earlier rows, and all or none of the last.

    It verifies before and after it is opened again, HEAD is put right, and the next append follows.
    """
    store = in_memory()
    ledger = Ledger(store)
    for number in range(earlier):
        ledger.append("runs", [row_of("runs", seed=number)])
    dying = Ledger(InterruptedStore(store, write, after=after, act=kill))
    with pytest.raises(Killed):
        dying.append("runs", [row_of("runs", seed=100), row_of("runs", seed=101)])

    committed = (write, after) >= (2, True)
    created = (write, after) >= (1, True)
    reader = LedgerReader(store)
    seeds = list(range(earlier))
    assert reader.read("runs").column("seed").to_pylist() == seeds + [100, 101] * committed
    assert verify(store) == earlier + committed
    again = Ledger(store)
    assert again.tail.seq == verify(store) == earlier + created
    if again.tail.seq:
        assert json.loads(store.get(HEAD)) == {"seq": again.tail.seq, "sha256": again.tail.sha256}
    assert reader.read("runs").column("seed").to_pylist() == seeds + [100, 101] * created
    assert again.append("runs", [row_of("runs", seed=7)]) == again.verify()
    assert reader.read("runs").column("seed").to_pylist() == [*seeds, *([100, 101] * created), 7]


def test_a_torn_entry_is_discarded() -> None:
    """An entry cut by a power failure before its link is not read, and is deleted at the next opening."""
    store = in_memory({**FIVE, entry("runs", 6): FIVE[entry("runs", 3)][:-10]})
    assert LedgerReader(store).read("runs").num_rows == 2
    ledger = Ledger(store)
    assert contents(store) == FIVE
    assert ledger.append("runs", [row_of("runs")]) == ledger.verify() == 6


def test_what_no_link_vouches_for_is_parsed_only_when_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet readers may crash on damaged bytes: an entry without its link that was changed meets none."""
    name = entry("checkpoints", 4)
    whole = FIVE[name]
    left = {entry("audits", 5), link(5), link(4)}
    four = {key: data for key, data in FIVE.items() if key not in left}
    four[HEAD] = to_json(from_json(Link, link(3), FIVE[link(3)]).tail)
    assert is_whole(whole)
    assert Ledger(in_memory(four)).tail.seq == 4
    for at in range(len(whole)):
        assert not is_whole(whole[:at])
        assert not is_whole(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
    assert not is_whole(whole + b" ")
    assert not is_whole(b"seal:")

    def parsed(link: Link, data: bytes) -> None:
        raise AssertionError(link)

    monkeypatch.setattr(ledger_module, "rows_of", parsed)
    for at in range(0, len(whole), 97):
        store = in_memory({**four, name: whole[:at] + b"\xff\xfe" + whole[at + 2 :]})
        assert Ledger(store).tail.seq == 3
        assert name not in store.list()


def test_rows_that_look_like_a_seal_are_committed() -> None:
    """What requests say is theirs: the seal is the entry's own."""
    store = in_memory()
    words = "seal:" + "0" * 64
    Ledger(store).append("runs", [row_of("runs", lineage=words), row_of("runs", lineage=words[:40])])
    for left in (HEAD, link(1)):
        store.delete(left)
    assert Ledger(store).tail.seq == verify(store) == 1
    assert LedgerReader(store).read("runs").column("lineage").to_pylist() == [words, words[:40]]


def test_what_was_edited_can_be_told_whatever_it_holds() -> None:
    """A field's name may be long, or hold what no terminal prints."""
    for name in (b"\\udcff", b"9" * 5000):
        with pytest.raises(IntegrityError, match="HEAD was edited: it is not what an append writes$"):
            verify(in_memory({**FIVE, HEAD: b'{"seq": 5, "%s": 1}' % name}))


def test_a_lagging_head_is_put_right_only_if_the_chain_agrees() -> None:
    """HEAD behind the chain is caught up at opening; with another hash than the chain has, it is an error."""
    links = {seq: json.loads(FIVE[link(seq)]) for seq in range(1, 6)}
    for seq in (1, 3, 4):
        lagging = json.dumps({"seq": seq, "sha256": links[seq]["sha256"]}, sort_keys=True).encode()
        store = in_memory({**FIVE, HEAD: lagging})
        assert Ledger(store).tail.seq == 5
        assert contents(store) == FIVE
        foreign = json.dumps({"seq": seq, "sha256": links[5]["sha256"]}, sort_keys=True).encode()
        with pytest.raises(IntegrityError, match=f"entry {seq} was replaced"):
            Ledger(in_memory({**FIVE, HEAD: foreign}))


# ---- two appenders


@pytest.mark.parametrize("table", ["runs", "requests"])
@pytest.mark.parametrize("ahead", [1, 3])
def test_the_appender_that_comes_second_stops(table: str, ahead: int) -> None:
    """An appender that another has overtaken, in the same table or in another, is stopped for good.

    It changes nothing; who won goes on.
    """
    store = in_memory()
    first, second = Ledger(store), Ledger(store)
    for number in range(ahead):
        first.append("runs", [row_of("runs", seed=number)])
    before = contents(store)
    for _ in range(2):
        with pytest.raises(StorageHeld, match="another appender") as caught:
            second.append(table, [row_of(table, lineage="second")])
        assert contents(store) == before
    assert caught.value.exit_code == ExitCode.STORAGE_HELD
    assert first.append("runs", [row_of("runs")]) == verify(store) == ahead + 1


def test_overtaken_in_the_middle_of_an_append() -> None:
    """If another appender takes the number between an entry and its link, the entry is taken back."""
    store = in_memory()
    other = Ledger(store)
    slow = Ledger(
        InterruptedStore(store, 1, after=True, act=lambda: void(other.append("runs", [row_of("runs")])))
    )
    with pytest.raises(StorageHeld):
        slow.append("requests", [row_of("requests")])
    assert store.list() == [HEAD, link(1), entry("runs", 1)]
    assert verify(store) == 1


def test_recovered_in_the_middle_of_an_append() -> None:
    """If the ledger is opened between an entry and its link, the entry is committed once, for both."""
    store = in_memory()
    slow = Ledger(InterruptedStore(store, 1, after=True, act=lambda: void(Ledger(store))))
    assert slow.append("requests", [row_of("requests")]) == 1
    assert LedgerReader(store).read("requests").num_rows == verify(store) == 1


def test_what_a_dead_loser_left_is_cleared() -> None:
    """Entries of one number in two tables: opening keeps the linked one, or one of two unlinked ones."""
    store = in_memory()
    other = Ledger(store)
    dying = Ledger(InterruptedStore(store, 1, after=True, act=kill))
    with pytest.raises(Killed):
        dying.append("requests", [row_of("requests")])
    other.append("runs", [row_of("runs")])
    assert store.exists(entry("requests", 1))
    assert LedgerReader(store).read("requests").num_rows == 0
    assert Ledger(store).verify() == 1
    assert not store.exists(entry("requests", 1))
    assert LedgerReader(store).read("runs").num_rows == 1

    store = in_memory()
    for table in ("requests", "runs"):
        Ledger(both := in_memory()).append(table, [row_of(table)])
        store.create(entry(table, 1), both.get(entry(table, 1)))
    assert Ledger(store).verify() == 1
    assert len(store.list("ledger/runs") + store.list("ledger/requests")) == 1


def test_a_dead_loser_in_the_folder_of_segments_hides_none() -> None:
    """An appender may die that would have listed segments at a number that another one got."""
    store = in_memory()
    ledger = Ledger(store, compact_at=3)
    for number in range(8):
        ledger.append("runs", [row_of("runs", seed=number)])
    last = ledger.tail.seq
    assert entry("runs", last) in store.list() and Contents(store, Names.of(store)).segments
    store.create(entry("segments", last), store.get(entry("runs", last)))
    for _ in range(2):
        assert LedgerReader(store).read("runs").column("seed").to_pylist() == list(range(8))
        assert Ledger(store).tail.seq == verify(store) == last


def test_appenders_that_race_lose_no_acknowledged_row(tmp_path: Path) -> None:
    """Four appenders at once, on disk: each acknowledged row is there once, no other one is."""
    root = tmp_path / "storage"
    tables = ["requests", "runs", "checkpoints", "runs"]
    acknowledged: list[str] = []
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        ledger = Ledger(Store.open(root, sync=False))
        barrier.wait()
        for step in range(10):
            name = f"{number}-{step}"
            try:
                ledger.append(tables[number], [row_of(tables[number], lineage=name)])
            except StorageHeld:
                ledger = Ledger(Store.open(root, sync=False))
            else:
                acknowledged.append(name)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = Store.open(root, sync=False)
    assert Ledger(store).verify() == len(acknowledged)
    reader = LedgerReader(store)
    found = [name for table in set(tables) for name in reader.read(table).column("lineage").to_pylist()]
    assert sorted(found) == sorted(acknowledged)


def void(_: object) -> None:
    """Drop a value, where a callback must return none."""
