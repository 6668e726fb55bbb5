"""The lease where it is needed: two processes at once, kills, jobs on a held location, publications."""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from jobs.sequential_unlearn import Options
from rayunlearn.cli import job
from rayunlearn.errors import ExitCode, StorageHeld
from rayunlearn.ledger.ledger import LedgerReader, verify
from rayunlearn.ledger.lineage import versions
from rayunlearn.ledger.schemas import ALL_TABLES
from rayunlearn.reports.terminal import JobProgress
from rayunlearn.storage.lease import Holder, Lease, Pace, held
from rayunlearn.storage.store import Store
from tests.serving.tiny import (
    BANK,
    ROOT,
    environment,
    files_of,
    forget,
    memory_store,
    original,
    run_job,
    tiny_recipe,
    tiny_scheduler,
)
from tests.waiting import HANG_S

OTHER = Holder(host="node-b", pid=7, since="2025-06-01 12:00:00 UTC", system=None, began=None)

SERVE = """
import os, sys, time
from dataclasses import replace
from rayunlearn.storage.lease import Holder, Pace, held
from rayunlearn.storage.store import Store

root, log, where = sys.argv[1:]
holder = Holder.here()
if where == "elsewhere":
    holder = replace(holder, system=None)
with held(Store.open(root), wait_s=120, pace=Pace(live_s=5, renew_s=0.2, look_s=0.1), holder=holder) as lease:
    while True:
        lease.check()
        with open(log, "a") as served:
            served.write(f"{os.getpid()} {lease.token}\\n")
        time.sleep(0.02)
"""


