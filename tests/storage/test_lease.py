"""The lease to a storage location: one holder at a time, none for longer than it lives, no real time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from rayunlearn.errors import BadInput, ExitCode, Interrupted, StorageHeld
from rayunlearn.storage.lease import Lease, Pace, held
from rayunlearn.storage.store import Store, StoreFailed
from tests.ledger.ledgers import in_memory
from tests.storage.holders import A, B, C, Time, elsewhere, leases
from tests.waiting import HANG_S


@pytest.fixture
def clock() -> Time:
    """A time of the test's own."""
    return Time()


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A new storage location of each kind."""
    if request.param == "memory":
        return in_memory()
    root = tmp_path / "storage" if request.param == "folder" else request.getfixturevalue("address")
    return Store.open(root, sync=False)


def test_a_free_location_is_taken_at_once(store: Store, clock: Time) -> None:
    """The first lease has token 1, one after a clean end the next; nobody waits, nobody is told anything.

    The lease says who holds the location; of the earlier one no file is left.
    """
    told: list[str] = []
    began = clock.now
    for token, holder in ((1, A), (2, B), (3, A)):
        lease = Lease.take(store, pace=clock.pace, holder=holder, tell=told.append)
        lease.renew()
        lease.check()
        assert lease.token == token
        said = json.loads(store.get(f"claims/{token:012d}.json"))
        assert (said["host"], said["pid"], said["since"]) == (holder.host, holder.pid, holder.since)
        assert leases(store) == [f"{token:012d}.heartbeat.json", f"{token:012d}.json"]
        lease.release()
    assert clock.now == began and told == []


def test_a_live_holder_is_left_alone(store: Store, clock: Time) -> None:
    """While the holder renews, another one gives up as soon as it sees that: exit code 5, and what to do.

    It is told at once for whom it waits and how long, and the holder goes on.
    """
    first = Lease.take(store, pace=clock.pace, holder=A)
    began, told = clock.now, []
    clock.due.append(lambda: first.renew() if (clock.now - began) % 5 == 0 else None)
    with pytest.raises(StorageHeld, match="process 7 on node-a, since 2025-06-01 12:00:00 UTC") as caught:
        Lease.take(store, pace=clock.pace, holder=B, tell=told.append)
    assert caught.value.exit_code == ExitCode.STORAGE_HELD
    assert all(word in str(caught.value) for word in (store.where, "--wait", "--storage"))
    (said,) = told
    assert "process 7 on node-a" in said and "at most 30 s" in said
    assert clock.now - began <= 5
    first.check()
    assert first.token == 1 and all(name.startswith("000000000001") for name in leases(store))


def test_the_time_to_live_counts_from_the_last_sign_of_life(store: Store, clock: Time) -> None:
    """A holder that dies after some renewals is replaced 30 s after its last one was seen, and not before."""
    first = Lease.take(store, pace=clock.pace, holder=A)
    began = clock.now
    clock.due.append(lambda: first.renew() if clock.now - began in (5, 10, 15, 20) else None)
    second = Lease.take(store, wait_s=60, pace=clock.pace, holder=B)
    assert second.token == 2 and clock.now - began == 20 + 30
    with pytest.raises(StorageHeld, match="taken over by another one: process 7 on node-b"):
        first.check()


@pytest.mark.parametrize("renewals", [0, 3])
def test_a_dead_holder_is_replaced(store: Store, clock: Time, renewals: int) -> None:
    """A lease that nobody renews, or ever renewed, is taken over when it was watched for its time to live."""
    first = Lease.take(store, pace=clock.pace, holder=A)
    for _ in range(renewals):
        first.renew()
    clock.now += 10_000  # the watcher's time counts from when it begins to look, whatever was before
    began = clock.now
    second = Lease.take(store, pace=clock.pace, holder=B)
    assert second.token == 2 and clock.now - began == 30
    second.check()


def test_clocks_of_other_machines_do_not_matter(store: Store, clock: Time) -> None:
    """A holder whose clock is years off, to either side, is as alive as its heartbeat."""
    for offset in (-1e9, 1e9):
        off = replace(clock.pace, clock=lambda offset=offset: clock.now + offset)
        first = Lease.take(store, pace=off, holder=replace(A, since="2099-01-01 00:00:00 UTC"))
        clock.due[:] = [first.renew]
        with pytest.raises(StorageHeld):
            Lease.take(store, pace=clock.pace, holder=B)
        clock.due.clear()
        first.check()
        first.release()


def test_who_waits_gets_it_at_the_end(store: Store, clock: Time) -> None:
    """With a time to wait the location is taken as soon as the holder lets go; without one, not."""
    first = Lease.take(store, pace=clock.pace, holder=A)
    began, told = clock.now, []

    def renew_or_release() -> None:
        if clock.now - began < 100:
            first.renew()
        else:
            first.release()

    clock.due.append(renew_or_release)
    with pytest.raises(StorageHeld):
        Lease.take(store, wait_s=50, pace=clock.pace, holder=B)
    assert clock.now - began == 50
    second = Lease.take(store, wait_s=200, pace=clock.pace, holder=B, tell=told.append)
    assert second.token == 2 and clock.now - began == 100
    assert "waiting 200 s for its end" in told[0]


def test_who_follows_the_awaited_one_is_named(store: Store, clock: Time) -> None:
    """Where another one was quicker at the end, the wait goes on for that one, and says so."""
    lease = [Lease.take(store, pace=clock.pace, holder=A)]
    told: list[str] = []

    def hand_over() -> None:
        lease[0].renew()
        if clock.now == 1010:
            lease[0].release()
            lease[0] = Lease.take(store, pace=clock.pace, holder=B)

    clock.due.append(hand_over)
    with pytest.raises(StorageHeld, match="node-b"):
        Lease.take(store, wait_s=30, pace=clock.pace, holder=C, tell=told.append)
    assert ["node-a" in told[0], "node-b" in told[1], len(told)] == [True, True, 2]
    assert clock.now == 1030


@pytest.mark.parametrize("wait_s", [-1, float("nan"), float("inf")])
def test_times_to_wait(wait_s: float) -> None:
    """A time to wait that is none is refused before anything is looked at."""
    with pytest.raises(BadInput, match="--wait"):
        Lease.take(in_memory(), wait_s=wait_s)


# ---- two at once


class Interposed(Store):
    """Does something once, before the first create."""

    def __init__(self, store: Store, act: Callable[[], object]) -> None:
        super().__init__(store._backend, store.where)
        self._act: list[Callable[[], object]] = [act]

    def create(self, name: str, data: bytes) -> None:
        """Create, after the act."""
        if self._act:
            self._act.pop()()
        super().create(name, data)


@pytest.mark.parametrize("earlier", [0, 1])
def test_started_at_once(clock: Time, earlier: int) -> None:
    """Of two that find the location free, the one that is quicker to create the token has it.

    The other one finds it alive and gives up, naming it.
    """
    store = in_memory()
    for _ in range(earlier):
        Lease.take(store, pace=clock.pace, holder=A).release()
    quicker: list[Lease] = []
    slow = Interposed(store, lambda: quicker.append(Lease.take(store, pace=clock.pace, holder=B)))
    clock.due.append(lambda: quicker[0].renew())
    with pytest.raises(StorageHeld, match="node-b"):
        Lease.take(slow, pace=clock.pace, holder=C)
    quicker[0].check()
    assert quicker[0].token == earlier + 1


def test_a_token_that_was_cleared_away_is_not_had_again(clock: Time) -> None:
    """Who looked long ago, and creates a token that others had and cleared away since, does not get it."""
    store = in_memory()
    Lease.take(store, pace=clock.pace, holder=A).release()
    last: list[Lease] = []

    def two_others() -> None:
        Lease.take(store, pace=clock.pace, holder=B).release()  # had token 2
        last.append(Lease.take(store, pace=clock.pace, holder=B))  # has token 3, and cleared 2 away

    clock.due.append(lambda: last[0].renew())
    with pytest.raises(StorageHeld, match="node-b"):
        Lease.take(Interposed(store, two_others), pace=clock.pace, holder=C)
    last[0].check()
    assert last[0].token == 3 and {name[:12] for name in leases(store)} == {"000000000003"}


def test_many_at_once(tmp_path: Path) -> None:
    """Of eight threads that want a folder at once exactly one has it, and all others are told so."""
    root, barrier, refused = tmp_path / "storage", threading.Barrier(8), threading.Semaphore(0)
    Store.open(root, sync=False)
    had: list[int] = []
    pace = Pace(live_s=1e9, renew_s=0.01, look_s=0.005)

    def contend(number: int) -> None:
        store = Store.open(root, sync=False)
        barrier.wait()
        try:
            with held(store, pace=pace, holder=elsewhere(f"node-{number}")) as lease:
                had.append(number)
                for _ in range(7):
                    assert refused.acquire(timeout=HANG_S)
                lease.check()
        except StorageHeld:
            refused.release()

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(had) == 1


def test_few_files_stay(clock: Time) -> None:
    """However many leases there were, ended, killed or late, the files of one or two are left."""
    store = in_memory()
    late: list[Lease] = []
    for number in range(20):
        lease = Lease.take(store, pace=clock.pace, holder=A)
        lease.renew()
        if number % 2:
            lease.release()
        else:
            late.append(lease)
        store.put(f"claims/{max(1, number - 3):012d}.heartbeat.json", b"of one that woke up late")
    Lease.take(store, pace=clock.pace, holder=B)
    assert leases(store) == ["000000000021.json"]
    clock.now += 100
    for lease in late:
        with pytest.raises(StorageHeld):
            lease.check()
    assert leases(store) == ["000000000021.json"]


# ---- a holder that loses the location


def test_a_holder_that_was_paused_is_fenced(store: Store, clock: Time) -> None:
    """A holder that slept through its time to live, and was replaced, is stopped at its next check for good.

    It changes nothing of the other's lease, neither then nor when it ends.
    """
    paused = Lease.take(store, pace=clock.pace, holder=A)
    paused.renew()
    second = Lease.take(store, pace=clock.pace, holder=B)
    second.renew()
    before = {name: store.get(name) for name in store.list("claims")}
    for _ in range(2):
        with pytest.raises(StorageHeld, match="node-a.*taken over by .*process 7 on node-b") as caught:
            paused.check()
        paused.renew()
    assert caught.value.exit_code == ExitCode.STORAGE_HELD and "same command goes on" in str(caught.value)
    paused.release()
    second.check()
    assert {name: store.get(name) for name in store.list("claims")} == before


def test_a_holder_that_was_paused_and_not_replaced_goes_on(store: Store, clock: Time) -> None:
    """A machine that was asleep for a night, with nobody else about, still holds its location."""
    lease = Lease.take(store, pace=clock.pace, holder=A)
    clock.now += 8 * 3600
    lease.check()
    clock.due.append(lease.renew)
    with pytest.raises(StorageHeld, match="node-a"):
        Lease.take(store, pace=clock.pace, holder=B)


def test_a_renewal_finds_the_newer_token_first(clock: Time) -> None:
    """Where a renewal comes before the next check, the check needs no storage to refuse."""
    store = in_memory()
    first = Lease.take(store, pace=clock.pace, holder=A)
    Lease.take(store, pace=clock.pace, holder=B)
    clock.now = first._renewed_at + 1  # as if it had been renewed just now
    first.check()  # negative control: nothing is looked at yet
    first.renew()
    with pytest.raises(StorageHeld, match="node-b"):
        first.check()


def test_a_deleted_claim_is_lost(clock: Time) -> None:
    """A holder whose lease somebody deleted by hand stops, and does not bring it back."""
    store = in_memory()
    lease = Lease.take(store, pace=clock.pace, holder=A)
    for name in store.list("claims"):
        store.delete(name)
    lease.renew()
    with pytest.raises(StorageHeld, match="was deleted"):
        lease.check()
    assert leases(store) == []


class OutOfReach(Store):
    """A store in memory that can be cut off."""

    def __init__(self) -> None:
        super().__init__(MemoryStore(), "memory")
        self.cut = False
        self.asked = 0

    def list(self, prefix: str = "") -> list[str]:
        """List, where there is a connection."""
        self.asked += 1
        if self.cut:
            raise StoreFailed("memory: could not list leases: no connection")
        return super().list(prefix)


def test_a_holder_that_cannot_renew_is_fenced_after_the_time_to_live(clock: Time) -> None:
    """Cut off for less than its time to live the holder goes on; for longer, `check` refuses and says why.

    Once the storage is back, and nobody has taken over, it goes on.
    """
    store = OutOfReach()
    lease = Lease.take(store, pace=clock.pace, holder=A)
    lease.renew()
    store.cut = True
    clock.now += 29
    with pytest.raises(StoreFailed):
        lease.renew()
    lease.check()
    clock.now += 1
    with pytest.raises(StorageHeld, match=r"could not be renewed for 30 s \(.*no connection") as caught:
        lease.check()
    assert "node-a" in str(caught.value) and "nothing was published" in str(caught.value)
    store.cut = False
    lease.check()


def test_a_check_costs_nothing(clock: Time) -> None:
    """While the lease is renewed in time no check asks the storage anything."""
    store = OutOfReach()
    lease = Lease.take(store, pace=clock.pace, holder=A)
    for second in range(100):
        clock.now += 1
        if second % 5 == 0:
            lease.renew()
        asked = store.asked
        lease.check()
        assert store.asked == asked
    clock.now += 30
    lease.check()
    assert store.asked > asked  # negative control: what is counted does go up


def test_a_failed_release_does_not_fail_the_job(clock: Time) -> None:
    """A storage that is out of reach at the end costs the next one the time to live, and this one nothing."""
    store = OutOfReach()
    lease = Lease.take(store, pace=clock.pace, holder=A)
    store.cut = True
    lease.release()
    store.cut = False
    began = clock.now
    Lease.take(store, pace=clock.pace, holder=B)
    assert clock.now - began == 30
    with pytest.raises(StorageHeld):
        lease.check()


# ---- in a thread


def test_the_thread_renews_until_the_end() -> None:
    """In `held` the heartbeat changes by itself, through failures, and ends with a release, error or not."""
    store = OutOfReach()
    pace = Pace(renew_s=0.001)

    def beats() -> None:
        before = store.get("claims/000000000001.heartbeat.json")
        end = time.monotonic() + HANG_S
        while store.get("claims/000000000001.heartbeat.json") == before:
            assert time.monotonic() < end
            time.sleep(0.001)

    def work(lease: Lease) -> None:
        lease.renew()
        beats()
        store.cut = True
        asked, end = store.asked, time.monotonic() + HANG_S
        while store.asked < asked + 3 and time.monotonic() < end:
            time.sleep(0.001)
        store.cut = False
        beats()
        lease.check()
        raise Interrupted("stopped by the test")

    with pytest.raises(Interrupted), held(store, pace=pace, holder=A) as lease:
        work(lease)
    at_the_end = store.get("claims/000000000001.heartbeat.json")
    assert json.loads(at_the_end)["released"] is True
    with held(store, pace=pace, holder=B) as lease:
        assert lease.token == 2
