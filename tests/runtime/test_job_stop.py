"""A job that is stopped by `ray job stop` goes on by the same command."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rayunlearn.results.ledger import LedgerReader
from rayunlearn.results.lineage import versions
from rayunlearn.results.store import Store
from tests.runtime.conftest import Head
from tests.runtime.tiny import BANK, ROOT, environment, forget, memory_store, tiny_recipe, tiny_scheduler
from tests.waiting import HANG_S

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LONG = (
    *BANK, "gated_inversion.cycles=200", "gated_inversion.schedule_cycles=200", "audit.enabled=false",
    "validation.checkpoint_every=5",
)  # fmt: skip
STOPPED_AT = 4


def submitted(head: Head, *command: str) -> str:
    """What a command of `ray job` says."""
    ray = str(Path(sys.executable).parent / "ray")
    ended = subprocess.run(
        [ray, "job", command[0], "--address", head.dashboard, *command[1:]],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=HANG_S,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_a_job_that_is_stopped_goes_on(head: Head, tmp_path: Path) -> None:
    """`ray job stop` in mid-run: the job has said its last line before Ray's patience is over.

    The same command goes on from the last checkpoint to the weights of a run that nobody stopped.
    """
    storage = tmp_path / "storage"
    (tmp_path / "requests.jsonl").write_text('{"request_id": "forget-0", "target": [0]}\n')
    command = ["python", "jobs/sequential_unlearn.py", "--requests", str(tmp_path / "requests.jsonl")]
    command += ["--storage", str(storage)]
    for setting in LONG:
        command += ["--set", setting]
    submit = ("--working-dir", ".", "--submission-id")
    submitted(head, "submit", "--no-wait", *submit, "first", "--", *command)
    end = time.monotonic() + HANG_S
    while len(list(storage.glob("runs/*/students/*"))) < STOPPED_AT:
        assert time.monotonic() < end, submitted(head, "logs", "first")
        time.sleep(0.05)
    submitted(head, "stop", "first")
    said = submitted(head, "logs", "first")
    assert "stopped by SIGTERM; the same command goes on from the last checkpoint" in said
    heartbeat = max(storage.glob("claims/*.heartbeat.json"))
    assert json.loads(heartbeat.read_text())["released"]

    submitted(head, "submit", *submit, "second", "--", *command)
    reader = LedgerReader(Store.open(storage, create=False))
    assert [row["event"] for row in reader.read("runs").to_pylist()].count("resumed") == 1
    expected = memory_store()
    tiny_scheduler(expected, tiny_recipe("digits", *LONG)).serve(forget(0))
    ids = [v.version for v in versions(reader, "default")]
    assert ids == [v.version for v in versions(LedgerReader(expected), "default")]