@contextmanager
def serving(*arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for the location, holds it, and notes down each time that it served."""
    command = [sys.executable, "-c", SERVE, *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment())
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def served(log: Path) -> list[tuple[int, int]]:
    """Process id and token of whoever served, in order, each once for every time that it took its turn."""
    lines = log.read_text().splitlines() if log.exists() else []
    turns = [tuple(map(int, line.split())) for line in lines]
    return [(pid, token) for (pid, token), _ in itertools.groupby(turns)]


def wait_for_turns(log: Path, count: int) -> None:
    """Wait until so many have served."""
    end = time.monotonic() + HANG_S
    while len(served(log)) < count:
        assert time.monotonic() < end, served(log)
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_two_processes_never_both_serve(tmp_path: Path, where: str) -> None:
    """Of two started at once one serves and one waits; the killed one's lease ends, and the other one serves.

    At once where both are of this machine, by the time to live where nobody can ask for the process. Each
    has one turn, with a token of its own.
    """
    root, log = tmp_path / "storage", tmp_path / "served"
    with serving(root, log, where) as one, serving(root, log, where) as other:
        wait_for_turns(log, 1)
        time.sleep(7)  # longer than a lease lives: the one that waits would have taken over
        ((first, token),) = served(log)
        assert token == 1 and one.poll() is None and other.poll() is None
        killed, left = (one, other) if one.pid == first else (other, one)
        killed.send_signal(signal.SIGKILL)
        wait_for_turns(log, 2)
        time.sleep(0.5)
        assert served(log) == [(killed.pid, 1), (left.pid, 2)]


# ---- the job


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """The job in this process, up to where it would connect to Ray, which ends it with 77."""

    def connect(address: str | None) -> None:
        raise SystemExit(77)

    monkeypatch.setattr(job, "connect", connect)
    options = tyro.cli(Options, args=[*map(str, arguments)], config=(tyro.conf.UseAppendAction,))
    try:
        return job.run_job(**vars(options))
    except SystemExit as reached:
        return int(str(reached.code))


def test_a_job_on_a_held_location(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While another one is at work a job ends with exit code 5 before Ray is started, and says for whom.

    A dry run only looks. Afterwards the job goes on, and lets go of the location when it is stopped.
    """
    root = tmp_path / "storage"
    store = Store.open(root, sync=False)
    with held(store, pace=Pace(renew_s=0.05), holder=OTHER) as lease:
        assert run_here(monkeypatch, "--storage", root) == ExitCode.STORAGE_HELD
        waits, error = capsys.readouterr().out.splitlines()
        assert waits.startswith(f"{root} is held by process 7 on node-b") and "at most 30 s" in waits
        assert re.match(r"error: .*process 7 on node-b.*--wait SECONDS", error)
        assert run_here(monkeypatch, "--storage", root, "--dry-run") == 77
        lease.check()
    for _ in range(2):
        assert run_here(monkeypatch, "--storage", root) == 77
    assert Lease.take(store).token == 4


def test_a_job_waits_for_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With `--wait` a job says so at once, and begins when the other one has ended."""
    other = Lease.take(Store.open(tmp_path / "storage", sync=False), holder=OTHER)
    say = JobProgress.say

    def say_and_end_the_other(progress: JobProgress, text: str) -> None:
        say(progress, text)
        other.release()

    monkeypatch.setattr(JobProgress, "say", say_and_end_the_other)
    assert run_here(monkeypatch, "--storage", tmp_path / "storage", "--wait", "600") == 77
    waits, *_ = capsys.readouterr().out.splitlines()
    assert "held by process 7 on node-b" in waits and "waiting 600 s for its end" in waits


# ---- publications


def test_a_fenced_scheduler_publishes_nothing() -> None:
    """A scheduler whose location was taken over publishes and throws away nothing, and stores no file."""
    now = [0.0]
    store = memory_store()
    scheduler = tiny_scheduler(store, tiny_recipe())
    pace = Pace(clock=lambda: now[0], sleep=lambda seconds: None)
    lease = Lease.take(store, pace=pace, holder=replace(OTHER, host="node-a"))
    scheduler.context = replace(scheduler.context, lease=lease)
    spec, weights = original()
    changed = {name: tensor + 1 for name, tensor in weights.items()}

    def publish() -> None:
        scheduler.publish(
            lineage="default", weights=changed, spec=spec, parent=None, request_ids=[],
            classes_forgotten=(0,), run=None,
        )  # fmt: skip

    now[0] = 31.0
    Lease.take(store, pace=pace, holder=OTHER)
    before = files_of(store)
    with pytest.raises(StorageHeld, match="node-b"):
        publish()
    assert files_of(store) == before
    scheduler.context = replace(scheduler.context, lease=None)
    publish()  # negative control
    assert len(versions(LedgerReader(store), "default")) == 2


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_in_a_bucket(address: str, tmp_path: Path) -> None:
    """The job whose storage is in a bucket serves, audits by Ray Train and reports as in a folder.

    Its version is the one that roles in one process without Ray publish, the report's address is printed, and
    no secret is in anything that it stored or said.
    """
    (tmp_path / "requests.jsonl").write_text('{"request_id": "forget-0", "target": [0]}\n')
    command = ("--requests", tmp_path / "requests.jsonl", "--storage", address, "--placement", "colocated")
    ended = run_job(*command, settings=(*BANK, "audit.gold_workers=2"))
    assert ended.code == ExitCode.OK, ended.out + ended.err
    store = Store.open(address, create=False)
    (report,) = store.list("reports")
    assert f"Report: {address}/{report}" in ended.out
    reader = LedgerReader(store, ALL_TABLES)
    expected = memory_store()
    tiny_scheduler(expected, tiny_recipe()).serve(forget(0))
    ids = [v.version for v in versions(reader, "default")]
    assert ids == [v.version for v in versions(LedgerReader(expected), "default")]
    assert {"original", "unlearned", "gold"} <= {*reader.read("audits").column("subject").to_pylist()}
    verify(store)
    assert store.list("claims") == ["claims/000000000001.heartbeat.json", "claims/000000000001.json"]
    everything = b"".join(files_of(store).values()) + (ended.out + ended.err).encode()
    assert b"hush" not in everything.lower()
