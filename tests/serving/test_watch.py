"""A job that stays: what comes into the inbox is served until a signal ends it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from rayunlearn.errors import ExitCode
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import request_events, status, versions
from rayunlearn.storage.inbox import Inbox
from rayunlearn.storage.store import Store
from tests.local_ray import Head
from tests.serving.tiny import BANK, NOON, forget, start_job
from tests.waiting import HANG_S

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def statuses(store: Store) -> dict[str, str]:
    """Request -> what became of it."""
    return {name: status(events) for name, events in request_events(LedgerReader(store)).items()}


def test_it_stays_and_serves_what_comes(head: Head, tmp_path: Path) -> None:
    """Before it starts and while it looks; SIGTERM ends it within seconds, with nothing left undone."""
    folder = tmp_path / "storage"
    store = Store.open(folder)
    Inbox(store).add(forget(0), now=NOON)
    command = (
        "--storage", folder, "--inbox-only", "--watch", "--placement", "colocated", "--address", head.address
    )  # fmt: skip
    job = start_job(*command, settings=(*BANK, "audit.enabled=false"))
    try:
        for name, target in (("forget-0", None), ("forget-2", 2)):
            if target is not None:
                Inbox(store).add(forget(target), now=NOON)
            end = time.monotonic() + HANG_S
            while statuses(store).get(name) != "served":
                assert job.poll() is None, job.communicate()
                assert time.monotonic() < end, statuses(store)
                time.sleep(0.5)
        job.send_signal(signal.SIGTERM)
        out, err = job.communicate(timeout=HANG_S)
    finally:
        job.kill()
    assert job.returncode == ExitCode.INTERRUPTED, out + err
    assert versions(LedgerReader(store), "default")[-1].classes_forgotten == (0, 2)
    assert Inbox(store).entries() == []
