"""`rayunlearn status`: every request, who holds the storage location, and what runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rayunlearn.cli.options.status import StatusOptions
from rayunlearn.cli.status_command import run_status
from rayunlearn.errors import ExitCode
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.ledger.under_way import under_way
from rayunlearn.scheduling.requests import Request
from rayunlearn.storage.inbox import Inbox
from rayunlearn.storage.lease import Holder, Lease, holding
from rayunlearn.storage.store import Store
from tests.ledger.ledgers import NOON, row_of
from tests.reports.two_requests import tell

HERE = Holder.here()
linux = pytest.mark.skipif(HERE.system is None or HERE.began is None, reason="needs Linux's /proc")


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A folder in which two requests were served, and nobody is at work."""
    tell(Store.open(tmp_path / "storage", sync=False))
    return tmp_path / "storage"


def said(storage: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What people read, with single spaces."""
    assert run_status(StatusOptions(storage=str(storage))) == ExitCode.OK
    return " ".join(capsys.readouterr().out.split())


def document(storage: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What programs read."""
    assert run_status(StatusOptions(storage=str(storage), json=True)) == ExitCode.OK
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def run_row(event: str, minutes: int, **more: Any) -> dict[str, Any]:
    """An event of the run `run-9`, so many minutes after noon."""
    told = {"run_id": "run-9", "lineage": "default", "request_ids": ["r9"], "method": "gkt", "phase": None}
    return row_of("runs", **{**told, "event": event, "at": NOON + timedelta(minutes=minutes), **more})


def test_nobody_at_work(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Requests are counted and listed; nothing is under way, and nothing is written."""
    Inbox(Store.open(storage, sync=False)).add(Request(request_id="new", target=(3,)), now=NOON)
    before = {path: path.read_bytes() for path in storage.rglob("*") if path.is_file()}
    out = said(storage, capsys)
    assert f"No scheduler is at work in {storage}. Requests: 1 waiting, 2 served." in out
    assert all(name in out for name in ("r0 served", "r1 served", "new waiting")) and "Now: " not in out
    found = document(storage, capsys)
    assert (found["scheduler"], found["under_way"]) == (None, [])
    assert found["counts"] == {
        "waiting": 1, "received": 0, "planned": 0, "served": 2, "failed": 0, "rejected": 0, "cancelled": 0,
    }  # fmt: skip
    assert [r["request_id"] for r in found["requests"]] == ["r0", "r1", "new"]
    assert {path: path.read_bytes() for path in storage.rglob("*") if path.is_file()} == before


def test_a_location_without_a_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Is told in a sentence; one that is none is refused."""
    Store.open(tmp_path / "new", sync=False)
    assert "Requests: none was added yet." in said(tmp_path / "new", capsys)
    assert run_status(StatusOptions(storage=str(tmp_path / "none"))) == ExitCode.BAD_INPUT


@linux
def test_a_live_scheduler_and_its_run(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who holds it, the run with its last phase and checkpoint; after the end of both, neither."""
    store = Store.open(storage, sync=False)
    ledger, lease = Ledger(store), Lease.take(store)
    ledger.append("runs", [run_row("started", 0), run_row("phase", 1, phase="inversion")])
    steps = [row_of("checkpoints", run_id="run-9", step=s, at=NOON + timedelta(minutes=s)) for s in (2, 4)]
    ledger.append("checkpoints", [*steps, row_of("checkpoints", run_id="run-1", step=99)])
    out = said(storage, capsys)
    assert f"is held by process {HERE.pid} on {HERE.host}, since" in out and "which is at work." in out
    assert "Now: run run-9 of lineage default by gkt for r9, begun 2025-06-01 12:00;" in out
    assert "at step 4, last heard of 2025-06-01 12:04 UTC." in out
    found = document(storage, capsys)
    assert (found["scheduler"]["pid"], found["scheduler"]["alive"]) == (HERE.pid, True)
    (running,) = found["under_way"]
    assert (running["id"], running["phase"], running["step"]) == ("run-9", "inversion", 4)
    ledger.append("runs", [run_row("published", 9)])
    lease.release()
    found = document(storage, capsys)
    assert (found["scheduler"], found["under_way"]) == (None, [])


@linux
def test_a_dead_scheduler_and_one_elsewhere(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that was killed is no more, and its run waits; of one on another machine nobody can tell."""
    store = Store.open(storage, sync=False)
    Ledger(store).append("runs", [run_row("started", 0)])
    ended = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1)
    began = Path(f"/proc/{ended.pid}/stat").read_text().rpartition(")")[2].split()[19]
    Lease.take(store, holder=replace(HERE, pid=ended.pid, began=began))
    assert "which is at work. Now: " in said(storage, capsys)  # negative control
    ended.communicate()
    out = said(storage, capsys)
    assert "which is no more; the next one takes over. Waits for a scheduler to go on: run run-9" in out
    Lease.take(store, holder=replace(HERE, host="elsewhere"))
    out = said(storage, capsys)
    assert "on elsewhere" in out and "from this machine nobody can see at once" in out and "Now: " in out
    assert document(storage, capsys)["scheduler"]["alive"] is None


def test_a_lease_that_cannot_be_read(storage: Path) -> None:
    """Somebody holds the location, and nobody knows who."""
    store = Store.open(storage, sync=False)
    store.create("claims/000000000001.json", b"{")
    held = holding(store)
    assert held is not None and (held.host, held.alive) == (None, None)


def test_sweeps_are_under_way_until_they_end(storage: Path) -> None:
    """Trials have steps of their own, so a sweep has none; runs that have failed are over."""
    store = Store.open(storage, sync=False)
    ledger, sweep = Ledger(store), {"sweep": "s1", "method": "gkt", "at": NOON}
    ledger.append("sweeps", [row_of("sweeps", **sweep, event="started")])
    ledger.append("checkpoints", [row_of("checkpoints", run_id="s1", step=3, at=NOON + timedelta(hours=1))])
    ledger.append("runs", [run_row("started", 0), run_row("failed", 5, reason="gate")])
    (found,) = under_way(LedgerReader(store))
    assert (found.kind, found.id, found.step) == ("sweep", "s1", None)
    assert found.last_at == NOON + timedelta(hours=1)
    ledger.append("sweeps", [row_of("sweeps", **sweep, event="finished")])
    assert under_way(LedgerReader(store)) == []
    ledger.append("runs", [run_row("resumed", 7)])  # asked for again with other settings
    assert [each.id for each in under_way(LedgerReader(store))] == ["run-9"]
