"""What is made of a holder: a process of this machine that is gone, one elsewhere, and what nobody wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayunlearn.storage.lease import Holder, Lease
from rayunlearn.storage.store import AlreadyExists
from tests.ledger.ledgers import in_memory
from tests.storage.holders import A, B, Time, leases

HERE = Holder.here()


@pytest.fixture
def clock() -> Time:
    """A time of the test's own."""
    return Time()


def waiting_process() -> subprocess.Popen[bytes]:
    """A process that does nothing until it is ended."""
    process = subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=-1, stdout=-1)
    assert process.stdout is not None
    process.stdout.readline()
    return process


linux = pytest.mark.skipif(HERE.system is None or HERE.began is None, reason="needs Linux's /proc")


@linux
def test_a_killed_process_of_this_machine_is_replaced_at_once(clock: Time) -> None:
    """A holder that was killed here is known to be dead: nobody waits, noticed by its parent or not."""
    process = waiting_process()
    began = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    holder = replace(HERE, pid=process.pid, began=began)
    assert not holder.is_gone()  # negative control
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, its entry is still there
    assert holder.is_gone()
    process.communicate()
    assert holder.is_gone()
    store, start = in_memory(), clock.now
    Lease.take(store, pace=clock.pace, holder=holder).renew()
    assert Lease.take(store, pace=clock.pace).token == 2 and clock.now == start


@linux
def test_a_process_id_that_is_used_again_is_another_process() -> None:
    """The process that has the holder's id now began at another time: the holder is gone."""
    assert not HERE.is_gone()
    assert replace(HERE, began="1").is_gone()


@linux
@pytest.mark.parametrize("where", [{"host": "other"}, {"system": "other"}, {"system": None}, {"began": None}])
def test_of_other_machines_nothing_is_concluded(where: dict[str, str | None], clock: Time) -> None:
    """A process id says nothing about another host, another start of this one, or another container."""
    process = waiting_process()
    process.kill()
    process.communicate()
    gone = replace(HERE, pid=process.pid)
    assert gone.is_gone()  # negative control
    assert not replace(gone, **where).is_gone()
    store, start = in_memory(), clock.now
    Lease.take(store, pace=clock.pace, holder=replace(gone, **where))
    Lease.take(store, pace=clock.pace, holder=B)
    assert clock.now - start == 30


# ---- leases that nobody wrote


@given(data=st.binary(max_size=80) | st.sampled_from([b"[" * 100_000, b"{}", b"null", b'{"host": 1}']))
def test_an_unreadable_claim_runs_out_like_any_other(data: bytes) -> None:
    """Whatever a lease holds, it keeps others away for its time to live and no longer, and nothing breaks."""
    clock, store = Time(), in_memory()
    store.create("claims/000000000005.json", data)
    told: list[str] = []
    assert Lease.take(store, pace=clock.pace, tell=told.append).token == 6
    assert clock.now == 1030 and "that its lease does not name" in told[0]


@given(
    given=st.dictionaries(
        st.sampled_from(["host", "pid", "since", "system", "began"]),
        st.none() | st.integers() | st.text(max_size=5) | st.lists(st.none(), max_size=1) | st.floats(),
    )
)
def test_an_odd_holder_is_none_or_sound(given: dict[str, object]) -> None:
    """Odd values in a lease are refused as a whole; what is accepted can be asked and shown."""
    full = {"host": "h", "pid": 1, "since": "s", "system": None, "began": None} | given
    holder = Holder.of(json.dumps(full).encode())
    assert holder is None or (isinstance(holder.is_gone(), bool) and str(holder.pid) in str(holder))
    assert Holder.of(json.dumps(full | {"pid": 0}).encode()) is None
    assert Holder.of(json.dumps(full | {"more": 1}).encode()) is None


def test_foreign_files_among_the_claims_are_left_alone(clock: Time) -> None:
    """Names that are no lease's count for nothing and stay; the highest number there is is gone past."""
    store = in_memory({"claims/README": b"", "claims/1.json": b"", "claims/999999999999.json": b""})
    assert Lease.take(store, pace=clock.pace, holder=A).token == 10**12
    assert leases(store) == ["1.json", "1000000000000.json", "README"]
    with pytest.raises(AlreadyExists):
        store.create("claims/1000000000000.json", b"")
